"""The survey: every content is looked at once before packing is planned, by worker processes.

table --chunks--> tasks --workers--> findings --> OUT/.fastload-pack/survey-000000.npz, ... --joined--> findings

A chunk is the same whatever the number of workers, and its file is durable before the next is asked for, so that a run
that was killed goes on with what it found out. A file counts for the samples that it was made of, as far as paths,
sizes and times tell, and for the questions that were asked. A chunk with a sample that could not even be read has none,
and is looked at again: rights and servers come back without a trace in sizes and times.

The workers are those that pack (workers.py), not a pool of concurrent.futures: they leave when the run is killed, hold
its lock until then, and are forked only where that is safe.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from fastload.pack.findings import Findings
from fastload.pack.plan import hash_column, path_bytes
from fastload.pack.surveyor import Questions, Survey, Surveyor, content_sizes, pieces
from fastload.pack.table import Files, Spans, Table
from fastload.pack.tasks import Tell
from fastload.pack.workers import LocalPool, ProcessPool
from fastload.shards.files import write_atomic

CHUNK_BYTES, CHUNK_SAMPLES = 32 << 20, 8192  # lost by a kill, per worker; a file each
_NAME = "survey-{:06d}.npz"
_VERSION = 1  # of what is found out


def survey(
    table: Table, questions: Questions, folder: Path, *, workers: int, keep_open: tuple[int, ...], tell: Tell
) -> Findings:
    """Look at every sample of a table.

    Args:
        table: the samples.
        questions: what is to be found out.
        folder: where findings are kept until the run is done.
        workers: most processes; 1: none but this.
        keep_open: descriptors that every worker holds until it ends.
        tell: called with samples and bytes as they are done.

    Raises: PackError, MissingExtraError, OSError; what was found out is then kept.
    """
    kept = _Kept(table, questions, folder)
    tasks = [task for task in kept.tasks() if not kept.has(task)]
    for task in kept.known:
        tell(task.stop - task.start, int(content_sizes(table, task.start, task.stop).sum()))
    surveyor, workers = Surveyor(table, questions), max(min(workers, len(tasks)), 1)
    pool = LocalPool(surveyor) if workers == 1 else ProcessPool(surveyor, workers, keep_open)
    if tasks:
        with pool:
            waiting: Iterator[Any] = iter(tasks)
            pool.run(waiting, kept.keep, tell)
    return Findings.joined(found for _, found in sorted(kept.known.items(), key=lambda known: known[0].number))


class _Kept:
    """What is known of each chunk, in memory and on disk.

    Attributes:
        known: findings by task.
    """

    def __init__(self, table: Table, questions: Questions, folder: Path) -> None:
        self.known: dict[Survey, Findings] = {}
        self._table = table
        self._questions = questions
        self._folder = folder

    def tasks(self) -> Iterator[Survey]:
        sizes = content_sizes(self._table, 0, len(self._table.keys))
        for number, (start, stop) in enumerate(pieces(sizes, CHUNK_BYTES, CHUNK_SAMPLES)):
            yield Survey(number=number, start=start, stop=stop)

    def has(self, task: Survey) -> bool:
        try:
            data = (self._folder / _NAME.format(task.number)).read_bytes()
        except FileNotFoundError:
            return False
        found = Findings.from_bytes(data, self._about(task))
        if found is not None:
            self.known[task] = found
        return found is not None

    def keep(self, task: Any, found: Any) -> Iterable[Any]:
        """Take a result of the workers; it leads to no other task."""
        if not found.passing:
            write_atomic(self._folder / _NAME.format(task.number), found.to_bytes(self._about(task)))
        self.known[task] = found
        return ()

    def _about(self, task: Survey) -> str:
        """A digest of all that is known of a chunk's samples, and of the questions."""
        rows = np.arange(task.start, task.stop, dtype=np.int64)
        state = xxhash.xxh3_128(repr((_VERSION, task, self._questions, list(self._table.fields.items()))).encode())
        state.update("\0".join(self._table.keys[task.start : task.stop]).encode())
        for name, column in self._table.columns.items():
            state.update(name.encode())
            if isinstance(column, Files | Spans):
                state.update(path_bytes(column.root if isinstance(column, Files) else column.path))
            hash_column(state, column, rows)
        return state.hexdigest()
