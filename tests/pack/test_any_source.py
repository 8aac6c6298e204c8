"""Sources of every kind that has no test of its own for it: the same bytes for 1, 2 and 7 workers and after a kill."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tqdm
from pack_sources import check_alike, jpeg, png
from test_convert import unpack

from fastload.pack import pack

SAMPLES = 12
tqdm.tqdm.monitor_interval = 0  # `datasets` would start its thread, and workers then could not be forked


def pictures(folder: Path, ending: str, make: Callable[[int], bytes]) -> Path:
    folder.mkdir(parents=True)
    for i in range(SAMPLES):
        (folder / f"{i:02d}.{ending}").write_bytes(make(i))
    return folder


def saved(folder: Path) -> Path:
    rows = [{"picture": {"bytes": jpeg(i), "path": None}, "label": i % 2} for i in range(SAMPLES)]
    features = datasets.Features({"picture": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    datasets.Dataset.from_list(rows, features=features).save_to_disk(str(folder / "saved"), num_shards=2)
    return folder / "saved"


def parquet(folder: Path) -> Path:
    pq.write_table(pa.table({"blob": [jpeg(i) for i in range(SAMPLES)], "n": range(SAMPLES)}), folder / "t.parquet")
    return folder / "t.parquet"


def parquet_of_names(folder: Path) -> Path:
    pictures(folder / "p", "jpg", jpeg)
    names = [f"p/{i:02d}.jpg" for i in range(SAMPLES)]
    pq.write_table(pa.table({"path": names, "label": ["x", "y"] * (SAMPLES // 2)}), folder / "names.parquet")
    return folder / "names.parquet"


def imagefolder(folder: Path) -> Path:
    pictures(folder / "p", "jpg", jpeg)
    rows = [{"file_name": f"{i:02d}.jpg", "text": f"t{i}"} for i in range(SAMPLES)]
    (folder / "p" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "p"


def side_by_side(folder: Path) -> Path:
    pictures(folder / "s" / "images", "jpg", jpeg)
    pictures(folder / "s" / "masks", "png", png)
    return folder / "s"


def arrays(folder: Path) -> Path:
    np.savez(folder / "a.npz", x=np.arange(SAMPLES * 300.0).reshape(SAMPLES, 300), y=np.arange(SAMPLES))
    return folder / "a.npz"


def text(folder: Path) -> Path:
    (folder / "t.txt").write_text("\n\n".join(f"{i}\n" + "word " * 99 for i in range(SAMPLES)))
    return folder / "t.txt"


def litdata(folder: Path) -> Path:
    return unpack("litdata", folder / "lit")


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (saved, {"format": "parquet"}),
        (parquet, {}),
        (parquet_of_names, {}),
        (imagefolder, {"format": "parquet"}),
        (side_by_side, {"columns": "image:images,mask:masks"}),
        (arrays, {"format": "parquet"}),
        (text, {"kind": "paragraphs"}),
        (litdata, {}),
    ],
)
def test_any_number_of_workers_writes_the_same_and_a_killed_run_goes_on(
    tmp_path: Path, make: Callable[[Path], Path], options: dict[str, Any]
) -> None:
    source = make(tmp_path)

    def run(out: Path, **more: Any) -> None:
        pack(source, out, **options, **more)

    check_alike(run, tmp_path / "results", shard_size="7KiB")
