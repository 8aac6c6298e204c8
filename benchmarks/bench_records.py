"""50,000 undecoded records of 900 bytes, shuffled, checksums on, against slicing a memory map in one thread: as bytes,
and as the rows of one array."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from samples import record_folder

import fastload
from fastload.shards.idx import Idx

COUNT, SIZE = 50_000, 900


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_folder(tmp_path_factory.mktemp("records") / "raw", COUNT, SIZE)


def places(packed: Path) -> tuple[list[memoryview], list[tuple[int, int]], list[int]]:
    """Maps of the shards; of each record its shard and first byte, and the byte behind it."""
    views, starts, stops = [], [], []
    for shard, path in enumerate(sorted((packed / "train").glob("*.tar"))):
        with open(path, "rb") as file:
            views.append(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
        idx = Idx(str(path.with_suffix(".idx")))
        first = idx.offsets + idx.column("image.offset")
        starts += [(shard, start) for start in first.tolist()]
        stops += (first + idx.column("image.length")).tolist()
    return views, starts, stops


@pytest.mark.parametrize("shard_size", ["256MiB", "2MiB"])
def test_records(folder: Path, tmp_path: Path, paired: Callable[..., float], shard_size: str) -> None:
    fastload.pack(folder, tmp_path / "packed", shard_size=shard_size)
    loader = fastload.DataLoader(tmp_path / "packed", batch_size=256, fields={"image": fastload.Bytes()})

    def epoch() -> None:
        assert sum(len(batch["image"]) for batch in loader) == COUNT

    views, starts, stops = places(tmp_path / "packed")
    order = np.random.default_rng(0).permutation(COUNT).tolist()

    def floor() -> None:
        assert len([bytes(views[starts[i][0]][starts[i][1] : stops[i]]) for i in order]) == COUNT

    paired(epoch, floor, items=COUNT, unit="records", reference_name="memory map and slices, one thread")


def test_rows_of_bytes(folder: Path, tmp_path: Path, paired: Callable[..., float]) -> None:
    fastload.pack(folder, tmp_path / "packed")
    loader = fastload.DataLoader(tmp_path / "packed", batch_size=256, fields={"image": fastload.Bytes(SIZE)})

    def epoch() -> None:
        assert sum(len(batch["image"]) for batch in loader) == COUNT

    views, starts, stops = places(tmp_path / "packed")
    arrays = [np.frombuffer(view, np.uint8) for view in views]
    order = np.random.default_rng(0).permutation(COUNT).tolist()

    def floor() -> None:
        for at in range(0, COUNT, 256):
            out = np.zeros((256, SIZE), np.uint8)
            for row, i in zip(out, order[at : at + 256], strict=False):
                row[: stops[i] - starts[i][1]] = arrays[starts[i][0]][starts[i][1] : stops[i]]

    paired(epoch, floor, items=COUNT, unit="records", reference_name="memory map into rows of an array, one thread")
