"""Keyed randomness: a counter-based hash instead of a running generator.

A draw is a pure function of what it is for: (seed, epoch, sample, operation, draw number). The mixing function is the
finaliser of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014; constants
by Stafford, variant 13). The same arithmetic stands in `fastload.augment.keyed` for torch; a test holds the two to the
same bits.
"""

from __future__ import annotations

from operator import index
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt

try:
    from fastload.order import _order
except ImportError:  # not built
    _order = None  # type: ignore[assignment]

U64 = npt.NDArray[np.uint64]

GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, odd: the increment of SplitMix64
MIX_A = 0xBF58476D1CE4E5B9
MIX_B = 0x94D049BB133111EB
MASK64 = (1 << 64) - 1

_GOLDEN, _MIX_A, _MIX_B = np.uint64(GOLDEN), np.uint64(MIX_A), np.uint64(MIX_B)
_S30, _S27, _S31 = np.uint64(30), np.uint64(27), np.uint64(31)


def mix64(x: int) -> int:
    """SplitMix64's finaliser on one integer in [0, 2**64): a bijection that spreads every bit over all 64."""
    x = ((x ^ (x >> 30)) * MIX_A) & MASK64
    x = ((x ^ (x >> 27)) * MIX_B) & MASK64
    return x ^ (x >> 31)


def mix64_array(x: U64) -> U64:
    """`mix64` of every element of a uint64 array of any shape."""
    x = np.multiply(x ^ (x >> _S30), _MIX_A)  # not `*`, which warns of the overflow that is meant, where x has no axis
    x = np.multiply(x ^ (x >> _S27), _MIX_B)
    return x ^ (x >> _S31)


def combine(*words: SupportsIndex) -> int:
    """One 64-bit key from any number of integers; the order of the words matters, and each counts modulo 2**64."""
    key = 0
    for word in words:
        key = combine_word(key, word)
    return key


def combine_word(key: SupportsIndex, word: SupportsIndex) -> int:
    """One step of `combine`: `combine(a, b) == combine_word(combine(a), b)`. Also of numpy's integers, whose own
    arithmetic would overflow."""
    return mix64(((index(key) ^ (index(word) & MASK64)) + GOLDEN) & MASK64)


def combine_array(key: int | U64, words: npt.ArrayLike) -> U64:
    """`combine(..., word)` continued over arrays: element-wise, `combine(a, b) == combine_array(combine(a), b)`.

    Raises:
        TypeError: words that are not integers, which would be rounded.
    """
    base, array = np.asarray(key, np.uint64), np.asarray(words)
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"words to hash have dtype {array.dtype}: pass integers that fit int64 or uint64")
    return mix64_array(np.add(base ^ array.astype(np.uint64), _GOLDEN))


def sample_keys(seed: int, epochs: npt.ArrayLike, samples: npt.ArrayLike) -> U64:
    """The key of each sample in its epoch, uint64 [B], from int64 [B] epochs (or one epoch) and sample indices.

    Every random decision about a sample (its crop, its augmentation) starts from this key, so that it does not depend
    on the batch, rank, worker or resume that the sample came by.
    """
    of_epoch, numbers = np.asarray(epochs), np.asarray(samples)
    if _order is not None and numbers.dtype == of_epoch.dtype == np.int64 and of_epoch.size in (1, numbers.size):
        keys = np.empty(numbers.shape, np.uint64)
        _order.sample_keys(seed & MASK64, np.ascontiguousarray(of_epoch), np.ascontiguousarray(numbers), keys)
        return keys
    if of_epoch.size and (of_epoch == of_epoch.flat[0]).all():  # one epoch, nearly always: half the work
        return combine_array(combine(seed, int(of_epoch.flat[0])), numbers)
    return combine_array(combine_array(combine(seed), of_epoch), numbers)


def draw(key: SupportsIndex, operation: int, number: int) -> float:
    """A uniform float in [0, 1) with 53 bits: draw `number` of `operation` for the sample with this key."""
    return (combine_word(combine_word(key, operation), number) >> 11) * 2.0**-53


# Operation numbers of the draws that decoders make. Augmentations hash their own names. Never renumber: saved runs rely
# on them.
OP_IMAGE_CROP = 1
OP_AUDIO_CROP = 2
