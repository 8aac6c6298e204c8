"""num_workers="auto": how many threads, and how many batches ahead, found in the first batches of a run.

    search   decides: which setting to try next, from what the one before did; knows no clock and no thread
    Tuner    measures: the meter's sums over a few batches under each setting

The search goes down from one thread a core where the loader keeps up, and up where it does not although processors
idle. A setting with fewer threads is kept if it does as much, one with more if it does clearly more; so that of several
that do the same the least remains. What is tried costs a few batches at its speed and nothing else: the order, the
state and what is in the batches depend on none of it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Final

from fastload.machine import cores
from fastload.meter import Stats

AUTO: Final = "auto"
MOST_THREADS = 4  # times the cores, where threads wait for storage
MOST_AHEAD = 16  # batches; each is memory
LEAST_AHEAD = 2  # one that is handed over next and one that is worked on
LEAST_BATCHES = 4  # of a measurement, after those that were begun under the setting before
LEAST_SECONDS = 0.25  # of a measurement, so that one slow batch does not decide; also of what comes before the first
_LATE = 0.05  # of the consumer's time spent waiting: below, the loader keeps up
_SAME = 0.97  # of the throughput: what fewer threads may lose, for measurements of a moment differ by as much
_MORE = 1.05  # of the throughput: what more threads have to bring
_ROOM = 1.25  # times the threads that the mean needs, for batches differ
_IDLE = 0.75  # of the processors: above, more threads only get into each other's way

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is tried."""

    threads: int
    ahead: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a setting did.

    Attributes:
        rate: samples/s, the consumer's step included.
        waiting: share of the consumer's time spent waiting for batches, 0 to 1.
        threads_ms: reading and decoding a batch, summed over threads.
        consumer_ms: what the consumer does with a batch, waiting apart.
        processors: share of all processors' time that the process used, 0 to 1.
    """

    rate: float
    waiting: float
    threads_ms: float
    consumer_ms: float
    processors: float

    @property
    def late(self) -> bool:
        """The consumer waits for the loader."""
        return self.waiting > _LATE


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What was chosen.

    Attributes:
        why: what it rests on.
        tried: every setting that was measured, in turn.
    """

    setting: Setting
    why: str
    tried: tuple[tuple[Setting, Measured], ...]

    def __str__(self) -> str:
        tried = ", ".join(f"{s.threads} and {s.ahead}: {m.rate:,.0f}" for s, m in self.tried)
        return (
            f"num_workers={self.setting.threads}, prefetch_factor={self.setting.ahead}: {self.why} "
            f"(threads and batches ahead, samples/s: {tried})"
        )


Tries = Generator[Setting, Measured, tuple[Setting, Measured]]  # from a setting and what it did to better ones


def search(cores: int, ahead: int) -> Tries:
    """Yields a setting to try and is sent what it did, until it returns the best and what that did.

    Args:
        cores: of the machine: where it begins.
        ahead: batches ahead to begin with.
    """
    now = Setting(threads=max(1, cores), ahead=ahead)
    found = yield now
    now, found = yield from _more_threads(now, found, MOST_THREADS * now.threads)
    now, found = yield from _more_ahead(now, found)
    now, found = yield from _fewer_threads(now, found)
    return (yield from _fewer_ahead(now, found))


def _more_threads(now: Setting, found: Measured, most: int) -> Tries:
    """Twice as many, as long as the consumer waits, processors idle and it helps."""
    while found.late and found.processors < _IDLE and now.threads < most:
        larger = replace(now, threads=min(most, 2 * now.threads))
        then = yield larger
        if then.rate < _MORE * found.rate:
            break
        now, found = larger, then
    return now, found


def _fewer_threads(now: Setting, found: Measured) -> Tries:
    """As few as do the same: first as many as the mean needs, then halfway to those that were too few; where the loader
    limits, half, as long as that is no slower. With fewer, the consumer must not begin to wait: a pause in what was
    measured first (a checkpoint) makes any rate look as good, and hides how many threads the mean needs."""
    best, too_few = found.rate, 0
    while now.threads - too_few > 1:
        if found.late:
            guess = now.threads // 2
        elif too_few == 0:
            # at least a quarter less: where threads slow each other down, the mean says too many, again and again
            needed = math.ceil(_ROOM * found.threads_ms / max(found.consumer_ms, 1e-6))
            guess = min(needed, 3 * now.threads // 4)
        else:
            guess = (now.threads + too_few) // 2
        fewer = replace(now, threads=min(max(guess, too_few + 1), now.threads - 1))
        then = yield fewer
        if then.rate >= _SAME * best and (found.late or not then.late):
            now, found, best = fewer, then, max(best, then.rate)
        elif found.late:
            break
        else:
            too_few = fewer.threads
    return now, found


def _more_ahead(now: Setting, found: Measured) -> Tries:
    """Where batches come late although threads are fast enough in the mean: they vary."""
    while found.late and now.ahead < MOST_AHEAD and found.threads_ms / now.threads < 0.8 * found.consumer_ms:
        larger = replace(now, ahead=min(MOST_AHEAD, 2 * now.ahead))
        then = yield larger
        if then.rate < _MORE * found.rate:
            break
        now, found = larger, then
    return now, found


def _fewer_ahead(now: Setting, found: Measured) -> Tries:
    """Where none is late."""
    while not found.late and now.ahead > LEAST_AHEAD:
        smaller = replace(now, ahead=max(LEAST_AHEAD, now.ahead // 2))
        then = yield smaller
        if then.late or then.rate < _SAME * found.rate:
            break
        now, found = smaller, then
    return now, found


def reason(setting: Setting, found: Measured, cores: int) -> str:
    """Why a setting was chosen, in a line."""
    took = f"{found.threads_ms / setting.threads:.1f} ms a batch from the threads, {found.consumer_ms:.1f} ms of yours"
    if not found.late:
        return f"{took}; the loader keeps up"
    if setting.threads >= MOST_THREADS * cores:
        what = f"no more than {MOST_THREADS} threads a core are tried"
    else:
        what = "processors are busy" if found.processors >= _IDLE else "more threads bring nothing"
    return f"{took}; {found.waiting:.0%} of the time goes to waiting, and {what}"


class Tuner:
    """Measures settings while batches are handed out. Asked between batches, in the consumer's thread.

    Attributes:
        setting: in force.
        choice: once the search is over.
    """

    def __init__(self, *, ahead: int) -> None:
        self._cores, self._search = cores(), search(cores(), ahead)
        self.setting = next(self._search)
        self.choice: Choice | None = None
        self._tried: list[tuple[Setting, Measured]] = []
        self._first = True
        self._before: tuple[Stats, float] | None = None
        self._left = LEAST_BATCHES + self.setting.ahead
        self._last_cpu = time.process_time()

    def begin(self) -> None:
        """An iteration begins, and goes on with what was being measured in the one before: epochs may be short. What
        the process did between them does not count."""
        now = time.process_time()
        if self._before is not None:
            self._before = self._before[0], self._before[1] + now - self._last_cpu
        self._last_cpu = now

    def asked(self, stats: Stats) -> Setting | None:
        """The consumer asks for the next batch.

        Args:
            stats: of the loader's meter, up to now.

        Returns:
            The setting to go on with, where it is another one.
        """
        if self.choice is not None:
            return None
        self._left -= 1
        self._last_cpu = time.process_time()
        if self._before is None:  # batches that were begun under the setting before, or while things were still cold
            if self._left <= LEAST_BATCHES:
                self._before, self._left = (stats, self._last_cpu), LEAST_BATCHES
            return None
        took = stats - self._before[0]
        if self._left > 0 or took.consumer_seconds < LEAST_SECONDS:
            return None
        if self._first:  # its batches warmed up the step, the page cache and the allocator
            self._first, self._before, self._left = False, (stats, self._last_cpu), LEAST_BATCHES
            return None
        return self._next(measured(took, self._last_cpu - self._before[1], self._cores))

    def _next(self, found: Measured) -> Setting | None:
        self._tried.append((self.setting, found))
        before = self.setting
        try:
            self.setting = self._search.send(found)
        except StopIteration as over:
            self.setting, last = over.value
            self.choice = Choice(
                setting=self.setting, why=reason(self.setting, last, self._cores), tried=tuple(self._tried)
            )
            _log.info("num_workers='auto': %s", self.choice)
        self._before, self._left = None, LEAST_BATCHES + self.setting.ahead
        return self.setting if self.setting != before else None


def measured(took: Stats, cpu_seconds: float, cores: int) -> Measured:
    """What a setting did, from the meter's sums and the process's CPU time over the same while."""
    batches, wall = max(1, took.batches), max(took.consumer_seconds, 1e-9)
    waiting = max(0.0, took.waiting_seconds - took.assemble.busy_seconds - took.plan.busy_seconds)
    return Measured(
        rate=took.samples / wall,
        waiting=waiting / wall,
        threads_ms=1e3 * (took.read.busy_seconds + took.decode.busy_seconds) / batches,
        consumer_ms=1e3 * (wall - waiting) / batches,
        processors=min(1.0, cpu_seconds / (wall * cores)),
    )
