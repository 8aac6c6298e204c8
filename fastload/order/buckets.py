"""Batches of similar length and bounded cost, planned from the lengths in the index.

The shuffled order is taken in pools; a pool is sorted by length and cut into batches whose padded cost, rows x longest,
stays within the bound; the batches of a pool are shuffled. So a batch wastes little padding, its neighbours have other
lengths, and only the shards of one pool are at hand.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, SupportsFloat

import numpy as np
import numpy.typing as npt

from fastload.errors import ConfigError
from fastload.order.arguments import integer
from fastload.order.hashing import combine, combine_array
from fastload.order.sampler import Base, BoundSampler, Columns, digest
from fastload.order.shuffle import Ints

_BATCH_ORDER = 4  # what the key of the batches' order is for
_TOLERANCE = 1e-9  # seconds are quotients; a bound they meet exactly must hold


@dataclass(frozen=True, slots=True)
class LengthBuckets:
    """Every sample once an epoch, in batches of similar length. The loader's `batch_size` is then the most rows of a
    batch, and part of the order: a run is resumed with the same.

    An epoch is planned when it begins, in about 0.3 us a sample; going on inside one costs the same again. Holds up to
    40 bytes a sample. Only `fastload.DataLoader` can take it.

    Args:
        field: an audio field, with `max_seconds`; a token field, with `max_tokens`; or a scalar field that holds
            lengths in either.
        max_tokens: bound of rows x longest length of a batch, in tokens.
        max_seconds: the same in seconds.
        pool: samples sorted at a time. More: less padding; fewer: a better shuffle. 8192 samples make 128 batches of
            64, among which lengths repeat a few times each.

    Raises:
        ConfigError: not exactly one bound, or one out of range; from `bind`: a length below 0 or above the bound.
    """

    field: str
    max_tokens: int | None = None
    max_seconds: float | None = None
    pool: int = 8192

    def __post_init__(self) -> None:
        if (self.max_tokens is None) == (self.max_seconds is None):
            raise ConfigError("LengthBuckets: pass one of max_tokens and max_seconds")
        bound = self.max_seconds if self.max_tokens is None else self.max_tokens
        if isinstance(bound, bool) or not isinstance(bound, SupportsFloat):
            raise ConfigError(f"LengthBuckets: a bound of {bound!r}; it must be a number")
        if not (self.bound > 0 and np.isfinite(self.bound)):
            raise ConfigError(f"LengthBuckets: a bound of {self.bound:g}; it must be positive and finite")
        integer("pool", self.pool, least=1)

    @property
    def bound(self) -> float:
        return float(self.max_seconds if self.max_tokens is None else self.max_tokens)  # type: ignore[arg-type]

    @property
    def columns(self) -> tuple[str, ...]:
        return (f"{self.field}.{'count' if self.max_seconds is None else 'seconds'}",)

    def bind(self, base: Base, columns: Columns) -> BoundSampler:
        lengths = np.asarray(columns[self.columns[0]], np.float64)
        wrong = np.flatnonzero(~(lengths >= 0))
        if wrong.size:
            raise ConfigError(f"LengthBuckets: sample {wrong[0]} has length {lengths[wrong[0]]:g} in {self.columns[0]}")
        too_long = np.flatnonzero(lengths > self.bound * (1 + _TOLERANCE))
        if too_long.size:
            raise ConfigError(
                f"LengthBuckets: {too_long.size} of {base.samples} samples are longer than the bound of "
                f"{self.bound:g}, the first is sample {too_long[0]} with {lengths[too_long[0]]:g}; raise the bound, or "
                f"leave them out: Subset(lambda c: c[{self.columns[0]!r}] <= {self.bound:g}, "
                f"fields=({self.columns[0]!r},), then=LengthBuckets(...))"
            )
        return BoundBuckets(base, lengths, self.bound, self.pool)


class BoundBuckets:
    """A sequence whose batches are planned: boundaries instead of positions."""

    def __init__(self, base: Base, lengths: npt.NDArray[np.float64], bound: float, pool: int) -> None:
        self._base, self._order = base, base.order()
        self._lengths, self._bound, self._pool = lengths, bound, pool
        self.samples, self.place = base.samples, base.place
        self._epoch = lru_cache(maxsize=4)(self._build_epoch)
        self.fingerprint = digest("LengthBuckets", lengths, np.array([bound, pool]))

    def locate(self, epochs: npt.ArrayLike, positions: npt.ArrayLike) -> tuple[Ints, Ints]:
        raise TypeError("LengthBuckets has no positions: they depend on the most rows of a batch; see plan")

    def plan(self, epoch: int, max_rows: int) -> tuple[Ints, Ints]:
        """The samples of an epoch in order, int64 [n], and the boundaries of its batches in it, int64 [batches + 1]."""
        return self._epoch(epoch, max_rows)

    def _build_epoch(self, epoch: int, max_rows: int) -> tuple[Ints, Ints]:
        shards, places = self._order.locate(epoch, np.arange(self.samples))
        shuffled = self._base.offsets[shards] + places
        batches: list[Ints] = []
        for start in range(0, self.samples, self._pool):
            pool = shuffled[start : start + self._pool]
            pool = pool[np.argsort(self._lengths[pool], kind="stable")]
            cut = [pool[a:b] for a, b in _cuts(self._lengths[pool], self._bound, max_rows)]
            keys = combine_array(combine(self._base.seed, epoch, _BATCH_ORDER, start), np.arange(len(cut)))
            batches += [cut[j] for j in np.argsort(keys, kind="stable").tolist()]
        sizes = np.array([len(batch) for batch in batches], np.int64)
        order = np.concatenate(batches) if batches else np.zeros(0, np.int64)
        return order, np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])


def _cuts(lengths: npt.NDArray[Any], bound: float, max_rows: int) -> list[tuple[int, int]]:
    """Ascending lengths cut greedily: as many rows as fit under the bound and max_rows, then the next batch."""
    cuts, start, count = [], 0, len(lengths)
    limit, numbers = bound * (1 + _TOLERANCE), np.arange(1, min(max_rows, count) + 1)
    while start < count:
        ahead = lengths[start : start + max_rows]
        fits = int(np.count_nonzero(numbers[: len(ahead)] * ahead <= limit))  # a prefix: costs only grow
        cuts.append((start, start + max(1, fits)))
        start += max(1, fits)
    return cuts


def even_out(boundaries: Ints, consumed: int, world_size: int) -> Ints:
    """The boundaries from position `consumed` on, with as many batches as a multiple of the world size.

    Only the last group, of fewer than world_size batches, is cut finer (the largest batch in half, again and again), so
    that every other group is the same whatever the world size, and a resume between groups finds the same rest. A group
    of fewer samples than ranks leaves some ranks an empty batch.
    """
    rest = np.concatenate([[consumed], boundaries[boundaries > consumed]]).astype(np.int64)
    whole = (len(rest) - 1) // world_size * world_size
    if whole == len(rest) - 1:
        return rest
    heap = [(int(a - b), int(a), int(b)) for a, b in zip(rest[whole:-1], rest[whole + 1 :], strict=True)]  # -size first
    heapq.heapify(heap)
    while len(heap) < world_size:
        _, start, stop = heapq.heappop(heap)
        middle = (start + stop + 1) // 2
        heapq.heappush(heap, (start - middle, start, middle))
        heapq.heappush(heap, (middle - stop, middle, stop))
    last = sorted((start, stop) for _, start, stop in heap)
    return np.concatenate([rest[: whole + 1], np.array([stop for _, stop in last], np.int64)])
