"""Reads samples by (shard, row), tar and Parquet alike; any number of threads may call.

Open shards are kept, the least recently used is let go. What is wrong with one sample comes back in its place as a
value, for the caller to raise or to mask; what is wrong with a whole shard is raised.
"""

from __future__ import annotations

import resource
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import xxhash

from fastload.errors import CorruptError, FastloadError
from fastload.shards.idx import Idx
from fastload.shards.index import Index
from fastload.source import map_file

Raw = bytes | memoryview
Ints = npt.NDArray[np.int64]
Handle = TypeVar("Handle")


class Reader(Protocol):
    """What batches are assembled from. `shards` and `rows` are int64 [k]; results are in their order."""

    def keys(self, shards: Ints, rows: Ints) -> list[str]: ...

    def scalars(self, name: str, shards: Ints, rows: Ints) -> npt.NDArray[Any]:
        """Values of a scalar field, [k]."""
        ...

    def raw(self, names: Sequence[str], shards: Ints, rows: Ints) -> list[list[Raw | FastloadError]]:
        """Stored bytes: one list [k] per name. A sample that is damaged or lacks the field is an error in its place."""
        ...


class ShardCache(Generic[Handle]):
    """Open shards, at most `capacity`; each is opened once even if several threads ask at the same time."""

    def __init__(self, open_shard: Callable[[int], Handle], capacity: int) -> None:
        self._open, self.capacity = open_shard, capacity
        self._lock = threading.Lock()
        self._handles: OrderedDict[int, Handle] = OrderedDict()
        self._opening: dict[int, threading.Lock] = {}

    def get(self, shard: int) -> Handle:
        with self._lock:
            handle = self._handles.get(shard)
            if handle is not None:
                self._handles.move_to_end(shard)
                return handle
            turn = self._opening.setdefault(shard, threading.Lock())
        with turn:
            with self._lock:
                handle = self._handles.get(shard)
            if handle is None:
                handle = self._open(shard)
            with self._lock:
                self._handles[shard] = handle
                self._opening.pop(shard, None)
                while len(self._handles) > self.capacity:
                    self._handles.popitem(last=False)
        return handle


def groups(shards: Ints) -> Iterator[tuple[int, Any]]:
    """The places of each distinct shard: (shard, index array); of only one, a slice."""
    if len(shards) and (shards == shards[0]).all():
        yield int(shards[0]), slice(None)
        return
    order = np.argsort(shards, kind="stable")
    ordered = shards[order]
    cuts = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    for where in np.split(order, cuts):
        if len(where):
            yield int(shards[where[0]]), where


class _TarShard:
    """One open tar: its map and its index."""

    def __init__(self, index: Index, shard: int, check_idx: bool) -> None:
        file, path = index.files[shard], index.paths[shard]
        self.name = file.name
        idx_at = index.idx_paths[shard]
        self.idx = Idx(idx_at, file.index_xxh3 if check_idx else None)
        if (self.idx.samples, self.idx.tar_bytes, self.idx.tar_xxh3) != (file.samples, file.bytes, file.xxh3):
            raise CorruptError(
                f"{idx_at} describes another tar ({self.idx.samples} samples, {self.idx.tar_bytes} bytes, "
                f"xxh3 {self.idx.tar_xxh3}) than the index ({file.samples}, {file.bytes}, {file.xxh3})",
                shard=file.name,
            )
        self.view = map_file(path, file.bytes)
        self.spans: dict[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]] = {}

    def span(self, name: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Offsets (relative to the sample) and lengths of a field."""
        if name not in self.spans:
            self.spans[name] = (self.idx.column(f"{name}.offset"), self.idx.column(f"{name}.length"))
        return self.spans[name]


class TarReader:
    """Reads tar shards through memory maps; every sample is checked against its checksum each time it is read.

    Args:
        index: of tar shards.
        capacity: shards kept open; bounded by a quarter of the process's limit of open files (a shard takes two).
    """

    def __init__(self, index: Index, capacity: int) -> None:
        self._index = index
        self._checked: set[int] = set()
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4
        self._shards: ShardCache[_TarShard] = ShardCache(self._open, max(1, min(capacity, limit)))

    def _open(self, shard: int) -> _TarShard:
        handle = _TarShard(self._index, shard, check_idx=shard not in self._checked)
        self._checked.add(shard)
        return handle

    def keys(self, shards: Ints, rows: Ints) -> list[str]:
        out: list[str] = [""] * len(shards)
        for shard, where in groups(shards):
            found = self._shards.get(shard).idx.keys(rows[where])
            if isinstance(where, slice):
                return found
            for place, key in zip(where.tolist(), found, strict=True):
                out[place] = key
        return out

    def scalars(self, name: str, shards: Ints, rows: Ints) -> npt.NDArray[Any]:
        parts: list[tuple[Any, npt.NDArray[Any]]] = [
            (where, self._shards.get(shard).idx.column(name)[rows[where]]) for shard, where in groups(shards)
        ]
        if len(parts) == 1:
            return parts[0][1]
        out = np.empty(len(shards), np.result_type(*(values for _, values in parts)) if parts else np.int64)
        for where, values in parts:
            out[where] = values
        return out

    def raw(self, names: Sequence[str], shards: Ints, rows: Ints) -> list[list[Raw | FastloadError]]:
        out: list[list[Any]] = [[None] * len(shards) for _ in names]
        for shard, where in groups(shards):
            found = self._raw_of_shard(self._shards.get(shard), names, rows[where])
            if isinstance(where, slice):
                return found
            places = where.tolist()
            for column, values in zip(out, found, strict=True):
                for place, value in zip(places, values, strict=True):
                    column[place] = value
        return out

    def _raw_of_shard(self, shard: _TarShard, names: Sequence[str], rows: Ints) -> list[list[Raw | FastloadError]]:
        idx, view, digest = shard.idx, shard.view, xxhash.xxh3_64_intdigest
        starts = idx.offsets[rows]
        stops = (starts + idx.sizes[rows]).tolist()
        expected = idx.xxh3[rows].tolist()
        damaged = [
            j
            for j, (start, stop, wanted) in enumerate(zip(starts.tolist(), stops, expected, strict=True))
            if digest(view[start:stop]) != wanted
        ]
        out: list[list[Raw | FastloadError]] = []
        for name in names:
            offsets, lengths = shard.span(name)
            relative = offsets[rows]
            first = starts + relative
            last = first + lengths[rows]
            column: list[Raw | FastloadError] = [view[a:b] for a, b in zip(first.tolist(), last.tolist(), strict=True)]
            for j in np.flatnonzero(relative == 0).tolist():
                column[j] = CorruptError(f"the sample has no field {name!r}")
            for j in damaged:
                column[j] = CorruptError(
                    f"bytes {int(starts[j])} to {stops[j]} are not what was packed (checksum); fetch the shard again"
                )
            out.append(column)
        return out
