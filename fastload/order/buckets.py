"""Batches of similar length and bounded cost, planned from the lengths in the index.

The shuffled order is taken in pools; a pool is sorted by length and cut into batches whose padded cost, rows x longest,
stays within the bound; the batches of a pool are shuffled. So a batch wastes little padding, its neighbours have other
lengths, and
only the shards of one pool are at hand.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from fastload.errors import ConfigError
from fastload.order.hashing import combine, combine_array
from fastload.order.sampler import Base, BoundSampler, Columns, digest
from fastload.order.shuffle import Ints

_BATCH_ORDER = 4  # what the key of the batches' order is for
_TOLERANCE = 1e-9  # seconds are quotients; a bound they meet exactly must hold


@dataclass(frozen=True, slots=True)
class LengthBuckets:
    """Every sample once an epoch, in batches of similar length; `batch_size` of the loader is then the most rows of a
    batch.

    Args:
        field: an audio or token field, whose lengths the index has ("audio.frames" and "audio.sample_rate", or
        "tokens.count"), or
            the name of a scalar field that holds lengths.
        max_tokens: bound of rows x longest length of a batch, in tokens, or in the unit of the scalar field.
        max_seconds: the same in seconds, for an audio field.
        pool: samples sorted at a time. More: less padding; fewer: a better shuffle. 8192 samples make 128 batches of
        64, among
            which lengths repeat a few times each.

    Raises:
        ConfigError: not exactly one bound; from `bind`: a sample that is longer than the bound by itself.
    """

    field: str
    max_tokens: int | None = None
    max_seconds: float | None = None
    pool: int = 8192

    def __post_init__(self) -> None:
        if (self.max_tokens is None) == (self.max_seconds is None):
            raise ConfigError("LengthBuckets: pass one of max_tokens and max_seconds")
        if not self.bound > 0:
            raise ConfigError(f"LengthBuckets: a bound of {self.bound}; it must be positive")
        if self.pool < 1:
            raise ConfigError(f"LengthBuckets(pool={self.pool}): must be at least 1")

    @property
    def bound(self) -> float:
        return float(self.max_seconds if self.max_tokens is None else self.max_tokens)  # type: ignore[arg-type]

    @property
    def columns(self) -> tuple[str, ...]:
        if self.max_seconds is not None:
            return (f"{self.field}.frames", f"{self.field}.sample_rate")
        return (self.field,)

    def bind(self, base: Base, columns: Columns) -> BoundSampler:
        values = [np.asarray(columns[name], np.float64) for name in self.columns]
        lengths = values[0] / values[1] if len(values) == 2 else values[0]
        too_long = np.flatnonzero(lengths > self.bound * (1 + _TOLERANCE))
        if too_long.size:
            raise ConfigError(
                f"LengthBuckets: {too_long.size} samples are longer than the bound of {self.bound:g}, "
                f"the first is sample {too_long[0]} with {lengths[too_long[0]]:g}; "
                "raise the bound, or leave them out with Subset"
            )
        return BoundBuckets(base, lengths, self.bound, self.pool)


class BoundBuckets:
    """A sequence whose batches are planned: `locate` as ever, and `boundaries` of the batches."""

    def __init__(self, base: Base, lengths: npt.NDArray[np.float64], bound: float, pool: int) -> None:
        self._base, self._offsets, self._order = base, base.offsets, base.order()
        self._lengths, self._bound, self._pool = lengths, bound, pool
        self.samples = base.samples
        self._epoch = lru_cache(maxsize=4)(self._build_epoch)
        self.fingerprint = digest("LengthBuckets", lengths, np.array([bound, pool]))

    def locate(self, epochs: npt.ArrayLike, positions: npt.ArrayLike) -> tuple[Ints, Ints]:
        raise TypeError("positions of LengthBuckets depend on the most rows of a batch; the cursor calls plan()")

    def plan(self, epoch: int, max_rows: int) -> tuple[Ints, Ints]:
        """The samples of an epoch in order, int64 [n], and the boundaries of its batches in it, int64 [batches + 1]."""
        return self._epoch(epoch, max_rows)

    def place(self, samples: Ints) -> tuple[Ints, Ints]:
        """Shard and row of samples."""
        shards = np.searchsorted(self._offsets, samples, "right") - 1
        return shards, samples - self._offsets[shards]

    def _build_epoch(self, epoch: int, max_rows: int) -> tuple[Ints, Ints]:
        shards, rows = self._order.locate(epoch, np.arange(self.samples))
        shuffled = self._offsets[shards] + rows
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
    limit = bound * (1 + _TOLERANCE)
    while start < count:
        rows = np.arange(1, min(max_rows, count - start) + 1)
        fits = int(np.count_nonzero(rows * lengths[start : start + len(rows)] <= limit))  # a prefix: costs only grow
        cuts.append((start, start + max(1, fits)))
        start += max(1, fits)
    return cuts


def even_out(boundaries: Ints, consumed: int, world_size: int) -> Ints:
    """The boundaries from position `consumed` on, with as many batches as a multiple of the world size.

    Only the last group, of fewer than world_size batches, is cut finer (the largest batch in half, again and again), so
    that every other group is the same whatever the world size, and a resume between groups finds the same rest. A group
    of
    fewer samples than ranks leaves the last ranks an empty batch.
    """
    rest = np.concatenate([[consumed], boundaries[boundaries > consumed]]).astype(np.int64)
    whole = (len(rest) - 1) // world_size * world_size
    if whole == len(rest) - 1:
        return rest
    spans = [(int(a - b), int(b), int(a)) for b, a in zip(rest[whole:-1], rest[whole + 1 :], strict=True)]
    heap = [(-size, start, stop) for size, start, stop in spans]
    heapq.heapify(heap)
    while len(heap) < world_size:
        size, start, stop = heapq.heappop(heap)
        middle = start + (-size + 1) // 2
        heapq.heappush(heap, (start - middle, start, middle))
        heapq.heappush(heap, (middle - stop, middle, stop))
    last = sorted((start, stop) for _, start, stop in heap)
    return np.concatenate([rest[: whole + 1], np.array([stop for _, stop in last], np.int64)])
