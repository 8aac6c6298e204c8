"""Arrays of NumPy as streams: the first axis counts the samples.

    .npy    one field; memory-mapped, so that it may be larger than memory
    .npz    a field for each array, all of the same length; one array after the other is loaded whole

Numbers become scalars, rows of integers tokens, and other rows tensors; text becomes text.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastload.errors import PackError
from fastload.pack.objects import value_of
from fastload.pack.streams import Sample, Stream
from fastload.pack.values import Value, field_of
from fastload.shards.members import DEFAULT_NAMES

ARRAYS = (".npy", ".npz")
_NUMBERS = "number"  # the field of a .npy with one axis


def array_stream(source: Path) -> Stream:
    """The rows of a .npy or .npz file.

    Raises:
        PackError: no arrays of numbers or text, one without an axis, or of different lengths; a file that is cut off.
    """
    arrays = _load(source)
    for name, array in arrays.items():
        if array.dtype.kind not in "biufU" or array.ndim == 0 or (array.dtype.kind == "U" and array.ndim > 1):
            raise PackError(
                f"{source}: the array {name!r} is {array.dtype} of shape {array.shape}; it must have numbers, or one"
                " axis of text, and a first axis that counts the samples"
            )
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        found = ", ".join(f"{name} {length:,}" for name, length in lengths.items()) or "none"
        raise PackError(f"{source}: arrays must have the same length, a row for each sample; they have: {found}")

    def read() -> Iterator[Sample]:
        for row in range(next(iter(lengths.values()))):
            values: dict[str, Value] = {name: value_of(name, array[row]) for name, array in arrays.items()}
            yield Sample(f"{source}, row {row + 1}", values)

    return Stream(name=str(source), read=read)


def _load(source: Path) -> Mapping[str, np.ndarray[Any, Any]]:
    try:
        if source.suffix.lower() == ".npy":
            array = np.load(source, mmap_mode="r", allow_pickle=False)
            return {_name(array): array}
        with np.load(source, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise PackError(f"{source} cannot be read as arrays ({error}); save them with numpy.save or savez") from error


def _name(array: np.ndarray[Any, Any]) -> str:
    """What the field of a lone array is called."""
    if array.ndim < 2 or len(array) == 0:
        return DEFAULT_NAMES["text"] if array.dtype.kind == "U" else _NUMBERS
    return DEFAULT_NAMES[field_of(np.asarray(array[0])).kind]
