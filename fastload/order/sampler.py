"""Samplers: which samples an epoch has, and how often, beside the shuffled order. They read the index, never the data.

    Subset          some samples only
    Weighted        with replacement, in proportion to weights
    ClassBalanced   Weighted so that every class comes equally often
    Stratified      every sample once, each batch with the classes in proportion

A sampler is a small frozen value. `bind` gives it the columns of the index that it names, and makes a
`cursor.Ordering`: again a pure function from (epoch, position) to (shard, row), so that shares, states and resume work
as without a sampler. What
a bound sampler holds is O(samples): 8 bytes a sample and epoch in use.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fastload.errors import ConfigError
from fastload.order.hashing import combine, combine_array, draw
from fastload.order.shuffle import Ints, Order

Columns = Mapping[str, npt.NDArray[Any]]
_SYSTEMATIC, _OFFSET_DRAW = 3, 1  # what keys and draws of Weighted are for


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What a sampler is laid over: the shards and how they are shuffled; the arguments of `shuffle.Order`."""

    sizes: Ints
    seed: int
    window: int
    lanes: int

    @property
    def samples(self) -> int:
        return int(self.sizes.sum())

    @property
    def offsets(self) -> Ints:
        """First sample of each shard, int64 [S + 1]."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.sizes)])

    def order(self, sizes: Ints | None = None) -> Order:
        """The shuffled order over these shards, or over other sizes of them."""
        return Order(self.sizes if sizes is None else sizes, seed=self.seed, window=self.window, lanes=self.lanes)


class BoundSampler(Protocol):
    """A `cursor.Ordering` that knows what it depends on."""

    @property
    def samples(self) -> int: ...

    @property
    def fingerprint(self) -> str:
        """Digest of the sampler and the columns it was bound to, for saved states."""
        ...

    def locate(self, epochs: npt.ArrayLike, positions: npt.ArrayLike) -> tuple[Ints, Ints]: ...


class Sampler(Protocol):
    """What `sampler=` of a StreamingDataset takes."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of the index that `bind` needs."""
        ...

    def bind(self, base: Base, columns: Columns) -> BoundSampler:
        """Lay the sampler over an order; columns are [samples] in the order of packing."""
        ...


def digest(name: str, *parts: npt.NDArray[Any]) -> str:
    """16 hex digits over a name and arrays."""
    state = hashlib.blake2b(name.encode(), digest_size=8)
    for part in parts:
        state.update(np.ascontiguousarray(part).tobytes())
    return f"{name}:{state.hexdigest()}"


@dataclass(frozen=True, slots=True)
class Subset:
    """Only some samples, each once an epoch.

    Args:
        rows: sample numbers in the order of packing, any order, no duplicates; or a function that is given the columns
            `fields` as a mapping of arrays [samples] and returns bool [samples].
        fields: the columns that the function wants.

    Raises:
        ConfigError: from `bind`: a number out of range or given twice, or another shape from the function.
    """

    rows: npt.ArrayLike | Callable[[Columns], npt.ArrayLike]
    fields: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        return self.fields

    def bind(self, base: Base, columns: Columns) -> BoundSampler:
        return _BoundSubset(base, self._rows(base.samples, columns))

    def _rows(self, samples: int, columns: Columns) -> Ints:
        if callable(self.rows):
            chosen = np.asarray(self.rows(columns))
            if chosen.dtype != np.bool_ or chosen.shape != (samples,):
                raise ConfigError(
                    f"Subset: the function returned {chosen.dtype} of shape {list(chosen.shape)}; "
                    f"return bool [{samples}], one a sample"
                )
            return np.flatnonzero(chosen)
        rows = np.asarray(self.rows)
        if rows.size and rows.dtype.kind not in "iu":
            raise ConfigError(f"Subset: rows are {rows.dtype}; pass sample numbers, or a function that returns bool")
        rows = np.sort(rows.astype(np.int64).reshape(-1))
        if rows.size and not 0 <= rows[0] <= rows[-1] < samples:
            raise ConfigError(f"Subset: rows {rows[0]} to {rows[-1]}: the data has samples 0 to {samples - 1}")
        twice = rows[:-1][rows[1:] == rows[:-1]]
        if twice.size:
            raise ConfigError(
                f"Subset: row {twice[0]} is given twice; pass each once, or use Weighted to repeat samples"
            )
        return rows


class _BoundSubset:
    """The base's order over the chosen samples of each shard."""

    def __init__(self, base: Base, rows: Ints) -> None:
        self._rows, self._offsets = rows, base.offsets
        self._first = np.searchsorted(rows, self._offsets)  # of each shard, in `rows`
        self._order = base.order(np.diff(self._first))
        self.samples = len(rows)
        self.fingerprint = digest("Subset", rows)

    def locate(self, epochs: npt.ArrayLike, positions: npt.ArrayLike) -> tuple[Ints, Ints]:
        shards, places = self._order.locate(epochs, positions)
        return shards, self._rows[self._first[shards] + places] - self._offsets[shards]


@dataclass(frozen=True, slots=True)
class Weighted:
    """Samples with replacement, in proportion to a weight each.

    Systematic sampling (Kitagawa, "Monte Carlo filter and smoother", 1996): in each epoch a sample of weight w comes
    floor(c) or ceil(c) times, where c = w / sum(w) * samples is its expected number. The mean is exact, and the spread
    less than that of independent draws. Copies stay in their sample's shard, so that the window bounds the shards at
    hand as
    ever.

    Args:
        weights: name of a scalar field of the index, or an array [samples] in the order of packing; none negative.
        samples: length of an epoch; None: as many as the data has.

    Raises:
        ConfigError: from `bind`: a negative or infinite weight, all zero, or another number of them than samples.
    """

    weights: str | npt.ArrayLike
    samples: int | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.weights,) if isinstance(self.weights, str) else ()

    def bind(self, base: Base, columns: Columns) -> BoundSampler:
        weights = columns[self.weights] if isinstance(self.weights, str) else self.weights
        weights = np.asarray(weights, np.float64)
        return _BoundWeighted(base, weights, np.zeros(weights.shape, np.int64), self.samples, "Weighted")


@dataclass(frozen=True, slots=True)
class ClassBalanced:
    """Samples with replacement so that every class comes equally often: `Weighted` by 1 / size of the class.

    Args:
        field: name of the scalar field that holds the class.
        samples: length of an epoch; None: as many as the data has.
    """

    field: str = "label"
    samples: int | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.field,)

    def bind(self, base: Base, columns: Columns) -> BoundSampler:
        _, classes, counts = np.unique(columns[self.field], return_inverse=True, return_counts=True)
        return _BoundWeighted(base, 1.0 / counts[classes], classes, self.samples, "ClassBalanced")


class _BoundWeighted:
    """In each epoch the base's order over shards whose samples stand there as often as they were drawn."""

    def __init__(
        self, base: Base, weights: npt.NDArray[np.float64], groups: Ints, samples: int | None, name: str
    ) -> None:
        if weights.shape != (base.samples,):
            raise ConfigError(
                f"{name}: weights of shape {list(weights.shape)}; pass one for each of {base.samples} samples"
            )
        wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
        if wrong.size:
            raise ConfigError(
                f"{name}: weight {weights[wrong[0]]} of sample {wrong[0]}; weights are finite and not negative"
            )
        if samples is not None and samples < 0:
            raise ConfigError(f"{name}(samples={samples}): must not be negative")
        total = float(weights.sum())
        if base.samples and not total > 0:
            raise ConfigError(f"{name}: all weights are 0; give some sample a weight above 0")
        self.samples = base.samples if samples is None else samples
        self._base, self._offsets = base, base.offsets
        self._expected = weights * (self.samples / total if total else 0.0)  # [n] copies of each sample
        self._groups = groups  # [n] drawn one after the other, so that each comes within 1 of its expectation
        self._epoch = lru_cache(maxsize=2)(self._build_epoch)
        self.fingerprint = digest(name, weights, np.array([self.samples]))

    def _build_epoch(self, epoch: int) -> tuple[Order, Ints]:
        key = combine(self._base.seed, epoch, _SYSTEMATIC)
        count = len(self._expected)
        line = np.lexsort((combine_array(key, np.arange(count)), self._groups))  # shuffled inside each group
        reached = np.floor(np.cumsum(self._expected[line]) + draw(key, _OFFSET_DRAW, 0)).astype(np.int64)
        reached = np.minimum(reached, self.samples)
        reached[-1:] = self.samples  # whatever the sum's rounding left of it
        copies = np.empty(count, np.int64)
        copies[line] = np.diff(reached, prepend=0)
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(copies)])  # [n + 1] in the order of packing
        return self._base.order(np.diff(before[self._offsets])), before

    def locate(self, epochs: npt.ArrayLike, positions: npt.ArrayLike) -> tuple[Ints, Ints]:
        i = np.asarray(positions, np.int64).reshape(-1)
        per_position = np.broadcast_to(np.asarray(epochs, np.int64), i.shape)
        shards, rows = np.empty_like(i), np.empty_like(i)
        for epoch in np.unique(per_position).tolist():
            here = np.flatnonzero(per_position == epoch)
            order, before = self._epoch(epoch)
            shards[here], copies = order.locate(epoch, i[here])
            first = self._offsets[shards[here]]
            rows[here] = np.searchsorted(before, before[first] + copies, "right") - 1 - first
        return shards, rows


@dataclass(frozen=True, slots=True)
class Stratified:
    """Every sample once an epoch, and every batch with the classes in proportion.

    The j-th sample of a class of m, in the shuffled order, stands at (j + 1/2) / m of the epoch (Webster's
    apportionment): the first i positions hold i * m / samples of the class, give or take one.

    Args:
        field: name of the scalar field that holds the class.
    """

    field: str = "label"

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.field,)

    def bind(self, base: Base, columns: Columns) -> BoundSampler:
        return _BoundStratified(base, columns[self.field])


class _BoundStratified:
    """Holds the sequence of the epochs in use, for the order of a class cannot be computed position by position."""

    def __init__(self, base: Base, classes: npt.NDArray[Any]) -> None:
        self._order, self._offsets = base.order(), base.offsets
        _, self._classes, counts = np.unique(classes, return_inverse=True, return_counts=True)
        self._counts = counts.astype(np.float64)
        self.samples = base.samples
        self._epoch = lru_cache(maxsize=2)(self._build_epoch)
        self.fingerprint = digest("Stratified", self._classes)

    def _build_epoch(self, epoch: int) -> Ints:
        shards, rows = self._order.locate(epoch, np.arange(self.samples))
        shuffled = self._offsets[shards] + rows
        classes = self._classes[shuffled]
        grouped = np.argsort(classes, kind="stable")
        starts = np.searchsorted(classes[grouped], np.arange(len(self._counts)))
        number = np.empty(self.samples, np.int64)  # of each sample in its class, in the shuffled order
        number[grouped] = np.arange(self.samples) - starts[classes[grouped]]
        time = (number + 0.5) / self._counts[classes]
        return shuffled[np.argsort(time, kind="stable")]

    def locate(self, epochs: npt.ArrayLike, positions: npt.ArrayLike) -> tuple[Ints, Ints]:
        i = np.asarray(positions, np.int64).reshape(-1)
        per_position = np.broadcast_to(np.asarray(epochs, np.int64), i.shape)
        samples = np.empty_like(i)
        for epoch in np.unique(per_position).tolist():
            here = per_position == epoch
            samples[here] = self._epoch(epoch)[i[here]]
        shards = np.searchsorted(self._offsets, samples, "right") - 1
        return shards, samples - self._offsets[shards]
