"""A loader's path taken apart: the same stages, fed from where one likes. The loader itself and its place in the run
are left alone: shards are opened anew, and pages that nobody else maps can be dropped from the page cache. A map-style
dataset that takes set_epoch is told epochs from 0 on, and its own again with the loader's next batch.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from itertools import count, cycle
from typing import Any, NamedTuple, TypeVar

import torch

from fastload.assemble import PARTS_PER_THREAD, BatchMaking, Recipe, batch_jobs
from fastload.batch import Batch, BufferPool
from fastload.collated import Iterated
from fastload.engine import Engine
from fastload.errors import ConfigError
from fastload.flow import flow
from fastload.loader import DataLoader
from fastload.machine import queued_seconds
from fastload.meter import Clock, Meter, Stats
from fastload.order.cursor import Step, steps
from fastload.order.distribute import Share
from fastload.order.shuffle import Ints
from fastload.profile import pagecache
from fastload.profile.gpu import StepsOnStream, events_of
from fastload.shards.read import Reader, Rows

RECORDED_BYTES = 128 << 20  # of stored bytes kept in memory
RECORDED_BATCHES = 16
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
    return took >= seconds and (batches >= _LEAST or _overdue(batches, took, seconds))


def another_round(done: int, started: float, seconds: float) -> bool:
    """Whether what is compared is measured in turn once more: there is time for a round like those before it.

    The speed of a machine that others use changes from second to second. What is measured right after one another is
    of one machine: so ratios are taken within a round, and the median of the rounds' counts.

    Args:
        started: when the first round began, by time.perf_counter().
    """
    took = time.perf_counter() - started
    return done == 0 or (done < _ROUNDS and took * (done + 1) / done <= seconds)


def _overdue(batches: int, took: float, seconds: float) -> bool:
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


class _Moment(NamedTuple):
    """What a run had taken up to now: seconds, but for the stats."""

    stats: Stats
    settled: Stats
    wall: float
    cpu: float
    queued: float

    @classmethod
    def of(cls, meter: Meter) -> _Moment:
        return cls(meter.stats(), meter.stats(settled=True), time.perf_counter(), time.process_time(), queued_seconds())

    def after(self, away: Away) -> _Moment:
        """So much later, the run stood still meanwhile."""
        step = replace(self.stats.step, busy_seconds=self.stats.step.busy_seconds + away.wall)
        stats = replace(self.stats, step=step, consumer_seconds=self.stats.consumer_seconds + away.wall)
        wall, cpu, queued = self.wall + away.wall, self.cpu + away.cpu, self.queued + away.queued
        return self._replace(stats=stats, wall=wall, cpu=cpu, queued=queued)


@dataclass(frozen=True, slots=True, kw_only=True)
class AtHand:
    """Of shards behind URLs, those that were fetched to be measured.

    Attributes:
        consumed: samples over all ranks of the steps, from the first on, that need no others.
        shards: by number.
        objects: what the first step needed: files of shards, and the indexes beside them.
        seconds: until they were there; next to nothing where the cache had them.
    """

    consumed: int
    shards: frozenset[int]
    objects: int
    seconds: float


class Rig:
    """The stages of a loader.

    Attributes:
        at_hand: to what measurements keep; None where all shards are local.

    Raises:
        ConfigError: the loader has no samples, or they can only be gone through once.
    """

    def __init__(self, loader: DataLoader) -> None:
        if isinstance(loader.dataset, Iterated):
            raise ConfigError(
                "profile: an iterable data set cannot be taken apart; its loader's stats() say where the time goes"
            )
        self.loader = loader
        self.at_hand: AtHand | None = None
        self.device, self.chain, self.share = loader.device, loader._chain, loader._share()
        self._pool = BufferPool(pinned=loader.pin_memory, limit=64)
        self._dropped: list[str] = []  # files that were in memory, and were dropped from it
        self.reopen()
        if not self.order.samples:
            raise ConfigError("profile: the data set has no samples")
        self.threads, self.crew_threads = loader._threads_to_run()

    def part_rows_for(self, threads: int) -> int:
        """Rows of a part, as the loader would cut batches for so many threads."""
        size = self.share.rows_at(0)
        return max(1, -(-size // (threads * PARTS_PER_THREAD)) if threads > 1 else size)

    def reopen(self) -> None:
        """Let go of open shards; the next reads open them again."""
        dataset = copy.copy(self.loader.dataset)
        self.order, recipe = dataset.order, dataset.recipe
        self.recipe = replace(recipe, decoders={**recipe.decoders, **self.loader._decoders()})

    def endless(self, batch_size: int | None = None) -> Iterator[Step]:
        """Steps, epoch after epoch; None: of the loader's batch size. Those whose shards are at hand, again and again,
        where not all may be."""
        share = self.share if batch_size is None else replace(self.share, batch_size=batch_size, schedule=())
        for epoch in count():
            yield from self._steps_at_hand(share, 0 if self.at_hand else epoch * self.order.samples)

    def first_steps(self) -> Iterator[Step]:
        """An epoch, or as much of it as is at hand, one step at least."""
        yield from self._steps_at_hand(self.share, 0)

    def _steps_at_hand(self, share: Share, start: int) -> Iterator[Step]:
        for step in steps(self.order, share, start):
            yield step
            if self.at_hand is not None and step.consumed >= self.at_hand.consumed:
                return

    def jobs(
        self, plan: Iterator[Step], recipe: Recipe | None = None, threads: int | None = None
    ) -> Iterator[BatchMaking]:
        """Of a plan's steps, cut into parts for so many threads; None: the loader's."""
        threads = self.threads if threads is None else threads
        crew_threads = self.crew_threads if recipe is None and not threads else 0
        return batch_jobs(recipe or self.recipe, plan, self._pool, threads=threads, crew_threads=crew_threads)

    def running(
        self,
        jobs: Iterator[BatchMaking],
        seconds: float,
        *,
        threads: int | None = None,
        ahead: int | None = None,
        whole: bool = True,
        warm_up: int | None = None,
        meter: Meter | None = None,
    ) -> Steps[Run]:
        """Run jobs for so long, and at least 3 batches, or 1 of slow ones; their batches are yielded.

        Args:
            threads, ahead: None: those of the loader.
            whole: batches go on to the device and through the augmentation.
            warm_up: batches before measuring, at most; None: as many as are prefetched.
            meter: to measure with; None: a new one.
        """
        threads = self.threads if threads is None else threads
        if ahead is None:
            begun = threads or self.crew_threads
            ahead = max(2, 2 * threads) if not whole else self.loader.prefetch_factor if begun else 1
        meter = meter or Meter()
        engine = Engine(jobs, threads=threads, ahead=ahead, timeout_seconds=self.loader.timeout, meter=meter)
        with engine:
            device, chain = (self.device, self.chain) if whole else (torch.device("cpu"), [])
            batches = flow(engine, device, chain)
            return (yield from self._measure(batches, meter, seconds, ahead if warm_up is None else warm_up))

    def run(self, jobs: Iterator[BatchMaking], seconds: float, **options: Any) -> Run:
        """`running`, and batches are dropped."""
        return drive(self.running(jobs, seconds, **options), drop)

    def _measure(self, batches: Iterator[Batch], meter: Meter, seconds: float, warm_up: int) -> Steps[Run]:
        began = since = _Moment.of(meter)
        on_stream, warm, measured = StepsOnStream(events_of(self.device)), warm_up == 0, 0
        for number, batch in enumerate(batches, 1):
            on_stream.begin()
            away = yield batch
            if away is None:
                on_stream.end()
            else:
                began, since = began.after(away), since.after(away)
                on_stream.forget()  # its clock went on
            measured += warm
            took = time.perf_counter() - since.wall
            if not warm and (number == warm_up or _overdue(number, took, seconds)):
                warm = True
                self.synchronize()
                on_stream.forget()
                since = _Moment.of(meter)
            elif enough(measured, took, seconds):
                break
        self.synchronize()
        now, since = _Moment.of(meter), since if measured else began  # of few batches, those that warmed up are all
        return Run(
            stats=now.stats - since.stats,
            settled=now.settled - since.settled,
            wall_seconds=now.wall - since.wall,
            cpu_seconds=now.cpu - since.cpu,
            queued_seconds=max(0.0, now.queued - since.queued),
            between_share=on_stream.between_share(),
        )

    def augmented(self, host: Batch) -> Batch:
        batch = host.to(self.device)
        for operation in self.chain:
            batch = operation(batch)
        return batch

    def synchronize(self) -> None:
        """Wait for the GPU."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @property
    def files(self) -> tuple[str, ...]:
        """The shards, where all of them are files of this machine; else none."""
        paths = tuple(getattr(getattr(self.loader.dataset, "index", None), "paths", ()))
        return paths if all(map(os.path.isfile, paths)) else ()

    def drop_page_cache(self) -> bool:
        """Make the system forget the shards' files; False where it cannot, or there are no such files.

        What anybody maps stays in memory, whatever the system is asked: a loader that was used maps its shards. The
        first file that stays decides: those behind it are left in memory.
        """
        files = self.files
        if not files or not pagecache.can_forget():
            return False
        self.reopen()
        for path in files:
            was_there = pagecache.in_memory(path)
            if not pagecache.forgotten(path):
                return False
            if was_there:
                self._dropped.append(path)
        return True

    def read_back(self, seconds: float) -> None:
        """Bring back what was in memory before, as far as there is time: what runs next may count on it."""
        deadline = time.perf_counter() + seconds
        while self._dropped and pagecache.read(self._dropped[0], deadline):
            del self._dropped[0]


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
