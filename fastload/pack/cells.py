"""What becomes of one cell of a manifest, by the kind of its field; an `Unfit` says why nothing does."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastload.pack.npyfiles import array_info, npy_bytes
from fastload.pack.table import Column, Inline, Values, class_table, label_info
from fastload.pack.values import Unfit, refuse_blank, shown
from fastload.shards.index import FieldInfo

_INT64 = range(-(1 << 63), 1 << 63)


def class_name(column: str, forced: bool, value: Any) -> str:
    """The name of a class; an integer is one only where the kind is `forced`."""
    if not isinstance(value, str) and not (forced and isinstance(value, int)):
        raise Unfit(f"column {column!r} has {shown(value)} among class names; write it as text")
    refuse_blank("column", column, str(value))
    return str(value)


def number(column: str, value: Any) -> bool | int | float:
    found = value if isinstance(value, int | float) else parsed(value)
    if found is None:
        raise Unfit(f"column {column!r} has {shown(value)}, which is no number")
    try:
        float(found)
    except OverflowError:
        raise Unfit(f"column {column!r} has {shown(value)}, beyond all numbers of 64 bits") from None
    return found


def beyond_64_bits(column: str, numbers: Iterable[bool | int | float | None]) -> dict[int, str]:
    """Which of some integers, by row, none of 64 bits can be; none where there are fractions: then all are float64."""
    listed = list(numbers)
    if any(isinstance(value, float) for value in listed):
        return {}
    return {
        row: f"column {column!r} has {value}, beyond the integers of 64 bits"
        for row, value in enumerate(listed)
        if value is not None and value not in _INT64
    }


def text(column: str, value: Any) -> bytes:
    if isinstance(value, list | dict):
        raise Unfit(f"column {column!r} has {shown(value)}, which is no text")
    return str(value).encode()


def document(column: str, written: bool, value: Any) -> bytes:
    """JSON; `written`: text is JSON already, and no value of it."""
    if not written or not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).encode()
    try:
        json.loads(value)
    except (ValueError, RecursionError) as error:
        raise Unfit(f"column {column!r} has {shown(value)}, which is not JSON ({error})") from error
    return value.encode()


def array(column: str, kind: str, value: Any) -> npt.NDArray[Any]:
    try:
        found = np.asarray(value, np.int64 if kind == "tokens" else np.float32)
    except (ValueError, TypeError, OverflowError) as error:
        raise Unfit(f"column {column!r} has {shown(value)}, which is no array of numbers ({error})") from error
    if found.dtype.kind == "f" and np.isnan(found).any() and _has_null(value):  # numpy makes NaN of it
        raise Unfit(f"column {column!r} has {shown(value)}, a list with a null in it")
    if kind == "tokens" and (found.ndim != 1 or any(isinstance(item, float) for item in value)):
        raise Unfit(f"column {column!r} has {shown(value)}: tokens are one list of integers")
    return found


def _has_null(value: Any) -> bool:
    return value is None or (isinstance(value, list) and any(map(_has_null, value)))


def is_number(value: Any) -> bool:
    """Whether a cell of no given kind is one of numbers."""
    return not isinstance(value, bool) and (isinstance(value, int | float) or parsed(value) is not None)


def parsed(value: Any) -> int | float | None:
    """The number that a cell spells; no underscores, no hexadecimal, no infinities spelt out."""
    if not isinstance(value, str) or not value or not value.isascii() or "_" in value:
        return None
    try:
        return int(value)
    except ValueError:
        pass
    try:
        found = float(value)
    except ValueError:
        return None
    return found if math.isfinite(found) or value.lower() == "nan" else None


def column_of(kind: str, made: Sequence[Any]) -> tuple[Column, FieldInfo]:
    """The column of what the functions above made of all cells."""
    match kind:
        case "label":
            classes, labels = class_table(made)
            return Values(values=labels), label_info(classes)
        case "scalar":
            return _numbers(made)
        case "tensor" | "tokens":
            info = array_info(kind, {(item.shape, item.dtype.name) for item in made})
            return Inline(contents=[npy_bytes(item) for item in made]), info
    return Inline(contents=made), FieldInfo(kind="json" if kind == "json" else "text")


def _numbers(made: Sequence[Any]) -> tuple[Column, FieldInfo]:
    kinds = set(map(type, made))
    # the fractions that excused integers beyond 64 bits may be in rows that are left out for another column
    whole = float not in kinds and all(value in _INT64 for value in made)
    dtype = "bool" if kinds == {bool} else "int64" if whole else "float64"
    return Values(values=np.array(made, dtype)), FieldInfo(kind="scalar", dtype=dtype)
