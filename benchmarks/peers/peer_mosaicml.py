"""MosaicML Streaming: MDS shards, torch workers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from decoding import clip, crop_and_flip
from streaming import MDSWriter, StreamingDataLoader, StreamingDataset
from streaming.base.util import clean_stale_shared_memory
from work import BATCH, SEED, TOKENS, WORKERS, files_of, tokens_of


def prepare(workload: str, raw: Path, out: Path) -> None:
    if workload == "tokens":
        columns = {"tokens": f"ndarray:int32:{TOKENS}"}
        with MDSWriter(out=str(out), columns=columns, hashes=["xxh3_64"]) as writer:
            for row in tokens_of(raw):
                writer.write({"tokens": row})
        return
    with MDSWriter(out=str(out), columns={"image": "bytes", "label": "int"}, hashes=["xxh3_64"]) as writer:
        for path, label in files_of(raw):
            with open(path, "rb") as file:
                writer.write({"image": file.read(), "label": label})


class Images(StreamingDataset):
    def __getitem__(self, at: int) -> tuple[Any, int]:
        sample = super().__getitem__(at)
        return crop_and_flip(sample["image"]), sample["label"]


class Clips(StreamingDataset):
    def __getitem__(self, at: int) -> tuple[Any, int]:
        sample = super().__getitem__(at)
        return clip(sample["image"]), sample["label"]


class Tokens(StreamingDataset):
    def __getitem__(self, at: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(super().__getitem__(at)["tokens"].astype("int64")), 0


class Records(StreamingDataset):
    def __getitem__(self, at: int) -> tuple[bytes, int]:
        sample = super().__getitem__(at)
        return sample["image"], sample["label"]


def _records(samples: list[Any]) -> list[Any]:
    return list(zip(*samples, strict=True))


def _loader(workload: str, out: Path) -> StreamingDataLoader:
    clean_stale_shared_memory()
    kind = {"images": Images, "audio": Clips, "tokens": Tokens, "records": Records}[workload]
    dataset = kind(local=str(out), shuffle=True, shuffle_seed=SEED, batch_size=BATCH[workload])
    return StreamingDataLoader(
        dataset,
        batch_size=BATCH[workload],
        num_workers=WORKERS,
        persistent_workers=True,
        collate_fn=_records if workload == "records" else None,
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
