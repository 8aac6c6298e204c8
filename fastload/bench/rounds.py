"""What was measured: the seconds of each round, and files of them.

A file is JSON in the shape of pytest-benchmark's, so that one reader does for both: under "benchmarks", each with its
"name" (and "fullname", where others have the same), and the seconds of its rounds in "extra_info" ("seconds", and
"reference_seconds" where each round was measured beside a reference) or else in "stats" ("data").
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastload.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """One benchmark.

    Attributes:
        name: which, the same from file to file.
        unit: what the items are ("samples", "images").
        items: of a round; 1 where the time itself is what counts.
        seconds: of each round.
        reference: what each round was measured beside, if anything.
        reference_seconds: of each round.
    """

    name: str
    unit: str
    items: int
    seconds: tuple[float, ...]
    reference: str | None = None
    reference_seconds: tuple[float, ...] = ()

    @property
    def per_second(self) -> float:
        """Items/s in the median."""
        return self.items / statistics.median(self.seconds)

    @property
    def ratios(self) -> tuple[float, ...]:
        """Of each round, how many times as fast as the reference; empty without one."""
        return tuple(theirs / mine for mine, theirs in zip(self.seconds, self.reference_seconds, strict=False))

    @property
    def costs(self) -> tuple[float, ...]:
        """What compares between files, of each round: time an item, in that of the reference if there is one, for a
        machine's speed drifts and that of two runs in turn drifts together."""
        return tuple(1 / ratio for ratio in self.ratios) or tuple(each / self.items for each in self.seconds)

    def facts(self) -> dict[str, Any]:
        """JSON values: pytest-benchmark's extra_info."""
        found: dict[str, Any] = {"unit": self.unit, "items": self.items, "per_second": round(self.per_second, 3)}
        if self.reference_seconds:
            found |= {
                "reference": self.reference,
                "reference_per_second": round(self.items / statistics.median(self.reference_seconds), 3),
                "ratio": round(statistics.median(self.ratios), 3),
                "ratio_min": round(min(self.ratios), 3),
                "ratio_max": round(max(self.ratios), 3),
                "reference_seconds": [round(each, 6) for each in self.reference_seconds],
            }
        return found | {"seconds": [round(each, 6) for each in self.seconds]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Benchmarks of one run.

    Attributes:
        rounds: by name, in the order of measuring.
        machine: what they depend on: processor, cores, version of Python.
        setting: what was measured: data, batch size, fields, ...
        left_out: names of benchmarks in a file that keeps no rounds of them.
    """

    rounds: dict[str, Rounds]
    machine: Mapping[str, Any] = field(default_factory=dict)
    setting: Mapping[str, Any] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "machine_info": dict(self.machine),
            "setting": dict(self.setting),
            "benchmarks": [
                {
                    "name": each.name,
                    "extra_info": each.facts(),
                    "stats": {"rounds": len(each.seconds), "median": statistics.median(each.seconds)},
                }
                for each in self.rounds.values()
            ],
        }

    def save(self, path: str | Path) -> None:
        """Write the file."""
        Path(path).write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")

    @staticmethod
    def load(path: str | Path) -> Results:
        """Read a file of fastload or of pytest-benchmark.

        Raises:
            ConfigError: it cannot be read, or is not such a file.
        """
        try:
            return _results(json.loads(Path(path).read_text(encoding="utf-8")))
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{path} is no result of `fastload bench` or pytest-benchmark ({type(error).__name__}: {error})"
            ) from None


def _results(data: Mapping[str, Any]) -> Results:
    found: dict[str, Rounds] = {}
    without = []
    times = Counter(str(entry["name"]) for entry in data["benchmarks"])
    for entry in data["benchmarks"]:
        name = str(entry["name"])
        if times[name] > 1:  # tests of several files
            name = str(entry["fullname"])
        rounds = _rounds(name, entry)
        if rounds is None:
            without.append(name)
        elif name in found:
            raise ValueError(f"{name!r} comes twice")
        else:
            found[name] = rounds
    return Results(
        rounds=found,
        machine=data.get("machine_info", {}),
        setting=data.get("setting", {}),
        left_out=tuple(without),
    )


def _rounds(name: str, entry: Mapping[str, Any]) -> Rounds | None:
    facts = entry.get("extra_info", {})
    own = facts.get("seconds")  # of benchmarks that time themselves, such as programs without their start
    seconds = own if isinstance(own, list) else entry["stats"].get("data")
    if not seconds:
        return None
    rounds = Rounds(
        name=name,
        unit=str(facts.get("unit", "runs")),
        items=int(facts.get("items", 1)),
        seconds=tuple(float(each) for each in seconds),
        reference=facts.get("reference"),
        reference_seconds=tuple(float(each) for each in facts.get("reference_seconds", ())),
    )
    if min(rounds.seconds + rounds.reference_seconds) <= 0 or rounds.items < 1:
        raise ValueError(f"{rounds.name!r} has rounds or items that are not positive")
    return rounds
