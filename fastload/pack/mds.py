"""Reads MosaicML's MDS folders: an index.json, and shards of

    samples: uint32   offsets: uint32 [samples + 1]   configuration: JSON   samples
    sample:  a uint32 for each column without a fixed size: its bytes; then the columns' values

Written from the format's own writer (github.com/mosaicml/streaming, streaming/base/format/mds).
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from fastload.errors import CorruptError, PackError
from fastload.pack.values import Document, Picture, Unfit, Value, attempted, raw_picture

Decode = Callable[[memoryview], Value]
_NUMBERS = {"int": "int64", **{name: name for name in ("uint8", "uint16", "uint32", "int8", "int16", "int32", "int64")}}
_NUMBERS |= {"uint64": "uint64", "float16": "float16", "float32": "float32", "float64": "float64"}
_ARRAY_DTYPES = {8: "u1", 9: "i1", 16: "u2", 17: "i2", 18: "f2", 32: "u4", 33: "i4", 34: "f4", 64: "u8", 65: "i8"}
_ARRAY_DTYPES |= {66: "f8"}


def mds_shards(index: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The entries of an index.json.

    Raises:
        PackError: another format (JSON, CSV) or version in it.
    """
    for shard in index["shards"]:
        if shard["format"] != "mds" or shard["version"] != 2:
            raise PackError(f"a shard of format {shard['format']!r}, version {shard['version']}; only MDS 2 is read")
    return list(index["shards"])


def read_mds(folder: Path, shard: Mapping[str, Any]) -> Iterator[dict[str, Value | Unfit]]:
    """The samples of one shard; a value that is damaged is why it cannot be read.

    Args:
        folder: where its file is.
        shard: its entry in index.json.

    Raises:
        PackError: an encoding that cannot be stored, or must not be read (pickle runs code).
        CorruptError: the file is cut off or does not have the hash that the index says.
    """
    names, sizes = shard["column_names"], shard["column_sizes"]
    decode = [_decoder(name, encoding) for name, encoding in zip(names, shard["column_encodings"], strict=True)]
    data = memoryview(_read(folder, shard))
    offsets = np.frombuffer(data[4 : 8 + 4 * shard["samples"]], "<u4").tolist()
    if np.frombuffer(data[:4], "<u4").tolist() != [shard["samples"]] or offsets[-1] != len(data):
        raise CorruptError("its header does not fit its size: it was cut off or changed; fetch it again")
    unsized = sizes.count(None)
    for start, stop in pairwise(offsets):
        if not 0 <= start + 4 * unsized <= stop <= len(data):
            raise CorruptError("its header does not fit its samples: it was damaged or changed; fetch it again")
        lengths = iter(np.frombuffer(data[start : start + 4 * unsized], "<u4").tolist())
        at, sample = start + 4 * unsized, dict[str, Value | Unfit]()
        for name, size, one in zip(names, sizes, decode, strict=True):
            end = at + (next(lengths) if size is None else size)
            sample[name] = attempted(f"field {name!r}", one, data[at:end])
            at = end
        if at != stop:
            raise CorruptError(f"a sample at byte {start} has {at - start} bytes, and its header says {stop - start}")
        yield sample


def _read(folder: Path, shard: Mapping[str, Any]) -> bytes:
    """The shard's bytes, decompressed and checked."""
    raw, packed = shard["raw_data"], shard["zip_data"]
    if (folder / raw["basename"]).exists() or packed is None:
        data = (folder / raw["basename"]).read_bytes()
    else:
        data = decompress(_checked((folder / packed["basename"]).read_bytes(), packed), shard["compression"])
    return _checked(data, raw)


def decompress(data: bytes, compression: str) -> bytes:
    """Undo a compression by its name in the index ("zstd", "zstd:7", "gz", "br", "bz2", "snappy").

    Raises:
        CorruptError: damaged, or a compression that is not known.
    """
    name = compression.partition(":")[0]
    try:
        if name == "gz":
            return gzip.decompress(data)
        if name == "snappy":  # which has no stream format here: one block that begins with its length
            return bytes(pa.decompress(data, _snappy_size(data), codec="snappy"))
        codec = {"zstd": "zstd", "br": "brotli", "bz2": "bz2"}[name]
        return bytes(pa.CompressedInputStream(pa.BufferReader(data), codec).read())
    except KeyError:
        raise CorruptError(f"compression {compression!r} is not known") from None
    except (OSError, EOFError, pa.ArrowInvalid) as error:
        raise CorruptError(f"it does not decompress: {error}") from error


def _snappy_size(data: bytes) -> int:
    size = shift = 0
    for byte in data[:5]:
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    return size


def _checked(data: bytes, file: Mapping[str, Any]) -> bytes:
    if len(data) != file["bytes"]:
        raise CorruptError(f"it has {len(data)} bytes, and its index says {file['bytes']}; fetch it again")
    for name, expected in file["hashes"].items():
        found = _digest(name, data)
        if found not in (None, expected):
            raise CorruptError(f"its {name} is {found}, and its index says {expected}: it was damaged or changed")
    return data


def _digest(name: str, data: bytes) -> str | None:
    """The hash of some name, in hex; None if it is not known here."""
    if name in xxhash.algorithms_available:
        return str(getattr(xxhash, name)(data).hexdigest())
    return hashlib.new(name, data).hexdigest() if name in hashlib.algorithms_available else None


def _decoder(name: str, encoding: str) -> Decode:
    kind, _, options = encoding.partition(":")
    if kind in _NUMBERS:
        return _number(_NUMBERS[kind])
    if kind == "ndarray":
        return _array(*options.split(":")) if options else _array()
    if kind in _DECODERS:
        return _DECODERS[kind]
    why = "reading it would run code that the file holds" if kind == "pkl" else "no kind of field holds it"
    raise PackError(f"column {name!r} is {encoding!r}: {why}; leave it out at the source")


def _number(dtype: str) -> Decode:
    def decode(data: memoryview) -> Value:
        value: int | float = np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).item()
        return value

    return decode


def _array(dtype: str | None = None, shape: str | None = None) -> Decode:
    """What `ndarray`, `ndarray:int32` and `ndarray:int32:2,3` hold: what the encoding does not say comes first."""

    def decode(data: memoryview) -> npt.NDArray[Any]:
        at, kind = 0, dtype
        if kind is None:
            kind, at = _ARRAY_DTYPES[data[0]], 1
        if shape is not None:
            sizes = [int(size) for size in shape.split(",")]
        else:
            axes, width = data[at] >> 2, 1 << data[at] % 4
            sizes = np.frombuffer(data[at + 1 : at + 1 + axes * width], f"<u{width}").tolist()
            at += 1 + axes * width
        return np.frombuffer(data[at:], np.dtype(kind).newbyteorder("<")).reshape(sizes)

    return decode


_DECODERS: dict[str, Decode] = {
    "bytes": bytes,
    "str": lambda data: bytes(data).decode(),
    "str_int": lambda data: int(bytes(data)),
    "str_float": lambda data: float(bytes(data)),
    "str_decimal": lambda data: bytes(data).decode(),
    "json": lambda data: Document(bytes(data)),
    "jpeg": lambda data: Picture(bytes(data)),
    "png": lambda data: Picture(bytes(data)),
    "pil": raw_picture,
}
