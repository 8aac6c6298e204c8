"""Files of arrays: what all have in common, from their headers."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from fastload.errors import PackError
from fastload.pack.table import Files
from fastload.shards.index import FieldInfo, Kind
from fastload.shards.tarscan import npy_header

_HEAD_BYTES = 4096


def array_field(files: Files, kind: Kind, place: Callable[[int], str], faulty: bool) -> FieldInfo:
    """The field of .npy files, those that are empty or not there left aside.

    Args:
        files: those of all samples.
        kind: "tensor" or "tokens".
        place: what errors call one of them.
        faulty: files that hold no numbers, too, are left aside, for cleaning to find.

    Raises: PackError for a file that cannot be read or holds no numbers.
    """
    seen = set()
    for row, path in enumerate(files.paths):
        if files.sizes[row] <= 0:
            continue  # for cleaning to leave out
        try:
            with open(os.path.join(files.root, path), "rb", buffering=0) as file:
                about, why = npy_header(file.read(_HEAD_BYTES)), "is not a .npy file of numbers"
        except OSError as error:
            about, why = None, f"cannot be read: {error.strerror}"
        if about is not None:
            seen.add(about)
        elif not faulty:
            raise PackError(f"{place(row)} {why}; mend it, or leave such out with on_error='skip' (--on-error skip)")
    return array_info(kind, seen)


def array_info(kind: str, seen: set[tuple[tuple[int, ...], str]]) -> FieldInfo:
    """The field of arrays of these shapes and dtypes: each is in the field where all share it."""
    dtypes, shapes = {dtype for _, dtype in seen}, {shape for shape, _ in seen}
    dtype = next(iter(dtypes)) if len(dtypes) == 1 else None
    if kind == "tokens":
        return FieldInfo(kind="tokens", dtype=dtype)
    return FieldInfo(kind="tensor", dtype=dtype, shape=next(iter(shapes)) if len(shapes) == 1 else None)


def npy_bytes(array: np.ndarray[Any, Any]) -> bytes:
    """An array as a .npy file."""
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(array) if array.ndim else array, allow_pickle=False)
    return file.getvalue()
