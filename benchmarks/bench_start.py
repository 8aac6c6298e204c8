"""Time from constructing a loader over 1,000 shards to its first batch, and the index's memory; in fresh processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import photo

from fastload.shards.index import FieldInfo, IndexFile, ShardFile
from fastload.shards.tar import TarShardWriter

SHARDS, ROWS = 1_000, 200

FIRST_BATCH = """
import json, sys, time
import fastload
from fastload import DataLoader, Image, Scalar
start = time.perf_counter()
loader = DataLoader(sys.argv[1], batch_size=256, num_workers=2, fields={"image": Image(32), "label": Scalar()})
batch = next(iter(loader))
print(json.dumps({"seconds": time.perf_counter() - start, "rows": len(batch["label"])}))
"""

INDEX_MEMORY = """
import json, sys
import fastload
from fastload import Bytes, DataLoader, Scalar

def pss():  # bytes, shared pages in proportion; the tars' own pages are left out
    total, name = 0, ""
    for line in open("/proc/self/smaps"):
        head = line.split()
        if "-" in head[0] and not head[0].endswith(":"):
            name = head[-1]
        elif head[0] == "Pss:" and not name.endswith(".tar"):
            total += int(head[1]) * 1024
    return total

import pyarrow, torch
next(iter(DataLoader(sys.argv[2], batch_size=8, fields={"image": Bytes(), "label": Scalar()})))
before = pss()
loader = DataLoader(sys.argv[1], batch_size=256, window="all", fields={"image": Bytes(), "label": Scalar()})
samples = loader.dataset.samples
for batch in loader:
    pass
del batch
print(json.dumps({"bytes": pss() - before, "samples": samples}))
"""


def write_set(folder: Path, shards: int, rows: int) -> Path:
    fields = {"image": FieldInfo(kind="image"), "label": FieldInfo(kind="scalar", dtype="int64")}
    (folder / "train").mkdir(parents=True)
    small, written = photo(0, 48, 48, 50), []
    for number in range(shards):
        writer = TarShardWriter(folder / f"train/shard-{number:06d}.tar", fields)
        for row in range(rows):
            writer.add(f"class{row % 10}/{number:04d}{row:06d}", {"image": ("jpg", small)}, {"label": row % 10}, {})
        file = writer.finish()
        written.append(ShardFile.from_json(file.to_json() | {"name": f"train/{file.name}"}))
    IndexFile(shard_format="tar", fields=fields, shards=tuple(written), splits={"train": (0, shards)}).save(folder)
    return folder


def run(program: str, *arguments: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_first_batch(benchmark: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_set(tmp_path / "set", SHARDS, ROWS)
    seconds: list[float] = []
    benchmark.pedantic(lambda: seconds.append(run(FIRST_BATCH, folder)["seconds"]), rounds=5, iterations=1)
    benchmark.extra_info.update(
        unit="seconds", shards=SHARDS, median_seconds=round(float(np.median(seconds)), 4), seconds=seconds
    )
    with capsys.disabled():
        print(f"\n  first batch of {SHARDS} shards after {np.median(seconds):.3f} s (at most {max(seconds):.3f})")


def test_index_memory(benchmark: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    big, small = write_set(tmp_path / "big", 20, 20_000), write_set(tmp_path / "small", 1, 8)
    result = benchmark.pedantic(lambda: run(INDEX_MEMORY, big, small), rounds=1, iterations=1)
    per_sample = result["bytes"] / result["samples"]
    benchmark.extra_info.update(unit="bytes a sample", samples=result["samples"], bytes_per_sample=round(per_sample, 1))
    with capsys.disabled():
        print(f"\n  {per_sample:.1f} bytes of index a sample, over {result['samples']:,} samples")
