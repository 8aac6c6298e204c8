"""What a worker does: read contents into place, look at each, change it, hash, write. Any worker writes the same."""

from __future__ import annotations

import mmap
import os
import secrets
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from fastload.pack.checks import inspector
from fastload.pack.contents import Look, fill
from fastload.pack.files import write_back
from fastload.pack.plan import Plan, PlannedShard
from fastload.pack.steps import Chain, Recipe
from fastload.pack.table import Values, file_types
from fastload.pack.tally import Tally
from fastload.pack.tasks import (
    EncodedRun,
    EncodeRun,
    HashTar,
    PlaceRun,
    SyncTar,
    Task,
    Tell,
    Verify,
    WholeShard,
    WriteRun,
    WriteShard,
)
from fastload.shards.files import PARTIAL_SUFFIX
from fastload.shards.idx import IdxColumns, idx_path
from fastload.shards.index import ShardFile
from fastload.shards.parquet import ParquetShardWriter
from fastload.shards.tar import RUN_BYTES, TarRun, join_columns, layout, write_all
from fastload.shards.ustar import END_MARKER
from fastload.statistics import measured

Bytes = npt.NDArray[np.uint8]
Int64s = npt.NDArray[np.int64]
HASH_CHUNK = 4 << 20
SPARE_BYTES = 2 * RUN_BYTES  # the buffer of one larger sample is not kept for the next run


class Encoder:
    """Carries out tasks of one plan.

    Args:
        plan: what to pack.
        out: the output folder.
        recipes: by field, what becomes of its contents; those of other fields are stored as they are.
    """

    def __init__(self, plan: Plan, out: Path, recipes: Mapping[str, Recipe]) -> None:
        self.plan = plan
        self.out = out
        self.recipes = recipes
        self._spare: list[Bytes] = []
        self._held: dict[int, TarRun] = {}  # by first sample

    def __getstate__(self) -> tuple[Plan, Path, Mapping[str, Recipe]]:
        return self.plan, self.out, self.recipes

    def __setstate__(self, state: tuple[Plan, Path, Mapping[str, Recipe]]) -> None:
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
            case WriteShard():
                return self._write_shard(task, tell)
            case Verify():
                return is_whole(self.out / task.file.name, task.file)

    def _partial(self, shard: int) -> Path:
        return self.out / (self.plan.shards[shard].name + PARTIAL_SUFFIX)

    def _write_shard(self, task: WriteShard, tell: Tell) -> WholeShard:
        planned = self.plan.shards[task.shard]
        stem, dot, ending = planned.name.rpartition(".")
        attempt = f"{stem}.{secrets.token_hex(8)}{dot}{ending}"
        write = self._write_tar if self.plan.shard_format == "tar" else self._write_parquet
        file, columns, tally = write(planned, self.out / attempt, tell)
        file = file._replace(name=planned.name)
        return WholeShard(partial=attempt + PARTIAL_SUFFIX, file=file, columns=columns, tally=tally)

    # tar

    def _write_run(self, task: WriteRun, tell: Tell) -> EncodedRun:
        run, facts, chains = self._fill_run(self.plan.order[task.start : task.stop])
        columns = self._columns(run, facts)
        offset = int(self.plan.offsets[task.start] - self.plan.offsets[self.plan.shards[task.shard].start])
        self._place(task.shard, run, offset, tell)
        columns = replace(columns, offsets=np.asarray(columns.offsets) + offset)
        return EncodedRun(columns=columns, bytes=run.bytes, tally=_tally(chains))

    def _encode_run(self, task: EncodeRun) -> EncodedRun:
        self._held[task.start], encoded = self._encode(task.start, task.stop)
        return encoded

    def _encode(self, start: int, stop: int) -> tuple[TarRun, EncodedRun]:
        """A run as it is to be stored, and what is to be known of it."""
        rows = self.plan.order[start:stop]
        run, facts, chains = self._fill_run(rows)
        made = {name: chain.made for name, chain in chains.items() if chain.made}
        if made:
            source = run
            run = self._with(source, rows, made)
            self._let_go(source.buffer)
        return run, EncodedRun(columns=self._columns(run, facts), bytes=run.bytes, tally=_tally(chains))

    def _fill_run(self, rows: Int64s) -> tuple[TarRun, dict[str, Int64s], dict[str, Chain]]:
        """Samples as they are in the source, laid out; their facts; what could be stored instead, by field."""
        columns = self.plan.table.columns
        run = self._layout(rows, {name: column.sizes[rows] for name, column in columns.items()})
        chains = self._chains()
        facts: dict[str, Int64s] = {}
        for name in columns:
            facts |= self._fill(name, rows, run.buffer.data, run.starts[name], chains)
        return run, facts, chains

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

    def _write_tar(self, planned: PlannedShard, path: Path, tell: Tell) -> tuple[ShardFile, IdxColumns | None, Tally]:
        parts, tallies, offset, state = [], [], 0, xxhash.xxh3_64()
        with open(path.with_name(path.name + PARTIAL_SUFFIX), "xb", buffering=0) as file:
            for start, stop in self.plan.runs(planned):
                run, encoded = self._encode(start, stop)
                view = run.buffer.data[: run.bytes]
                write_all(file.fileno(), view, offset)
                write_back(file.fileno(), offset, run.bytes)
                state.update(view)
                parts.append(replace(encoded.columns, offsets=np.asarray(encoded.columns.offsets) + offset))
                tallies.append(encoded.tally)
                offset += run.bytes
                self._let_go(run.buffer)
                tell(stop - start, run.bytes)
            write_all(file.fileno(), memoryview(END_MARKER), offset)
            os.fsync(file.fileno())
        state.update(END_MARKER)
        size = offset + len(END_MARKER)
        shard = ShardFile(name=path.name, samples=planned.samples, bytes=size, xxh3=state.hexdigest())
        return shard, join_columns((), parts), Tally.total_of(tallies)

    def _columns(self, run: TarRun, facts: dict[str, Int64s]) -> IdxColumns:
        scalars = (name for name, column in self.plan.table.columns.items() if isinstance(column, Values))
        return run.columns(facts, dict.fromkeys(scalars))

    def _place(self, shard: int, run: TarRun, offset: int, tell: Tell) -> None:
        descriptor = os.open(self._partial(shard), os.O_WRONLY | os.O_CLOEXEC)
        try:
            write_all(descriptor, run.buffer.data[: run.bytes], offset)
            write_back(descriptor, offset, run.bytes)
        finally:
            os.close(descriptor)
        self._let_go(run.buffer)
        tell(len(run.offsets) - 1, run.bytes)

    def _let_go(self, buffer: Bytes) -> None:
        if len(buffer) <= SPARE_BYTES:
            self._spare.append(buffer)

    # Parquet

    def _write_parquet(
        self, planned: PlannedShard, path: Path, tell: Tell
    ) -> tuple[ShardFile, IdxColumns | None, Tally]:
        writer = ParquetShardWriter(path, self.plan.table.fields)
        tallies = []
        try:
            for start, stop in self.plan.runs(planned):
                written, tally = self._add_run(writer, self.plan.order[start:stop])
                tallies.append(tally)
                tell(stop - start, written)
            return writer.complete(), None, Tally.total_of(tallies)
        except BaseException:
            writer.abort()
            raise

    def _add_run(self, writer: ParquetShardWriter, rows: Int64s) -> tuple[int, Tally]:
        """Read some samples and hand them to a writer; returns their bytes, and what was counted."""
        table, listed, chains = self.plan.table, rows.tolist(), self._chains()
        contents: dict[str, list[tuple[str, bytes]]] = {}
        facts: dict[str, Int64s] = {}
        for name, column in table.columns.items():
            if isinstance(column, Values):
                continue
            cuts = np.concatenate([np.zeros(1, np.int64), np.cumsum(column.sizes[rows])])
            buffer = self._spare.pop() if self._spare else np.empty(0, np.uint8)
            if len(buffer) <= cuts[-1]:
                buffer = np.empty(int(cuts[-1]) + 1, np.uint8)
            facts |= self._fill(name, rows, buffer.data, cuts[:-1], chains)
            types = file_types(column)
            each = [types] * len(listed) if isinstance(types, str) else [types[row] for row in listed]
            stored = [bytes(buffer.data[a:b]) for a, b in pairwise(cuts.tolist())]
            for at, content in chains[name].made.items() if name in chains else ():
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
        sizes = {name: [len(content) for _, content in column] for name, column in contents.items()}
        tally = Tally.total_of((_tally(chains), Tally(fields=measured(sizes, facts))))
        return sum(map(sum, sizes.values())), tally

    # both

    def _chains(self) -> dict[str, Chain]:
        fields = self.plan.table.fields
        return {name: Chain(name, recipe, fields[name].kind) for name, recipe in self.recipes.items()}

    def _fill(
        self, name: str, rows: Int64s, view: memoryview, starts: Int64s, chains: dict[str, Chain]
    ) -> dict[str, Int64s]:
        table = self.plan.table
        look: Look = chains[name] if name in chains else inspector(table.fields[name].kind)
        return fill(table, name, rows, view, starts, look)


def _tally(chains: Mapping[str, Chain]) -> Tally:
    return Tally.total_of(chain.tally for chain in chains.values())


def hash_file(path: Path) -> str:
    """XXH3-64 of a file, 16 hex digits, from memory maps: what was just written is not copied once more.

    One map at a time, of HASH_CHUNK bytes: pages of a map count as memory of this process until it is closed.
    """
    state = xxhash.xxh3_64()
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        for start in range(0, size, HASH_CHUNK):
            length = min(HASH_CHUNK, size - start)
            with mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ, offset=start) as data:
                state.update(data)
    return state.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_whole(path: Path, file: ShardFile) -> bool:
    """Whether a finished shard, and the `.idx` of a tar, are the files that were written."""
    wanted = [(path, file.xxh3)]
    if file.index_xxh3 is not None:
        wanted.append((Path(idx_path(str(path))), file.index_xxh3))
    try:
        return path.stat().st_size == file.bytes and all(hash_file(one) == digest for one, digest in wanted)
    except FileNotFoundError:
        return False
