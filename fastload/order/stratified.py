"""Every sample once, each batch with the classes in proportion."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from fastload.order.pattern import Composed, Pattern
from fastload.order.sampler import Base, BoundSampler, Columns, digest
from fastload.order.shuffle import Ints


@dataclass(frozen=True, slots=True)
class Stratified:
    """Every sample once an epoch, and every batch of every rank with the classes in proportion.

    Which class each position has is a pattern (`order.pattern`), the same in every epoch; the samples of a class come
    in the shuffled order. The first i positions of an epoch hold i * m / n samples of a class of m of n, give or take
    less than 1; any batch, less than 2. Where shards hold one class each, a batch has to read from as many shards as
    there are classes.

    The pattern takes about 3 us a sample, when the data set is opened. An epoch is sorted when it begins, in about 0.4
    us a sample; resuming inside one costs the same again. Holds about 56 bytes a sample.

    Args:
        field: name of the scalar field that holds the class.
    """

    field: str = "label"

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.field,)

    def bind(self, base: Base, columns: Columns) -> BoundSampler:
        return BoundStratified(base, columns[self.field])


class BoundStratified(Composed):
    """Holds the samples of the epochs in use, for the order of a class cannot be computed position by position."""

    def __init__(self, base: Base, classes: npt.NDArray[Any]) -> None:
        self._base, self._order = base, base.order()
        _, self._classes, counts = np.unique(classes, return_inverse=True, return_counts=True)
        self.pattern, self.parts = Pattern(counts.tolist()), {}
        self._first = np.cumsum(counts) - counts  # [classes] in an epoch's samples, class after class
        self.samples = base.samples
        self._epoch = lru_cache(maxsize=2)(self._build_epoch)
        self.fingerprint = digest("Stratified", self._classes)

    def _build_epoch(self, epoch: int) -> Ints:
        """The samples of class 0 in the shuffled order, then those of class 1, ..."""
        shards, places = self._order.locate(epoch, np.arange(self.samples))
        shuffled = self._base.offsets[shards] + places
        return shuffled[np.argsort(self._classes[shuffled], kind="stable")]

    def locate(self, epochs: npt.ArrayLike, positions: npt.ArrayLike) -> tuple[Ints, Ints]:
        i = np.asarray(positions, np.int64).reshape(-1)
        per_position = np.broadcast_to(np.asarray(epochs, np.int64), i.shape)
        classes, numbers = self.pattern.locate(i)
        samples = np.empty_like(i)
        for epoch in np.unique(per_position).tolist():
            here = np.flatnonzero(per_position == epoch)
            samples[here] = self._epoch(epoch)[self._first[classes[here]] + numbers[here]]
        return self._base.place(samples)
