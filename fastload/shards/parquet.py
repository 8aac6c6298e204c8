"""Parquet shards: written for any tool, with images, sounds and labels as such for `datasets`; scanned from the footer.

    __key__         string    the sample's key
    <field>         see `fastload.shards.features`; a sample that lacks the field has null
    <field>.<what>  int64     facts the packer learned: image width and height, audio frames
    <field>.type    string    the file type of bytes that came from a tar, where it is not "bin": for the way back

The schema's metadata has the features for `datasets` under "huggingface" and JSON under "fastload": version, fields,
facts, types. Pages carry a CRC-32. Bytes are stored plain, without compression (JPEG and FLAC do not shrink),
dictionary and statistics.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from fastload.errors import PackError
from fastload.shards.features import FACT_TYPE, HUGGINGFACE_KEY, arrow_type, huggingface_metadata
from fastload.shards.files import PARTIAL_SUFFIX, publish
from fastload.shards.index import INDEX_VERSION, FieldInfo, ShardFile
from fastload.shards.parquetscan import KEY_COLUMN, METADATA_KEY, scan_parquet

__all__ = ["KEY_COLUMN", "ParquetShardWriter", "scan_parquet"]

SUFFIX = ".parquet"
ROW_GROUP_BYTES = 8 << 20  # a window of 64 row groups is then 512 MiB: it fits in memory
ROW_GROUP_ROWS = 1 << 17  # of samples with hardly any content, such as numbers alone: 30 MiB while they are pending
NPY_MAGIC = b"\x93NUMPY"
TYPE_SUFFIX = ".type"
BLOB_KINDS = ("image", "audio", "tensor", "bytes", "tokens")


class ParquetShardWriter:
    """Writes one Parquet file under a temporary name; `finish` gives it its own.

    The same samples in the same order give the same bytes with the same version of pyarrow.

    Args:
        path: of the finished file.
        fields: what its samples have; every content and scalar that is added must be among them.
        row_group_bytes: a row group is closed when its contents reach this size, or its samples ROW_GROUP_ROWS.
        types: fields of bytes whose file types are kept.
        facts: all that samples may have; None: those of the first row group.
    """

    def __init__(
        self,
        path: Path,
        fields: Mapping[str, FieldInfo],
        *,
        row_group_bytes: int = ROW_GROUP_BYTES,
        types: Sequence[str] = (),
        facts: Sequence[str] | None = None,
    ) -> None:
        self.path = path
        self.fields = {name: replace(info, extension=None) for name, info in fields.items()}
        self._row_group_bytes = row_group_bytes
        self._types = tuple(types)
        self.partial = path.with_name(path.name + PARTIAL_SUFFIX)
        self._sink = _HashingFile(self.partial)
        self._facts = None if facts is None else tuple(sorted(facts))  # the schema cannot grow after a row group
        self._writer: pq.ParquetWriter | None = None
        self._row_groups: list[int] = []
        self._clear()

    def _clear(self) -> None:
        self._keys: list[str] = []
        self._columns: dict[str, list[Any]] = {name: [] for name in self.fields}
        self._fact_rows: list[Mapping[str, int]] = []
        self._type_rows: list[list[str | None]] = []
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
        self._type_rows.append([contents[name][0] if name in contents else None for name in self._types])
        self._pending_bytes += sum(len(content) for _, content in contents.values())
        if self._pending_bytes >= self._row_group_bytes or len(self._keys) >= ROW_GROUP_ROWS:
            self._flush()

    def finish(self) -> ShardFile:
        """`complete`, and give the file its name. The name in the result is the file's own."""
        shard = self.complete()
        publish(self.partial, self.path)
        return shard

    def complete(self) -> ShardFile:
        """Write what is pending and the footer, and sync: `partial` is then the whole file."""
        if self._keys or self._writer is None:
            self._flush()
        assert self._writer is not None
        self._writer.close()
        self._sink.sync()
        self._sink.close()
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
        self.partial.unlink(missing_ok=True)

    def _flush(self) -> None:
        found = tuple(sorted({name for row in self._fact_rows for name in row}))
        if self._writer is None or self._facts is None:
            self._facts = found if self._facts is None else self._facts
            self._writer = self._open_writer(self._facts)
        if not set(found) <= set(self._facts):
            raise PackError(f"facts {found} came after the first row group had {self._facts}", shard=self.path.name)
        arrays = [pa.array(self._keys, pa.string())]
        arrays += [_column(info, self._columns[name]) for name, info in self.fields.items()]
        arrays += [pa.array([row.get(name) for row in self._fact_rows], FACT_TYPE) for name in self._facts]
        arrays += [pa.array([row[at] for row in self._type_rows], pa.string()) for at in range(len(self._types))]
        if self._keys:
            table = pa.Table.from_arrays(arrays, schema=self._writer.schema)
            self._writer.write_table(table, row_group_size=len(self._keys))
            self._row_groups.append(len(self._keys))
        self._clear()

    def _open_writer(self, facts: tuple[str, ...]) -> pq.ParquetWriter:
        schema = self._schema(facts, tuple(name + TYPE_SUFFIX for name in self._types))
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

    def _schema(self, facts: tuple[str, ...], types: tuple[str, ...]) -> pa.Schema:
        for name in (*self.fields, *facts, *types):
            if name == KEY_COLUMN or (name in self.fields and name in (*facts, *types)):
                raise PackError(f"the field {name!r} clashes with a column of the shard; rename the field")
        columns = [pa.field(KEY_COLUMN, pa.string(), nullable=False)]
        columns += [pa.field(name, arrow_type(info)) for name, info in self.fields.items()]
        columns += [pa.field(name, FACT_TYPE) for name in facts]
        columns += [pa.field(name, pa.string()) for name in types]
        about: dict[str, Any] = {
            "version": INDEX_VERSION,
            "fields": {name: info.to_json() for name, info in self.fields.items()},
            "facts": list(facts),
        }
        if types:
            about["types"] = list(types)
        features = huggingface_metadata(self.fields, KEY_COLUMN, facts, types)
        metadata = {HUGGINGFACE_KEY: features, METADATA_KEY: json.dumps(about, ensure_ascii=False)}
        return pa.schema(columns, metadata=metadata)


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
