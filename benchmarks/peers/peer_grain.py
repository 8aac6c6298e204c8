"""Grain: its MapDataset with threads over files."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grain
import numpy as np
import torch
from decoding import clip, crop_and_flip
from work import BATCH, SEED, WORKERS, files_of, tokens_of

torch.set_num_threads(1)  # its threads are the parallelism; a pool in each only gets in the way


def prepare(workload: str, raw: Path, out: Path) -> None:
    out.mkdir(parents=True)
    (out / "raw").symlink_to(raw.resolve())


def _image(item: tuple[str, int]) -> tuple[np.ndarray, int]:
    return crop_and_flip(Path(item[0]).read_bytes()).numpy(), item[1]


def _clip(item: tuple[str, int]) -> tuple[np.ndarray, int]:
    return clip(Path(item[0]).read_bytes()).numpy(), item[1]


def _record(item: tuple[str, int]) -> tuple[bytes, int]:
    return Path(item[0]).read_bytes(), item[1]


class _Rows:
    def __init__(self, raw: Path) -> None:
        self.rows = tokens_of(raw)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        return self.rows[i].astype(np.int64), 0


def _source(workload: str, out: Path) -> Any:
    return _Rows(out / "raw") if workload == "tokens" else files_of(out / "raw")


def _batches(workload: str, out: Path) -> Any:
    source = _source(workload, out)
    dataset = grain.MapDataset.source(source).shuffle(seed=SEED)
    if workload != "tokens":
        dataset = dataset.map({"images": _image, "audio": _clip, "records": _record}[workload])
    options = grain.ReadOptions(num_threads=WORKERS, prefetch_buffer_size=2 * BATCH[workload])
    collate = (lambda samples: list(zip(*samples, strict=True))) if workload == "records" else None
    return dataset.to_iter_dataset(options).batch(BATCH[workload], batch_fn=collate)


def epochs(workload: str, out: Path) -> Iterator[Iterator[int]]:
    while True:
        yield (len(labels) for _, labels in _batches(workload, out))


def resume(workload: str, out: Path) -> float:
    batches = iter(_batches(workload, out))
    for _ in range(int(0.9 * len(_source(workload, out)) / BATCH[workload])):
        next(batches)
    state = batches.get_state()
    start = time.perf_counter()
    again = iter(_batches(workload, out))
    again.set_state(state)
    next(again)
    return time.perf_counter() - start
