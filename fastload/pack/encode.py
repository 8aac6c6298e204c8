"""What a worker does: read contents into place, look at each once, hash, write. The same bytes from any worker."""

from __future__ import annotations

import mmap
import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from fastload.pack.checks import inspector
from fastload.pack.contents import Look, fill
from fastload.pack.jpeg import JpegCounts, JpegMode, Seekables
from fastload.pack.plan import Plan
from fastload.pack.table import Files, Values
from fastload.pack.tasks import (
    EncodedRun,
    EncodeRun,
    HashTar,
    PlaceRun,
    SyncTar,
    Task,
    Tell,
    Verify,
    WriteParquet,
    WriteRun,
)
from fastload.shards.files import PARTIAL_SUFFIX
from fastload.shards.idx import IdxColumns, idx_path
from fastload.shards.index import ShardFile
from fastload.shards.parquet import ParquetShardWriter
from fastload.shards.tar import RUN_BYTES, TarRun, layout, write_all

Bytes = npt.NDArray[np.uint8]
Int64s = npt.NDArray[np.int64]
HASH_CHUNK = 4 << 20
SPARE_BYTES = 2 * RUN_BYTES  # the buffer of one larger sample is not kept for the next run


class Encoder:
    """Carries out tasks of one plan.

    Args:
        plan: what to pack.
        out: the output folder.
        jpeg: "seekable" makes JPEGs crop-seekable where that can be done.
    """

    def __init__(self, plan: Plan, out: Path, jpeg: JpegMode) -> None:
        self.plan = plan
        self.out = out
        self.jpeg: JpegMode = jpeg
        self._spare: list[Bytes] = []
        self._held: dict[int, TarRun] = {}  # by first sample

    def __getstate__(self) -> tuple[Plan, Path, JpegMode]:
        return self.plan, self.out, self.jpeg

    def __setstate__(self, state: tuple[Plan, Path, JpegMode]) -> None:
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
            case EncodeRun():
                return self._encode_run(task)
            case PlaceRun():
                return self._place(task.shard, self._held.pop(task.start), task.offset, tell)
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

    # tar

    def _write_run(self, task: WriteRun, tell: Tell) -> IdxColumns:
        run, facts, _ = self._fill_run(self.plan.order[task.start : task.stop])
        columns = self._columns(run, facts)
        offset = int(self.plan.offsets[task.start] - self.plan.offsets[self.plan.shards[task.shard].start])
        self._place(task.shard, run, offset, tell)
        return replace(columns, offsets=np.asarray(columns.offsets) + offset)

    def _encode_run(self, task: EncodeRun) -> EncodedRun:
        rows = self.plan.order[task.start : task.stop]
        run, facts, looks = self._fill_run(rows)
        made = {name: look.made for name, look in looks.items() if look.made}
        if made:
            source = run
            run = self._with(source, rows, made)
            self._let_go(source.buffer)
        self._held[task.start] = run
        counts = JpegCounts.total(look.counts for look in looks.values())
        return EncodedRun(columns=self._columns(run, facts), bytes=run.bytes, jpeg=counts)

    def _fill_run(self, rows: Int64s) -> tuple[TarRun, dict[str, Int64s], dict[str, Seekables]]:
        """Samples as they are in the source, laid out; their facts; what could be stored instead, by field."""
        columns = self.plan.table.columns
        run = self._layout(rows, {name: column.sizes[rows] for name, column in columns.items()})
        looks = self._looks()
        facts: dict[str, Int64s] = {}
        for name in columns:
            facts |= self._fill(name, rows, run.buffer.data, run.starts[name], looks)
        return run, facts, looks

    def _with(self, source: TarRun, rows: Int64s, made: dict[str, dict[int, bytes]]) -> TarRun:
        """A run with some contents replaced: field -> number in the run -> content."""
        sizes = {name: before.copy() for name, before in source.sizes.items()}
        for name, others in made.items():
            for at, other in others.items():
                sizes[name][at] = len(other)
        run = self._layout(rows, sizes)
        old, new = source.buffer.data, run.buffer.data
        for name in sizes:
            others = made.get(name, {})
            spans = zip(
                source.starts[name].tolist(), source.sizes[name].tolist(), run.starts[name].tolist(), strict=True
            )
            for at, (begin, size, place) in enumerate(spans):
                content: bytes | memoryview = others.get(at) or old[begin : begin + size]
                new[place : place + len(content)] = content
        return run

    def _layout(self, rows: Int64s, sizes: dict[str, Int64s]) -> TarRun:
        table, listed = self.plan.table, rows.tolist()
        keys = [table.keys[row] for row in listed]
        endings = {n: e if isinstance(e, str) else [e[row] for row in listed] for n, e in table.endings.items()}
        return layout(keys, endings, sizes, self._spare.pop() if self._spare else None)

    def _columns(self, run: TarRun, facts: dict[str, Int64s]) -> IdxColumns:
        scalars = (name for name, column in self.plan.table.columns.items() if isinstance(column, Values))
        return run.columns(facts, dict.fromkeys(scalars))

    def _place(self, shard: int, run: TarRun, offset: int, tell: Tell) -> None:
        descriptor = os.open(self._partial(shard), os.O_WRONLY | os.O_CLOEXEC)
        try:
            write_all(descriptor, run.buffer.data[: run.bytes], offset)
        finally:
            os.close(descriptor)
        self._let_go(run.buffer)
        tell(len(run.offsets) - 1, run.bytes)

    def _let_go(self, buffer: Bytes) -> None:
        if len(buffer) <= SPARE_BYTES:
            self._spare.append(buffer)

    # Parquet

    def _write_parquet(self, task: WriteParquet, tell: Tell) -> tuple[ShardFile, JpegCounts]:
        planned = self.plan.shards[task.shard]
        writer = ParquetShardWriter(self.out / planned.name, self.plan.table.fields)
        counts = []
        try:
            for start, stop in self.plan.runs(planned):
                looks = self._looks()
                written = self._add_run(writer, self.plan.order[start:stop], looks)
                counts += [look.counts for look in looks.values()]
                tell(stop - start, written)
            return replace(writer.finish(), name=planned.name), JpegCounts.total(counts)
        except BaseException:
            writer.abort()
            raise

    def _add_run(self, writer: ParquetShardWriter, rows: Int64s, looks: dict[str, Seekables]) -> int:
        """Read some samples and hand them to a writer; returns their bytes."""
        table, listed = self.plan.table, rows.tolist()
        contents: dict[str, list[tuple[str, bytes]]] = {}
        facts: dict[str, Int64s] = {}
        for name, column in table.columns.items():
            if isinstance(column, Values):
                continue
            cuts = np.concatenate([np.zeros(1, np.int64), np.cumsum(column.sizes[rows])])
            buffer = self._spare.pop() if self._spare else np.empty(0, np.uint8)
            if len(buffer) <= cuts[-1]:
                buffer = np.empty(int(cuts[-1]) + 1, np.uint8)
            facts |= self._fill(name, rows, buffer.data, cuts[:-1], looks)
            types = column.types if isinstance(column, Files) else ""
            each = [types] * len(listed) if isinstance(types, str) else [types[row] for row in listed]
            stored = [bytes(buffer.data[a:b]) for a, b in pairwise(cuts.tolist())]
            for at, content in looks[name].made.items() if name in looks else ():
                stored[at] = content
            contents[name] = list(zip(each, stored, strict=True))
            self._let_go(buffer)
        scalars = {n: c.values[rows].tolist() for n, c in table.columns.items() if isinstance(c, Values)}
        fact_lists = {name: values.tolist() for name, values in facts.items()}
        for at, row in enumerate(listed):
            writer.add(
                table.keys[row],
                {name: values[at] for name, values in contents.items()},
                {name: values[at] for name, values in scalars.items()},
                {name: values[at] for name, values in fact_lists.items()},
            )
        return sum(len(content) for column in contents.values() for _, content in column)

    # both

    def _looks(self) -> dict[str, Seekables]:
        """What looks at the fields of JPEGs that are to be made crop-seekable."""
        look = inspector("image")
        return {name: Seekables(look) for name in self.plan.table.pictures} if self.jpeg == "seekable" else {}

    def _fill(
        self, name: str, rows: Int64s, view: memoryview, starts: Int64s, looks: dict[str, Seekables]
    ) -> dict[str, Int64s]:
        table = self.plan.table
        look: Look = looks[name] if name in looks else inspector(table.fields[name].kind)
        return fill(table, name, rows, view, starts, look)


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
