"""Python's own data sets as streams: iterables, generators, lists, and torch's map-style data sets.

str                      text; in a field "label" the name of a class
bool, int, float         scalar, numpy's scalars and tensors without dimensions too
bytes                    image or audio where they begin like one, else bytes
PIL.Image.Image          image, as PNG: no pixel changes; pass the file's bytes to keep a JPEG
numpy array, tensor      tokens where it has one dimension and is integer, else tensor
dict, list, tuple        json; lists of integers in a field "tokens" are tokens
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import PIL.Image

from fastload.errors import ConfigError
from fastload.pack.huggingface import is_table, table_stream
from fastload.pack.streams import Sample, Stream, chosen, sample_of
from fastload.pack.values import Document, Picture, Unfit, Value, encode_picture, field_of, shown
from fastload.shards.members import DEFAULT_NAMES


@runtime_checkable
class Indexed(Protocol):
    """A list, or a map-style data set of torch."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


Samples = Iterable[Any] | Indexed


def object_stream(dataset: Samples, columns: Mapping[str, str] | None) -> Stream:
    """The samples of a data set of dicts, of tuples, or of single values. A value that no field can hold is a fault of
    its sample.

    Args:
        dataset: tables (`datasets.Dataset`, DataFrame, Arrow's) give their rows; what has `__len__` and `__getitem__`
            is asked for 0, 1, 2, ...; anything else, and torch's IterableDataset, is iterated over, once.
        columns: of dicts: field -> key of the dict; None: all. Of tuples: the names of their parts, in order.

    Raises:
        ConfigError: an object that is no data set; when it is read, tuples without names or with others.
    """
    if is_table(dataset):
        return chosen(table_stream(dataset), columns)
    name = _name(dataset)
    if isinstance(dataset, Mapping) or not (isinstance(dataset, Indexed | Iterable) or hasattr(dataset, "__getitem__")):
        raise ConfigError(
            f"a {name} is no source: pass a path, or a data set whose samples are dicts (a list, an iterable, a"
            " map-style torch Dataset)"
        )

    def read() -> Iterator[Sample]:
        for number, item in enumerate(_items(dataset), 1):
            where = f"sample {number} of {name}"
            try:
                named = _named(item, columns, where)
            except Unfit as error:
                yield Sample(where, {}, fault=error.message)
                continue
            yield named_sample(where, named, "is None; fill it, or leave the sample out")

    return Stream(name=name, read=read)


def named_sample(where: str, named: Mapping[str, Any], null: str) -> Sample:
    """A sample of named values, which become what `value_of` says; `where` and `null` are those of `sample_of`."""
    return sample_of(where, {name: _value_or_why(name, value) for name, value in named.items()}, null)


def _value_or_why(field: str, value: Any) -> Value | Unfit | None:
    try:
        return None if value is None else value_of(field, value)
    except Unfit as error:
        return error


def _name(dataset: object) -> str:
    return type(dataset).__qualname__


def _items(dataset: Samples) -> Iterator[Any]:
    torch_data = sys.modules.get("torch.utils.data")  # without it nothing can be one of its classes
    streamed = torch_data is not None and isinstance(dataset, torch_data.IterableDataset)  # its __getitem__ only raises
    if isinstance(dataset, Indexed) and not streamed:
        for index in range(len(dataset)):
            yield dataset[index]
    else:
        yield from iter(dataset)


def _named(item: Any, columns: Mapping[str, str] | None, where: str) -> Mapping[str, Any]:
    """The values of one sample by field."""
    if isinstance(item, Mapping):
        if columns is None:
            return item
        for key in columns.values():
            if key not in item:
                raise ConfigError(f"columns: {where} has no {key!r}; it has {', '.join(map(repr, item))}")
        return {field: item[key] for field, key in columns.items()}
    if isinstance(item, tuple):
        if columns is None:
            raise ConfigError(
                f"{where} is a tuple of {len(item)}: name its parts, in order, as in columns='image,label'"
            )
        if len(item) != len(columns):
            raise ConfigError(f"{where} is a tuple of {len(item)}, and columns names {len(columns)} fields")
        return dict(zip(columns, item, strict=True))
    if columns is not None and len(columns) != 1:
        raise ConfigError(f"{where} is a {_name(item)}, and columns names {len(columns)} fields; make it a dict")
    value = value_of(DEFAULT_NAMES["text"], item)
    return {next(iter(columns)) if columns else DEFAULT_NAMES[field_of(value).kind]: value}


def value_of(field: str, value: Any) -> Value:
    """One value as a field can hold it, see the module's table; Unfit for what none can hold."""
    match value:
        case bool() | bytes() | Picture() | Document():
            return value
        case str() | int() | float():  # numpy's are kinds of these
            return str(value) if isinstance(value, str) else int(value) if isinstance(value, int) else float(value)
        case np.generic() if isinstance(value.item(), bool | int | float):
            return value.item()  # type: ignore[no-any-return]
        case np.ndarray():
            return _array(field, value)
        case bytearray() | memoryview():
            return bytes(value)
        case PIL.Image.Image():
            return encode_picture(value)
        case None:
            raise Unfit(f"field {field!r} is None; fill it, or leave the sample out")
        case Mapping() | list() | tuple():
            return _nested(field, value)
    if hasattr(value, "detach") and hasattr(value, "numpy"):  # a tensor, without importing torch
        return _tensor(field, value)
    raise Unfit(
        f"field {field!r} is a {type(value).__module__}.{_name(value)}, which no field holds; pass text, bytes,"
        " numbers, arrays, tensors, pictures, or dicts and lists of what JSON holds"
    )


def _array(field: str, array: np.ndarray[Any, Any]) -> Value:
    if array.dtype.kind not in "biuf":
        raise Unfit(f"field {field!r} is an array of {array.dtype}; make it one of booleans, integers or floats")
    return array if array.ndim else array.item()


def _tensor(field: str, tensor: Any) -> Value:
    try:
        return _array(field, tensor.detach().cpu().numpy())
    except TypeError as error:  # bfloat16, and other types that numpy lacks
        raise Unfit(f"field {field!r}: {error}; cast it first, as with .float()") from error


def _nested(field: str, value: Any) -> Value:
    if field == DEFAULT_NAMES["tokens"] and not isinstance(value, Mapping):
        if not all(type(item) is int for item in value):
            raise Unfit(f"field {field!r}: tokens are one list of integers, not {shown(value)}")
        try:
            return np.array(value, np.int64)
        except OverflowError:
            raise Unfit(f"field {field!r}: {shown(max(value, key=abs))} does not fit into 64 bits") from None
    try:
        return Document(json.dumps(value, ensure_ascii=False, allow_nan=False).encode())
    except (TypeError, ValueError) as error:
        raise Unfit(f"field {field!r} is a {_name(value)} that JSON cannot hold ({error}): {shown(value)}") from error
