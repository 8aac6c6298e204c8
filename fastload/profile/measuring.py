"""Measurements of some batches: what drives them, when they are enough, and what they found."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

from fastload.batch import Batch
from fastload.machine import queued_seconds
from fastload.meter import Meter, Stats

_LEAST = 3  # batches of a measurement
_ROUNDS = 5  # of measuring things in turn, at most
_SLOW_SECONDS = 1.0  # after which, and twice the time that was meant, fewer do: of slow batches, one has many samples
Train = Callable[[Any], Any]


class Away(NamedTuple):
    """Of the time since a batch was yielded, what was no part of the step: a script evaluated, or saved its model.

    Attributes:
        wall, cpu, queued: seconds, as of `Run`.
    """

    wall: float
    cpu: float
    queued: float

    @classmethod
    def now(cls) -> Away:
        """What the clocks say, to take two of them from each other."""
        return cls(time.perf_counter(), time.process_time(), queued_seconds())

    def since(self, left: Away) -> Away:
        """Of two readings, the time between."""
        return Away(self.wall - left.wall, self.cpu - left.cpu, max(0.0, self.queued - left.queued))


Result = TypeVar("Result")
# Yields batches to train on, one after the other, until it has its result. It may be told with the next one asked for
# how long the consumer was away from the last.
Steps = Generator[Batch, Away | None, Result]


def drive(steps: Steps[Result], train: Callable[[Batch], object]) -> Result:
    """Train on all that is yielded, and give the result. What training raises comes through, and ends what makes the
    batches."""
    try:
        while True:
            try:
                batch = next(steps)
            except StopIteration as over:
                return over.value  # type: ignore[no-any-return]
            train(batch)
            del batch  # not kept while the next one is made
    finally:
        steps.close()


def enough(batches: int, took: float, seconds: float) -> bool:
    """Whether a measurement that was to take so long is one."""
    return took >= seconds and (batches >= _LEAST or overdue(batches, took, seconds))


def another_round(done: int, started: float, seconds: float) -> bool:
    """Whether what is compared is measured in turn once more: there is time for a round like those before it.

    The speed of a machine that others use changes from second to second. What is measured right after one another is
    of one machine: so ratios are taken within a round, and the median of the rounds' counts.

    Args:
        started: when the first round began, by time.perf_counter().
    """
    took = time.perf_counter() - started
    return done == 0 or (done < _ROUNDS and took * (done + 1) / done <= seconds)


def overdue(batches: int, took: float, seconds: float) -> bool:
    """Whether it took so much longer than it was to take that fewer batches do."""
    return batches >= 1 and took >= max(_SLOW_SECONDS, 2 * seconds)


def drop(_: Batch) -> None:
    """No training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a run of some batches took, its first ones apart.

    Attributes:
        settled: the same up to the last change of each thread; the rate of a stage can be told from few parts by it.
        wall_seconds, cpu_seconds: the latter of all threads of the process.
        queued_seconds: that threads of the process were ready to run and had no processor, summed.
        between_share: of the GPU's time, what lies between steps; None without one.
    """

    stats: Stats
    settled: Stats
    wall_seconds: float
    cpu_seconds: float
    queued_seconds: float = 0.0
    between_share: float | None = None

    @property
    def batch_ms(self) -> float:
        return 1e3 * self.wall_seconds / max(1, self.stats.batches)

    @property
    def samples_per_second(self) -> float:
        return self.stats.samples / max(self.wall_seconds, 1e-9)

    @property
    def cpu_ms(self) -> float:
        """A batch."""
        return 1e3 * self.cpu_seconds / max(1, self.stats.batches)

    @property
    def queued_ms(self) -> float:
        """A batch."""
        return 1e3 * self.queued_seconds / max(1, self.stats.batches)


class Moment(NamedTuple):
    """What a run had taken up to now: seconds, but for the stats."""

    stats: Stats
    settled: Stats
    wall: float
    cpu: float
    queued: float

    @classmethod
    def of(cls, meter: Meter) -> Moment:
        return cls(meter.stats(), meter.stats(settled=True), time.perf_counter(), time.process_time(), queued_seconds())

    def after(self, away: Away, threads: int) -> Moment:
        """So much later, the run stood still meanwhile, and so many threads idled but for what they did ahead."""
        step = replace(self.stats.step, busy_seconds=self.stats.step.busy_seconds + away.wall)
        idle = threads * away.wall
        stats = replace(
            self.stats,
            step=step,
            consumer_seconds=self.stats.consumer_seconds + away.wall,
            thread_seconds=self.stats.thread_seconds + idle,
            idle_seconds=self.stats.idle_seconds + idle,
        )
        wall, cpu, queued = self.wall + away.wall, self.cpu + away.cpu, self.queued + away.queued
        return self._replace(stats=stats, wall=wall, cpu=cpu, queued=queued)
