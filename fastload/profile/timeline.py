"""A few batches as they went: what the consumer and each thread of the loader did, and when."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fastload.meter import IDLE, STAGES, STEP, WAITING, Clock, Meter
from fastload.profile.measuring import Steps
from fastload.profile.rig import Rig

BATCHES = 4
_NAMES = {**dict(enumerate(STAGES)), WAITING: "waiting"}
_LEAST = 0.001  # of the whole: shorter ones are not seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """What one thread did.

    Attributes:
        name: "consumer", or "thread 1", "thread 2", ...
        spans: (stage or "waiting", start, stop), in milliseconds from the beginning; idle time is left out.
    """

    name: str
    spans: tuple[tuple[str, float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Lanes of so many milliseconds, the consumer's first."""

    milliseconds: float
    lanes: tuple[Lane, ...]


class _Traced(Clock):
    """A clock that keeps every change of stage; three of its calls are one."""

    __slots__ = ("events",)

    def __init__(self, now: int) -> None:
        super().__init__(now)
        self.events: list[tuple[int, int]] = []  # stage, from when in ns
        self._keep()

    def enter(self, stage: int) -> None:
        super().enter(stage)
        self._keep()

    def read(self, rows: int, contents: int | Iterable[Sequence[Any]]) -> None:
        super().read(rows, contents)
        self._keep()

    def handed_over(self, rows: int) -> None:
        super().handed_over(rows)
        self._keep()

    def _keep(self) -> None:
        self.events.append((self.now, round(1e9 * self.since)))


def trace(rig: Rig) -> Steps[Timeline]:
    """Run a few batches under clocks that keep what they saw; their batches are yielded, to be trained on."""
    clocks: list[_Traced] = []

    def make(now: int) -> Clock:
        clock = _Traced(now)
        clocks.append(clock)  # threads start at the same time
        return clock

    yield from rig.running(rig.jobs(rig.endless()), 0.0, meter=Meter(make))
    return timeline([clock.events for clock in clocks])


def timeline(events: list[list[tuple[int, int]]]) -> Timeline:
    """Of the last few batches.

    Args:
        events: of each clock, (stage, from when in ns); the consumer's, which is the one that steps, and the threads'.
    """
    consumer = next(each for each in events if any(stage == STEP for stage, _ in each))
    stepped = [at for stage, at in consumer if stage == STEP][-BATCHES - 1 :]
    first, last = stepped[0], stepped[-1]
    whole = max(1, last - first)
    lanes: list[Lane] = []
    for each in [consumer, *(each for each in events if each is not consumer)]:
        ends = [at for _, at in each[1:]] + [last]
        spans = [
            (_NAMES[stage], (max(start, first) - first) / 1e6, (min(stop, last) - first) / 1e6)
            for (stage, start), stop in zip(each, ends, strict=True)
            if stage != IDLE and min(stop, last) - max(start, first) > _LEAST * whole
        ]
        name = "consumer" if each is consumer else f"thread {len(lanes)}"
        lanes.append(Lane(name=name, spans=tuple(spans)))
    return Timeline(milliseconds=whole / 1e6, lanes=tuple(lanes))
