"""Keyed draws on tensors: the arithmetic of `fastload.order.hashing` in torch, the same bits on CPU and CUDA.

torch has no unsigned 64-bit arithmetic on all devices; int64 wraps around alike in addition and multiplication, and a
right shift that must bring in zeros is masked.
"""

from __future__ import annotations

import zlib

import torch

from fastload.order.hashing import GOLDEN, MIX_A, MIX_B


def _signed(word: int) -> int:
    """The int64 with the bits of this uint64."""
    return word - (1 << 64) if word >= 1 << 63 else word


_GOLDEN, _MIX_A, _MIX_B = _signed(GOLDEN), _signed(MIX_A), _signed(MIX_B)


def _shift(x: torch.Tensor, bits: int) -> torch.Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def combine(keys: torch.Tensor, word: int) -> torch.Tensor:
    """One step of `hashing.combine` on int64 [...] keys."""
    x = (keys ^ word) + _GOLDEN
    x = (x ^ _shift(x, 30)) * _MIX_A
    x = (x ^ _shift(x, 27)) * _MIX_B
    return x ^ _shift(x, 31)


def operation_number(name: str) -> int:
    """The number that stands for an operation in its draws: a CRC-32 of its name, so that inserting another operation
    into a chain changes no draw of the rest. Above 2**32, clear of the numbers that decoders use."""
    return (1 << 32) | zlib.crc32(name.encode())


def uniform(keys: torch.Tensor, operation: int, number: int = 0) -> torch.Tensor:
    """Uniform float32 [B] in [0, 1) with 24 bits, one for each int64 [B] key: draw `number` of `operation`."""
    bits = _shift(combine(combine(keys, operation), number), 40)
    return bits.to(torch.float32) * 2.0**-24
