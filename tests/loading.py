"""Loaders over small shards, and what ranks together get of them, for tests of the loader."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from samples import ids

import fastload
from fastload.batch import Batch
from fastload.loader import DataLoader
from fastload.shards.open import open_index
from fastload.shards.read import Reader, Rows

Packed = Callable[..., Path]

SMALL = {"image": fastload.Image(8, crop="random"), "label": fastload.Scalar()}
EVERY = {"text": fastload.Text(), "tensor": fastload.Tensor((3,)), **SMALL}
SIZES = {0: [], 1: [1], 3: [2, 1], 23: [5, 1, 9, 8]}


def loader(data: Path, batch_size: int = 4, **options: Any) -> DataLoader:
    return DataLoader(data, batch_size, **{"fields": SMALL, **options})


@functools.cache
def dataset(data: Path, rank: int, world_size: int) -> fastload.StreamingDataset:
    """For the tests with many loaders: its shards are opened once."""
    fields = {**SMALL, "tokens": fastload.Tokens(4)} if "tokens" in open_index(data).fields else SMALL
    return fastload.StreamingDataset(data, fields=fields, rank=rank, world_size=world_size)


def resuming(
    make: Callable[[], DataLoader], frozen: Callable[[Batch], Any]
) -> Callable[[str | None], Iterator[tuple[Any, str]]]:
    """What `conformance.assert_resumes` starts: epoch after epoch of a loader, with states that went through JSON.

    Args:
        make: a loader, the same each time.
        frozen: a batch as something that compares whole.
    """

    def start(state: str | None) -> Iterator[tuple[Any, str]]:
        run = make()
        if state is not None:
            run.load_state_dict(json.loads(state))
        while True:
            for batch in run:
                assert batch.state == run.state_dict()
                yield frozen(batch), json.dumps(run.state_dict())

    return start


def run_ranks(data: Path, world_size: int, passes: int = 1, **options: Any) -> list[list[Batch]]:
    """The batches of each rank, over so many epochs; every loader's len is checked on the way."""
    ranks = []
    for rank in range(world_size):
        one = DataLoader(dataset(data, rank, world_size), **options)
        batches: list[Batch] = []
        for _ in range(passes):
            expected, before = len(one), len(batches)
            for batch in one:
                assert len(one) == expected, "len changes while the loader runs"
                batches.append(batch)
            assert len(batches) - before == expected, "len is not the number of batches"
        ranks.append(batches)
    return ranks


def as_ids(ranks: list[list[Batch]]) -> list[list[list[int]]]:
    return [[ids(batch) for batch in batches] for batches in ranks]


class Counting:
    """A reader that counts what passes through it."""

    def __init__(self, reader: Reader) -> None:
        self._reader, self.rows, self.shards = reader, 0, set[int]()
        self._lock = threading.Lock()

    @property
    def blocking(self) -> bool:
        return self._reader.blocking

    def read(self, shards: Any, rows: Any) -> Rows:
        with self._lock:
            self.rows += len(rows)
            self.shards |= set(shards.tolist())
        return self._reader.read(shards, rows)
