"""One sequence of several, in fixed proportions: arithmetic again, so that it is exact, resumable and the same at any
world size. `order.pattern` says whose turn it is; each source runs through its own epochs at its own pace.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceABC
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from fastload.errors import ConfigError
from fastload.order.pattern import Composed, Pattern, counts_of
from fastload.order.sampler import digest
from fastload.order.shuffle import Ints

Stop = Literal["first", "all"] | int

PATTERN_LENGTH = 10_000  # weights are met to 1 in 10,000; quotas and ratios of small numbers exactly


class Source(Protocol):
    """A sequence that is mixed: `shuffle.Order`, a bound sampler, or another mixture."""

    @property
    def samples(self) -> int: ...

    def locate(self, epochs: npt.ArrayLike, positions: npt.ArrayLike) -> tuple[Ints, Ints]: ...


class Mixture(Composed):
    """Maps (epoch, position) to (own epoch of the source, shard, row).

    Args:
        sources: what is mixed.
        shards: number of shards of each source; those of the mixture are numbered through, source after source.
        weights: of each source.
        stop: what an epoch of the mixture is. "first": it ends before any source would begin again. "all": when every
            source has been through once; the shorter ones repeat. A number: so many samples. Sources run on from one
            epoch of the mixture to the next, so that nothing is left out for good.

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
        self.parts = {s: source for s, source in enumerate(sources) if isinstance(source, Composed)}
        self.first_shards = np.concatenate([np.zeros(1, np.int64), np.cumsum(shards)])  # [sources + 1]
        self.pattern = Pattern(counts_of(weights, most=PATTERN_LENGTH))
        self.samples = self._epoch_length(stop)

    @property
    def digest(self) -> str:
        """What the order depends on besides the sources, for saved states."""
        return digest("Mix", self.pattern.counts, np.array([self.samples]))

    def _epoch_length(self, stop: Stop) -> int:
        if isinstance(stop, int) and not isinstance(stop, bool):
            if stop < 1:
                raise ConfigError(f"Mix(stop={stop}): must be at least 1 sample")
            return stop
        numbers, sizes = np.arange(len(self.sources)), np.array([source.samples for source in self.sources])
        if stop == "all":  # the place of each source's last sample, plus one
            return int(self.pattern.position(numbers, sizes - 1).max()) + 1
        if stop == "first":
            return int(self.pattern.position(numbers, sizes).min())
        raise ConfigError(f"Mix(stop={stop!r}): pass 'first', 'all', or a number of samples")

    def locate(self, epochs: npt.ArrayLike, positions: npt.ArrayLike) -> tuple[Ints, Ints]:
        """Shard and row of each position, int64 [k] each."""
        return self.visit(epochs, positions)[1:]

    def visit(self, epochs: npt.ArrayLike, positions: npt.ArrayLike) -> tuple[Ints, Ints, Ints]:
        """int64 [k] each: the epoch of the position's own source, shard of the mixture, row."""
        i = np.asarray(positions, np.int64).reshape(-1)
        g = np.broadcast_to(np.asarray(epochs, np.int64), i.shape) * self.samples + i
        chosen, numbers = self.pattern.locate(g)
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
