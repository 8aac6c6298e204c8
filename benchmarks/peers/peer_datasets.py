"""Hugging Face datasets: Parquet, streamed, torch workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from decoding import clip, crop_and_flip
from work import BATCH, SEED, WORKERS, files_of, tokens_of


def prepare(workload: str, raw: Path, out: Path) -> None:
    out.mkdir(parents=True)
    rows: list[dict[str, Any]]
    if workload == "tokens":
        rows = [{"tokens": row.tolist(), "label": 0} for row in tokens_of(raw)]
    else:
        rows = [{"image": Path(path).read_bytes(), "label": label} for path, label in files_of(raw)]
    step = max(1, len(rows) // 8)
    for number, start in enumerate(range(0, len(rows), step)):
        table = pa.Table.from_pylist(rows[start : start + step])
        pq.write_table(table, out / f"{number:06d}.parquet", row_group_size=100)


def _image(sample: dict[str, Any]) -> dict[str, Any]:
    return {"image": crop_and_flip(sample["image"]), "label": sample["label"]}


def _clip(sample: dict[str, Any]) -> dict[str, Any]:
    return {"image": clip(sample["image"]), "label": sample["label"]}


def _columns(samples: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [sample[name] for sample in samples] for name in samples[0]}


def epochs(workload: str, out: Path) -> Iterator[Iterator[int]]:
    files = sorted(map(str, out.glob("*.parquet")))
    dataset = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    dataset = dataset.shuffle(seed=SEED, buffer_size=1000)
    if workload == "images":
        dataset = dataset.map(_image)
    elif workload == "audio":
        dataset = dataset.map(_clip)
    elif workload == "tokens":
        dataset = dataset.with_format("torch")
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=BATCH[workload],
        num_workers=WORKERS,
        persistent_workers=True,
        collate_fn=_columns if workload == "records" else None,
    )
    while True:
        yield (len(batch["label"]) for batch in loader)
