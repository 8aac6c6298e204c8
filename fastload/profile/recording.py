"""Some batches of a loader, kept in memory, so that a stage can be fed what it is fed in a run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import cycle

from fastload.assemble import Recipe
from fastload.batch import Batch
from fastload.engine import Engine
from fastload.errors import ConfigError
from fastload.meter import Clock
from fastload.order.cursor import Step
from fastload.order.shuffle import Ints
from fastload.profile.rig import Rig
from fastload.shards.read import Reader, Rows

RECORDED_BYTES = 128 << 20  # of stored bytes kept in memory
RECORDED_BATCHES = 16


class Recorded:
    """A reader that gives again, from memory, what it recorded of another's reads."""

    def __init__(self, reader: Reader) -> None:
        self._reader: Reader | None = reader
        self.blocking = reader.blocking
        self.rows: dict[tuple[bytes, bytes], Rows] = {}
        self.bytes = 0

    def read(self, shards: Ints, rows: Ints, into: object = None) -> Rows:
        about = (shards.tobytes(), rows.tobytes())
        found = self.rows.get(about)
        if found is None:
            if self._reader is None:
                raise ConfigError(
                    "profile: the data set reads other rows the second time; its order must be a function"
                )
            found = self._reader.read(shards, rows)
            raw = {
                name: [bytes(v) if isinstance(v, memoryview) and v.format == "B" else v for v in values]
                for name, values in found.raw.items()
            }
            found = self.rows[about] = found._replace(raw=raw)
            self.bytes += sum(len(v) for values in raw.values() for v in values if isinstance(v, bytes))
        return found

    def freeze(self) -> None:
        """Record no more."""
        self._reader = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """Some batches of a loader, with what was read for them and what became of it.

    Attributes:
        steps: full batches, or the only one.
        recipe: reads from memory.
        hosts: a few of the decoded batches, on the CPU.
        reads: whether the recipe's reads do come from memory; not so where each source of a mixture reads for itself.
    """

    steps: tuple[Step, ...]
    recipe: Recipe
    reader: Recorded
    hosts: tuple[Batch, ...]

    @property
    def reads(self) -> bool:
        return bool(self.reader.rows)

    def plan(self) -> Iterator[Step]:
        return cycle(self.steps)


def record(rig: Rig, seconds: float) -> Recording:
    """Read and decode batches for so long, and keep what was read."""
    reader = Recorded(rig.recipe.reader)
    recipe = replace(rig.recipe, reader=reader)
    taken: list[Step] = []
    hosts: list[Batch] = []
    started = time.perf_counter()
    for step in rig.first_steps():
        if taken and step.size < taken[0].size:
            break
        taken.append(step)
        with Engine(rig.jobs(iter([step]), recipe), threads=rig.threads, ahead=1) as engine:
            batch = next(engine)
        if len(hosts) < 3:
            hosts.append(batch)
        full = reader.bytes > RECORDED_BYTES or len(taken) >= RECORDED_BATCHES
        if full or time.perf_counter() - started > seconds:
            break
    reader.freeze()
    return Recording(steps=tuple(taken), recipe=recipe, reader=reader, hosts=tuple(hosts))


class ReadJob:
    """Reads the rows of a step and drops them; a `fastload.engine.Job`."""

    def __init__(self, reader: Reader, step: Step, part_rows: int) -> None:
        self._reader, self._step, self._part_rows = reader, step, part_rows

    @property
    def parts(self) -> int:
        return max(1, -(-len(self._step.shards) // self._part_rows))

    def run(self, part: int, clock: Clock) -> None:
        rows = slice(part * self._part_rows, (part + 1) * self._part_rows)
        found = self._reader.read(self._step.shards[rows], self._step.rows[rows])
        clock.read(len(found.keys), found.raw.values() if found.bytes is None else found.bytes)

    def result(self) -> Batch:
        return Batch()
