"""Where the time goes: every thread of a loader is in one stage at any moment, and its clock sums the seconds of each.

A clock is written by its own thread alone, so that a change of stage costs no lock: reading the time and an addition.
Whoever does a part of a job is told the clock of the thread that it is done in.

    engine thread      idle -> read -> decode -> idle
    consumer's thread  waiting -> plan -> assemble -> copy -> augment -> step -> waiting ...

What there is nothing of is not entered: waiting for a batch that is ready, copying to the CPU, an empty chain.

On a GPU, copying and augmenting are queued: their seconds are those of queuing, and the GPU's own fall to whoever waits
for it, which is the step.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from fastload.clock import ASSEMBLE, AUGMENT, COPY, DECODE, IDLE, PLAN, READ, STAGES, STEP, WAITING

try:
    from fastload._clock import Clock
except ImportError:  # not built: the same in Python, at three times the cost
    from fastload.clock import Clock  # type: ignore[assignment]

__all__ = [
    "ASSEMBLE",
    "AUGMENT",
    "COPY",
    "DECODE",
    "IDLE",
    "PLAN",
    "READ",
    "STAGES",
    "STEP",
    "WAITING",
    "Clock",
    "Meter",
    "StageStats",
    "Stats",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStats:
    """What passed a stage.

    Attributes:
        items: samples; of read and decode those that were done so far, else those of batches that were handed out.
        bytes: read: stored bytes, of Parquet an estimate from some of the samples; copy: bytes brought to the device;
            else 0.
        busy_seconds: summed over threads.
        waiting_seconds: what its threads spent with nothing to do: for read and decode the idle time of the loader's
            threads, which do both; for the stages in the consumer's thread its waiting for a batch.
    """

    items: int
    bytes: int
    busy_seconds: float
    waiting_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Where the time of a loader went, from its making on; `later - earlier` is what lay between.

    Attributes:
        plan: which rows the next batches have, and room for them.
        read, decode, assemble, copy, augment: stages of the loader. Without threads, all run in the consumer's.
        step: the consumer, between getting a batch and asking for the next.
        batches, samples: handed out.
        consumer_seconds: wall time of iterations: waiting + copy + augment + step.
        waiting_seconds: of it, waiting for a batch, planning it and putting it together.
        thread_seconds: wall time of the loader's threads, summed: what they were busy for, and idle.
        idle_seconds: of it, without work, because enough batches were ready.
        ready: ready[k]: how often k batches were ready when the consumer asked for one; of threads, without them empty.
    """

    plan: StageStats
    read: StageStats
    decode: StageStats
    assemble: StageStats
    copy: StageStats
    augment: StageStats
    step: StageStats
    batches: int
    samples: int
    consumer_seconds: float
    waiting_seconds: float
    thread_seconds: float
    idle_seconds: float
    ready: tuple[int, ...]

    @property
    def stages(self) -> Mapping[str, StageStats]:
        """The stages by name, in the order of the path."""
        return {name: getattr(self, name) for name in STAGES}

    def __sub__(self, earlier: Stats) -> Stats:
        def less(name: str) -> StageStats:
            a, b = getattr(self, name), getattr(earlier, name)
            return StageStats(**{each: getattr(a, each) - getattr(b, each) for each in StageStats.__slots__})

        stages: dict[str, Any] = {name: less(name) for name in STAGES}
        numbers = ("batches", "samples", "consumer_seconds", "waiting_seconds", "thread_seconds", "idle_seconds")
        before = (*earlier.ready, *[0] * len(self.ready))
        return Stats(
            **stages,
            **{name: getattr(self, name) - getattr(earlier, name) for name in numbers},
            ready=tuple(k - b for k, b in zip(self.ready, before, strict=False)),
        )


@dataclass(slots=True)
class _Sums:
    """Of several clocks."""

    seconds: list[float] = field(default_factory=lambda: [0.0] * 9)
    rows: int = 0
    decoded: int = 0
    read_bytes: int = 0
    batches: int = 0
    samples: int = 0
    copied_bytes: int = 0
    ready: list[int] = field(default_factory=list)

    def add(self, other: _Sums | Clock, seconds: list[float]) -> None:
        self.seconds = [a + b for a, b in zip(self.seconds, seconds, strict=True)]
        self.rows += other.rows
        self.decoded += other.decoded
        self.read_bytes += other.read_bytes
        self.batches += other.batches
        self.samples += other.samples
        self.copied_bytes += other.copied_bytes
        self.ready = [a + b for a, b in zip_longest(self.ready, other.ready, fillvalue=0)]


class Meter:
    """The clocks of a loader: those of its threads, and of the consumer's for as long as it iterates.

    Args:
        make: a clock, from the stage that it begins in.
    """

    def __init__(self, make: Callable[[int], Clock] = Clock) -> None:
        self._pid, self._make = os.getpid(), make
        self._lock = threading.RLock()  # a thread that holds it may be the one that collects a dropped iteration
        self._clocks: dict[Clock, bool] = {}  # those that run -> whether it is a consumer's
        self._past = {True: _Sums(), False: _Sums()}  # those that were stopped

    def start(self, *, consumer: bool) -> Clock:
        """A clock for the calling thread, or for the consumer's."""
        if self._pid != os.getpid():  # forked: the threads of the other clocks stayed behind
            self.__init__(self._make)  # type: ignore[misc]
        clock = self._make(PLAN if consumer else IDLE)
        with self._lock:
            self._clocks[clock] = consumer
        return clock

    def stop(self, clock: Clock) -> None:
        """Keep the clock's sums, and let go of it. Stopping it again does nothing."""
        clock.enter(clock.now)
        with self._lock:
            consumer = self._clocks.pop(clock, None)
            if consumer is not None:
                self._past[consumer].add(clock, clock.seconds)

    def _sums(self, settled: bool) -> dict[bool, _Sums]:
        """Of the consumer's clocks and of the threads'."""
        with self._lock:
            while True:
                sums, clocks = {True: _Sums(), False: _Sums()}, list(self._clocks.items())
                for consumer, past in self._past.items():
                    sums[consumer].add(past, past.seconds)
                for clock, consumer in clocks:
                    sums[consumer].add(clock, clock.seconds if settled else clock.running())
                if len(clocks) == len(self._clocks):  # else one was collected, and stopped, meanwhile
                    return sums

    def stats(self, *, settled: bool = False) -> Stats:
        """The sums up to this moment; for any thread.

        Args:
            settled: up to the last change of each thread, so that its samples are those that its seconds went to.
        """
        sums = self._sums(settled)
        mine, threads = sums[True], sums[False]
        waiting = sum(mine.seconds[each] for each in (WAITING, PLAN, READ, DECODE, ASSEMBLE))
        idle = threads.seconds[IDLE]
        sizes = {READ: mine.read_bytes + threads.read_bytes, COPY: mine.copied_bytes}

        def stage(number: int) -> StageStats:
            by_rows = {READ: mine.rows + threads.rows, DECODE: mine.decoded + threads.decoded}
            in_threads = number in by_rows and any(threads.seconds)
            return StageStats(
                items=by_rows.get(number, mine.samples),
                bytes=sizes.get(number, 0),
                busy_seconds=mine.seconds[number] + threads.seconds[number],
                waiting_seconds=idle if in_threads else mine.seconds[WAITING],
            )

        stages: dict[str, Any] = {name: stage(number) for number, name in enumerate(STAGES)}
        return Stats(
            **stages,
            batches=mine.batches,
            samples=mine.samples,
            consumer_seconds=sum(mine.seconds),
            waiting_seconds=waiting,
            thread_seconds=sum(threads.seconds),
            idle_seconds=idle,
            ready=tuple(mine.ready),
        )
