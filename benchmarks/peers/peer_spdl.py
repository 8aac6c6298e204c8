"""SPDL: a thread pipeline over files."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from decoding import clip, crop_and_flip
from spdl.pipeline import PipelineBuilder
from work import BATCH, SEED, WORKERS, files_of, tokens_of

torch.set_num_threads(1)  # its threads are the parallelism; a pool in each only gets in the way


def prepare(workload: str, raw: Path, out: Path) -> None:
    out.mkdir(parents=True)
    (out / "raw").symlink_to(raw.resolve())


def _image(item: tuple[str, int]) -> tuple[torch.Tensor, int]:
    return crop_and_flip(Path(item[0]).read_bytes()), item[1]


def _clip(item: tuple[str, int]) -> tuple[torch.Tensor, int]:
    return clip(Path(item[0]).read_bytes()), item[1]


def _record(item: tuple[str, int]) -> tuple[bytes, int]:
    return Path(item[0]).read_bytes(), item[1]


def _collate(samples: list[Any]) -> tuple[Any, list[int]]:
    contents, labels = zip(*samples, strict=True)
    return (torch.stack(contents) if isinstance(contents[0], torch.Tensor) else contents), list(labels)


def epochs(workload: str, out: Path) -> Iterator[Iterator[int]]:
    rows = tokens_of(out / "raw") if workload == "tokens" else None
    items: list[Any] = list(range(len(rows))) if rows is not None else files_of(out / "raw")

    def row(i: int) -> tuple[torch.Tensor, int]:
        assert rows is not None
        return torch.from_numpy(rows[i].astype("int64")), 0

    work = {"images": _image, "audio": _clip, "records": _record, "tokens": row}[workload]
    shuffled = random.Random(SEED)
    while True:
        shuffled.shuffle(items)
        builder = PipelineBuilder().add_source(items).pipe(work, concurrency=WORKERS)
        pipeline = builder.aggregate(BATCH[workload]).pipe(_collate).add_sink(2).build(num_threads=WORKERS)

        def batches(pipeline: Any = pipeline) -> Iterator[int]:
            with pipeline.auto_stop():
                for _, labels in pipeline:
                    yield len(labels)

        yield batches()
