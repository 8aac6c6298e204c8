"""Parquet shards: written for any tool, with images, sounds and labels as such for `datasets`; scanned from the footer.

    __key__         string    the sample's key
    <field>         see `fastload.shards.features`; a sample that lacks the field has null
    <field>.<what>  int64     facts the packer learned: image width and height, audio frames

The schema's metadata has the features for `datasets` under "huggingface" and JSON under "fastload": version, fields,
facts. Pages carry a CRC-32. Bytes are stored plain, without compression (JPEG and FLAC do not shrink), dictionary and
statistics.
"""

from __future__ import annotations

import io
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from fastload.errors import CorruptError, FastloadError, PackError, ShardIndexError, SourceError
from fastload.shards.features import (
    FACT_TYPE,
    HUGGINGFACE_KEY,
    arrow_type,
    field_of_column,
    huggingface_metadata,
    is_encoded,
)
from fastload.shards.files import PARTIAL_SUFFIX, publish
from fastload.shards.index import INDEX_VERSION, FieldInfo, Kind, ShardFile

SUFFIX = ".parquet"
KEY_COLUMN = "__key__"
METADATA_KEY = b"fastload"
ROW_GROUP_BYTES = 8 << 20  # a window of 64 row groups is then 512 MiB: it fits in memory
NPY_MAGIC = b"\x93NUMPY"
HASH_CHUNK = 8 << 20
BLOB_KINDS = ("image", "audio", "tensor", "bytes", "tokens")
_ENDINGS: dict[str, Kind] = {
    **dict.fromkeys(("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"), "image"),
    **dict.fromkeys(("wav", "flac", "ogg", "opus", "mp3"), "audio"),
}
_MAGIC: dict[bytes, Kind] = {
    **dict.fromkeys((b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*"), "image"),
    **dict.fromkeys((b"fLaC", b"OggS", b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2"), "audio"),
}


class ParquetShardWriter:
    """Writes one Parquet file under a temporary name; `finish` gives it its own.

    The same samples in the same order give the same bytes with the same version of pyarrow.

    Args:
        path: of the finished file.
        fields: what its samples have; every content and scalar that is added must be among them.
        row_group_bytes: a row group is closed when its contents reach this size.
    """

    def __init__(self, path: Path, fields: Mapping[str, FieldInfo], *, row_group_bytes: int = ROW_GROUP_BYTES) -> None:
        self.path = path
        self.fields = {name: replace(info, extension=None) for name, info in fields.items()}
        self._row_group_bytes = row_group_bytes
        self._partial = path.with_name(path.name + PARTIAL_SUFFIX)
        self._sink = _HashingFile(self._partial)
        self._facts: tuple[str, ...] | None = None  # of the first row group; the schema cannot grow after it
        self._writer: pq.ParquetWriter | None = None
        self._row_groups: list[int] = []
        self._clear()

    def _clear(self) -> None:
        self._keys: list[str] = []
        self._columns: dict[str, list[Any]] = {name: [] for name in self.fields}
        self._fact_rows: list[Mapping[str, int]] = []
        self._pending_bytes = 0

    def add(
        self,
        key: str,
        contents: Mapping[str, tuple[str, bytes]],
        scalars: Mapping[str, int | float | bool],
        facts: Mapping[str, int],
    ) -> None:
        """Append one sample.

        Args:
            key: its key.
            contents: field -> (file type such as "jpg", stored bytes).
            scalars: field -> value.
            facts: "<field>.<what>" -> value; the same names for every sample, or fewer.

        Raises:
            PackError: a field that was not declared, text that is not UTF-8, tokens that are not a row of integers.
        """
        given = {**contents, **scalars}
        for name in given.keys() - self.fields.keys():
            raise PackError(f"field {name!r} is not among the declared {', '.join(map(repr, self.fields))}", key=key)
        for name, info in self.fields.items():
            self._columns[name].append(_value(name, info, key, given[name]) if name in given else None)
        self._keys.append(key)
        self._fact_rows.append(facts)
        self._pending_bytes += sum(len(content) for _, content in contents.values())
        if self._pending_bytes >= self._row_group_bytes:
            self._flush()

    def finish(self) -> ShardFile:
        """Write what is pending and the footer, sync, rename. The name in the result is the file's own."""
        if self._keys or self._writer is None:
            self._flush()
        assert self._writer is not None
        self._writer.close()
        self._sink.sync()
        self._sink.close()
        publish(self._partial, self.path)
        return ShardFile(
            name=self.path.name,
            samples=sum(self._row_groups),
            bytes=self._sink.size,
            xxh3=self._sink.hexdigest(),
            row_groups=tuple(self._row_groups),
        )

    def abort(self) -> None:
        """Close and remove the temporary file."""
        self._sink.close()
        if self._writer is not None:
            self._writer.close()  # else it writes its footer when it is collected
        self._partial.unlink(missing_ok=True)

    def _flush(self) -> None:
        found = tuple(sorted({name for row in self._fact_rows for name in row}))
        if self._writer is None or self._facts is None:
            self._facts = found
            self._writer = self._open_writer(found)
        if not set(found) <= set(self._facts):
            raise PackError(f"facts {found} came after the first row group had {self._facts}", shard=self.path.name)
        arrays = [pa.array(self._keys, pa.string())]
        arrays += [_column(info, self._columns[name]) for name, info in self.fields.items()]
        arrays += [pa.array([row.get(name) for row in self._fact_rows], FACT_TYPE) for name in self._facts]
        if self._keys:
            table = pa.Table.from_arrays(arrays, schema=self._writer.schema)
            self._writer.write_table(table, row_group_size=len(self._keys))
            self._row_groups.append(len(self._keys))
        self._clear()

    def _open_writer(self, facts: tuple[str, ...]) -> pq.ParquetWriter:
        schema = self._schema(facts)
        blobs = [name for name, info in self.fields.items() if info.kind in BLOB_KINDS]
        texts = [name for name, info in self.fields.items() if info.kind in ("text", "json")]
        leaves = [leaf for name in schema.names for leaf in _leaves(name, schema.field(name).type)]
        plain = [leaf for name in blobs for leaf in _leaves(name, schema.field(name).type)]
        small = [leaf for leaf in leaves if leaf not in plain and leaf not in texts and leaf != KEY_COLUMN]
        return pq.ParquetWriter(
            self._sink,
            schema,
            compression={leaf: "none" if leaf in plain else "zstd" for leaf in leaves},
            use_dictionary=small or False,
            write_statistics=[leaf for leaf in leaves if leaf not in plain and leaf not in texts],
            write_page_checksum=True,
        )

    def _schema(self, facts: tuple[str, ...]) -> pa.Schema:
        for name in (*self.fields, *facts):
            if name == KEY_COLUMN or (name in self.fields and name in facts):
                raise PackError(f"the field {name!r} clashes with a column of the shard; rename the field")
        columns = [pa.field(KEY_COLUMN, pa.string(), nullable=False)]
        columns += [pa.field(name, arrow_type(info)) for name, info in self.fields.items()]
        columns += [pa.field(name, FACT_TYPE) for name in facts]
        about = {
            "version": INDEX_VERSION,
            "fields": {name: info.to_json() for name, info in self.fields.items()},
            "facts": list(facts),
        }
        features = huggingface_metadata(self.fields, KEY_COLUMN, facts)
        metadata = {HUGGINGFACE_KEY: features, METADATA_KEY: json.dumps(about, ensure_ascii=False)}
        return pa.schema(columns, metadata=metadata)


def scan_parquet(path: Path, checksum: bool = False) -> tuple[ShardFile, dict[str, FieldInfo]]:
    """What is in a Parquet file, from its footer alone; files of any writer.

    Kinds come from fastload's own metadata, else from Hugging Face features, else from the column types. A column of a
    type that no field has (dates, decimals, nested records) is left out with a UserWarning that names it.

    Args:
        path: of the file; its base name becomes the shard's name.
        checksum: read the whole file for its XXH3-64.

    Raises:
        SourceError: missing or unreadable.
        CorruptError: not a Parquet file, or cut off.
        ShardIndexError: written by a newer version, or without a single column that can be read.
    """
    file = open_parquet(path)
    schema, footer = file.schema_arrow, file.metadata
    shard = ShardFile(
        name=path.name,
        samples=footer.num_rows,
        bytes=path.stat().st_size,
        xxh3=hash_file(path) if checksum else None,
        row_groups=tuple(footer.row_group(i).num_rows for i in range(footer.num_row_groups)),
    )
    about = (schema.metadata or {}).get(METADATA_KEY)
    return shard, _own_fields(path, about) if about is not None else _foreign_fields(path, file)


def open_parquet(path: Path, verify_pages: bool = False) -> pq.ParquetFile:
    """Open a Parquet file; the errors of `scan_parquet`.

    Args:
        path: of the file.
        verify_pages: check the CRC-32 of every page that is read and has one.
    """
    try:
        if path.is_dir():
            raise SourceError(f"{path} cannot be read: it is a folder")
        file = pq.ParquetFile(path, memory_map=True, page_checksum_verification=verify_pages, pre_buffer=False)
        _ = file.schema_arrow  # parsed when first asked for
        return file
    except FileNotFoundError:
        raise SourceError(f"{path} does not exist") from None
    except PermissionError as error:
        raise SourceError(f"{path} cannot be read: {error}") from error
    except (pa.ArrowException, OSError, ValueError) as error:  # pyarrow reports a damaged footer as any of these
        if isinstance(error, FastloadError):
            raise
        raise CorruptError(f"{path} is not a whole Parquet file ({error}); copy or pack it again") from error


def fact_names(file: pq.ParquetFile) -> list[str]:
    """The columns of facts in a file that fastload wrote; none in others."""
    about = (file.schema_arrow.metadata or {}).get(METADATA_KEY)
    return [str(name) for name in json.loads(about).get("facts", ())] if about is not None else []


def hash_file(path: Path) -> str:
    """XXH3-64 of a file, 16 hex digits."""
    state = xxhash.xxh3_64()
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(HASH_CHUNK):
            state.update(chunk)
    return state.hexdigest()


class _HashingFile:
    """A file that is written from start to end, counted and hashed on the way."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "wb")  # noqa: SIM115 - closed by close()
        self._state = xxhash.xxh3_64()
        self.size = 0

    def write(self, data: bytes) -> int:
        if self._file.closed:
            return len(data)
        self._state.update(data)
        self.size += len(data)
        return self._file.write(data)

    def sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        """Close; what is written after that is dropped, such as the footer of a shard that was given up."""
        self._file.close()

    @property
    def closed(self) -> bool:
        return False  # as pyarrow sees it

    def hexdigest(self) -> str:
        return self._state.hexdigest()


def _leaves(name: str, arrow: pa.DataType) -> list[str]:
    """Names that Parquet gives the leaf columns of one of `arrow_type`'s types."""
    if pa.types.is_struct(arrow):
        return [f"{name}.{field.name}" for field in arrow]
    return [f"{name}.list.element"] if pa.types.is_list(arrow) else [name]


def _value(name: str, info: FieldInfo, key: str, given: Any) -> Any:
    """What a column holds for one sample; `given` is (extension, bytes), or a scalar's value."""
    if info.kind == "scalar":
        return given
    extension, content = given
    if info.kind in ("image", "audio"):
        return {"bytes": content, "path": f"{key}.{extension}" if extension else key}
    if info.kind in ("text", "json"):
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise PackError(f"field {name!r} is not UTF-8 ({error}); convert it, or pack as tar", key=key) from error
    return _tokens(name, info, key, content) if info.kind == "tokens" else content


def _tokens(name: str, info: FieldInfo, key: str, content: bytes) -> np.ndarray[Any, Any]:
    """The numbers of a .npy, or of bare little-endian integers of the field's dtype, as `decode.tensor` reads them."""
    try:
        if content.startswith(NPY_MAGIC) or info.dtype is None:
            array: np.ndarray[Any, Any] = np.load(io.BytesIO(content), allow_pickle=False)
        else:
            array = np.frombuffer(content, np.dtype(info.dtype).newbyteorder("<"))
    except (ValueError, EOFError) as error:
        raise PackError(f"field {name!r} is not a row of tokens: {error}", key=key) from error
    if array.ndim != 1 or array.dtype.kind not in "iu":
        found = f"{array.dtype}{list(array.shape)}"
        raise PackError(f"field {name!r}: tokens are one row of integers, not {found}", key=key)
    return array


def _column(info: FieldInfo, values: Sequence[Any]) -> pa.Array:
    arrow = arrow_type(info)
    if not pa.types.is_struct(arrow):
        return pa.array(values, arrow)
    children = [pa.array([v and v[field.name] for v in values], field.type) for field in arrow]
    missing = pa.array([v is None for v in values], pa.bool_())
    return pa.StructArray.from_arrays(children, fields=list(arrow), mask=missing)


def _own_fields(path: Path, about: bytes) -> dict[str, FieldInfo]:
    try:
        data = json.loads(about)
        if data["version"] > INDEX_VERSION:
            raise ShardIndexError(
                f"{path} has version {data['version']}; this fastload reads up to {INDEX_VERSION}: install a newer one"
            )
        return {name: FieldInfo.from_json(info) for name, info in data["fields"].items()}
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptError(f"{path}: the metadata under 'fastload' is damaged ({error}); pack it again") from error


def _foreign_fields(path: Path, file: pq.ParquetFile) -> dict[str, FieldInfo]:
    schema = file.schema_arrow
    features = _features(path, (schema.metadata or {}).get(HUGGINGFACE_KEY))
    fields = {}
    for column in schema:
        if column.name == KEY_COLUMN:
            continue
        info = field_of_column(column.type, features.get(column.name))
        if info is None and is_encoded(column.type):
            info = FieldInfo(kind=_sniff(file, column.name))
        if info is not None:
            fields[column.name] = info
            continue
        warnings.warn(
            # without the path, so that many files give one warning
            f"Parquet column {column.name!r} is left out: no field kind holds {column.type}; "
            "store it as numbers, text, binary or a list of numbers to have it in the batch",
            UserWarning,
            stacklevel=3,
        )
    if not fields:
        raise ShardIndexError(f"{path} has no column that can be read as a field; it has {', '.join(schema.names)}")
    return fields


def _features(path: Path, metadata: bytes | None) -> Mapping[str, Any]:
    if metadata is None:
        return {}
    try:
        features: Mapping[str, Any] = json.loads(metadata).get("info", {}).get("features") or {}
    except (ValueError, AttributeError) as error:
        raise CorruptError(f"{path}: the metadata under 'huggingface' is damaged ({error})") from error
    return {name: feature for name, feature in features.items() if isinstance(feature, Mapping)}


def _sniff(file: pq.ParquetFile, column: str) -> Kind:
    """Whether struct<bytes, path> without a feature is an image or a sound, from its first value."""
    for batch in file.iter_batches(batch_size=1, columns=[column]):
        value = batch.column(0)[0].as_py()
        if value is None:
            continue
        head = bytes((value["bytes"] or b"")[:12])
        if head[:4] == b"RIFF":
            return "image" if head[8:12] == b"WEBP" else "audio"
        known = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)
        ending = (value["path"] or "").rpartition(".")[2].lower()
        return known or _ENDINGS.get(ending, "bytes")
    return "bytes"
