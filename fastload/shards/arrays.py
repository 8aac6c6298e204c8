"""Arrow arrays from numpy's and Python's, from their buffers.

`pa.array` looks whether it was given something of pandas, and imports pandas for that where it is installed: 0.25 s of
every process that packs.
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
