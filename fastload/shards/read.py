"""Reads samples by (shard, row), tar and Parquet alike; any number of threads may call.

Open shards are kept, the least recently used is let go. A file that another program cuts off while it is mapped would
end the process (SIGBUS): sizes are looked at again now and then, so that nearly always it is an error instead. What is
wrong with one sample comes back in its place as a value, for the caller to raise or to mask; what is wrong with a whole
shard is raised.
"""

from __future__ import annotations

import resource
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import xxhash

from fastload.errors import CorruptError, FastloadError
from fastload.shards.access import open_idx, view_file
from fastload.shards.arrays import array_of, items
from fastload.shards.index import Index
from fastload.source import was_cut

if TYPE_CHECKING:
    from fastload.shards._rows import Crew

try:
    from fastload.shards import _rows
except ImportError:  # not built: the same in Python, at half the speed for small records
    _rows = None  # type: ignore[assignment]

Raw = bytes | memoryview
Ints = npt.NDArray[np.int64]
Handle = TypeVar("Handle")

# Shorter contents are copied, longer ones are views of the map: a view costs what a copy of about 4 kB costs.
_BYTES_BELOW = 4096

# How often files are looked at for one that another program has cut off: as often as costs 1% of the time, 0.7 us a
# file, and no more often than this.
LOOK_SECONDS = 0.01
_LOOK_SHARE = 0.01

# Stored and wanted dtypes, in this machine's byte order, that the extension copies between; see COPIES there.
_PAIRS = [("i4", "i8"), ("u4", "i8"), ("u2", "i8"), ("u2", "i4")]
_COPIES = {(np.dtype(stored).str, np.dtype(wanted).str): (stored, wanted) for stored, wanted in _PAIRS}
_SAME = ("u1", "u1")  # bytes, where the dtypes are the same


class LackingField(CorruptError):
    """A sample has no such field."""


class Copying(NamedTuple):
    """Where rows of numbers may be copied to as they are read, if they are stored as expected.

    Attributes:
        field: whose content they are.
        head: the bytes in front of them: of a .npy, its header.
        stored: their dtype in the content.
        exact: there may be no more behind those that are copied.
        out: numbers [k, ...], C-contiguous: the first of each row's.
        lengths: where rows may have fewer, with zeros behind them: how many each has, int64 [k], to be told.
    """

    field: str
    head: bytes
    stored: np.dtype[Any]
    exact: bool
    out: npt.NDArray[Any]
    lengths: Ints | None = None


class Rows(NamedTuple):
    """What was read of k samples, in the order asked for.

    Attributes:
        keys: [k].
        scalars: by field: values [k].
        raw: by field: the stored bytes [k]; where a sample is damaged or lacks the field, an error in its place. From
            `begin`, None where numbers were copied, and no field at all where all were.
        intact: there is no error in `raw`.
        bytes: stored bytes of what was read; None where the reader has not counted them.
        lacking: which samples lack which of the scalars, by place in [0, k) and field; 0 stands in their place.
    """

    keys: list[str]
    scalars: dict[str, npt.NDArray[Any]]
    raw: dict[str, list[Raw | FastloadError]]
    intact: bool
    bytes: int | None = None
    lacking: tuple[tuple[int, str], ...] = ()


class Reader(Protocol):
    """What batches are assembled from."""

    @property
    def blocking(self) -> bool:
        """True if reading does work that releases the GIL (decompression, a network), so that threads help."""
        ...

    def read(self, shards: Ints, rows: Ints) -> Rows:
        """Samples by shard and row, int64 [k] each; any number of threads may call."""
        ...


class CopyingReader(Reader, Protocol):
    """A reader that can read ahead without the interpreter, and spare rows of numbers the way through Python."""

    def begin(self, shards: Ints, rows: Ints, crew: Crew | None, into: Copying | None = None) -> Callable[[], Rows]:
        """Begin what `read` does; the function that is returned waits for it, and is called once.

        Args:
            crew: who works on it until it is waited for; None: nobody.
            into: where numbers of rows that are stored as expected are copied to, with None in their place.
        """
        ...


def make_crew(threads: int) -> Crew | None:
    """Threads for `CopyingReader.begin`, to be closed; None without any, or without the extension."""
    return _rows.Crew(threads) if threads and _rows is not None else None


class ShardCache(Generic[Handle]):
    """Open shards, at most `capacity`; each is opened once even if several threads ask at the same time."""

    def __init__(self, open_shard: Callable[[int], Handle], capacity: int) -> None:
        self._open, self.capacity = open_shard, capacity
        self._lock = threading.Lock()
        self._handles: OrderedDict[int, Handle] = OrderedDict()
        self._opening: dict[int, threading.Lock] = {}

    def let_go(self) -> None:
        """Close all; who reads one at the moment keeps it that long."""
        with self._lock:
            self._handles.clear()

    def let_go_of(self, is_lost: Callable[[Handle], bool]) -> None:
        """Close those of which this is true: who asks for one opens it anew, and is told what is wrong with it."""
        with self._lock:
            for shard in [shard for shard, handle in self._handles.items() if is_lost(handle)]:
                del self._handles[shard]

    def get_all(self, shards: Ints) -> list[Handle]:
        """The handle of each row's shard."""
        numbers = shards.tolist()
        with self._lock:
            try:
                found = [self._handles[shard] for shard in numbers]
            except KeyError:
                found = None
            else:
                if (
                    len(self._handles) >= self.capacity
                ):  # before that, none is let go, and it matters not which is older
                    for shard in dict.fromkeys(numbers):
                        self._handles.move_to_end(shard)
        if found is not None:
            return found
        handles = {shard: self.get(shard) for shard in dict.fromkeys(numbers)}
        return [handles[shard] for shard in numbers]

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


@contextmanager
def naming(index: Index, shard: int) -> Iterator[None]:
    """Errors inside name this shard, if they name none."""
    try:
        yield
    except FastloadError as error:
        error.at(shard=index.shard_name(shard))
        raise


class _TarShard:
    """One open tar: its map, and the columns of its index as memoryviews, which give a Python number
    faster than arrays do."""

    __slots__ = ("digests", "key_bounds", "key_text", "native", "offsets", "scalars", "sizes", "spans", "view")

    def __init__(
        self, index: Index, shard: int, scalars: Sequence[str], stored: Sequence[str], check_idx: bool
    ) -> None:
        file, idx = index.files[shard], open_idx(index, shard, check=check_idx)
        if (idx.samples, idx.tar_bytes, idx.tar_xxh3) != (file.samples, file.bytes, file.xxh3):
            raise CorruptError(
                f"{idx.path} describes another tar ({idx.samples} samples, {idx.tar_bytes} bytes, "
                f"xxh3 {idx.tar_xxh3}) than the index ({file.samples}, {file.bytes}, {file.xxh3})",
                shard=file.name,
            )
        self.view = view_file(index, shard)
        self.offsets, self.sizes, self.digests = idx.offsets.data, idx.sizes.data, idx.xxh3.data
        self.key_bounds, self.key_text = idx.key_bounds.data, idx.key_text
        self.scalars = {name: items(idx.column(name)) for name in scalars}
        # per field: first byte, counted from the sample's, and length
        self.spans = {name: (idx.column(f"{name}.offset").data, idx.column(f"{name}.length").data) for name in stored}
        self.native = None
        if _rows is not None:
            columns = (self.offsets, self.sizes, self.digests, self.key_bounds, self.key_text)
            self.native = _rows.Shard(self.view, *columns, tuple(self.spans.values()), tuple(self.scalars.values()))


class TarReader:
    """Reads tar shards through memory maps; every sample is checked against its checksum each time it is read.

    Works row by row and not shard by shard, in C where the extension is built, else in list comprehensions: with 64
    shards in the window a batch has few rows of each, and numpy's cost per call would be paid 64 times over.

    Args:
        index: of tar shards.
        scalars: names of the fields to take from the index.
        stored: names of the fields to read from the tar.
        capacity: shards kept open; bounded by a quarter of the process's limit of open files (a shard takes two).
        copies: contents are wanted as bytes of any length, which saves views of the map that would be copied.
    """

    blocking = False

    def __init__(
        self, index: Index, scalars: Sequence[str], stored: Sequence[str], capacity: int, *, copies: bool = False
    ) -> None:
        self._scalars, self._stored = tuple(scalars), tuple(stored)
        self._unsigned = {name for name in scalars if index.fields[name].dtype == "uint64"}  # which floats do not hold
        self._bytes_below = sys.maxsize if copies else _BYTES_BELOW
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if limit != resource.RLIM_INFINITY:
            capacity = max(1, min(capacity, limit // 4))
        checked: set[int] = set()

        # Not a method: the cache would keep the reader that keeps the cache, and open files would wait for the
        # collector of cycles.
        def open_shard(shard: int) -> _TarShard:
            with naming(index, shard):
                handle = _TarShard(index, shard, scalars, stored, check_idx=shard not in checked)
            checked.add(shard)
            return handle

        self._shards: ShardCache[_TarShard] = ShardCache(open_shard, capacity)
        self._next_look = 0.0  # of time.monotonic()
        if index.cache is not None:
            index.cache.readers.add(self._shards)

    def read(self, shards: Ints, rows: Ints) -> Rows:
        return self.begin(shards, rows, None)()

    def _open(self, shards: Ints) -> list[_TarShard]:
        """The shard of each row; one that was cut off since it was opened is refused, if it is looked at in time."""
        now = time.monotonic()
        if now >= self._next_look:
            self._shards.let_go_of(lambda shard: was_cut(shard.view))
            self._next_look = now + max(LOOK_SECONDS, (time.monotonic() - now) / _LOOK_SHARE)
        return self._shards.get_all(shards)

    def begin(self, shards: Ints, rows: Ints, crew: Crew | None, into: Copying | None = None) -> Callable[[], Rows]:
        """One stored field's numbers straight into place, and the contents of others as bytes, without the GIL."""
        opened, rows = self._open(shards), np.ascontiguousarray(rows, np.int64)
        if _rows is None or not opened:
            return partial(self._read_here, opened, rows)
        native: list[Any] = [shard.native for shard in opened]  # none is None where the extension is built
        if not self._stored:
            scalars = self._numbers(native, opened, rows)
            return lambda: Rows(_rows.keys(native, rows), scalars, raw={}, intact=True, bytes=0)
        kinds = None if into is None or self._stored != (into.field,) else _kinds(into)
        if into is None or kinds is None:
            return self._begin_contents(opened, native, rows, crew)
        task = _rows.fill(crew, native, rows, 0, into.head, kinds[0], into.out, kinds[1], into.exact, into.lengths)

        def finish() -> Rows:
            scalars = self._numbers(native, opened, rows)
            keys, left, size = task.result()
            if not left:
                return Rows(keys, scalars, raw={}, intact=True, bytes=size)
            raw: list[Any] = [None] * len(keys)
            others = self.read(shards[left], rows[left])
            for place, content in zip(left, others.raw[into.field], strict=True):
                raw[place] = content
            size += others.bytes or 0
            return Rows(keys=keys, scalars=scalars, raw={into.field: raw}, intact=others.intact, bytes=size)

        return finish

    def _begin_contents(
        self, opened: list[_TarShard], native: list[Any], rows: Ints, crew: Crew | None
    ) -> Callable[[], Rows]:
        task = _rows.read(crew, native, rows, self._bytes_below)

        def finish() -> Rows:
            scalars = self._numbers(native, opened, rows)
            keys, columns, faults, size = task.result()
            for place, field in faults:
                self._mark(columns, opened[place], int(rows[place]), place, field)
            return Rows(keys, scalars, dict(zip(self._stored, columns, strict=True)), intact=not faults, bytes=size)

        return finish

    def _read_here(self, opened: list[_TarShard], rows: Ints) -> Rows:
        """The same without the extension."""
        pairs = list(zip(opened, rows.tolist(), strict=True))
        keys = [str(shard.key_text[shard.key_bounds[row] : shard.key_bounds[row + 1]], "utf-8") for shard, row in pairs]
        raw, intact = self._raw(pairs) if self._stored else ({}, True)
        return Rows(keys=keys, scalars=self._numbers(None, opened, rows), raw=raw, intact=intact)

    def _numbers(self, native: list[Any] | None, opened: list[_TarShard], rows: Ints) -> dict[str, npt.NDArray[Any]]:
        """The fields that come from the index, of each row."""
        return {name: self._column(number, name, native, opened, rows) for number, name in enumerate(self._scalars)}

    def _column(
        self, number: int, name: str, native: list[Any] | None, opened: list[_TarShard], rows: Ints
    ) -> npt.NDArray[Any]:
        if native:
            integers = np.empty(len(rows), np.int64)
            if _rows.numbers(native, rows, number, integers):
                return integers
            floats = np.empty(len(rows), np.float64)
            if name not in self._unsigned and _rows.numbers(native, rows, number, floats):
                return floats
        return array_of([shard.scalars[name][row] for shard, row in zip(opened, rows.tolist(), strict=True)])

    def _mark(self, columns: list[list[Any]], shard: _TarShard, row: int, place: int, field: int) -> None:
        """Put the error where a sample is damaged (field -1), or lacks a field."""
        if field >= 0:
            columns[field][place] = LackingField(f"the sample has no field {self._stored[field]!r}")
            return
        for column in columns:
            column[place] = _damage(shard, row)

    def _raw(self, pairs: list[tuple[_TarShard, int]]) -> tuple[dict[str, list[Raw | FastloadError]], bool]:
        samples = [shard.view[(a := shard.offsets[row]) : a + shard.sizes[row]] for shard, row in pairs]
        digests = list(map(xxhash.xxh3_64_intdigest, samples))
        expected = [shard.digests[row] for shard, row in pairs]
        damaged = [] if digests == expected else [j for j, digest in enumerate(digests) if digest != expected[j]]
        intact = not damaged
        out: dict[str, list[Raw | FastloadError]] = {}
        for name in self._stored:
            starts = [shard.spans[name][0][row] for shard, row in pairs]
            sizes = [shard.spans[name][1][row] for shard, row in pairs]
            column: list[Raw | FastloadError] = [
                sample[start : start + size] for sample, start, size in zip(samples, starts, sizes, strict=True)
            ]
            lacking = [j for j, start in enumerate(starts) if not start] if 0 in starts else []
            for j in lacking:
                column[j] = LackingField(f"the sample has no field {name!r}")
            intact = intact and not lacking
            for j in damaged:
                column[j] = _damage(*pairs[j])
            out[name] = column
        return out, intact


def _kinds(into: Copying) -> tuple[str, str] | None:
    """What the extension calls copying these numbers; None if it cannot."""
    stored, wanted = into.stored.str, into.out.dtype.str
    return _SAME if stored == wanted else _COPIES.get((stored, wanted))


def _damage(shard: _TarShard, row: int) -> CorruptError:
    start, stop = shard.offsets[row], shard.offsets[row] + shard.sizes[row]
    return CorruptError(f"bytes {start} to {stop} are not what was packed (checksum); fetch the shard again")
