"""The `.idx` beside each tar: Arrow IPC, one row per sample, memory-mapped when read.

    key               string    the sample's key
    offset            int64     first byte of the sample in the tar (the header of its first member)
    size              uint32    bytes of the sample, from there to the next sample (or to the end marker of the tar)
    xxh3              uint64    XXH3-64 of those bytes, headers and padding included
    <field>.offset    uint32    first byte of the field's content, counted from `offset`; 0: this sample lacks the field
    <field>.length    uint32    bytes of the field's content
    <field>           integer, float64 or bool: the value of a scalar field; it is read from here and never from the tar
    <field>.<what>    integer   facts the packer learned: image width and height, audio frames, token count

Integers are stored in the narrowest unsigned or signed type that holds the column (uint32 columns become uint64 only
above 4 GiB). The schema's metadata, under "fastload", is JSON: version, samples, bytes and xxh3 of the tar, fields.
A tar with its `.idx` is complete without index.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from fastload.errors import CorruptError, ShardIndexError, SourceError
from fastload.shards.arrays import numbers, strings, to_numpy
from fastload.shards.files import write_atomic
from fastload.shards.index import IDX_SUFFIX, INDEX_VERSION, FieldInfo, ShardFile
from fastload.shards.index import idx_path as idx_path

SUFFIX = IDX_SUFFIX
METADATA_KEY = b"fastload"
_INTEGERS = ("int8", "int16", "int32", "int64")


def narrow(values: npt.ArrayLike) -> npt.NDArray[Any]:
    """The same numbers in the narrowest signed integer type that holds all; floats and booleans stay."""
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        return array
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    dtype = next((d for d in _INTEGERS if np.iinfo(d).min <= low and high <= np.iinfo(d).max), array.dtype.name)
    return array.astype(dtype)


def narrow_unsigned(values: npt.ArrayLike) -> npt.NDArray[Any]:
    """uint32, or uint64 where a value needs it."""
    array = np.asarray(values, np.uint64)
    return array if array.size and int(array.max()) > 0xFFFFFFFF else array.astype(np.uint32)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdxColumns:
    """The content of one `.idx`, as plain arrays of one entry per sample.

    Attributes:
        keys: [n] str.
        offsets, sizes, xxh3: [n] int; see the module's table.
        spans: field -> (offsets relative to the sample, lengths), [n] each.
        scalars: field -> values [n] (int, float64 or bool).
        facts: "<field>.<what>" -> [n] int.
    """

    keys: Sequence[str]
    offsets: npt.ArrayLike
    sizes: npt.ArrayLike
    xxh3: npt.ArrayLike
    spans: Mapping[str, tuple[npt.ArrayLike, npt.ArrayLike]]
    scalars: Mapping[str, npt.ArrayLike]
    facts: Mapping[str, npt.ArrayLike]


def write_idx(path: Path, columns: IdxColumns, shard: ShardFile, fields: Mapping[str, FieldInfo]) -> str:
    """Write one `.idx` atomically; returns its XXH3-64 as 16 hex digits. The same content gives the same bytes."""
    content = idx_content(columns, shard, fields)
    write_atomic(path, content)
    return xxhash.xxh3_64_hexdigest(content)


def idx_content(columns: IdxColumns, shard: ShardFile, fields: Mapping[str, FieldInfo]) -> bytes:
    """The bytes of one `.idx`."""
    arrays: dict[str, pa.Array] = {
        "key": strings(columns.keys),
        "offset": numbers(np.asarray(columns.offsets, np.int64)),
        "size": numbers(narrow_unsigned(columns.sizes)),
        "xxh3": numbers(np.asarray(columns.xxh3, np.uint64)),
    }
    for name, (offsets, lengths) in columns.spans.items():
        arrays[f"{name}.offset"] = numbers(narrow_unsigned(offsets))
        arrays[f"{name}.length"] = numbers(narrow_unsigned(lengths))
    for name, values in (*columns.scalars.items(), *columns.facts.items()):
        if name in arrays:
            raise ShardIndexError(f"the field {name!r} clashes with a column of the index; rename the field")
        arrays[name] = numbers(narrow(values))
    about = {
        "version": INDEX_VERSION,
        "samples": shard.samples,
        "bytes": shard.bytes,
        "xxh3": shard.xxh3,
        "fields": {name: info.to_json() for name, info in fields.items()},
    }
    schema = pa.schema(
        [pa.field(name, array.type, nullable=False) for name, array in arrays.items()],
        metadata={METADATA_KEY: json.dumps(about, ensure_ascii=False)},
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(list(arrays.values()), schema=schema))
    return bytes(memoryview(sink.getvalue()))


class Idx:
    """One `.idx`, memory-mapped. Arrays are views of the map; keys are decoded one at a time.

    Args:
        path: of the `.idx`.
        expected_xxh3: checksum of the file as index.json has it; None: not checked.
        content: its bytes, if they are at hand; `path` is then what errors call it.

    Raises:
        ShardIndexError: missing, not an index, or of a newer version.
        CorruptError: other bytes than index.json says.
        SourceError: unreadable.
    """

    def __init__(self, path: str, expected_xxh3: str | None = None, content: pa.Buffer | None = None) -> None:
        self.path = path
        buffer = _map(path) if content is None else content
        if expected_xxh3 is not None and xxhash.xxh3_64_hexdigest(buffer) != expected_xxh3:
            raise CorruptError(f"{path} is not the file that index.json describes: checksum {expected_xxh3} expected")
        try:
            reader = pa.ipc.open_file(pa.BufferReader(buffer))
            self._batch = reader.get_batch(0)
            self._batch.validate()  # columns that are longer than their bytes would be read beyond the map
            self._names = self._batch.schema.names  # which fails if one is not UTF-8
            about = json.loads(reader.schema.metadata[METADATA_KEY])
            if about["version"] > INDEX_VERSION:
                raise ShardIndexError(
                    f"{path} has version {about['version']}; this fastload reads up to {INDEX_VERSION}: install a newer"
                )
            self.fields = {name: FieldInfo.from_json(info) for name, info in about["fields"].items()}
            self.samples: int = about["samples"]
            self.tar_bytes: int = about["bytes"]
            self.tar_xxh3: str = about["xxh3"]
            self.offsets = self.column("offset")
            self.sizes = self.column("size")
            self.xxh3 = self.column("xxh3")
            keys = self._batch.column("key")
            if len(keys) != self.samples:
                raise ValueError(f"{len(keys)} rows for {self.samples} samples")
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            raise ShardIndexError(
                f"{path} is not an index of fastload ({error}); delete it and run `fastload index`"
            ) from error
        _, bounds, text = keys.buffers()
        self.key_bounds = np.frombuffer(bounds, np.int32, len(keys) + 1) if len(keys) else np.zeros(1, np.int32)
        self.key_text = memoryview(text) if text is not None else memoryview(b"")

    def __contains__(self, name: str) -> bool:
        return name in self._names

    @property
    def numbers(self) -> list[str]:
        """Names of the columns that hold a scalar field's values or a fact."""
        spans = {f"{name}{part}" for name in self.fields for part in (".offset", ".length")}
        return [name for name in self._names if name not in spans | {"key", "offset", "size", "xxh3"}]

    def column(self, name: str) -> npt.NDArray[Any]:
        """One column as an array [n], without a copy where Arrow stores it as numpy does (not booleans)."""
        return to_numpy(self._batch.column(name))

    def key(self, row: int) -> str:
        """The key of one sample."""
        return str(self.key_text[self.key_bounds[row] : self.key_bounds[row + 1]], "utf-8")

    def keys(self, rows: npt.NDArray[np.int64]) -> list[str]:
        """The keys of some samples, in the order of `rows`."""
        starts, stops, text = self.key_bounds[rows].tolist(), self.key_bounds[rows + 1].tolist(), self.key_text
        return [str(text[a:b], "utf-8") for a, b in zip(starts, stops, strict=True)]


def _map(path: str) -> pa.Buffer:
    try:
        return pa.memory_map(path).read_buffer()
    except FileNotFoundError:
        raise ShardIndexError(f"{path} is missing; make it again with `fastload index`") from None
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error}") from error
