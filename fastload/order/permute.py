"""A keyed bijection of [0, n) that is computed, not stored: a Feistel network with cycle walking.

Source: Black, Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002: a Feistel network over the next power of
two, applied again while the result lies outside the domain. Its sides differ by a bit where the power is odd.

Eight rounds, and at least three bits a side: with two, the network makes even permutations only, which shows on domains
of a few elements (`tests/order/test_permute.py` holds all 120 permutations of 5 elements to equal frequency).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fastload.order.hashing import GOLDEN, MASK64, MIX_A, MIX_B, U64, mix64

ROUNDS = 8  # even, so that the two sides end where they began
MIN_BITS = 6
MAX_DOMAIN = 1 << 52  # bit lengths are read off float64 exponents, exact up to here

_ROUND_CONSTANTS = [np.uint64(mix64((GOLDEN * (i + 1)) & MASK64)) for i in range(ROUNDS)]
_MIX_A, _MIX_B = np.uint64(MIX_A), np.uint64(MIX_B)
_ONE, _S29, _S32 = np.uint64(1), np.uint64(29), np.uint64(32)


def permute(x: npt.ArrayLike, n: npt.ArrayLike, key: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Where each x goes under the bijection of [0, n) that `key` names.

    Args:
        x: int [k], each in [0, n).
        n: int, or int [k] if elements belong to different domains; at most 2**52.
        key: uint64, or uint64 [k] likewise.

    Returns:
        int64 [k]. For fixed n and key, x -> result is one-to-one onto [0, n).

    Raises:
        ValueError: n above 2**52, an x outside [0, n), or rows of different lengths.
    """
    values = np.array(x, np.uint64).reshape(-1)
    sizes, keys = _row(n, values.shape), _row(key, values.shape)
    if sizes.size and int(sizes.max()) > MAX_DOMAIN:
        raise ValueError(f"permute over {int(sizes.max())} elements: at most {MAX_DOMAIN}")
    if (values >= sizes).any():  # walking on from outside might never end
        raise ValueError(f"permute of {np.asarray(x).reshape(-1)[values >= sizes][0]}: must be in [0, n)")
    if not sizes.ndim and not keys.ndim and int(sizes) <= 1 << MIN_BITS:
        return _permute_few(values, int(sizes), keys)
    bits = np.maximum(MIN_BITS, np.frexp(sizes.astype(np.float64) - 1)[1]).astype(np.uint64)  # exponent = bit length
    values = _network(values, bits, keys)
    values *= sizes != 1  # one element has nowhere to go, and would walk 64 steps to stay
    outside = np.flatnonzero(values >= sizes)
    while len(outside):  # fewer each time: the domain is less than twice n (or 64 for tiny n)
        again = _network(values[outside], _of(bits, outside), _of(keys, outside))
        values[outside] = again
        outside = outside[again >= _of(sizes, outside)]
    return values.astype(np.int64)


def _permute_few(values: U64, n: int, key: U64) -> npt.NDArray[np.int64]:
    """The same for a few elements of one domain: most of what the network gives lies outside then, and walking on by a
    table of it takes a fifth of the time."""
    if n == 1:
        return np.zeros(len(values), np.int64)
    table = _network(np.arange(1 << MIN_BITS, dtype=np.uint64), np.asarray(MIN_BITS, np.uint64), key)
    values = table[values]
    while (values >= n).any():
        values = np.where(values >= n, table[values], values)
    return values.astype(np.int64)


def _row(numbers: npt.ArrayLike, shape: tuple[int, ...]) -> U64:
    array = np.asarray(numbers, np.uint64)
    return np.broadcast_to(array, shape) if array.ndim else array


def _of(array: U64, at: npt.NDArray[np.intp]) -> U64:
    return array[at] if array.ndim else array


def _network(values: U64, bits: U64, keys: U64) -> U64:
    low = bits >> _ONE  # bits of the right side; the left has as many, or one more
    masks = (_ONE << (bits - low)) - _ONE, (_ONE << low) - _ONE
    left: U64 = values >> low
    right: U64 = values & masks[1]
    for i, constant in enumerate(_ROUND_CONSTANTS):
        mixed = (right + (keys ^ constant)) * _MIX_A
        mixed ^= mixed >> _S29
        mixed *= _MIX_B
        mixed ^= mixed >> _S32
        mixed &= masks[i & 1]
        mixed ^= left
        left, right = right, mixed
    return (left << low) | right
