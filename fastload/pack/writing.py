"""From a plan to finished shards: tasks out, results in, one shard after the other published and recorded."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fastload.pack.journal import Finished, Journal
from fastload.pack.plan import Plan
from fastload.pack.table import Values
from fastload.pack.tally import Tally
from fastload.pack.target import Target
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
from fastload.pack.workers import Pool
from fastload.shards.files import PARTIAL_SUFFIX, fsync_directory, publish
from fastload.shards.idx import IdxColumns
from fastload.shards.index import ShardFile
from fastload.shards.tar import join_columns, publish_tar
from fastload.shards.ustar import END_MARKER
from fastload.statistics import measured


@dataclass(slots=True)
class OpenTar:
    """A tar that is being written: what has come back of it.

    Attributes:
        starts: first sample of each of its runs.
        bytes: of the tar; of runs that are encoded first, those whose place is known.
        runs: by first sample, with offsets in the tar.
        placeless: by first sample, encoded runs that wait for one before them.
        written: how many runs are in their place.
    """

    starts: list[int]
    bytes: int
    runs: dict[int, IdxColumns] = field(default_factory=dict)
    placeless: dict[int, EncodedRun] = field(default_factory=dict)
    tallies: list[Tally] = field(default_factory=list)
    written: int = 0
    xxh3: str | None = None
    synced: bool = False

    def place(self, encoded: EncodedRun, start: int) -> Iterator[tuple[int, int]]:
        """Take an encoded run; gives the runs whose place is now known: (first sample, offset)."""
        self.placeless[start] = encoded
        while len(self.runs) < len(self.starts) and (first := self.starts[len(self.runs)]) in self.placeless:
            known, offset = self.placeless.pop(first), self.bytes
            self.runs[first] = replace(known.columns, offsets=np.asarray(known.columns.offsets) + offset)
            self.tallies.append(known.tally)
            self.bytes += known.bytes
            yield first, offset


def write_shards(
    plan: Plan,
    out: Path,
    journal: Journal,
    *,
    pool: Pool,
    in_place: bool,
    tell: Tell,
    target: Target | None = None,
) -> list[Finished]:
    """Write every shard that the journal does not have; give all, in the plan's order.

    Args:
        plan: what to write.
        out: the output folder.
        journal: of this run; gets each shard once it is durable.
        pool: what carries out the work; entered and left here.
        in_place: contents are stored as they are, so that the plan says where each run of a tar goes.
        tell: called with samples and bytes as they are done.
        target: where shards go once they are whole; None: they stay.

    Raises: PackError, OSError, SourceError; what is finished is then recorded, and no half shard has its final name.
    """
    whole = plan.shard_format == "parquet" or pool.whole_shards
    writing = _Writing(plan, out, journal, in_place=in_place, whole=whole, target=target)
    with pool:
        pool.run(writing.verifications(), writing.verified, tell)
        journal.remove_leftovers()
        for planned in plan.shards:
            if planned.name in journal.finished:
                tell(planned.samples, journal.finished[planned.name].file.bytes)
        pool.run(writing.tasks(), writing.done, tell)
    return [journal.finished[planned.name] for planned in plan.shards]


class _Writing:
    """Which tasks there are, and what each result leads to.

    Args:
        plan, out, journal: as for `write_shards`.
        in_place: as for `write_shards`.
        whole: a shard is one task, not one for each run.
        target: as for `write_shards`.
    """

    def __init__(
        self, plan: Plan, out: Path, journal: Journal, *, in_place: bool, whole: bool, target: Target | None
    ) -> None:
        self._plan = plan
        self._out = out
        self._journal = journal
        self._in_place = in_place
        self._whole = whole
        self._target = target
        self._open: dict[int, OpenTar] = {}

    def verifications(self) -> Iterator[Task]:
        """One task for each recorded shard that still is what the plan wants; the others are forgotten."""
        planned = {shard.name: number for number, shard in enumerate(self._plan.shards)}
        for name, finished in list(self._journal.finished.items()):
            number = planned.get(name)
            if number is None or finished.digest != self._plan.digest(self._plan.shards[number]):
                self._journal.forget(name)
            elif self._target is not None:
                if not self._target.has(finished.file):
                    self._journal.forget(name)
            else:
                yield Verify(shard=number, file=finished.file)

    def verified(self, task: Task, whole: Any) -> Iterable[Task]:
        if not whole:
            self._journal.forget(self._plan.shards[task.shard].name)
        return ()

    def tasks(self) -> Iterator[Task]:
        """What has to be written; each shard's temporary file is made when its first task is taken."""
        for number, shard in enumerate(self._plan.shards):
            if shard.name in self._journal.finished:
                continue
            path = self._out / shard.name
            if not path.parent.exists():
                path.parent.mkdir()
                fsync_directory(self._out)
            if self._whole:
                yield WriteShard(shard=number)
                continue
            runs = list(self._plan.runs(shard))
            tar = OpenTar(starts=[start for start, _ in runs], bytes=shard.bytes if self._in_place else 0)
            self._open[number] = tar
            with open(self._partial(number), "wb") as file:
                os.ftruncate(file.fileno(), tar.bytes)  # the end marker is zeros, and so already there
            make = WriteRun if self._in_place else EncodeRun
            for start, stop in runs:
                yield make(shard=number, start=start, stop=stop)

    def done(self, task: Task, result: Any) -> Iterable[Task]:
        """Take a result; gives the tasks that it makes possible."""
        if isinstance(task, WriteShard):
            self._publish_whole(task.shard, result)
            return ()
        tar = self._open[task.shard]
        match task:
            case EncodeRun():
                return [PlaceRun(shard=task.shard, start=s, offset=o) for s, o in tar.place(result, task.start)]
            case WriteRun():
                tar.runs[task.start] = result.columns
                tar.tallies.append(result.tally)
                return self._written(task.shard, tar)
            case PlaceRun():
                return self._written(task.shard, tar)
            case HashTar():
                tar.xxh3 = result
            case SyncTar():
                tar.synced = True
        if tar.synced and tar.xxh3 is not None:
            self._publish(task.shard, tar, tar.xxh3)
        return ()

    def _written(self, number: int, tar: OpenTar) -> Iterable[Task]:
        """One more run is in its place; when all are, the tar is to be made durable."""
        tar.written += 1
        if tar.written < len(tar.starts):
            return ()
        if not self._in_place:
            tar.bytes += len(END_MARKER)
            os.truncate(self._partial(number), tar.bytes)  # zeros again
        return SyncTar(shard=number), HashTar(shard=number)

    def _partial(self, number: int) -> Path:
        return self._out / (self._plan.shards[number].name + PARTIAL_SUFFIX)

    def _publish(self, number: int, tar: OpenTar, xxh3: str) -> None:
        planned = self._plan.shards[number]
        columns = join_columns((), [tar.runs[start] for start in sorted(tar.runs)])
        file = ShardFile(name=planned.name, samples=planned.samples, bytes=tar.bytes, xxh3=xxh3)
        self._publish_tar(number, self._partial(number), file, columns, Tally.total_of(tar.tallies))
        del self._open[number]

    def _publish_whole(self, number: int, shard: WholeShard) -> None:
        partial = self._out / shard.partial
        if shard.columns is not None:
            self._publish_tar(number, partial, shard.file, shard.columns, shard.tally)
            return
        publish(partial, self._out / shard.file.name)
        self._record(number, shard.file, shard.tally)

    def _publish_tar(self, number: int, partial: Path, file: ShardFile, columns: IdxColumns, tally: Tally) -> None:
        planned, table = self._plan.shards[number], self._plan.table
        rows = self._plan.order[planned.start : planned.stop]
        scalars = {name: column.values[rows] for name, column in table.columns.items() if isinstance(column, Values)}
        columns = replace(columns, keys=[table.keys[row] for row in rows], scalars=scalars)
        published = publish_tar(self._out / file.name, columns, file, table.fields, partial)
        sizes = {name: lengths for name, (_, lengths) in columns.spans.items()}
        self._record(number, published, Tally.total_of((tally, Tally(fields=measured(sizes, columns.facts)))))

    def _record(self, number: int, file: ShardFile, tally: Tally) -> None:
        planned = self._plan.shards[number]
        if self._target is not None:
            self._target.take(file)
        self._journal.record(planned.name, Finished(digest=self._plan.digest(planned), file=file, tally=tally))


def class_counts(plan: Plan) -> dict[str, dict[str, int]]:
    """Split -> class -> samples, for the label; empty without classes."""
    info, column = plan.table.fields.get("label"), plan.table.columns.get("label")
    if info is None or info.classes is None or not isinstance(column, Values):
        return {}
    counts = {}
    for split, (first, last) in plan.splits.items():
        rows = plan.order[plan.shards[first].start : plan.shards[last - 1].stop]
        found = np.bincount(column.values[rows].astype(np.int64), minlength=len(info.classes))
        counts[split] = dict(zip(info.classes, found.tolist(), strict=True))
    return counts


def tallies(plan: Plan, shards: Sequence[Finished]) -> dict[str, Tally]:
    """Split -> what was counted in it."""
    return {split: Tally.total_of(shard.tally for shard in shards[a:b]) for split, (a, b) in plan.splits.items()}
