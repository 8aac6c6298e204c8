"""LitData: optimised chunks, its own StreamingDataLoader."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import litdata
import torch
from decoding import clip, crop_and_flip
from work import BATCH, SEED, WORKERS, files_of, tokens_of


def _file(item: tuple[str, int]) -> dict[str, Any]:
    return {"image": Path(item[0]).read_bytes(), "label": item[1]}


def _row(number: int, raw: Path) -> dict[str, Any]:
    return {"tokens": torch.from_numpy(tokens_of(raw)[number].copy()), "label": 0}


def prepare(workload: str, raw: Path, out: Path) -> None:
    inputs: Any = list(range(len(tokens_of(raw)))) if workload == "tokens" else files_of(raw)
    make = partial(_row, raw=raw) if workload == "tokens" else _file
    litdata.optimize(fn=make, inputs=inputs, output_dir=str(out), chunk_bytes="64MB", num_workers=WORKERS)


class Images(litdata.StreamingDataset):
    def __getitem__(self, at: Any) -> tuple[Any, int]:
        sample = super().__getitem__(at)
        return crop_and_flip(sample["image"]), sample["label"]


class Records(litdata.StreamingDataset):
    def __getitem__(self, at: Any) -> tuple[Any, int]:
        sample = super().__getitem__(at)
        return sample["image"], sample["label"]


class Clips(litdata.StreamingDataset):
    def __getitem__(self, at: Any) -> tuple[Any, int]:
        sample = super().__getitem__(at)
        return clip(sample["image"]), sample["label"]


class Tokens(litdata.StreamingDataset):
    def __getitem__(self, at: Any) -> tuple[Any, int]:
        return super().__getitem__(at)["tokens"].long(), 0


def _records(samples: list[Any]) -> list[Any]:
    return list(zip(*samples, strict=True))


def _loader(workload: str, out: Path) -> Any:
    kind = {"images": Images, "audio": Clips, "records": Records, "tokens": Tokens}[workload]
    dataset = kind(str(out), shuffle=True, seed=SEED)
    return litdata.StreamingDataLoader(
        dataset,
        batch_size=BATCH[workload],
        num_workers=WORKERS,
        persistent_workers=True,
        **({"collate_fn": _records} if workload == "records" else {}),
    )


def epochs(workload: str, out: Path) -> Iterator[Iterator[int]]:
    loader = _loader(workload, out)
    while True:
        yield (len(labels) for _, labels in loader)


def resume(workload: str, out: Path) -> float:
    loader = _loader(workload, out)
    for number, _ in enumerate(loader):
        if number + 1 == int(0.9 * len(loader)):
            break
    state = loader.state_dict()
    start = time.perf_counter()
    again = _loader(workload, out)
    again.load_state_dict(state)
    next(iter(again))
    return time.perf_counter() - start
