"""Which split something goes to: a keyed hash of its token, so that adding samples never moves one that was there.

A token is what decides together: a sample's content, by its hash, or the group that it belongs to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from fastload.order.hashing import combine

Int64s = npt.NDArray[np.int64]
_PURPOSE_SPLIT, _PURPOSE_SHUFFLE, _PURPOSE_CLASS = 1, 2, 3  # so that the draws for one key are independent


def assign(tokens: Sequence[str | bytes], ratios: Mapping[str, float], seed: int) -> Int64s:
    """The split of each token, int64 [n], as numbers into `ratios`: where a uniform hash falls between their sums."""
    uniform = _hashes(tokens, combine(seed, _PURPOSE_SPLIT)) * 2.0**-64
    return _between(uniform, ratios)


def assign_stratified(
    tokens: Sequence[str | bytes], classes: Sequence[str], ratios: Mapping[str, float], seed: int
) -> Int64s:
    """The split of each token, int64 [n], with the shares kept in every class to less than one token.

    Systematic sampling: the n distinct tokens of a class stand in the order of their hashes at (i + u) / n, i from 0,
    where u in [0, 1) is a hash of the class's name, so that classes too small for every split do not all leave out the
    same one (Cochran, "Sampling Techniques", chapter 8). A token of several classes counts for the first by name.

    No rule can keep both the shares exact and every sample in place as more are added. Here other classes never move
    anything; of the class that m samples are added to, at most m old ones cross each border between two splits (those
    whose hashes are nearest to it), all in one direction, and about sqrt(m) on average.
    """
    hashes, inverse = np.unique(_hashes(tokens, combine(seed, _PURPOSE_SPLIT)), return_inverse=True)
    names, numbers = np.unique(np.array(classes, dtype=object), return_inverse=True)
    class_of = np.full(len(hashes), len(names), np.int64)  # [distinct tokens]
    np.minimum.at(class_of, inverse, numbers)
    order = np.argsort(class_of, kind="stable")  # by class, then by hash
    counts = np.bincount(class_of, minlength=len(names))
    rank = np.empty(len(hashes), np.int64)
    rank[order] = np.arange(len(hashes)) - np.repeat(np.cumsum(counts) - counts, counts)
    offsets = _hashes([str(name) for name in names], combine(seed, _PURPOSE_CLASS)) * 2.0**-64
    place = (rank + offsets[class_of]) / counts[class_of]
    return _between(place, ratios)[inverse]


def shuffled(keys: Sequence[str], seed: int) -> Int64s:
    """Positions of the keys in the order of a keyed hash, int64 [n]."""
    return np.argsort(_hashes(keys, combine(seed, _PURPOSE_SHUFFLE)), kind="stable")


def _between(places: npt.NDArray[Any], ratios: Mapping[str, float]) -> Int64s:
    """Where places in [0, 1) fall between the sums of the ratios."""
    bounds = np.cumsum(list(ratios.values()))[:-1]
    return np.searchsorted(bounds, places, "right").astype(np.int64)


def _hashes(tokens: Sequence[str | bytes], key: int) -> npt.NDArray[np.uint64]:
    digest = xxhash.xxh3_64_intdigest
    return np.array([digest(t.encode() if isinstance(t, str) else t, key) for t in tokens], np.uint64)
