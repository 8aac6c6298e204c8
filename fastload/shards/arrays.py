"""Arrow arrays from numpy's and Python's, and numpy's from Arrow's, by their buffers.

`pa.array` looks whether it was given something of pandas, and imports pandas for that where it is installed: 0.25 s of
every process that packs. So does `to_numpy`: 0.17 s before the first batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_LARGEST_OFFSET = np.iinfo(np.int32).max


def strings(values: Sequence[str]) -> pa.Array:
    """`pa.array(values, pa.string())`, the same to the byte."""
    joined = "".join(values)
    content = joined.encode()
    lengths = map(len, values) if len(content) == len(joined) else (len(value.encode()) for value in values)
    ends = np.cumsum(np.fromiter(lengths, np.int64, len(values)))
    if len(content) > _LARGEST_OFFSET:
        return pa.array(values, pa.string())
    offsets = np.zeros(len(values) + 1, np.int32)
    offsets[1:] = ends
    return pa.StringArray.from_buffers(len(values), pa.py_buffer(offsets), pa.py_buffer(content))


def numbers(values: npt.NDArray[Any]) -> pa.Array:
    """`pa.array(values)` for integers, floats and booleans of one dimension, the same to the byte."""
    bits = np.packbits(values, bitorder="little") if values.dtype == bool else np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(bits)])


def to_numpy(array: pa.Array) -> npt.NDArray[Any]:
    """`array.to_numpy(zero_copy_only=False)` of an array of numbers or booleans that lacks none, read-only; only
    booleans are copied.

    Raises:
        ValueError: another type, or an array that has nulls.
    """
    name = _NUMPY_NAMES.get(str(array.type), str(array.type))
    if array.null_count or name not in _NUMBERS:
        raise ValueError(f"{array.type} with {array.null_count} nulls: pass numbers without nulls")
    start, stop = array.offset, array.offset + len(array)
    content = array.buffers()[1] or b""
    if name == "bool":
        bits = np.unpackbits(np.frombuffer(content, np.uint8), count=stop, bitorder="little")
        found = bits[start:].astype(np.bool_)
    else:
        found = np.frombuffer(content, name, count=stop if content else 0)[start:]
    found.flags.writeable = False
    return found


def items(values: npt.NDArray[Any]) -> memoryview:
    """A view of numbers that gives each as one of Python's. Before 3.12 it knows no float16: float32 stands for it."""
    return np.ascontiguousarray(values.astype(np.float32) if values.dtype == np.float16 else values).data


def array_of(values: Sequence[Any]) -> npt.NDArray[Any]:
    """The numbers of a column. np.array makes floats, which hold 53 bits, of integers on both sides of 2**63."""
    found = np.array(values)
    wide = found.dtype.kind == "f" and isinstance(values[0] if len(values) else 0.0, int)
    return np.array(values, np.uint64) if wide else found


_NUMPY_NAMES = {"halffloat": "float16", "float": "float32", "double": "float64"}
_NUMBERS = {"bool", "float16", "float32", "float64", *(f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32, 64))}
