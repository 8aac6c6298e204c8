"""Samplers: which samples an epoch has, how often and in which order. They read the index, never the data.

A sampler is a small frozen value. `bind` gives it the columns of the index that it names, and makes a
`cursor.Ordering`: again a pure function from (epoch, position) to (shard, row), so that shares, states and resume work
as without a sampler. What a bound sampler holds is O(samples), the two epochs in use included, and most prepare each
epoch as a whole when it begins or a run is resumed inside it; each says what that takes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fastload.errors import ConfigError
from fastload.order.shuffle import Ints, Order

Columns = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Base:
    """What a sampler is laid over: samples of shards, and how these are shuffled.

    Attributes:
        sizes: samples of each shard that take part, int64 [S].
        seed, window, lanes: arguments of `shuffle.Order`.
        chosen: the rows that those samples have in their shards, int64 [samples], ascending in each; None: all take
            part.
    """

    sizes: Ints
    seed: int
    window: int
    lanes: int
    chosen: Ints | None = None

    @cached_property
    def samples(self) -> int:
        return int(self.sizes.sum())

    @cached_property
    def offsets(self) -> Ints:
        """First sample of each shard, int64 [S + 1]."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.sizes)])

    def order(self, sizes: Ints | None = None) -> Order:
        """The shuffled order over these shards, or over other sizes of them."""
        return Order(self.sizes if sizes is None else sizes, seed=self.seed, window=self.window, lanes=self.lanes)

    def rows(self, shards: Ints, places: Ints) -> Ints:
        """The rows of shards' samples number `places` (of those that take part)."""
        return places if self.chosen is None else self.chosen[self.offsets[shards] + places]

    def place(self, samples: Ints) -> tuple[Ints, Ints]:
        """Shard and row of samples, by their number among those that take part."""
        shards = np.searchsorted(self.offsets, samples, "right") - 1
        return shards, self.rows(shards, samples - self.offsets[shards])

    def only(self, samples: Ints) -> Base:
        """A base of some of the samples, given in ascending order."""
        shards, rows = self.place(samples)
        return replace(self, sizes=np.bincount(shards, minlength=len(self.sizes)).astype(np.int64), chosen=rows)


class BoundSampler(Protocol):
    """A `cursor.Ordering` that knows what it depends on.

    Attributes:
        fingerprint: digest of the sampler and the columns it was bound to, for saved states.
    """

    fingerprint: str

    @property
    def samples(self) -> int: ...

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
    """A name and 16 hex digits over it and arrays."""
    state = hashlib.blake2b(name.encode(), digest_size=8)
    for part in parts:
        state.update(f"{part.dtype.str}{part.shape}".encode())
        state.update(np.ascontiguousarray(part).tobytes())
    return f"{name}:{state.hexdigest()}"


def per_sample(name: str, values: npt.ArrayLike, samples: int) -> npt.NDArray[Any]:
    """`values` as an array [samples].

    Raises:
        ConfigError: another shape.
    """
    array = np.asarray(values)
    if array.shape != (samples,):
        raise ConfigError(f"{name} of shape {list(array.shape)}; pass one for each of {samples} samples")
    return array


@dataclass(frozen=True, slots=True)
class Subset:
    """Only some samples, each once an epoch; or another sampler over only these.

    Holds 8 bytes a sample chosen; epochs begin and resume at once, or as `then` says.

    Args:
        rows: sample numbers in the order of packing, in any order, none twice; or bool [samples]; or a function that is
            given the columns `fields` as a mapping of arrays [samples] and returns bool [samples].
        fields: the columns that the function wants: scalar fields, and facts such as "audio.seconds" or "image.width"
            (see `shards.columns`).
        then: a sampler over the samples chosen; what it takes one of for each sample is then of the chosen ones.

    Raises:
        ConfigError: from `bind`: a number out of range or given twice, or another shape from the function.
    """

    rows: npt.ArrayLike | Callable[[Columns], npt.ArrayLike]
    fields: tuple[str, ...] = ()
    then: Sampler | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        fields = (self.fields,) if isinstance(self.fields, str) else tuple(self.fields)
        return fields if self.then is None else (*fields, *self.then.columns)

    def bind(self, base: Base, columns: Columns) -> BoundSampler:
        rows = self._rows(base.samples, columns)
        chosen, fingerprint = base.only(rows), digest("Subset", rows)
        if self.then is None:
            return _BoundSubset(chosen, fingerprint)
        bound = self.then.bind(chosen, {name: values[rows] for name, values in columns.items()})
        bound.fingerprint = f"{fingerprint}+{bound.fingerprint}"
        return bound

    def _rows(self, samples: int, columns: Columns) -> Ints:
        if callable(self.rows):
            given = np.asarray(self.rows(columns))
            if given.dtype != np.bool_ or given.shape != (samples,):
                raise ConfigError(
                    f"Subset: the function returned {given.dtype} of shape {list(given.shape)}; "
                    f"return bool [{samples}], one a sample"
                )
            return np.flatnonzero(given)
        rows = np.asarray(self.rows)
        if rows.dtype == np.bool_:
            return np.flatnonzero(per_sample("Subset: bool", rows, samples))
        if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
            raise ConfigError(
                f"Subset: rows are {rows.dtype} of shape {list(rows.shape)}; pass a list of sample numbers, "
                f"bool [{samples}], or a function that returns that"
            )
        rows = np.sort(rows.astype(np.int64))
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

    def __init__(self, base: Base, fingerprint: str) -> None:
        self._base, self._order, self.fingerprint = base, base.order(), fingerprint
        self.samples = base.samples

    def locate(self, epochs: npt.ArrayLike, positions: npt.ArrayLike) -> tuple[Ints, Ints]:
        shards, places = self._order.locate(epochs, positions)
        return shards, self._base.rows(shards, places)
