"""One sequence of several, in fixed proportions: arithmetic again, so that it is exact, resumable and the same at any
world size.

Positions go through a pattern of sources over and over: position i = q * L + j stands for source `pattern[j]`, and is
that source's number q * (its count in the pattern) + (its count before j). Each source runs through its own epochs at
its own pace.

Source of the pattern: Webster's apportionment (Balinski, Young, "Fair Representation", 1982): the k-th sample of a
source of weight w is due at (k + 1/2) / w, and the earliest is next.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceABC
from fractions import Fraction
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from fastload.errors import ConfigError
from fastload.order.sampler import digest
from fastload.order.shuffle import Ints

Stop = Literal["first", "all"] | int

PATTERN_LENGTH = 10_000  # weights are met to 1 in 10,000; quotas and ratios of small numbers exactly


class Source(Protocol):
    """A sequence that is mixed: `shuffle.Order`, a bound sampler, or another mixture."""

    @property
    def samples(self) -> int: ...

    def locate(self, epochs: npt.ArrayLike, positions: npt.ArrayLike) -> tuple[Ints, Ints]: ...


def counts_of(weights: SequenceABC[float]) -> list[int]:
    """How often each source stands in the pattern: the weights as whole numbers, exactly if their sum then is at most
    PATTERN_LENGTH, else rounded so that the sum is PATTERN_LENGTH and each at least 1.

    Raises:
        ConfigError: no weights, or one that is not positive and finite.
    """
    if not weights or not all(w > 0 and np.isfinite(w) for w in weights):
        raise ConfigError(f"Mix: weights {list(weights)}; pass a positive number for each source")
    fractions = [Fraction(w).limit_denominator(PATTERN_LENGTH) for w in weights]
    common = np.lcm.reduce([f.denominator for f in fractions])
    exact = [int(f * int(common)) for f in fractions]
    divisor = int(np.gcd.reduce(exact))
    exact = [count // divisor for count in exact] if divisor else exact
    if all(exact) and sum(exact) <= PATTERN_LENGTH:
        return exact
    total = float(sum(weights))
    return [max(1, round(w / total * PATTERN_LENGTH)) for w in weights]


def pattern_of(counts: SequenceABC[int]) -> npt.NDArray[np.int64]:
    """Which source each place of the pattern is, int64 [sum of counts]; any prefix has each source in proportion."""
    sources = np.repeat(np.arange(len(counts)), counts)
    due = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
    return sources[np.argsort(due, kind="stable")]


class Mixture:
    """Maps (epoch, position) to (own epoch of the source, shard, row).

    Args:
        sources: what is mixed.
        shards: number of shards of each source; those of the mixture are numbered through, source after source.
        weights: of each source.
        stop: what an epoch of the mixture is. "first": it ends before any source would begin again. "all": when every
        source has
            been through once; the shorter ones repeat. A number: so many samples. Sources run on from one epoch of the
            mixture to the next, so that nothing is left out for good.

    Raises:
        ConfigError: no sources, weights that do not fit, an empty source, an unknown stop.
    """

    def __init__(
        self, sources: SequenceABC[Source], shards: SequenceABC[int], weights: SequenceABC[float], stop: Stop
    ) -> None:
        if not sources or len(sources) != len(weights):
            raise ConfigError(f"Mix: {len(sources)} sources and {len(weights)} weights; pass one weight for each")
        empty = [number for number, source in enumerate(sources) if not source.samples]
        if empty:
            raise ConfigError(f"Mix: source number {empty[0]} has no samples")
        self.sources = tuple(sources)
        self.first_shards = np.concatenate([np.zeros(1, np.int64), np.cumsum(shards)])  # [sources + 1]
        self.counts = np.array(counts_of(weights), np.int64)
        self.pattern = pattern_of(self.counts.tolist())
        self._length = len(self.pattern)
        hot = self.pattern[:, None] == np.arange(len(sources))  # [L, sources]
        self._before = np.concatenate([np.zeros((1, len(sources)), np.int64), np.cumsum(hot, 0)])  # [L + 1, sources]
        self.samples = self._epoch_length(stop)

    @staticmethod
    def digest(weights: SequenceABC[float], samples: int) -> str:
        """What the order depends on besides the sources, for saved states."""
        return digest("Mix", np.array(counts_of(weights), np.int64), np.array([samples]))

    def _epoch_length(self, stop: Stop) -> int:
        if isinstance(stop, int) and not isinstance(stop, bool):
            if stop < 1:
                raise ConfigError(f"Mix(stop={stop}): must be at least 1 sample")
            return stop
        # where each source has been through once: the place of its last sample, plus one
        ends = [self._place_of(number, source.samples - 1) + 1 for number, source in enumerate(self.sources)]
        if stop == "all":
            return max(ends)
        if stop == "first":
            return min(self._place_of(number, source.samples) for number, source in enumerate(self.sources))
        raise ConfigError(f"Mix(stop={stop!r}): pass 'first', 'all', or a number of samples")

    def _place_of(self, source: int, number: int) -> int:
        """The position at which a source gives its sample number `number`."""
        rounds, left = divmod(number, int(self.counts[source]))
        return rounds * self._length + int(np.flatnonzero(self.pattern == source)[left])

    def locate(self, epochs: npt.ArrayLike, positions: npt.ArrayLike) -> tuple[Ints, Ints]:
        """Shard and row of each position, int64 [k] each."""
        return self.visit(epochs, positions)[1:]

    def visit(self, epochs: npt.ArrayLike, positions: npt.ArrayLike) -> tuple[Ints, Ints, Ints]:
        """int64 [k] each: the epoch of the position's own source, shard of the mixture, row."""
        i = np.asarray(positions, np.int64).reshape(-1)
        g = np.broadcast_to(np.asarray(epochs, np.int64), i.shape) * self.samples + i
        rounds, place = np.divmod(g, self._length)
        chosen = self.pattern[place]
        numbers = rounds * self.counts[chosen] + self._before[place, chosen]
        own_epochs, shards, rows = np.empty_like(i), np.empty_like(i), np.empty_like(i)
        for number, source in enumerate(self.sources):
            here = np.flatnonzero(chosen == number)
            if len(here):
                own_epochs[here], shards[here], rows[here] = visit(source, *np.divmod(numbers[here], source.samples))
                shards[here] += self.first_shards[number]
        return own_epochs, shards, rows


def visit(sequence: Source, epochs: npt.ArrayLike, positions: npt.ArrayLike) -> tuple[Ints, Ints, Ints]:
    """Epoch, shard and row of each position, int64 [k] each. The epoch is the sample's own: in a mixture, that of its
    source, by which random draws about it are keyed."""
    if isinstance(sequence, Mixture):
        return sequence.visit(epochs, positions)
    shards, rows = sequence.locate(epochs, positions)
    return np.broadcast_to(np.asarray(epochs, np.int64), shards.shape), shards, rows
