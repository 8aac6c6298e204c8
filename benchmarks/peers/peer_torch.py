"""torch's DataLoader over files, and over a memory-mapped array, as in most training scripts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from decoding import CONVERT
from work import BATCH, SEED, WORKERS, files_of, tokens_of


class Files(torch.utils.data.Dataset[Any]):
    def __init__(self, files: list[tuple[str, int]], convert: Any) -> None:
        self.files, self.convert = files, convert

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        path, label = self.files[i]
        with open(path, "rb") as file:
            content = file.read()
        return (self.convert(content) if self.convert else content), label


class Rows(torch.utils.data.Dataset[Any]):
    """nanoGPT's way: rows of a memory map, stacked."""

    def __init__(self, raw: Path) -> None:
        self.rows = tokens_of(raw)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, rows: list[int]) -> torch.Tensor:
        return torch.stack([torch.from_numpy(self.rows[i].astype("int64")) for i in rows])


def prepare(workload: str, raw: Path, out: Path) -> None:
    out.mkdir(parents=True)
    (out / "raw").symlink_to(raw.resolve())


def epochs(workload: str, out: Path) -> Iterator[Iterator[int]]:
    generator = torch.Generator().manual_seed(SEED)
    if workload == "tokens":
        loader = torch.utils.data.DataLoader(
            Rows(out / "raw"), BATCH[workload], shuffle=True, generator=generator, collate_fn=lambda batch: batch
        )
        while True:
            yield (len(batch) for batch in loader)
    collate = None if workload in CONVERT else lambda samples: list(zip(*samples, strict=True))
    loader = torch.utils.data.DataLoader(
        Files(files_of(out / "raw"), CONVERT.get(workload)),
        BATCH[workload],
        shuffle=True,
        generator=generator,
        num_workers=WORKERS,
        persistent_workers=True,
        collate_fn=collate,
    )
    while True:
        yield (len(labels) for _, labels in loader)
