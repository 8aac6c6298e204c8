"""The clock of one thread: the seconds that it spent in each stage, and what it counted meanwhile.

`meter.py` says what the stages are. The same stands in C, where it is built (`_clock.c`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

PLAN, READ, DECODE, ASSEMBLE, COPY, AUGMENT, STEP, WAITING, IDLE = range(9)
STAGES = ("plan", "read", "decode", "assemble", "copy", "augment", "step")  # by number; waiting and idle are none
_SIZES_SAMPLED = 4  # contents of a part whose length is looked at; all of them would cost 3% where records are small

_now = time.perf_counter  # a float: integers of nanoseconds are two digits to Python, and take a fifth longer


class Clock:
    """The seconds of one thread, by what it did.

    Attributes:
        now: the stage that it is in.
        since: from when, of time.perf_counter().
        started: when it was made.
        seconds: in each stage, up to the last change.
        rows, read_bytes: samples that were read, and their stored bytes.
        decoded: of the samples, those whose decoding has ended.
        batches, samples, copied_bytes: handed to the consumer; and brought to the device.
        ready: ready[k]: how often k batches were ready when one was asked for.
    """

    __slots__ = (
        "batches",
        "copied_bytes",
        "decoded",
        "now",
        "read_bytes",
        "ready",
        "rows",
        "samples",
        "seconds",
        "since",
        "started",
    )

    def __init__(self, now: int) -> None:
        self.now, self.started = now, _now()
        self.since = self.started
        self.seconds = [0.0] * 9
        self.rows = self.decoded = self.read_bytes = self.batches = self.samples = self.copied_bytes = 0
        self.ready: list[int] = []

    def enter(self, stage: int) -> None:
        """What it counts from now on."""
        at = _now()
        self.seconds[self.now] += at - self.since
        self.decoded = self.rows if self.now == DECODE else self.decoded
        self.now = stage
        self.since = at

    def read(self, rows: int, contents: int | Iterable[Sequence[Any]]) -> None:
        """So many samples were read; from now on they are decoded.

        Args:
            contents: their bytes; or their contents, one list for each field: the sum is estimated from some of them.
        """
        size = contents if type(contents) is int else _estimate(contents)  # type: ignore[arg-type]
        self.rows += rows
        self.read_bytes += size
        Clock.enter(self, DECODE)  # as in C: without what a derived class makes of it

    def handed_over(self, rows: int) -> None:
        """The consumer gets a batch; from now on its step is counted."""
        self.samples += rows
        self.batches += 1
        Clock.enter(self, STEP)

    def asked(self, ready: int) -> None:
        """The consumer asks for a batch, and so many are ready."""
        if ready >= len(self.ready):
            self.ready += [0] * (ready + 1 - len(self.ready))
        self.ready[ready] += 1

    def running(self) -> list[float]:
        """Seconds by stage up to this moment; for any thread."""
        while True:
            since, now, seconds = self.since, self.now, list(self.seconds)
            if since == self.since:  # else it was changed on the way
                seconds[now] += _now() - since
                return seconds


def _estimate(contents: Iterable[Sequence[Any]]) -> int:
    total = 0
    for values in contents:
        some = values[:: len(values) // _SIZES_SAMPLED + 1]
        size = 0
        for value in some:
            if type(value) is bytes:
                size += len(value)
            elif type(value) is memoryview:
                size += value.nbytes
        if some:
            total += size * len(values) // len(some)
    return total
