"""Arrays and numbers: .npy files and ASCII numbers."""

from __future__ import annotations

import io
import math
import re
import tokenize
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from fastload.decode.base import Like, Raw, Spec
from fastload.decode.text import LIST
from fastload.errors import ConfigError, DecodeError
from fastload.fields import Scalar, Tensor

NPY_MAGIC = b"\x93NUMPY"
NUMBER_KINDS = "biufc"  # numpy's kind letters of booleans, integers and floats; no objects, strings or records
_SIZE = rb"(?:0|[1-9][0-9]{0,14})"
_PLAIN_HEADER = re.compile(
    rb"\{'descr': '([<|](?:b1|[iu][1248]|f[248]|c8|c16))', 'fortran_order': (True|False), "
    rb"'shape': \((" + _SIZE + rb",|" + _SIZE + rb"(?:, " + _SIZE + rb")+)\), \} *\n\Z"
)
_INTEGER = re.compile(rb"[+-]?[0-9]+\Z")
_FLOAT = re.compile(rb"[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|inf|nan)\Z", re.IGNORECASE)


class TensorDecoder:
    """A .npy file to an array of the declared shape and dtype; without a shape, of its own."""

    def __init__(self, field: Tensor, dtype: str | None = None) -> None:
        self.shape = field.shape
        self.dtype = np.dtype(field.dtype or dtype or "float32")
        if self.dtype.kind not in NUMBER_KINDS:
            raise ConfigError(f"Tensor(dtype={str(self.dtype)!r}): not a dtype of numbers; declare it as Bytes()")
        self.like: Like | None = None  # of the last rows, if they were of the dtype that is wanted
        self.spec = LIST if field.shape is None else Spec(shape=field.shape, dtype=self.dtype)

    def decode_into(self, raw: Raw, out: npt.NDArray[Any], key: int) -> int:
        array = stored_array(raw)
        if array.shape != self.shape:
            raise DecodeError(f"array of shape {array.shape}, where the field declares {self.shape}")
        cast_into(array, out)
        if array.dtype == self.dtype and array.flags.c_contiguous and not is_typed(raw):
            self._learn(raw, array)
        return 0

    def _learn(self, raw: Raw, array: npt.NDArray[Any]) -> None:
        start = len(raw) - array.nbytes
        if self.like is None or self.like.head != raw[:start]:
            self.like = Like(bytes(raw[:start]), self.dtype, exact=True)

    def decode(self, raw: Raw, key: int) -> npt.NDArray[Any]:
        array = stored_array(raw)
        if self.shape is not None and array.shape != self.shape:
            raise DecodeError(f"array of shape {array.shape}, where the field declares {self.shape}")
        out = np.empty(array.shape, self.dtype)
        cast_into(array, out)
        return out


class ScalarDecoder:
    """An ASCII number, as WebDataset writes classes ("7"), white space around it ignored."""

    def __init__(self, field: Scalar, dtype: str | None = None) -> None:
        declared = field.dtype
        if declared is None:
            declared = "float32" if dtype is not None and np.dtype(dtype).kind == "f" else "int64"
        self.dtype = np.dtype(declared)
        if self.dtype.kind not in "biuf":
            raise ConfigError(f"Scalar(dtype={declared!r}): pass an integer, float or boolean dtype")
        self.spec = Spec(shape=(), dtype=self.dtype)

    def decode_into(self, raw: Raw, out: npt.NDArray[Any], key: int) -> int:
        out[...] = self._number(raw)
        return 0

    def decode(self, raw: Raw, key: int) -> object:
        return self.dtype.type(self._number(raw))

    def _number(self, raw: Raw) -> int | float:
        text = bytes(raw[:64]).strip() if len(raw) <= 64 else b""  # the longest float64 has 25 characters
        if self.dtype.kind == "f":
            return self._float(raw, text)
        if not _INTEGER.match(text):
            raise DecodeError(f"not an integer in ASCII: {len(raw)} bytes that start with {bytes(raw[:16])!r}")
        number = int(text)
        low, high = (0, 1) if self.dtype.kind == "b" else (np.iinfo(self.dtype).min, np.iinfo(self.dtype).max)
        if not low <= number <= high:
            raise DecodeError(f"{number} does not fit into {self.dtype}, which holds {low} to {high}")
        return number

    def _float(self, raw: Raw, text: bytes) -> float:
        if not _FLOAT.match(text):
            raise DecodeError(f"not a number in ASCII: {len(raw)} bytes that start with {bytes(raw[:16])!r}")
        number, limit = float(text), float(np.finfo(self.dtype).max)
        if abs(number) > limit and b"inf" not in text.lower():
            raise DecodeError(f"{text.decode()} does not fit into {self.dtype}, which ends at {limit}")
        return number


def is_typed(raw: Raw) -> bool:
    """Whether these are numbers as they lie in a column, which say their dtype themselves, and not a file's bytes."""
    return type(raw) is memoryview and raw.format != "B"


def stored_array(raw: Raw) -> npt.NDArray[Any]:
    """The array in a .npy file or a typed view; as `read_npy`."""
    return np.asarray(raw) if is_typed(raw) else read_npy(raw)


def read_npy(raw: Raw) -> npt.NDArray[Any]:
    """The array of a .npy file (format 1.0 or 2.0), as a read-only view of `raw`; never unpickles.

    Raises: DecodeError for another file, a truncated one, or elements that are not numbers.
    """
    magic = bytes(raw[:8])
    if magic[:6] != NPY_MAGIC:
        raise DecodeError(f"not a .npy file: {len(raw)} bytes that start with {magic!r}")
    version = tuple(magic[6:])
    if version not in ((1, 0), (2, 0)):
        raise DecodeError(f".npy format {version}, where 1.0 and 2.0 are known; save it with numpy.save")
    size_bytes = 2 if version == (1, 0) else 4
    start = 8 + size_bytes + int.from_bytes(raw[8 : 8 + size_bytes], "little")
    if len(raw) < max(start, 8 + size_bytes):
        raise DecodeError(f".npy file ends after {len(raw)} bytes, inside its header of {start} bytes")
    shape, fortran, dtype = npy_header(bytes(raw[:start]))
    count = math.prod(shape)
    if len(raw) - start != count * dtype.itemsize:
        raise DecodeError(
            f".npy file of {len(raw)} bytes, where {dtype} of shape {shape} needs {start + count * dtype.itemsize}"
        )
    return np.frombuffer(raw, dtype, count, start).reshape(shape, order="F" if fortran else "C")


@lru_cache(maxsize=256)  # samples share a few headers, and parsing one takes longer than copying a small array
def npy_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and dtype from the header of a .npy file, magic and all; DecodeError as of `read_npy`."""
    plain = _PLAIN_HEADER.match(header, 10) if header[6] == 1 else None
    if plain is not None:  # as numpy writes it; documents of many lengths have many headers, and numpy parses Python
        shape = tuple(int(size) for size in plain[3].split(b",") if size)
        return shape, plain[2] == b"True", np.dtype(plain[1].decode())
    read = np.lib.format.read_array_header_1_0 if header[6] == 1 else np.lib.format.read_array_header_2_0
    try:
        shape, fortran, dtype = read(io.BytesIO(header[8:]))
    except (ValueError, TypeError, tokenize.TokenError) as error:
        raise DecodeError(f".npy header cannot be read: {error}") from error
    if dtype.kind not in NUMBER_KINDS:
        raise DecodeError(f".npy elements are {dtype}; save them as numbers, or declare the field as Bytes()")
    if any(d < 0 for d in shape):
        raise DecodeError(f".npy shape {shape} has a negative dimension")
    return shape, fortran, dtype


def cast_into(array: npt.NDArray[Any], out: npt.NDArray[Any]) -> None:
    """Copy `array` into `out` of the same shape and another dtype, rounding precision but never losing range or kind.

    Raises: DecodeError if the kinds differ (float to integer, signed to unsigned, complex to real) or a value does
    not fit.
    """
    if np.can_cast(array.dtype, out.dtype, "safe"):
        np.copyto(out, array)
        return
    if not np.can_cast(array.dtype, out.dtype, "same_kind"):
        raise DecodeError(f"{array.dtype} values would lose as {out.dtype}; declare dtype='{array.dtype.name}'")
    if out.dtype.kind in "iu" and array.size:
        low, high = array.min(), array.max()
        if int(low) < np.iinfo(out.dtype).min or int(high) > np.iinfo(out.dtype).max:
            raise DecodeError(f"{array.dtype} values from {low} to {high} do not fit into {out.dtype}")
    try:
        with np.errstate(over="raise"):  # context-local, so that other threads see none of it
            np.copyto(out, array, casting="same_kind")
    except FloatingPointError as error:
        raise DecodeError(f"{array.dtype} values overflow {out.dtype}; declare dtype='{array.dtype.name}'") from error
