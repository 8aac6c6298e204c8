"""What workers are asked to do, and what they answer.

A run whose contents are stored as they are has its place before it is read: WriteRun. One that steps change
(`steps.py`) has the size that comes out: EncodeRun leaves it in the worker's memory and tells its size, and PlaceRun,
which goes to the same worker, writes it once the runs before it in the tar have told theirs. So each byte is written
once, where it stays, by the process that made it. Pieces in files of their own, joined by copy_file_range, took 3 times
the system's time (1% of making them) but also the disk's space twice and files to clear after a kill; making all twice,
the first time to learn the sizes, takes twice as long.

A Parquet file is one WriteShard, and so is a tar where workers share no memory and may be lost: it leaves nothing that
another attempt would need, and each attempt has a file of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastload.pack.tally import Tally
from fastload.shards.idx import IdxColumns
from fastload.shards.index import ShardFile

Tell = Callable[[int, int], None]  # samples and bytes written since the last call


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteRun:
    """Write [start, stop) of the plan's order to its place in a tar; gives an `EncodedRun`, offsets in the tar."""

    shard: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeRun:
    """Make [start, stop) of the plan's order, and hold it; gives an `EncodedRun`, offsets in the run."""

    shard: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceRun:
    """Write the run that begins with `start`, which this worker holds, at `offset` of its tar, and let it go."""

    shard: int
    start: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HashTar:
    """Give the XXH3-64 of a tar whose runs are all written, 16 hex digits."""

    shard: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncTar:
    """Make a tar whose runs are all written durable."""

    shard: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteShard:
    """Write one shard from start to end under a temporary name that is new each time; gives a `WholeShard`."""

    shard: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verify:
    """Tell whether a finished shard, and its `.idx`, are the files that were written."""

    shard: int
    file: ShardFile


Task = WriteRun | EncodeRun | PlaceRun | HashTar | SyncTar | WriteShard | Verify


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedRun:
    """A run that a worker has made.

    Attributes:
        columns: `IdxColumns` without keys and scalars.
        bytes: of the run.
        tally: what was counted on the way.
    """

    columns: IdxColumns
    bytes: int
    tally: Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeShard:
    """A shard that is complete and durable, but for its final name.

    Attributes:
        partial: its temporary name, relative to the output folder.
        file: what index.json says of it, but for a tar's `index_xxh3`.
        columns: of a tar, without keys and scalars; None for Parquet.
        tally: what was counted on the way.
    """

    partial: str
    file: ShardFile
    columns: IdxColumns | None
    tally: Tally
