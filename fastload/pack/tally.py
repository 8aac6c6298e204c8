"""What is counted while samples are packed: whole numbers, so that any order of adding gives the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from fastload.statistics import FieldStatistics, joined


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What one step (`steps`) made of some contents.

    Attributes:
        made: how many it replaced.
        kept: how many were stored as they are, by the reason.
        sums: what else is added up, such as bytes before and after, of those that were replaced.
    """

    made: int = 0
    kept: Mapping[str, int] = field(default_factory=dict)
    sums: Mapping[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.made or self.kept)

    def to_json(self, made: str = "made") -> dict[str, Any]:
        """JSON values; `made` is what the step calls its work ("seekable", "resized")."""
        return {made: self.made, **dict(sorted(self.sums.items())), "kept": dict(sorted(self.kept.items()))}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        sums = {name: value for name, value in data.items() if name not in ("made", "kept")}
        return cls(made=data["made"], kept=data["kept"], sums=sums)

    @classmethod
    def total_of(cls, parts: Iterable[Counts]) -> Self:
        made, kept, sums = 0, Counter[str](), Counter[str]()
        for part in parts:
            made += part.made
            kept.update(part.kept)
            sums.update(part.sums)
        return cls(made=made, kept=dict(kept), sums=dict(sums))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """All that was counted of some samples.

    Attributes:
        steps: by the step's name.
        fields: statistics, by field.
    """

    steps: Mapping[str, Counts] = field(default_factory=dict)
    fields: Mapping[str, FieldStatistics] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "steps": {name: counts.to_json() for name, counts in self.steps.items()},
            "fields": {name: statistics.to_json() for name, statistics in self.fields.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(
            steps={name: Counts.from_json(counts) for name, counts in data["steps"].items()},
            fields={name: FieldStatistics.from_json(about) for name, about in data["fields"].items()},
        )

    @classmethod
    def total_of(cls, parts: Iterable[Tally]) -> Self:
        some = list(parts)
        names = sorted({name for part in some for name in part.steps})  # runs come back in any order
        return cls(
            steps={name: Counts.total_of(part.steps[name] for part in some if name in part.steps) for name in names},
            fields=joined(part.fields for part in some),
        )
