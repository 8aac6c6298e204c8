"""From a plan to finished shards: tasks out, results in, one shard after the other published and recorded."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fastload.pack.encode import Encoder, HashTar, SyncTar, Task, Tell, Verify, WriteParquet, WriteRun
from fastload.pack.journal import Journal
from fastload.pack.plan import Plan
from fastload.pack.table import Values
from fastload.pack.workers import LocalPool, ProcessPool
from fastload.shards.files import PARTIAL_SUFFIX, fsync_directory
from fastload.shards.idx import IdxColumns
from fastload.shards.index import ShardFile
from fastload.shards.tar import join_columns, publish_tar


@dataclass(slots=True)
class _OpenTar:
    """A tar that is being written: what has come back of it."""

    runs_left: int
    runs: dict[int, IdxColumns] = field(default_factory=dict)  # by first sample
    xxh3: str | None = None
    synced: bool = False


def write_shards(plan: Plan, out: Path, journal: Journal, workers: int, tell: Tell) -> list[ShardFile]:
    """Write every shard that the journal does not have; give all, in the plan's order.

    Args:
        plan: what to write.
        out: the output folder.
        journal: of this run; gets each shard once it is durable.
        workers: most processes; 1: none but this.
        tell: called with samples and bytes as they are done.

    Raises: PackError, OSError; what is finished is then recorded, and no half shard has its final name.
    """
    encoder = Encoder(plan, out)
    workers = min(workers, plan.tasks)
    pool = LocalPool(encoder) if workers == 1 else ProcessPool(encoder, workers, (journal.lock_descriptor,))
    writing = _Writing(plan, out, journal)
    with pool:
        pool.run(writing.verifications(), writing.verified, tell)
        journal.remove_leftovers()
        for planned in plan.shards:
            if planned.name in journal.finished:
                tell(planned.samples, planned.bytes)
        pool.run(writing.tasks(), writing.done, tell)
    return [journal.finished[planned.name].file for planned in plan.shards]


class _Writing:
    """Which tasks there are, and what each result leads to."""

    def __init__(self, plan: Plan, out: Path, journal: Journal) -> None:
        self._plan = plan
        self._out = out
        self._journal = journal
        self._open: dict[int, _OpenTar] = {}

    def verifications(self) -> Iterator[Task]:
        """One task for each recorded shard that still is what the plan wants; the others are forgotten."""
        planned = {shard.name: number for number, shard in enumerate(self._plan.shards)}
        for name, finished in list(self._journal.finished.items()):
            number = planned.get(name)
            if number is None or finished.digest != self._plan.digest(self._plan.shards[number]):
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
            if self._plan.shard_format == "parquet":
                yield WriteParquet(shard=number)
                continue
            runs = list(self._plan.runs(shard))
            self._open[number] = _OpenTar(runs_left=len(runs))
            with open(path.with_name(path.name + PARTIAL_SUFFIX), "wb") as file:
                os.ftruncate(file.fileno(), shard.bytes)  # the end marker is zeros, and so already there
            for start, stop in runs:
                yield WriteRun(shard=number, start=start, stop=stop)

    def done(self, task: Task, result: Any) -> Iterable[Task]:
        """Take a result; gives the tasks that it makes possible."""
        if isinstance(task, WriteParquet):
            self._record(task.shard, result)
            return ()
        tar = self._open[task.shard]
        match task:
            case WriteRun():
                tar.runs[task.start] = result
                tar.runs_left -= 1
                return () if tar.runs_left else (SyncTar(shard=task.shard), HashTar(shard=task.shard))
            case HashTar():
                tar.xxh3 = result
            case SyncTar():
                tar.synced = True
        if tar.synced and tar.xxh3 is not None:
            self._publish(task.shard, tar, tar.xxh3)
        return ()

    def _publish(self, number: int, tar: _OpenTar, xxh3: str) -> None:
        planned, table = self._plan.shards[number], self._plan.table
        rows = self._plan.order[planned.start : planned.stop]
        columns = join_columns([table.keys[row] for row in rows], [tar.runs[start] for start in sorted(tar.runs)])
        scalars = {name: column.values[rows] for name, column in table.columns.items() if isinstance(column, Values)}
        shard = ShardFile(name=planned.name, samples=planned.samples, bytes=planned.bytes, xxh3=xxh3)
        columns = replace(columns, scalars=scalars)
        self._record(number, publish_tar(self._out / planned.name, columns, shard, table.fields))
        del self._open[number]

    def _record(self, number: int, file: ShardFile) -> None:
        planned = self._plan.shards[number]
        self._journal.record(planned.name, self._plan.digest(planned), file)


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
