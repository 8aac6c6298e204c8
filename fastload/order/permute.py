"""A keyed bijection of [0, n) that is computed, not stored: a Feistel network with cycle walking.

Source: Black, Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002 (a Feistel network over the next power of four, applied
again while the result lies outside the domain). Eight rounds, and at least three bits a side: with two, the network makes even permutations only, which shows on domains of a few
elements (`tests/order/test_permute.py` holds all 120 permutations of 5 elements to equal frequency).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fastload.order.hashing import GOLDEN, MASK64, MIX_A, MIX_B, U64, mix64

ROUNDS = 8
MAX_DOMAIN = 1 << 52  # bit lengths are read off float64 exponents, exact up to here

_ROUND_CONSTANTS = [np.uint64(mix64((GOLDEN * (i + 1)) & MASK64)) for i in range(ROUNDS)]
_MIX_A, _MIX_B = np.uint64(MIX_A), np.uint64(MIX_B)
_S29, _S32 = np.uint64(29), np.uint64(32)


def permute(x: npt.ArrayLike, n: npt.ArrayLike, key: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Where each x goes under the bijection of [0, n) that `key` names.

    Args:
        x: int [k], each in [0, n).
        n: int, or int [k] if elements belong to different domains; at most 2**52.
        key: uint64, or uint64 [k] likewise.

    Returns:
        int64 [k]. For fixed n and key, x -> result is one-to-one onto [0, n).
    """
    values = np.array(x, np.uint64).reshape(-1)
    sizes = np.broadcast_to(np.asarray(n, np.uint64), values.shape)
    keys = np.broadcast_to(np.asarray(key, np.uint64), values.shape)
    half = _half_bits(n, values.shape)
    walking = np.arange(len(values))
    out = np.empty_like(values)
    while len(walking):  # fewer each time: the domain is less than four times n (or 64 for tiny n)
        values = _network(values, half, keys)
        inside = values < sizes
        out[walking[inside]] = values[inside]
        outside = ~inside
        walking, values, sizes, keys = walking[outside], values[outside], sizes[outside], keys[outside]
        half = half[outside] if half.ndim else half
    return out.astype(np.int64)


def _half_bits(n: npt.ArrayLike, shape: tuple[int, ...]) -> U64:
    """Bits of each side of the network: the fewest with 4**half >= n, at least 3; a scalar if n is one."""
    sizes = np.asarray(n)
    if sizes.size and int(sizes.max()) > MAX_DOMAIN:
        raise ValueError(f"permute over {int(sizes.max())} elements: at most {MAX_DOMAIN}")
    bits = np.frexp(np.maximum(sizes.astype(np.float64) - 1, 0))[1]  # the bit length of n - 1
    half = np.maximum(3, (bits + 1) // 2).astype(np.uint64)
    return half if half.ndim == 0 else np.broadcast_to(half, shape)


def _network(values: U64, half: U64, keys: U64) -> U64:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for constant in _ROUND_CONSTANTS:
        mixed = (right + (keys ^ constant)) * _MIX_A
        mixed ^= mixed >> _S29
        mixed *= _MIX_B
        mixed ^= mixed >> _S32
        left, right = right, left ^ (mixed & mask)
    return (left << half) | right
