"""What is in a Parquet file, from its footer: files that fastload wrote, and those of others."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from fastload.errors import CorruptError, FastloadError, ShardIndexError, SourceError
from fastload.shards.features import HUGGINGFACE_KEY, field_of_column, is_encoded
from fastload.shards.index import INDEX_VERSION, FieldInfo, Kind, ShardFile
from fastload.shards.members import KIND_OF_EXTENSION

KEY_COLUMN = "__key__"
METADATA_KEY = b"fastload"
HASH_CHUNK = 8 << 20
_BATCH_ROWS = 1024  # pages of pyarrow end at multiples of it
_MAGIC: dict[bytes, Kind] = {
    **dict.fromkeys((b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*"), "image"),
    **dict.fromkeys((b"fLaC", b"OggS", b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2"), "audio"),
}


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
    return shard, _own_fields(path, about, schema.names) if about is not None else _foreign_fields(path, file)


def open_parquet(path: Path, verify_pages: bool = False, source: str | pa.BufferReader | None = None) -> pq.ParquetFile:
    """Open a Parquet file; the errors of `scan_parquet`.

    Args:
        path: of the file.
        verify_pages: check the CRC-32 of every page that is read and has one.
        source: what to read instead; `path` is then what errors call it.
    """
    try:
        if path.is_dir():
            raise SourceError(f"{path} cannot be read: it is a folder")
        file = pq.ParquetFile(
            source or path, memory_map=True, page_checksum_verification=verify_pages, pre_buffer=False
        )
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


def read_through(file: pq.ParquetFile, group: int, columns: list[str] | None = None) -> None:
    """Read a row group, and so check it, in batches: arrow cannot have more than 2 GiB of a column in one piece.

    Args:
        columns: None: all.

    Raises: of pyarrow, ArrowException or OSError, for what is damaged.
    """
    for _ in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=columns, use_threads=False):
        pass


def fact_names(file: pq.ParquetFile) -> list[str]:
    """The columns of facts in a file that fastload wrote; none in others."""
    about, columns = (file.schema_arrow.metadata or {}).get(METADATA_KEY), set(file.schema_arrow.names)
    names = json.loads(about).get("facts", ()) if about is not None else ()
    return [str(name) for name in names if name in columns]


def hash_file(path: Path) -> str:
    """XXH3-64 of a file, 16 hex digits."""
    state = xxhash.xxh3_64()
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(HASH_CHUNK):
            state.update(chunk)
    return state.hexdigest()


def _own_fields(path: Path, about: bytes, columns: list[str]) -> dict[str, FieldInfo]:
    """The declared fields that are still there: a tool that drops columns keeps the metadata of all."""
    try:
        data = json.loads(about)
        if data["version"] > INDEX_VERSION:
            raise ShardIndexError(
                f"{path} has version {data['version']}; this fastload reads up to {INDEX_VERSION}: install a newer one"
            )
        fields = {name: FieldInfo.from_json(info) for name, info in data["fields"].items()}
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptError(f"{path}: the metadata under 'fastload' is damaged ({error}); pack it again") from error
    left = {name: info for name, info in fields.items() if name in columns}
    if fields and not left:
        raise ShardIndexError(
            f"{path} has none of its fields {', '.join(fields)} any more, only {', '.join(columns)}; pack it again"
        )
    return left


def _foreign_fields(path: Path, file: pq.ParquetFile) -> dict[str, FieldInfo]:
    schema = file.schema_arrow
    features = features_of(path, (schema.metadata or {}).get(HUGGINGFACE_KEY))
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


def features_of(path: Path, metadata: bytes | None) -> Mapping[str, Any]:
    """Column -> Hugging Face feature, from the schema's entry; none where there is none."""
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
        return known or KIND_OF_EXTENSION.get(ending, "bytes")
    return "bytes"
