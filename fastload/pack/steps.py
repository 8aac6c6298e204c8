"""Contents on their way into a shard: each is looked at, and steps may put something else in its place.

    source content -> look -> step -> look -> step -> ... -> stored content, facts, counts

A step is a value that workers get with their plan: it is called with a content and its facts, and says what to store
instead, or why not. What it made is looked at again, so that the index has the facts of what is stored.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from fastload.pack.checks import Facts, inspector
from fastload.pack.tally import Counts, Tally
from fastload.shards.index import Kind
from fastload.statistics import FieldStatistics, PixelSums


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a step makes of one content.

    Attributes:
        data: what to store in its place; None: it stays.
        kept: why it stays, one of a few phrases, to count by; "" where the step does not concern it.
        sums: numbers to add up over the contents that are replaced.
    """

    data: bytes | None = None
    kept: str = ""
    sums: Mapping[str, int] = field(default_factory=dict)


class Step(Protocol):
    """Makes something else of contents; the same of the same content, in any process."""

    @property
    def name(self) -> str:
        """What its counts are called in the index."""

    def __call__(self, raw: memoryview, facts: Facts) -> Outcome:
        """What to store in place of a content.

        Raises: DecodeError if the content is damaged.
        """

    def about(self, counts: Counts) -> dict[str, Any]:
        """What the index says of its counts, JSON values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What becomes of one field.

    Attributes:
        kind: of its contents in the source; the table has the kind of what is stored.
        steps: in their order.
        pixels: whether the pixels of what is stored are to be summed up.
    """

    kind: Kind
    steps: tuple[Step, ...] = ()
    pixels: bool = False


class Chain:
    """Looks at the contents of one field, one after the other, and makes of each what is to be stored.

    Args:
        field: its name.
        recipe: what to do.
        stored: the kind of what comes out.

    Attributes:
        made: number of the content, in the order of looking -> what to store in its place.
    """

    def __init__(self, field: str, recipe: Recipe, stored: Kind) -> None:
        self.made: dict[int, bytes] = {}
        self._field = field
        self._look, self._look_again = inspector(recipe.kind), inspector(stored)
        self._looked = 0
        # of each step: how often it made something (""), and kept something, by the reason; its sums
        self._steps = [(step, defaultdict[str, int](int), Counter[str]()) for step in recipe.steps]
        self._pixels: list[PixelSums] | None = [] if recipe.pixels else None

    def __call__(self, raw: memoryview) -> Facts:
        """The facts of what is to be stored."""
        facts, content = self._look(raw), raw
        for step, counted, sums in self._steps:
            outcome = step(content, facts)
            data = outcome.data
            if data is None:
                if outcome.kept:
                    counted[outcome.kept] += 1
                continue
            content = memoryview(data)
            facts = self._look_again(content)
            self.made[self._looked] = data
            sums.update(outcome.sums)
            counted[""] += 1
        if self._pixels is not None:
            self._pixels.append(PixelSums.of(content))
        self._looked += 1
        return facts

    @property
    def tally(self) -> Tally:
        """What was counted so far."""
        steps = {
            step.name: Counts(
                made=counted.get("", 0),
                kept={reason: n for reason, n in counted.items() if reason},
                sums=dict(sums),
            )
            for step, counted, sums in self._steps
            if counted
        }
        if self._pixels is None:
            return Tally(steps=steps)
        statistics = FieldStatistics(pixels=PixelSums.total_of(self._pixels))
        return Tally(steps=steps, fields={self._field: statistics})
