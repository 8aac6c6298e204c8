"""One sequence made of several *sources* in fixed proportions: which source each position belongs to, as a pattern that
repeats.

Position g = q * L + j belongs to source `pattern[j]`, and is that source's number q * (its count in the pattern) + (its
count before j). So it is known how many of each source lie in any run of positions, wherever the run is.

Source of the pattern: Tijdeman, "The chairman assignment problem", Discrete Mathematics 1980. Among sources whose turn
has come the one that would be late first is next; every prefix then has each source's share, give or take less than 1.
(Apportionment by Webster's divisors is simpler, and puts 500 samples of a source of weight 1/2 in front of those of
1,000 small ones.)
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

from fastload.errors import ConfigError
from fastload.order.hashing import combine
from fastload.order.shuffle import Ints

_ROTATION = 5  # what the key of the ranks' rotation is for


def even_pattern(counts: Sequence[int]) -> Ints:
    """Source numbers, int64 [sum of counts], source s `counts[s]` times: in the first i of them, and in any run of i of
    two sources, it is there i * counts[s] / sum times, give or take less than 1; in any run, less than 2. Takes about 1
    us a number.
    """
    length, present = sum(counts), sum(count > 0 for count in counts)
    if present < 2:
        return np.repeat(np.arange(len(counts)), counts)
    slack = 2 * present - 2  # Tijdeman's bound is 1 - 1 / slack
    waiting = [(-(-length // (slack * count)), s, 0) for s, count in enumerate(counts) if count]  # (turn comes, s, k)
    heapq.heapify(waiting)
    ready: list[tuple[int, int, int]] = []  # (late after, s, k)
    chosen = []
    for place in range(1, length + 1):
        while waiting and waiting[0][0] <= place:
            _, s, k = heapq.heappop(waiting)
            heapq.heappush(ready, (((k + 1) * slack - 1) * length // (slack * counts[s]), s, k))
        _, s, k = heapq.heappop(ready)
        chosen.append(s)
        if k + 1 < counts[s]:
            heapq.heappush(waiting, (-(-((k + 1) * slack + 1) * length // (slack * counts[s])), s, k + 1))
    return np.array(chosen, np.int64)


class Pattern:
    """A pattern that repeats for ever, and its arithmetic. Positions and numbers count on over all repetitions.

    Attributes:
        counts: how often each source is in the pattern, int64 [sources].
    """

    def __init__(self, counts: Sequence[int]) -> None:
        self.counts = np.array(counts, np.int64)
        self._sources = even_pattern(counts)  # [L]
        self._length = len(self._sources)
        self._places = np.argsort(self._sources, kind="stable")  # [L] of source 0, then of source 1, ...
        self._first = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.counts)])  # [sources + 1] in _places
        self._keys = self._sources[self._places] * self._length + self._places  # [L] ascending
        self._numbers = np.empty(self._length, np.int64)  # [L] the source's own
        self._numbers[self._places] = np.arange(self._length) - self._first[self._sources[self._places]]

    def locate(self, g: Ints) -> tuple[Ints, Ints]:
        """Source of each position, and which of that source's it is; int64 [k] each."""
        rounds, place = np.divmod(g, self._length)
        sources = self._sources[place]
        return sources, rounds * self.counts[sources] + self._numbers[place]

    def position(self, sources: Ints, numbers: Ints) -> Ints:
        """Where each source has each of its numbers: undoes `locate`."""
        rounds, number = np.divmod(numbers, self.counts[sources])
        places: Ints = self._places[self._first[sources] + number]
        return rounds * self._length + places

    def before(self, g: int) -> Ints:
        """How many of each source come before position g, int64 [sources]."""
        rounds, place = divmod(g, self._length)
        bounds = np.arange(len(self.counts)) * self._length + place
        here: Ints = np.searchsorted(self._keys, bounds) - self._first[:-1]
        return rounds * self.counts + here


class Composed:
    """A sequence made of several by a pattern; its positions count on over the epochs.

    A rank that took every world_size-th position could meet one source only (two in turn, on two ranks). So ranks are
    dealt the positions of a global batch sorted by source: each then has floor or ceil of its share of every source.

    Attributes:
        pattern: which source each position belongs to.
        parts: the sequences of those sources that are `Composed` themselves.
    """

    pattern: Pattern
    parts: Mapping[int, Composed]

    def deal(self, start: int, stop: int, rank: int, world_size: int) -> Ints:
        """The positions of [start, stop) that a rank gets, ascending, int64.

        Which ranks get the larger shares is drawn anew for each run of positions, so that over many no rank has more of
        a source. Of a run that cannot be shared out evenly, the first ranks get one position more.
        """
        count = stop - start
        shift = combine(_ROTATION, start) % world_size if count % world_size == 0 else 0
        return np.sort(self._sorted(start, stop, np.arange((rank - shift) % world_size, count, world_size)))

    def _sorted(self, start: int, stop: int, places: Ints) -> Ints:
        """The positions that stand at these places of [start, stop) when that is sorted by source, and inside a
        source by its own sources."""
        first, last = self.pattern.before(start), self.pattern.before(stop)
        ends = np.cumsum(last - first)
        sources = np.searchsorted(ends, places, "right")
        inside = places - (ends - last + first)[sources]
        numbers = first[sources] + inside
        for source, part in self.parts.items():
            here = np.flatnonzero(sources == source)
            if len(here):
                numbers[here] = part._sorted(int(first[source]), int(last[source]), inside[here])
        return self.pattern.position(sources, numbers)


def counts_of(weights: Sequence[float], *, most: int) -> list[int]:
    """Weights as whole numbers: exactly, if their sum then is at most `most`; else rounded to a sum of about that.

    Raises:
        ConfigError: no weights, one that is not a positive finite number, or one too small for such a sum.
    """
    numbers = all(isinstance(w, int | float | np.number) and not isinstance(w, bool) for w in weights)
    if not weights or not numbers or not all(w > 0 and np.isfinite(w) for w in weights):
        raise ConfigError(f"Mix: weights {list(weights)}; pass a positive number for each source")
    exact = _exact(weights, most)
    if exact is not None:
        return exact
    total = float(sum(weights))
    rounded = [round(float(w) / total * most) for w in weights]
    for weight, count in zip(weights, rounded, strict=True):
        if not count:
            raise ConfigError(
                f"Mix: weight {weight:g} is less than 1 in {2 * most:,} of the sum of {list(weights)}; raise it, or "
                "leave that source out"
            )
    return rounded


def _exact(weights: Sequence[float], most: int) -> list[int] | None:
    """The weights as the smallest whole numbers of their ratios, if these sum up to at most `most` and meet each share
    to 1 in `most`, as the nearest fractions of small weights may not."""
    exactly = [Fraction(float(w)) for w in weights]
    fractions = [w.limit_denominator(most) for w in exactly]
    common = math.lcm(*(f.denominator for f in fractions))
    counts = [int(f * common) for f in fractions]
    divisor = math.gcd(*counts) or 1
    counts = [count // divisor for count in counts]
    total, length = sum(exactly), sum(counts)
    if not all(counts) or length > most:
        return None
    met = all(abs(Fraction(c, length) - w / total) * most <= 1 for c, w in zip(counts, exactly, strict=True))
    return counts if met else None
