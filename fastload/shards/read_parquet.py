"""Reads samples of Parquet shards: a row group is decoded once and kept while it is in use; values are slices of its
buffers."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from fastload.errors import CorruptError, FastloadError, SourceError
from fastload.remote.urls import path_of
from fastload.shards.access import parquet_input
from fastload.shards.arrays import array_of, items
from fastload.shards.index import Index
from fastload.shards.parquet import KEY_COLUMN
from fastload.shards.read import Ints, Raw, Rows, ShardCache, naming

_OFFSET_DTYPES: dict[bool, np.dtype[Any]] = {
    True: np.dtype(np.int64),
    False: np.dtype(np.int32),
}  # by whether the type is a "large" one
_WIDE = {pa.binary(): pa.large_binary(), pa.string(): pa.large_string()}
_OFFSET_LIMIT = (1 << 31) - 1  # bytes of one array whose offsets are int32
_TOO_LARGE = "not implemented for chunked array outputs"  # says pyarrow of structs and lists beyond that


class ParquetReader:
    """Reads Parquet shards, a row group at a time; page checksums are verified where the file has them.

    Args:
        index: of Parquet files.
        scalars: names of the scalar fields to read.
        stored: names of the other fields to read; no other column is touched.
        capacity: row groups kept decoded.
    """

    blocking = True

    def __init__(self, index: Index, scalars: Sequence[str], stored: Sequence[str], capacity: int) -> None:
        self._scalars, self._stored = tuple(scalars), tuple(stored)
        self._shards: ShardCache[RowGroup] = ShardCache(_Opener(index, self._scalars, self._stored), capacity)
        if index.cache is not None:
            index.cache.readers.add(self._shards)

    def read(self, shards: Ints, rows: Ints) -> Rows:
        groups, at = self._shards.get_all(shards), rows.tolist()
        pairs = list(zip(groups, at, strict=True))
        raw = {name: [group.blobs[name].get(row) for group, row in pairs] for name in self._stored}
        return Rows(
            keys=[group.key(row) for group, row in pairs],
            scalars={name: array_of([group.scalars[name][row] for group, row in pairs]) for name in self._scalars},
            raw=raw,
            intact=not any(isinstance(value, FastloadError) for values in raw.values() for value in values),
            lacking=tuple(
                (place, name) for place, (group, row) in enumerate(pairs) if group.nulls for name in group.lacks(row)
            ),
        )


class _Opener:
    """Decodes row groups. Apart from the reader, which would else stand in a cycle with its cache, so that row groups
    would wait for the collector of cycles."""

    def __init__(self, index: Index, scalars: tuple[str, ...], stored: tuple[str, ...]) -> None:
        self._index, self._scalars, self._stored = index, scalars, stored
        self._footers: ShardCache[pq.FileMetaData] = ShardCache(partial(_read_footer, index), 256)

    def __call__(self, shard: int) -> RowGroup:
        with naming(self._index, shard):
            return self._load(shard)

    def _load(self, shard: int) -> RowGroup:
        file, group = int(self._index.file_of_shard[shard]), int(self._index.row_group_of_shard[shard])
        path, footer = self._index.paths[file], self._footers.get(file)

        def read() -> pa.Table:
            source = parquet_input(self._index, file)
            parquet = pq.ParquetFile(source, metadata=footer, memory_map=True, page_checksum_verification=True)
            columns = set(parquet.schema_arrow.names)
            wanted = [name for name in (KEY_COLUMN, *self._scalars, *self._stored) if name in columns]
            return parquet.read_row_group(group, columns=wanted, use_threads=False)

        prefix = f"{Path(path_of(path)).stem}/{group}/"
        return RowGroup(_guarded(path, read), self._scalars, self._stored, key_prefix=prefix)


def _read_footer(index: Index, file: int) -> pq.FileMetaData:
    path, described = index.paths[file], index.files[file]
    source = parquet_input(index, file)
    footer = _guarded(path, lambda: pq.read_metadata(source))
    size = Path(path).stat().st_size if isinstance(source, str) else source.size()
    rows = tuple(footer.row_group(g).num_rows for g in range(footer.num_row_groups))
    if rows != described.row_groups or size != described.bytes:
        raise CorruptError(
            f"{path} is not the file that its index describes ({described.bytes} bytes, {described.samples} "
            "samples); fetch it again, or make the index again with `fastload index`"
        )
    return footer


class RowGroup:
    """One decoded row group.

    Attributes:
        scalars: field -> its values, [rows]; 0 for null.
        nulls: scalar field -> where it is null, bool [rows]; only those that are somewhere.
        blobs: field -> its contents, [rows].
    """

    def __init__(self, table: pa.Table, scalars: Sequence[str], stored: Sequence[str], key_prefix: str) -> None:
        def column(name: str) -> pa.Array:
            return _joined(table.column(name).chunks)

        self._key_prefix = key_prefix
        self._keys = Blobs(KEY_COLUMN, column(KEY_COLUMN)) if KEY_COLUMN in table.schema.names else None
        columns = {name: column(name) for name in scalars}
        self.scalars = {name: _numbers(array) for name, array in columns.items()}
        self.nulls = {n: a.is_null().to_numpy(zero_copy_only=False) for n, a in columns.items() if a.null_count}
        self.blobs = {name: Blobs(name, column(name)) for name in stored}

    def lacks(self, row: int) -> list[str]:
        """The scalar fields that are null in one sample."""
        return [name for name, missing in self.nulls.items() if missing[row]]

    def refuse_nulls(self) -> None:
        """Raise CorruptError for a scalar field that is null somewhere."""
        for name, missing in self.nulls.items():
            row = int(np.flatnonzero(missing)[0])
            raise CorruptError(f"field {name!r} is null in row {row} of this row group; drop or fill missing values")

    def key(self, row: int) -> str:
        """The key of one sample; files of others may have none: file, row group and row then."""
        raw = self._keys.get(row) if self._keys is not None else None
        return f"{self._key_prefix}{row}" if raw is None or isinstance(raw, FastloadError) else str(raw, "utf-8")


def _joined(chunks: list[pa.Array]) -> pa.Array:
    """A column as one array. pyarrow gives chunks where its offsets of 32 bits do not reach; then they get 64."""
    if len(chunks) == 1:
        return chunks[0]
    wide = _WIDE.get(chunks[0].type) if chunks else None
    if wide is not None and sum(chunk.nbytes for chunk in chunks) > _OFFSET_LIMIT:
        chunks = [chunk.cast(wide) for chunk in chunks]
    return pa.concat_arrays(chunks)


def _numbers(array: pa.Array) -> memoryview:
    if array.null_count:  # left in, a null would make floats of all integers
        array = array.fill_null(False if pt.is_boolean(array.type) else 0)
    return items(array.to_numpy(zero_copy_only=False))


class Blobs:
    """The values of one column: binary and string as bytes, lists of integers as typed views of the column, which know
    their dtype; other lists become a .npy, which says its shape too. So do fixed-size lists of uint8, whose views could
    not be told from bytes; other lists of uint8 are bytes.
    """

    def __init__(self, name: str, array: pa.Array) -> None:
        self._name = name
        self._holes: set[int] = set()
        self._path: pa.Array | None = None
        self._missing = array.is_null().to_numpy(zero_copy_only=False) if array.null_count else None
        if pt.is_struct(array.type):
            if "path" in {array.type.field(i).name for i in range(array.type.num_fields)}:
                self._path = array.field("path")
            array = array.field("bytes")
            if array.null_count:
                self._missing = array.is_null().to_numpy(zero_copy_only=False)
        self._item: np.dtype[Any] = np.dtype(np.uint8)
        self._shape: tuple[int, ...] = (-1,)  # of one value, if it becomes a .npy
        if pt.is_fixed_size_list(array.type):
            count, self._shape = len(array), ()
            while pt.is_fixed_size_list(array.type):
                self._shape += (array.type.list_size,)
                array = array.values[array.offset * array.type.list_size :][: len(array) * array.type.list_size]
            starts = np.arange(count + 1) * math.prod(self._shape)
            numbers = self._numbers(array, starts)
            self._item, self._npy = numbers.dtype, len(self._shape) > 1 or not _is_typed(numbers.dtype)
            self._bounds = (starts * numbers.dtype.itemsize if self._npy else starts).data
            data = _viewed(numbers)
        elif pt.is_list(array.type) or pt.is_large_list(array.type):
            starts = array.offsets.to_numpy().astype(np.int64)
            numbers = self._numbers(array.values, starts)
            self._item, self._npy = numbers.dtype, numbers.dtype.kind == "f"
            self._bounds = (starts if _is_typed(numbers.dtype) else starts * numbers.dtype.itemsize).data
            data = _viewed(numbers)
        else:
            large = pt.is_large_binary(array.type) or pt.is_large_string(array.type)
            _, offsets, content = array.buffers()
            bounds = np.frombuffer(offsets, _OFFSET_DTYPES[large]) if offsets is not None else np.zeros(1, np.int64)
            self._bounds = bounds[array.offset : array.offset + len(array) + 1].data
            self._npy = False
            data = memoryview(content) if content is not None else memoryview(b"")
        self._plain = self._missing is None and not self._holes and not self._npy
        typed = _is_typed(self._item) and not self._npy
        self._data = data if typed else data.cast("B") if data.nbytes else memoryview(b"")

    def _numbers(self, values: pa.Array, starts: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """The items of all lists, as they are stored; lists with a null among their items are noted.

        Left in, a null would make floats of all integers of the row group.
        """
        if values.null_count:
            places = np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))
            self._holes = set((np.searchsorted(starts, places, "right") - 1).tolist())
            values = values.fill_null(False if pt.is_boolean(values.type) else 0)
        return np.ascontiguousarray(values.to_numpy(zero_copy_only=False))

    def get(self, row: int) -> Raw | FastloadError:
        if self._plain:
            return self._data[self._bounds[row] : self._bounds[row + 1]]
        if self._missing is not None and self._missing[row]:
            if outside := self.path(row):
                return CorruptError(
                    f"its bytes are outside of the Parquet file, in {outside!r}; embed them before streaming"
                )
            return CorruptError(f"the sample has no field {self._name!r} (null)")
        if row in self._holes:
            return CorruptError(f"the list in field {self._name!r} has a null in it; drop or fill missing values")
        raw = self._data[self._bounds[row] : self._bounds[row + 1]]
        return self._as_npy(raw) if self._npy else raw

    def lacks(self, row: int) -> bool:
        """Whether the sample has no such field: null, and no path to a file elsewhere."""
        return self._missing is not None and bool(self._missing[row]) and not self.path(row)

    def path(self, row: int) -> str:
        """What `datasets` notes of the file that an image or a sound was; "" where there is nothing."""
        return (self._path[row].as_py() or "") if self._path is not None else ""

    def _as_npy(self, raw: memoryview) -> bytes:
        out = io.BytesIO()
        np.save(out, np.frombuffer(raw, self._item).reshape(self._shape), allow_pickle=False)
        return out.getvalue()


def _is_typed(dtype: np.dtype[Any]) -> bool:
    """Whether lists of these numbers are passed on as views with a format that tells them from bytes."""
    return dtype.kind in "iu" and dtype != np.uint8


def _viewed(numbers: npt.NDArray[Any]) -> memoryview:
    """As they are, or as bytes, which memoryview does not make of 16-bit floats before Python 3.12."""
    return numbers.data if _is_typed(numbers.dtype) else numbers.view(np.uint8).data


def _guarded(path: str, read: Callable[[], Any]) -> Any:
    """Run a read of pyarrow, with its errors made ours."""
    try:
        return read()
    except FileNotFoundError:
        raise SourceError(f"{path} is missing; fetch it again, or make the index again with `fastload index`") from None
    except FastloadError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise CorruptError(f"{path} cannot be read: {error}; {remedy(error, 'fetch it again')}") from error


def remedy(error: Exception, otherwise: str) -> str:
    """What to do about an error of pyarrow; `otherwise` if the file is to blame."""
    if _TOO_LARGE in str(error):
        return "more than 2 GiB in a column of a row group: write it again with a smaller row_group_size, such as 1000"
    return otherwise
