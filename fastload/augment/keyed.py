"""Keyed draws on tensors: the arithmetic of `fastload.order.hashing` in torch, the same bits on CPU and CUDA.

torch has no unsigned 64-bit arithmetic on all devices; int64 wraps around alike in addition and multiplication, and a
right shift that must bring in zeros is masked.

All draws of a batch come from one hash over [B, K]: `uniforms` gives the numbers 0 to K - 1 of one operation, and
`drawn` those of several operations at once, each the same as if it were drawn alone.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from fastload.augment import gpu
from fastload.order.hashing import GOLDEN, MIX_A, MIX_B

Function = TypeVar("Function", bound=Callable[..., Any])


def _signed(word: int) -> int:
    """The int64 with the bits of this uint64."""
    return word - (1 << 64) if word >= 1 << 63 else word


_GOLDEN, _MIX_A, _MIX_B = _signed(GOLDEN), _signed(MIX_A), _signed(MIX_B)
_ULP = 2.0**-24  # uniform draws are multiples of this


def _shift(x: torch.Tensor, bits: int) -> torch.Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def combine(keys: torch.Tensor, word: int | torch.Tensor) -> torch.Tensor:
    """One step of `hashing.combine` on int64 [...] keys; the word is an integer or an int64 tensor that broadcasts."""
    x = (keys ^ word) + _GOLDEN
    x = (x ^ _shift(x, 30)) * _MIX_A
    x = (x ^ _shift(x, 27)) * _MIX_B
    return x ^ _shift(x, 31)


def compiled_as_constant(function: Function) -> Function:
    """Marks a function that `torch.compile` is to call while it compiles, and to take the result as a constant.

    `torch.compiler.assume_constant_result` does the same, but imports the compiler for it: 80 MiB and seconds of import
    that only a program that compiles should pay.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@compiled_as_constant
def operation_number(name: str) -> int:
    """The number that stands for an operation in its draws: a CRC-32 of its name, so that inserting another operation
    into a chain changes no draw of the rest. Above 2**32, clear of the numbers that decoders use."""
    return (1 << 32) | zlib.crc32(name.encode())


_constants: dict[tuple[object, ...], torch.Tensor] = {}


def constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A small tensor [n] on the device, made once: a copy to a GPU at every step would make the host wait.

    Not kept while torch compiles or traces, whose tensors are stand-ins or live in memory that a graph writes again.
    Among stand-ins, those that were kept are of no use.
    """
    found = _constants.get((values, dtype, device))
    if found is None or (type(found) is torch.Tensor and _pretended()):
        found = torch.tensor(values, dtype=dtype, device=device)
        if not torch.compiler.is_compiling() and type(found) is torch.Tensor:
            _constants[values, dtype, device] = found
    return found


def _pretended() -> bool:
    """Whether new tensors are stand-ins, as in a `FakeTensorMode`, without torch's compiler, which minds constants."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None


def moved(
    tensor: torch.Tensor, dtype: torch.dtype, device: torch.device, kept: dict[torch.device, torch.Tensor]
) -> torch.Tensor:
    """The tensor on the device, moved once and kept; not kept when `constant` is not."""
    found = kept.get(device)
    if found is None:
        found = tensor.to(device, dtype)
        if not torch.compiler.is_compiling():
            kept[device] = found
    return found


def uniform(keys: torch.Tensor, operation: int, number: int = 0) -> torch.Tensor:
    """Uniform float32 [B] in [0, 1) with 24 bits, one for each int64 [B] key: draw `number` of `operation`."""
    return _to_unit(combine(combine(keys, operation), number))


def uniforms(keys: torch.Tensor, operation: int, count: int) -> torch.Tensor:
    """Uniform float32 [B, count] in [0, 1): column k is `uniform(keys, operation, k)`. One hash for all."""
    found = _by_kernel(keys, count, word=operation)
    if found is not None:
        return found[0]
    numbers = torch.arange(count, device=keys.device)
    return _to_unit(combine(combine(keys, operation)[:, None], numbers))


def drawn(keys: torch.Tensor, operations: tuple[tuple[int, int], ...]) -> list[torch.Tensor]:
    """The draws of several operations in one hash.

    Args:
        keys: int64 [B].
        operations: (operation, count) each.

    Returns:
        For each operation float32 [B, count], equal to `uniforms(keys, operation, count)`.
    """
    counts = [count for _, count in operations]
    words = tuple(operation for operation, count in operations for _ in range(count))
    numbers = tuple(number for count in counts for number in range(count))
    tables = constant(words, torch.int64, keys.device), constant(numbers, torch.int64, keys.device)
    found = _by_kernel(keys, len(words), tables=tables)
    values = _to_unit(combine(combine(keys[:, None], tables[0]), tables[1])) if found is None else found[0]
    return list(values.split(counts, 1))


def _by_kernel(
    keys: torch.Tensor,
    columns: int,
    *,
    word: int | None = None,
    tables: tuple[torch.Tensor, torch.Tensor] | None = None,
    second: bool = False,
) -> tuple[torch.Tensor, ...] | None:
    """All draws by one kernel, where torch takes thirty: float32 [B, columns] of the first 24 bits of each hash, and of
    the `second` ones; None where no kernel runs.

    Args:
        word: combined with the keys before the number of the column is. Or `tables`, int64 [columns], of such words and
            of numbers. Neither: the number alone.
    """
    if not gpu.usable(keys) or not len(keys) or not columns:
        return None
    out = tuple(keys.new_empty((len(keys), columns), dtype=torch.float32) for _ in range(1 + second))
    block = gpu.kernels().BLOCK
    words, numbers = tables or (keys, keys)
    blocks = -(-columns // block)
    done = gpu.launch(
        "draws",
        (len(keys) * blocks,),
        keys,
        keys.contiguous(),
        words,
        numbers,
        out[0],
        out[-1],
        word or 0,
        columns,
        blocks,
        TABLES=tables is not None,
        TWICE=word is not None,
        SECOND=second,
        BLOCK=block,
    )
    return out if done else None


def _to_unit(words: torch.Tensor) -> torch.Tensor:
    """The first 24 bits of each word as float32 in [0, 1)."""
    return _shift(words, 40).to(torch.float32) * _ULP


def seeds(u: torch.Tensor) -> torch.Tensor:
    """int64 [B] keys with 48 bits, from the first two of float32 [B, K] uniform draws: for operations that draw a
    number for each pixel or sample of sound."""
    bits = (u[:, :2] * 2.0**24).to(torch.int64)
    return bits[:, 0] << 24 | bits[:, 1]


def normals(keys: torch.Tensor, count: int) -> torch.Tensor:
    """Standard normal float32 [B, count], two from each word (Box and Muller, 1958); at most 5.8 from 0.

    Args:
        keys: int64 [B], e.g. of `seeds`.
    """
    first, angle = _pairs(keys, (count + 1) // 2)
    radius = torch.sqrt(-2 * torch.log1p(-first))  # of 1 - u, which is never 0
    return torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], 1)[:, :count]


def _pairs(keys: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Uniform float32 [B, count] in [0, 1) and in [0, 2 pi), from one word for both."""
    found = _by_kernel(keys, count, second=True)
    if found is not None:
        return found[0], found[1].mul_(2 * math.pi)
    words = combine(keys[:, None], torch.arange(count, device=keys.device))
    return _to_unit(words), (_shift(words, 16) & 0xFFFFFF).to(torch.float32) * (2 * math.pi * _ULP)


def between(u: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Uniform in [low, high) from uniform draws in [0, 1)."""
    return u * (high - low) + low


def spread(
    u: torch.Tensor, spans: Sequence[Sequence[float]], chosen: torch.Tensor, neutral: tuple[float, ...]
) -> tuple[torch.Tensor, ...]:
    """Several parameters at once: [B] each, column i of uniform [B, K] draws brought `between` the bounds of its span
    where bool [B] `chosen`, else its neutral value."""
    low, width = tuple(float(a) for a, _ in spans), tuple(float(b - a) for a, b in spans)
    values = u * constant(width, u.dtype, u.device) + constant(low, u.dtype, u.device)
    return torch.where(chosen[:, None], values, constant(neutral, u.dtype, u.device)).unbind(1)


def below(u: torch.Tensor, count: int) -> torch.Tensor:
    """int64 in [0, count) from uniform draws in [0, 1). The product may round up to `count` itself."""
    return (u * count).to(torch.int64).clamp_(max=count - 1)
