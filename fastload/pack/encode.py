"""What a worker does: read contents into place, look at each once, hash, write. The same bytes from any worker."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from fastload.errors import DecodeError, PackError
from fastload.pack.checks import FACTS, inspector
from fastload.pack.plan import Plan
from fastload.pack.table import Column, Files, Inline, Spans, Values
from fastload.shards.files import PARTIAL_SUFFIX
from fastload.shards.idx import IdxColumns, idx_path
from fastload.shards.index import ShardFile
from fastload.shards.members import scalar_bytes
from fastload.shards.parquet import ParquetShardWriter
from fastload.shards.tar import layout, write_all

Int64s = npt.NDArray[np.int64]
Tell = Callable[[int, int], None]  # samples and bytes written since the last call
HASH_CHUNK = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteRun:
    """Write [start, stop) of the plan's order into its place in a tar; gives `IdxColumns` without keys and scalars."""

    shard: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HashTar:
    """Give the XXH3-64 of a tar whose runs are all written, 16 hex digits."""

    shard: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncTar:
    """Make a tar whose runs are all written durable."""

    shard: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteParquet:
    """Write one Parquet file and give its `ShardFile`."""

    shard: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verify:
    """Tell whether a finished shard, and its `.idx`, are the files that were written."""

    shard: int
    file: ShardFile


Task = WriteRun | HashTar | SyncTar | WriteParquet | Verify


class Encoder:
    """Carries out tasks of one plan.

    Args:
        plan: what to pack.
        out: the output folder.
    """

    def __init__(self, plan: Plan, out: Path) -> None:
        self.plan = plan
        self.out = out
        self._buffer: npt.NDArray[np.uint8] | None = None

    def __getstate__(self) -> tuple[Plan, Path]:
        return self.plan, self.out

    def __setstate__(self, state: tuple[Plan, Path]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    def carry_out(self, task: Task, tell: Tell) -> Any:
        """Do one task; `tell` hears of what is written.

        Raises:
            PackError: a file that is gone, has changed, cannot be read, or is not what its name says.
            OSError: the output cannot be written.
        """
        match task:
            case WriteRun():
                return self._write_run(task, tell)
            case HashTar():
                return hash_file(self._partial(task.shard))
            case SyncTar():
                return _sync(self._partial(task.shard))
            case WriteParquet():
                return self._write_parquet(task, tell)
            case Verify():
                return _is_whole(self.out / self.plan.shards[task.shard].name, task.file)

    def _partial(self, shard: int) -> Path:
        return self.out / (self.plan.shards[shard].name + PARTIAL_SUFFIX)

    def _write_run(self, task: WriteRun, tell: Tell) -> IdxColumns:
        table, rows = self.plan.table, self.plan.order[task.start : task.stop]
        listed = rows.tolist()
        keys = [table.keys[row] for row in listed]
        endings = {n: e if isinstance(e, str) else [e[row] for row in listed] for n, e in table.endings.items()}
        sizes = {name: column.sizes[rows] for name, column in table.columns.items()}
        run = layout(keys, endings, sizes, self._buffer)
        self._buffer = run.buffer
        facts: dict[str, npt.ArrayLike] = {}
        for name, column in table.columns.items():
            facts |= self._fill(name, column, rows, run.buffer.data, run.starts[name])
        columns = run.columns(facts, {n: None for n, c in table.columns.items() if isinstance(c, Values)})
        base = int(self.plan.offsets[task.start] - self.plan.offsets[self.plan.shards[task.shard].start])
        descriptor = os.open(self._partial(task.shard), os.O_WRONLY | os.O_CLOEXEC)
        try:
            write_all(descriptor, run.buffer.data[: run.bytes], base)
        finally:
            os.close(descriptor)
        tell(len(keys), run.bytes)
        return replace(columns, offsets=np.asarray(columns.offsets) + base)

    def _write_parquet(self, task: WriteParquet, tell: Tell) -> ShardFile:
        planned = self.plan.shards[task.shard]
        writer = ParquetShardWriter(self.out / planned.name, self.plan.table.fields)
        try:
            for start, stop in self.plan.runs(planned):
                written = self._add_run(writer, self.plan.order[start:stop])
                tell(stop - start, written)
            return replace(writer.finish(), name=planned.name)
        except BaseException:
            writer.abort()
            raise

    def _add_run(self, writer: ParquetShardWriter, rows: Int64s) -> int:
        """Read some samples and hand them to a writer; returns their bytes."""
        table, listed = self.plan.table, rows.tolist()
        contents: dict[str, list[tuple[str, bytes]]] = {}
        facts: dict[str, npt.NDArray[np.int64]] = {}
        total = 0
        for name, column in table.columns.items():
            if isinstance(column, Values):
                continue
            ends = np.cumsum(column.sizes[rows])
            starts = ends - column.sizes[rows]
            view = self._memory(int(ends[-1])).data
            facts |= self._fill(name, column, rows, view, starts)
            types = column.types if isinstance(column, Files) else ""
            each = [types] * len(listed) if isinstance(types, str) else [types[row] for row in listed]
            spans = zip(each, starts.tolist(), ends.tolist(), strict=True)
            contents[name] = [(kind, bytes(view[a:b])) for kind, a, b in spans]
            total += int(ends[-1])
        scalars = {n: c.values[rows].tolist() for n, c in table.columns.items() if isinstance(c, Values)}
        fact_lists = {name: values.tolist() for name, values in facts.items()}
        for at, row in enumerate(listed):
            writer.add(
                table.keys[row],
                {name: values[at] for name, values in contents.items()},
                {name: values[at] for name, values in scalars.items()},
                {name: values[at] for name, values in fact_lists.items()},
            )
        return total

    def _memory(self, size: int) -> npt.NDArray[np.uint8]:
        if self._buffer is None or len(self._buffer) <= size:
            self._buffer = np.empty(size + 1, np.uint8)
        return self._buffer

    def _fill(
        self, name: str, column: Column, rows: Int64s, view: memoryview, starts: Int64s
    ) -> dict[str, npt.NDArray[np.int64]]:
        """Put the contents of one field into `view` at `starts`; returns the facts that the index stores."""
        kind = self.plan.table.fields[name].kind
        begins, sizes, listed = starts.tolist(), column.sizes[rows].tolist(), rows.tolist()
        look = inspector(kind)
        match column:
            case Values():
                _fill_values(column.values[rows], view, begins)
                return {}
            case Inline():
                for row, begin, size in zip(listed, begins, sizes, strict=True):
                    view[begin : begin + size] = column.contents[row]
                if kind in ("text", "json"):
                    return {}  # made from values of the manifest
                found = [look(view[a : a + n]) for a, n in zip(begins, sizes, strict=True)]
            case Files():
                found = _fill_files(column, listed, view, begins, sizes, look)
            case Spans():
                found = self._fill_spans(column, listed, view, begins, look)
        names = FACTS.get(kind, ())
        table = np.array(found, np.int64).reshape(len(listed), len(names)) if names else np.zeros((0, 0), np.int64)
        return {f"{name}.{what}": table[:, at] for at, what in enumerate(names)}

    def _fill_spans(
        self, column: Spans, listed: list[int], view: memoryview, begins: list[int], look: Callable[[memoryview], Any]
    ) -> list[Any]:
        found = []
        with open(column.path, "rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_mtime_ns != column.mtime:
                raise PackError(f"{column.path} has changed since packing began; run the command again")
            for row, begin in zip(listed, begins, strict=True):
                size = int(column.sizes[row])
                place = view[begin : begin + size]
                if os.preadv(file.fileno(), (place,), int(column.starts[row])) != size:
                    raise PackError(f"{column.path} has become shorter since packing began; run the command again")
                try:
                    found.append(look(place))
                except DecodeError as error:
                    key = self.plan.table.keys[row]
                    raise PackError(f"{column.path}, line {int(key)}: {error.message}", key=key) from error
        return found


def _fill_values(values: npt.NDArray[Any], view: memoryview, begins: list[int]) -> None:
    known: dict[Any, bytes] = {}
    for value, begin in zip(values.tolist(), begins, strict=True):
        content = known.get(value)
        if content is None:
            content = known[value] = scalar_bytes(value)
        view[begin : begin + len(content)] = content


def _fill_files(
    column: Files,
    listed: list[int],
    view: memoryview,
    begins: list[int],
    sizes: list[int],
    look: Callable[[memoryview], Any],
) -> list[Any]:
    """Read whole files into `view`; asks for one byte more than expected, so that growth is seen too."""
    paths, found, path = column.paths, [], ""
    flags, opened, read, close = os.O_RDONLY | os.O_CLOEXEC, os.open, os.readv, os.close
    try:
        root = opened(column.root or ".", flags | os.O_DIRECTORY)  # looked up once, and not again with each file
        try:
            for row, begin, size in zip(listed, begins, sizes, strict=True):
                path, end = paths[row], begin + size
                descriptor = opened(path, flags, dir_fd=root)
                try:
                    if read(descriptor, (view[begin : end + 1],)) != size:
                        _read_rest(descriptor, path, view[begin:end])
                finally:
                    close(descriptor)
                found.append(look(view[begin:end]))
        finally:
            close(root)
    except OSError as error:
        gone = isinstance(error, FileNotFoundError)
        what = "is gone since packing began" if gone else f"cannot be read: {error.strerror}"
        raise PackError(f"{os.path.join(column.root, path)} {what}; run the command again once it is back") from error
    except DecodeError as error:
        raise PackError(f"{os.path.join(column.root, path)}: {error.message}; remove or mend the file") from error
    return found


def _read_rest(descriptor: int, path: str, place: memoryview) -> None:
    """Read a file that did not come in one piece; one call gives at most 2 GiB."""
    done = 0
    while done < len(place):
        count = os.preadv(descriptor, (place[done:],), done)
        if count == 0:
            break
        done += count
    if done < len(place) or os.pread(descriptor, 1, done):
        raise PackError(
            f"{path} had {len(place)} bytes when packing began, and now has {os.fstat(descriptor).st_size};"
            " wait until it is complete and run the command again"
        )


def hash_file(path: Path) -> str:
    """XXH3-64 of a file, 16 hex digits, from its memory map: what was just written is not copied once more."""
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            return xxhash.xxh3_64_hexdigest(b"")
        state = xxhash.xxh3_64()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data, memoryview(data) as view:
            for start in range(0, size, HASH_CHUNK):
                state.update(view[start : start + HASH_CHUNK])
        return state.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_whole(path: Path, file: ShardFile) -> bool:
    wanted = [(path, file.xxh3)]
    if file.index_xxh3 is not None:
        wanted.append((Path(idx_path(str(path))), file.index_xxh3))
    try:
        return path.stat().st_size == file.bytes and all(hash_file(one) == digest for one, digest in wanted)
    except FileNotFoundError:
        return False
