"""Whether a change of speed is real: the ratio of medians of two sets of rounds, and its interval by the bootstrap.

The interval is the percentile bootstrap's (B. Efron, R. J. Tibshirani, An Introduction to the Bootstrap, 1993, chapter
13): both sets of rounds are drawn anew, with replacement, and the ratio of the medians is taken each time. Of few
rounds it is too narrow, so that a change has to reach a threshold besides before it counts as a loss; and of very few
no change is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from fastload.bench.rounds import Results, Rounds
from fastload.errors import ConfigError

THRESHOLD = 0.05  # two runs of a loader on an idle machine differ by 1% to 3%
CONFIDENCE = 0.95
LEAST_ROUNDS = 4  # of 4, one of two equal sets is called slower in 2 cases of 70; of 3, in 1 of 20
_DRAWS = 4_000

Verdict = Literal["faster", "slower", "loss", "same", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One benchmark, before and after.

    Attributes:
        before, after: items/s in the median, or times the reference's speed where there is one.
        speed: after over before: below 1 is slower.
        low, high: the interval that holds `speed` with 95% confidence.
        verdict: "same": the interval holds 1. "faster", "slower": it does not. "loss": slower by more than the
            threshold. "unknown": too few rounds.
    """

    name: str
    unit: str
    before: float
    after: float
    speed: float
    low: float
    high: float
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two runs.

    Attributes:
        changes: of the benchmarks that both have.
        gone, new: names that only the first or only the second has, or has rounds of.
        differ: what data, machines or settings differ in, as "name: before → after".
    """

    changes: tuple[Change, ...]
    gone: tuple[str, ...]
    new: tuple[str, ...]
    differ: tuple[str, ...]
    threshold: float

    @property
    def told(self) -> bool:
        """Anything could be told: a benchmark has rounds enough in both."""
        return any(change.verdict != "unknown" for change in self.changes)

    @property
    def ok(self) -> bool:
        """No benchmark that could be told lost more than the threshold, and there is one."""
        return self.told and not any(change.verdict == "loss" for change in self.changes)

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {"ok": self.ok, "told": self.told, **asdict(self)}


def compare(before: Results, after: Results, threshold: float = THRESHOLD) -> Comparison:
    """What became faster or slower.

    Args:
        threshold: the loss of speed, as a share, up to which a real change is put up with.

    Raises:
        ConfigError: a threshold outside [0, 1), or no benchmark that both have rounds of.
    """
    if not 0 <= threshold < 1:
        raise ConfigError(f"threshold={threshold!r}: pass a share of the speed, from 0 up to 1, such as 0.05")
    both = [name for name in before.rounds if name in after.rounds]
    if not both:
        raise ConfigError(
            f"nothing to compare: the first has rounds of {_names(before)}, the second of {_names(after)}; results "
            "that keep no rounds have to be measured again"
        )
    return Comparison(
        changes=tuple(_change(before.rounds[name], after.rounds[name], threshold) for name in both),
        gone=tuple(name for name in (*before.rounds, *before.left_out) if name not in after.rounds),
        new=tuple(name for name in (*after.rounds, *after.left_out) if name not in before.rounds),
        differ=tuple(
            f"{name}: {old.get(name)} → {new.get(name)}"
            for old, new in ((before.machine, after.machine), (before.setting, after.setting))
            for name in dict.fromkeys((*old, *new))
            if old.get(name) != new.get(name) and name != "time"
        ),
        threshold=threshold,
    )


def _names(results: Results) -> str:
    return ", ".join(results.rounds) or "none"


def _change(before: Rounds, after: Rounds, threshold: float) -> Change:
    paired = bool(before.ratios and after.ratios)
    old, new = (each.costs if paired else _plain(each) for each in (before, after))
    speed = float(np.median(old) / np.median(new))
    low, high = interval(old, new)
    if min(len(old), len(new)) < LEAST_ROUNDS:
        verdict: Verdict = "unknown"
    elif low <= 1 <= high:
        verdict = "same"
    elif speed > 1:
        verdict = "faster"
    else:
        verdict = "loss" if speed < 1 - threshold else "slower"
    return Change(
        name=before.name,
        unit=f"times {before.reference}" if paired else f"{before.unit}/s" if before.items > 1 else "1/s",
        before=1 / float(np.median(old)),
        after=1 / float(np.median(new)),
        speed=speed,
        low=low,
        high=high,
        verdict=verdict,
    )


def _plain(rounds: Rounds) -> tuple[float, ...]:
    """Time an item, whatever it was measured beside."""
    return tuple(each / rounds.items for each in rounds.seconds)


def interval(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """Low and high end of the speed after over before, from the time of each round."""
    draw = np.random.default_rng(0)  # its own, so that the same files always give the same answer
    medians = [
        np.median(np.asarray(each)[draw.integers(0, len(each), (_DRAWS, len(each)))], axis=1)
        for each in (before, after)
    ]
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(medians[0] / medians[1], [tail, 100 - tail])
    return float(low), float(high)
