"""Reads LitData folders, what `litdata.optimize` writes: an index.json, and chunks of

    items: uint32   offsets: uint32 [items + 1]   items
    item:   a uint32 for each leaf: its bytes; then the leaves
    tokens: with TokensLoader an item is one bare array

Chunks may end with the same rows as an Arrow file, with empty items before it, and may be compressed with zstd: whole,
in frames of many items, or item by item.

Written from the format's own writer (github.com/Lightning-AI/litData, litdata/streaming, version 0.2.76).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fastload.errors import CorruptError, PackError
from fastload.pack.mds import decompress
from fastload.pack.values import Document, Picture, Unfit, Value, attempted, raw_picture

Decode = Callable[[memoryview], Value]

_ARROW_MAGIC, _FRAMED_MAGIC = b"LDARW01\0", b"LDFZ01\0\0"
_FRAMED_HEAD, _FRAME = struct.Struct("<8sHHIII"), struct.Struct("<IIQII")
_NUMPY_DTYPES = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
_TORCH_DTYPES = {0: "f4", 1: "f4", 2: "f8", 3: "f8", 8: "f2", 9: "f2", 11: "u1", 12: "i1", 13: "i2", 14: "i2"}
_TORCH_DTYPES |= {15: "i4", 16: "i4", 17: "i8", 18: "i8", 20: "u2"}
_ONLY = {"text": "text", "str": "text", "jpeg": "image", "pil": "image", "image": "image", "audio": "audio"}


class Chunks:
    """The chunks of a folder.

    Args:
        folder: where the chunks are.
        index: its index.json.

    Raises:
        PackError: encrypted, or written for another item loader.
    """

    def __init__(self, folder: Path, index: Mapping[str, Any]) -> None:
        self._folder, self._config = folder, index["config"]
        self._entries: list[Mapping[str, Any]] = index["chunks"]
        loader = self._config.get("item_loader") or "PyTreeLoader"
        if self._config.get("encryption"):
            raise PackError(f"{folder} is encrypted; write it anew without encryption")
        if loader not in ("PyTreeLoader", "TokensLoader"):
            raise PackError(f"{folder} was written for {loader}; only PyTreeLoader and TokensLoader are read")
        self._sized = loader == "PyTreeLoader"
        self._formats: list[str] = self._config["data_format"]
        self._names = leaf_names(self._config["data_spec"], self._formats)

    def read(self, number: int) -> Iterator[dict[str, Value | Unfit | None]]:
        """The samples of one chunk; a value that is damaged is why it cannot be read.

        Raises:
            PackError: a leaf that cannot be stored, or must not be read (pickle runs code).
            CorruptError: the file is cut off or damaged.
        """
        entry = self._entries[number]
        data = (self._folder / entry["filename"]).read_bytes()
        if str(entry["filename"]).endswith(".zstd.bin"):
            data = decompress(data, "zstd")
        if len(data) != entry["chunk_bytes"]:
            raise CorruptError(f"it has {len(data)} bytes, and its index says {entry['chunk_bytes']}; fetch it again")
        if data.endswith(_ARROW_MAGIC):
            yield from _arrow_rows(memoryview(data))
            return
        decode = [_decoder(name, one) for name, one in zip(self._names, self._formats, strict=True)]
        count = 0
        for item in self._items(memoryview(data)):
            count += 1
            at, sizes = 0, [len(item)]
            if self._sized:
                at, sizes = 4 * len(decode), np.frombuffer(item[: 4 * len(decode)], "<u4").tolist()
            if at + sum(sizes) != len(item):
                raise CorruptError(f"an item has {len(item)} bytes, and its header says {at + sum(sizes)}")
            sample: dict[str, Value | Unfit | None] = {}
            for name, one, size in zip(self._names, decode, sizes, strict=True):
                sample[name] = attempted(f"field {name!r}", one, item[at : at + size])
                at += size
            yield sample
        if self._sized and count != entry["chunk_size"]:
            raise CorruptError(f"it has {count} items, and its index says {entry['chunk_size']}; fetch it again")

    def _items(self, data: memoryview) -> Iterator[memoryview]:
        if data[:8] == _FRAMED_MAGIC:
            yield from _framed_items(data)
            return
        offsets = _offsets(data, int(np.frombuffer(data[:4], "<u4")[0]), 4)
        if not offsets or offsets[-1] > len(data):
            raise CorruptError("its header does not fit its size: it was cut off or changed; fetch it again")
        by_item = self._config.get("compression_level") == "sample"
        for start, stop in pairwise(offsets):
            item = data[start:stop]
            yield memoryview(decompress(bytes(item), "zstd")) if by_item else item


def _offsets(data: memoryview, items: int, at: int) -> list[int]:
    end = at + 4 * (items + 1)
    return np.frombuffer(data[at:end], "<u4").tolist() if end <= len(data) else []


def _framed_items(data: memoryview) -> Iterator[memoryview]:
    """Items that were compressed many at a time."""
    _, _, _, items, _, frames = _FRAMED_HEAD.unpack_from(data)
    offsets = _offsets(data, items, _FRAMED_HEAD.size)
    at = _FRAMED_HEAD.size + 4 * (items + 1)
    for frame in range(frames):
        first, count, start, size, whole = _FRAME.unpack_from(data, at + frame * _FRAME.size)
        content = memoryview(decompress(bytes(data[start : start + size]), "zstd"))
        if len(content) != whole:
            raise CorruptError(f"a frame of {whole} bytes decompresses to {len(content)}")
        for item in range(first, first + count):
            yield content[offsets[item] - offsets[first] : offsets[item + 1] - offsets[first]]


def _arrow_rows(data: memoryview) -> Iterator[dict[str, Value | Unfit | None]]:
    """The rows of the Arrow file at a chunk's end."""
    size = int(np.frombuffer(data[-12:-8], "<u4")[0])
    table = pa.ipc.open_file(pa.BufferReader(data[len(data) - 12 - size : len(data) - 12])).read_all()
    for row in table.to_pylist():
        yield {_field_name([name]): _plain_value(value) for name, value in row.items()}


def _plain_value(value: Any) -> Value | None:
    match value:
        case None | bool() | int() | float() | str() | bytes():
            return value
        case {"bytes": bytes(content), **rest} if rest.keys() <= {"path"}:  # as `datasets` stores pictures and sounds
            return content
        case list() if value and all(type(item) is type(value[0]) for item in value) and type(value[0]) in (int, float):
            return np.array(value)
    return Document(json.dumps(value).encode())


def leaf_names(spec: str, formats: list[str]) -> list[str]:
    """A field's name for each leaf: the keys and numbers on the way to it, joined; of a sample that is one leaf, the
    usual name of its kind.

    Args:
        spec: the structure as torch's pytree writes it: JSON of [1, {"type", "context", "children_spec"}].
        formats: of the leaves.
    """
    paths = list(_leaf_paths(json.loads(spec)[1], []))
    if paths == [[]]:
        kind = formats[0].partition(":")[0]
        return [_ONLY.get(kind, "tokens" if kind.startswith("no_header_") else "value")]
    return [_field_name(path) for path in paths]


def _leaf_paths(node: Mapping[str, Any], path: list[str]) -> Iterator[list[str]]:
    if node["type"] is None:
        yield path
        return
    keys = json.loads(node["context"]) if isinstance(node["context"], str) else node["context"]
    names = keys if isinstance(keys, list) else range(len(node["children_spec"]))
    for name, child in zip(names, node["children_spec"], strict=True):
        yield from _leaf_paths(child, [*path, str(name)])


def _field_name(path: list[str]) -> str:
    name = "_".join(path).replace(".", "_")
    return f"field_{name}" if name[:1].isdigit() else name


def _decoder(name: str, leaf: str) -> Decode:
    kind, _, option = leaf.partition(":")
    if kind == "no_header_numpy" and int(option) < len(_NUMPY_DTYPES):
        return _row_of(_NUMPY_DTYPES[int(option)])
    if kind == "no_header_tensor" and int(option) in _TORCH_DTYPES:
        return _row_of(_TORCH_DTYPES[int(option)])
    if kind in _DECODERS:
        return _DECODERS[kind]
    why = "reading it would run code that the file holds" if kind == "pickle" else "no kind of field holds it"
    raise PackError(f"{name!r} is {leaf!r}: {why}; leave it out at the source")


def _row_of(dtype: str) -> Decode:
    return lambda data: np.frombuffer(data, np.dtype(dtype).newbyteorder("<"))


def _numpy(data: memoryview) -> npt.NDArray[Any]:
    kind, axes = np.frombuffer(data[:8], "<u4").tolist()
    return _shaped(data[8:], "<", axes, _NUMPY_DTYPES[kind] if kind < len(_NUMPY_DTYPES) else None)


def _tensor(data: memoryview) -> npt.NDArray[Any]:
    kind, axes = np.frombuffer(data[:8], ">u4").tolist()
    return _shaped(data[8:], ">", axes, _TORCH_DTYPES.get(kind))


def _shaped(data: memoryview, order: str, axes: int, dtype: str | None) -> npt.NDArray[Any]:
    if dtype is None:
        raise PackError("an array of a type that no field holds (complex, bfloat16 or bool); cast it at the source")
    shape = np.frombuffer(data[: 4 * axes], f"{order}u4").tolist()
    return np.frombuffer(data[4 * axes :], np.dtype(dtype).newbyteorder("<")).reshape(shape)


_DECODERS: dict[str, Decode] = {
    "str": lambda data: bytes(data).decode(),
    "text": lambda data: bytes(data).decode(),
    "bool": lambda data: bool(data[0]),
    "int": lambda data: int(np.frombuffer(data, "<i8").item()),
    "float": lambda data: float(np.frombuffer(data, "<f8").item()),
    "bytes": bytes,
    "file": bytes,
    "audio": bytes,
    "image": lambda data: Picture(bytes(data)),
    "jpeg": lambda data: Picture(bytes(data)),
    "pil": raw_picture,
    "numpy": _numpy,
    "tensor": _tensor,
}
