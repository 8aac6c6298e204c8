"""Columns of Arrow as values: Parquet files of any writer, and data sets of Hugging Face, on disk or in memory.

    Image, Audio features; struct<bytes, path>    image, audio; a path without bytes is read from its file
    ClassLabel                                    label with its classes
    string, numbers, booleans                     text, scalar
    binary                                        image or audio where it begins like one, else bytes
    list of integers                              tokens
    other lists of numbers                        tensor where it is one list, has a fixed size or an Array feature
    records, lists of anything else               json

Columns that fastload wrote say themselves what they are. Dates, durations and decimals have to be made text or numbers
first, or left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from fastload.decode.sniff import sniff
from fastload.decode.tensor import read_npy
from fastload.errors import CorruptError, FastloadError, PackError
from fastload.pack.streams import Sample, sample_of
from fastload.pack.values import Blob, Document, Picture, Sound, Unfit, Value, attempted, shown
from fastload.shards.features import field_of_column, is_encoded
from fastload.shards.index import FieldInfo

BATCH_ROWS = 64  # decoded at once; pictures of several megabytes stay below a gigabyte
Found = list[Value | Unfit | None]  # of a column: a value of each row, why it cannot be read, or null
_NULL = "is null; fill it, or leave the row or the column out"


@dataclass(frozen=True, kw_only=True)
class ArrowColumns:
    """What the columns of a table are.

    Attributes:
        features: column -> feature as Hugging Face writes it as JSON; for columns that have one.
        own: column -> field, of files that fastload wrote; these have no other columns.
        folder: where paths of pictures and sounds without bytes start.
    """

    features: Mapping[str, Any]
    own: Mapping[str, FieldInfo] | None = None
    folder: Path

    def classes(self) -> dict[str, tuple[str, ...]]:
        """Column -> names of its classes."""
        if self.own is not None:
            return {name: info.classes for name, info in self.own.items() if info.classes is not None}
        found = {}
        for name, feature in self.features.items():
            if isinstance(feature, Mapping) and feature.get("_type") == "ClassLabel" and feature.get("names"):
                found[name] = tuple(map(str, feature["names"]))
        return found


def batch_samples(batches: Iterable[pa.RecordBatch], columns: ArrowColumns, name: str) -> Iterator[Sample]:
    """The rows of some batches as samples; `name` is what errors call the table, rows count from 1. A value that cannot
    be read is a fault of its sample.

    Raises:
        PackError: a column of a type that no field holds.
    """
    first = 1
    for batch in batches:
        found = {column: _values(batch.column(column), column, columns) for column in batch.schema.names}
        for row in range(batch.num_rows):
            where = f"{name}, row {first + row}"
            yield sample_of(where, {column: listed[row] for column, listed in found.items()}, _NULL, "column")
        first += batch.num_rows


def _values(array: pa.Array, name: str, columns: ArrowColumns) -> Found:
    """One column of a batch."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pt.is_dictionary(array.type):
        array = array.dictionary_decode()
    feature = columns.features.get(name)
    feature = feature if isinstance(feature, Mapping) else {}
    if columns.own is not None and name in columns.own:
        return _own(array, name, columns.own[name], columns.folder)
    if is_encoded(array.type) or feature.get("_type") in _MEDIA:
        return _media(array, name, _MEDIA.get(str(feature.get("_type"))), columns.folder)
    if str(feature.get("_type", "")).startswith("Array"):
        return _arrays(array, name, tuple(feature["shape"]), np.dtype(feature["dtype"]))
    info = field_of_column(array.type, feature)
    if info is None:
        return _documents(array, name)
    if info.kind in ("tokens", "tensor"):
        return _lists(array, name, info)
    return _plain(array, name)


def _plain(array: pa.Array, name: str) -> Found:
    """Text, numbers, bytes, or lists and records of these; text that is none is found row by row."""
    try:
        return list(array.to_pylist())
    except UnicodeDecodeError:
        return [attempted(f"column {name!r}", methodcaller("as_py"), item) for item in array]


def _each(array: pa.Array, name: str, make: Callable[[Any], Value]) -> Found:
    """What is made of each value of a column, which may be damaged."""
    what = f"column {name!r}"
    return [None if value is None else attempted(what, make, value) for value in array.to_pylist()]


_MEDIA: dict[str, Callable[[bytes], Value]] = {"Image": Picture, "Audio": Sound}


def _own(array: pa.Array, name: str, info: FieldInfo, folder: Path) -> Found:
    match info.kind:
        case "image" | "audio":
            return _media(array, name, Picture if info.kind == "image" else Sound, folder)
        case "tokens":
            return _lists(array, name, info)
        case "tensor":
            return _each(array, name, read_npy)
        case "json":
            return _each(array.cast(pa.large_binary()), name, Document)
        case "bytes":
            return _each(array, name, Blob)
    return _plain(array, name)


def _media(array: pa.Array, name: str, make: Callable[[bytes], Value] | None, folder: Path) -> Found:
    """Pictures or sounds; `make` None: whichever they begin like."""
    found: Found = []
    for value in _plain(array, name):
        content: Any = value
        if isinstance(content, Mapping):
            content, path = content["bytes"], content.get("path")
            if content is None and path:
                content = _file(folder / path, name)
        if content is None or isinstance(content, Unfit):
            found.append(content)
        elif make is not None:
            found.append(make(content))
        else:
            found.append(content if sniff(content) else Blob(content))
    return found


def _file(path: Path, name: str) -> bytes | Unfit:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        why = error.strerror if isinstance(error, OSError) else error
        return Unfit(f"column {name!r}: {str(path)!r}, which the row names, cannot be read: {why}")


def _lists(array: pa.Array, name: str, info: FieldInfo) -> Found:
    """Lists of numbers; of a fixed size with its shape."""
    shape = info.shape if info.kind == "tensor" else None
    found: Found = []
    for item in array:
        if not item.is_valid:
            found.append(None)
            continue
        leaf = _leaf(item)
        if leaf.null_count or (shape is not None and len(leaf) != math.prod(shape)):
            why = f"the list {shown(item.as_py())} has a null in it"
            found.append(Unfit(f"column {name!r}: {why}"))
            continue
        numbers = leaf.to_numpy(zero_copy_only=False)
        found.append(numbers if shape is None else numbers.reshape(shape))
    return found


def _arrays(array: pa.Array, name: str, shape: tuple[int | None, ...], dtype: np.dtype[Any]) -> Found:
    """Nested lists of an Array2D to Array5D feature, whose first dimension may differ from row to row."""
    tail = [size for size in shape[1:] if size is not None]
    found: Found = []
    for item in array:
        if not item.is_valid:
            found.append(None)
            continue
        leaf = _leaf(item)
        if leaf.null_count or len(leaf) % max(math.prod(tail), 1):
            why = f"an array of shape {shape} has {len(leaf)} numbers, or a null among them"
            found.append(Unfit(f"column {name!r}: {why}: {shown(item.as_py())}"))
            continue
        found.append(leaf.to_numpy(zero_copy_only=False).astype(dtype).reshape(-1, *tail))
    return found


def _leaf(item: pa.Scalar) -> pa.Array:
    """The numbers of a list, or of lists in a list; lists that are null have none."""
    leaf = item.values
    while pt.is_list(leaf.type) or pt.is_large_list(leaf.type) or pt.is_fixed_size_list(leaf.type):
        leaf = leaf.flatten()
    return leaf


def is_plain(arrow: pa.DataType) -> bool:
    """Whether a type is one of text, numbers, and lists and records of these."""
    if pt.is_nested(arrow) and not pt.is_union(arrow) and not pt.is_map(arrow):
        return all(is_plain(arrow.field(i).type) for i in range(arrow.num_fields))
    numbers = pt.is_integer(arrow) or pt.is_floating(arrow) or pt.is_boolean(arrow)
    return bool(numbers or pt.is_string(arrow) or pt.is_large_string(arrow))


def _documents(array: pa.Array, name: str) -> Found:
    if not pt.is_nested(array.type):
        raise PackError(
            f"column {name!r} is of type {array.type}, which no field holds; make it text or numbers, or leave it out"
            " by naming the others with columns="
        )
    return [_document(value, name, array.type) for value in _plain(array, name)]


def _document(value: Any, name: str, kind: pa.DataType) -> Document | Unfit | None:
    if value is None or isinstance(value, Unfit):
        return value
    try:
        return Document(json.dumps(value, ensure_ascii=False, allow_nan=False).encode())
    except (TypeError, ValueError) as error:
        return Unfit(f"column {name!r} of type {kind} has {shown(value)}, which cannot be JSON ({error}); leave it out")


@contextmanager
def damaged(path: Path) -> Iterator[None]:
    """Errors of Arrow inside are those of a file."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FastloadError):
            raise
        raise CorruptError(f"{path} cannot be read: {' '.join(str(error).split())}; fetch it again") from error
