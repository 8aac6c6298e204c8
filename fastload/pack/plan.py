"""Which samples make which shard, decided before any content is read, so that any number of workers writes the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import xxhash

from fastload.pack.splits import shuffled
from fastload.pack.splitting import Sharing
from fastload.pack.table import Column, Files, Inline, Spans, Table
from fastload.shards.index import FieldInfo, ShardFormat
from fastload.shards.tar import RUN_BYTES, RUN_SAMPLES, header_sizes
from fastload.shards.ustar import END_MARKER, padded
from fastload.sizes import parse_size as parse_size

Int64s = npt.NDArray[np.int64]
SHARD_NAMES: dict[ShardFormat, str] = {"tar": "shard-{:06d}.tar", "parquet": "part-{:06d}.parquet"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedShard:
    """One shard to be written.

    Attributes:
        name: path relative to the output folder.
        start, stop: its samples, [start, stop) of `Plan.order`.
        bytes: of a finished tar; of the contents for Parquet.
    """

    name: str
    start: int
    stop: int
    bytes: int

    @property
    def samples(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The samples of a table, sorted into shards.

    Attributes:
        table: the samples.
        order: rows of the table, shard by shard, int64 [n].
        sample_bytes: what each takes in its shard, in that order, int64 [n].
        shards: those of one split next to each other.
        splits: name -> (start, stop) into `shards`.
    """

    table: Table
    shard_format: ShardFormat
    order: Int64s
    sample_bytes: Int64s
    shards: tuple[PlannedShard, ...]
    splits: dict[str, tuple[int, int]]

    @cached_property
    def offsets(self) -> Int64s:
        """Bytes before each sample, over all shards, int64 [n + 1]."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.sample_bytes)])

    @property
    def tasks(self) -> int:
        """How many pieces can be worked on at once, at least."""
        whole_runs = sum(shard.bytes // RUN_BYTES for shard in self.shards) if self.shard_format == "tar" else 0
        return max(whole_runs, len(self.shards))

    def runs(self, shard: PlannedShard) -> Iterator[tuple[int, int]]:
        """The shard in pieces that fit into the processor's cache, [start, stop) of `order` each."""
        start = shard.start
        while start < shard.stop:
            stop = int(np.searchsorted(self.offsets, self.offsets[start] + RUN_BYTES, "right")) - 1
            stop = min(max(stop, start + 1), start + RUN_SAMPLES, shard.stop)
            yield start, stop
            start = stop

    def alone(self, number: int) -> Plan:
        """The plan of one shard, as its shard 0: what another machine that sees the same files needs to write it."""
        shard = self.shards[number]
        table = self.table.take(self.order[shard.start : shard.stop])
        return Plan(
            table=table,
            shard_format=self.shard_format,
            order=np.arange(shard.samples),
            sample_bytes=self.sample_bytes[shard.start : shard.stop],
            shards=(replace(shard, start=0, stop=shard.samples),),
            splits={},
        )

    def digest(self, shard: PlannedShard) -> str:
        """XXH3-64 over all that is known of a shard's samples: keys, origins, sizes, times, values."""
        rows = self.order[shard.start : shard.stop]
        state = xxhash.xxh3_64(repr((shard, self.shard_format, list(self.table.fields.items()))).encode())
        state.update("\0".join([self.table.keys[row] for row in rows.tolist()]).encode())
        for column in self.table.columns.values():
            hash_column(state, column, rows)
        return state.hexdigest()


def path_bytes(text: str) -> bytes:
    """Names of files as bytes, which need not be UTF-8."""
    return text.encode("utf-8", "surrogateescape")


def hash_column(state: xxhash.xxh3_64 | xxhash.xxh3_128, column: Column, rows: Int64s) -> None:
    """Add what is known of some contents of a column."""
    match column:
        case Files():
            state.update(path_bytes("\0".join([column.paths[row] for row in rows.tolist()])))  # which say the types too
            state.update(column.sizes[rows].tobytes() + column.mtimes[rows].tobytes())
        case Inline():
            state.update(column.sizes[rows].tobytes())
            for row in rows.tolist():
                state.update(column.contents[row])
        case Spans():
            if column.digests is not None:
                state.update(column.digests[rows].tobytes() + column.sizes[rows].tobytes())
            else:
                state.update(path_bytes(f"{column.path}\0{column.mtime}"))
                state.update(column.starts[rows].tobytes() + column.sizes[rows].tobytes())
        case _:
            state.update(column.values[rows].tobytes())


def make_plan(
    table: Table,
    sharing: Sharing,
    *,
    shard_format: ShardFormat,
    shard_size: int,
    seed: int,
    shuffle: bool,
) -> Plan:
    """Sort samples into shards.

    Args:
        table: the samples.
        sharing: which of them are packed, and into which split.
        shard_format: "tar" or "parquet".
        shard_size: most bytes of a shard; one sample that is larger gets a shard of its own.
        seed: of the hash that shuffles.
        shuffle: spread the samples over the shards by a hash of their keys; False: in the table's order.
    """
    rows, split_of = sharing.rows, sharing.numbers
    places = shuffled([table.keys[row] for row in rows.tolist()], seed) if shuffle else np.arange(len(rows))
    places = places[np.argsort(split_of[places], kind="stable")]
    order = rows[places]
    counts = np.bincount(split_of, minlength=len(sharing.names)).tolist()
    sample_bytes = _sample_bytes(table, shard_format)[order]
    marker = len(END_MARKER) if shard_format == "tar" else 0
    shards: list[PlannedShard] = []
    splits, start = {}, 0
    for name, count in zip(sharing.names, counts, strict=True):
        first = len(shards)
        for cut in _cuts(sample_bytes[start : start + count], shard_size - marker):
            total = int(sample_bytes[start + cut[0] : start + cut[1]].sum()) + marker
            file = SHARD_NAMES[shard_format].format(len(shards) - first)
            shards.append(PlannedShard(name=f"{name}/{file}", start=start + cut[0], stop=start + cut[1], bytes=total))
        splits[name] = (first, len(shards))
        start += count
    return Plan(
        table=table,
        shard_format=shard_format,
        order=order,
        sample_bytes=sample_bytes,
        shards=tuple(shards),
        splits=splits,
    )


def _sample_bytes(table: Table, shard_format: ShardFormat) -> Int64s:
    """What each sample takes in its shard, in the table's order, int64 [n]."""
    total = np.zeros(len(table.keys), np.int64)
    for name, column in table.columns.items():
        if shard_format == "tar":
            total += header_sizes(table.keys, table.endings[name], column.sizes) + padded(column.sizes)
        else:
            total += column.sizes * parquet_width(table.fields[name])
    return total


def parquet_width(info: FieldInfo) -> int:
    """How many bytes Parquet takes for each byte of a field's contents: it stores integers of 8 and 16 bits in 32."""
    itemsize = np.dtype(info.dtype).itemsize if info.kind == "tokens" and info.dtype is not None else 4
    return max(1, 4 // itemsize)


def _cuts(sizes: Int64s, limit: int) -> Iterator[tuple[int, int]]:
    """[start, stop) of each shard: as few shards as `limit` allows, about equally full."""
    ends = np.cumsum(sizes)
    total = int(ends[-1])
    fewest = max(-(-total // max(limit, 1)), 1)  # contents may all be empty
    cap = min(limit, -(-total // fewest) + int(sizes.max()))
    start, before = 0, 0
    while start < len(sizes):
        stop = max(int(np.searchsorted(ends, before + cap, "right")), start + 1)
        yield start, stop
        start, before = stop, int(ends[stop - 1])
