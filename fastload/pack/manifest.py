"""CSV, JSON Lines and Parquet manifests as tables: columns of paths, numbers, texts and class names."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from fastload.errors import ConfigError, PackError
from fastload.pack.arrow import is_plain
from fastload.pack.missing import Lenience, mend
from fastload.pack.npyfiles import array_field, array_info, npy_bytes
from fastload.pack.streams import KEY_DIGITS, KEY_NAMES
from fastload.pack.table import (
    Column,
    Files,
    Inline,
    Table,
    Values,
    check_keys,
    class_table,
    label_info,
    one_or_all,
    with_extensions,
)
from fastload.shards.index import FieldInfo, Kind
from fastload.shards.members import DEFAULT_NAMES, file_extension, sample_key
from fastload.shards.members import KIND_OF_EXTENSION as KINDS
from fastload.shards.parquetscan import open_parquet

Columns = str | Mapping[str, str] | Sequence[str]
_PATH_COLUMNS = ("path", "file", "filename", "file_name")
_FILE_KINDS: tuple[Kind, ...] = ("image", "audio", "tensor", "text")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """One field that was asked for: its column, and its kind if that is forced."""

    field: str
    column: str
    kind: Kind | None


def parse_columns(columns: Columns | None) -> dict[str, str] | None:
    """`"image:path,label,caption:text"` -> `{"image": "path", "label": "label", "caption": "text"}`; names alone stand
    for fields of the same name.

    Raises: ConfigError for an empty part or a field that is named twice.
    """
    if columns is None or isinstance(columns, Mapping):
        return None if columns is None else dict(columns)
    parsed: dict[str, str] = {}
    for part in columns.split(",") if isinstance(columns, str) else columns:
        name, _, rest = part.strip().partition(":")
        if not name or name in parsed:
            raise ConfigError(
                f"columns={columns!r}: {'a field is named twice' if name else 'an empty part'}; write field:column"
            )
        parsed[name] = rest or name
    return parsed


def manifest_table(source: Path, columns: Columns | None, lenience: Lenience) -> Table:
    """The rows of a manifest.

    A column whose values are names of image, audio, .npy or .txt files becomes that kind of field, one of numbers a
    scalar, a text column for the field "label" a class label, lists and records JSON, anything else text. Keys come
    from a column "key", else from the first file column, else they are row numbers.

    Args:
        source: a .csv, .tsv, .jsonl, .ndjson or .parquet file; paths in it are relative to its folder.
        columns: field -> column or "column:kind"; None: every column, under its own name.
        lenience: what is no error; with `lenience.mends`, JSON rows may also lack columns.

    Raises:
        PackError: no rows, a row that is cut or lacks a value, a file that is missing or empty, keys that clash.
        ConfigError: an unknown column or kind.
    """
    readers = {".csv": _read_csv, ".tsv": _read_csv, ".parquet": _read_parquet}
    reader = readers.get(source.suffix.lower())
    data: Mapping[str, Sequence[Any]] = _read_jsonl(source, lenience.mends) if reader is None else reader(source)
    if not data or not next(iter(data.values())):
        raise PackError(f"{source} has no rows")
    key_column, wanted = _wanted(parse_columns(columns), data, source)
    mended = mend(data, {want.field: want.column for want in wanted}, key_column, lenience)
    data = mended.data
    if not next(iter(data.values())):
        raise PackError(f"{source}: every row lacks a value ({mended.left_out[0].why} in row 1)")
    rows = _Rows(source, mended.numbers, lenience.faulty)
    found: dict[str, Column] = {}
    fields: dict[str, FieldInfo] = {}
    for want in wanted:
        column, info = rows.column(want, data[want.column])
        name = (
            info.kind if columns is None and want.field in _PATH_COLUMNS and isinstance(column, Files) else want.field
        )
        if name in fields:
            raise PackError(
                f"{source}: two columns become the field {name!r}; say which with columns={{field: column}}"
            )
        found[name], fields[name] = column, info
    keys = rows.keys(key_column and data[key_column], found)
    return Table(
        keys=keys,
        columns=found,
        fields=with_extensions(found, fields),
        numbers=mended.numbers,
        left_out=mended.left_out,
    )


def _wanted(columns: dict[str, str] | None, data: Mapping[str, Any], source: Path) -> tuple[str | None, list[_Wanted]]:
    """The column of the keys, and the fields."""
    if columns is None:
        key = next((name for name in KEY_NAMES if name in data), None)
        return key, [_Wanted(field=name, column=name, kind=None) for name in data if name != key]
    key, wanted = None, []
    for name, text in columns.items():
        column, _, kind = (text, "", "") if text in data else text.rpartition(":") if ":" in text else (text, "", "")
        if column not in data:
            raise ConfigError(f"{source} has no column {column!r}; it has {', '.join(map(repr, data))}")
        if kind and kind not in get_args(Kind):
            raise ConfigError(f"columns: {kind!r} is no kind of field; pass one of {', '.join(get_args(Kind))}")
        if name in KEY_NAMES:
            key = column
        else:
            wanted.append(_Wanted(field=name, column=column, kind=kind or None))  # type: ignore[arg-type]
    if not wanted:
        raise ConfigError(f"columns={columns!r} names no field")
    return key, wanted


def _open(source: Path) -> io.StringIO:
    try:
        return io.StringIO(source.read_text("utf-8-sig"), newline="")
    except UnicodeDecodeError as error:
        raise PackError(f"{source} is not UTF-8 ({error}); convert it") from error
    except OSError as error:
        raise PackError(f"{source} cannot be read: {error.strerror}") from error


def _read_csv(source: Path) -> dict[str, list[str]]:
    csv.field_size_limit(1 << 30)
    reader = csv.reader(_open(source), delimiter="\t" if source.suffix.lower() == ".tsv" else ",", strict=True)
    try:
        header = next(reader, [])
        if len(set(header)) < len(header) or "" in header:
            raise PackError(f"{source}: the first line must name each column, once; it is {','.join(header)!r}")
        columns: dict[str, list[str]] = {name: [] for name in header}
        appends = [column.append for column in columns.values()]
        for cells in reader:
            if len(cells) != len(header):
                if not cells:
                    continue
                raise PackError(
                    f"{source}, line {reader.line_num}: {len(cells)} cells where the header has {len(header)}"
                )
            for append, cell in zip(appends, cells, strict=True):
                append(cell)
    except csv.Error as error:
        raise PackError(f"{source}, line {reader.line_num}: not CSV ({error})") from error
    return columns


def _read_jsonl(source: Path, ragged: bool) -> dict[str, list[Any]]:
    """`ragged`: a row may lack columns; its values are None."""
    columns: dict[str, list[Any]] = {}
    for count, (number, row) in enumerate(_json_rows(source)):
        if ragged:
            for name in row.keys() - columns.keys():
                columns[name] = [None] * count
            row = {name: row.get(name) for name in columns}
        if not columns:
            columns = {str(name): [] for name in row}
        if row.keys() != columns.keys():
            differing = ", ".join(map(repr, sorted(row.keys() ^ columns.keys())))
            raise PackError(f"{source}, line {number}: has other columns than the first row: {differing}")
        for name, value in row.items():
            columns[name].append(value)
    return columns


def _read_parquet(source: Path) -> dict[str, list[Any]]:
    table = open_parquet(source, verify_pages=True).read()
    for column in table.schema:
        if not is_plain(column.type):
            raise PackError(
                f"{source}: column {column.name!r} is of type {column.type}, which a manifest cannot hold beside names"
                " of files; pack the contents from files, or without the names (kind='shards')"
            )
    return {name: table.column(name).to_pylist() for name in table.schema.names}


def _json_rows(source: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_open(source), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise PackError(f"{source}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict) or not row:
            raise PackError(
                f"{source}, line {number}: a row must be a JSON object with columns, not {line.strip()[:40]!r}"
            )
        yield number, row


class _Rows:
    """Columns of one manifest.

    Args:
        source: the manifest.
        numbers: what errors call each row; None: they count from 1.
        faulty: files may be empty or missing.
    """

    def __init__(self, source: Path, numbers: Sequence[int] | None, faulty: bool) -> None:
        self._numbers = numbers
        self._faulty = faulty
        self._source = source
        self._root = str(source.parent)

    def column(self, want: _Wanted, values: Sequence[Any]) -> tuple[Column, FieldInfo]:
        for row, value in enumerate(values):
            if value is None:
                raise self._error(row, f"column {want.column!r} is null; fill it or leave the row out")
        kind = want.kind or self._infer(want, values)
        strings = all(isinstance(value, str) for value in values)
        if kind == "label":
            for row, value in enumerate(values):
                if not isinstance(value, str):
                    raise self._error(row, f"column {want.column!r} has {value!r} among class names; write it as text")
            classes, labels = class_table(values)
            return Values(values=labels), label_info(classes)
        if kind == "scalar":
            return self._scalars(want, values)
        if kind == "text" and (want.kind is not None or not self._names_files(values)):
            return Inline(contents=[self._text(row, want, v).encode() for row, v in enumerate(values)]), FieldInfo(
                kind="text"
            )
        if kind == "json":
            return Inline(contents=[self._json(row, want, v) for row, v in enumerate(values)]), FieldInfo(kind="json")
        if not strings and kind in ("tensor", "tokens"):
            arrays = [self._array(row, want, v, kind) for row, v in enumerate(values)]
            info = array_info(kind, {(array.shape, array.dtype.name) for array in arrays})
            return Inline(contents=[npy_bytes(array) for array in arrays]), info
        return self._files(want, kind, values)  # type: ignore[arg-type]

    def keys(self, given: Sequence[Any] | None, columns: Mapping[str, Column]) -> list[str]:
        files = next((column for column in columns.values() if isinstance(column, Files)), None)
        if given is not None:
            keys = [str(value).replace(".", "_") for value in given]
            for row, key in enumerate(keys):
                if not key or key.startswith("/") or key.endswith("/"):
                    raise self._error(row, f"{given[row]!r} cannot be a key")
        elif files is not None and not any(path.startswith(("/", "../")) for path in files.paths):
            keys = [sample_key(path) for path in files.paths]
        else:
            rows = max(len(column.sizes) for column in columns.values())
            return [f"{self._number(row):0{KEY_DIGITS}d}" for row in range(rows)]
        check_keys(keys, lambda row: f"row {self._number(row)}")
        return keys

    def _error(self, row: int, what: str) -> PackError:
        return PackError(f"{self._source}, row {self._number(row)}: {what}")

    def _number(self, row: int) -> int:
        return row + 1 if self._numbers is None else self._numbers[row]

    def _infer(self, want: _Wanted, values: Sequence[Any]) -> str:
        if all(isinstance(v, bool) for v in values) or all(_is_number(v) for v in values):
            return "scalar"
        if any(isinstance(v, list | dict) for v in values):
            return "tokens" if want.field == "tokens" else "json"
        strings = [str(v) for v in values]
        if self._names_files(strings):
            kinds = {KINDS.get(file_extension(v)) for v in strings} & set(_FILE_KINDS)
            if len(kinds) > 1:
                raise PackError(
                    f"{self._source}: column {want.column!r} names files of several kinds"
                    f" ({', '.join(sorted(map(str, kinds)))});"
                    f" force one with {want.field}:{want.column}:kind"
                )
            kind = str(next(iter(kinds)))
            return "tokens" if kind == "tensor" and want.field == "tokens" else kind
        return "label" if want.field == DEFAULT_NAMES["scalar"] else "text"

    def _names_files(self, values: Sequence[Any]) -> bool:
        """Whether a column holds names of files: all look like it, or the first does and is there."""
        look = [isinstance(v, str) and KINDS.get(file_extension(v)) in _FILE_KINDS for v in values]
        return all(look) or (look[0] and os.path.isfile(os.path.join(self._root, values[0])))

    def _scalars(self, want: _Wanted, values: Sequence[Any]) -> tuple[Column, FieldInfo]:
        if all(isinstance(v, bool) for v in values):
            return Values(values=np.array(values, np.bool_)), FieldInfo(kind="scalar", dtype="bool")
        numbers = [v if isinstance(v, int | float) else _number(v) for v in values]
        for row, number in enumerate(numbers):
            if number is None:
                raise self._error(row, f"column {want.column!r} has {values[row]!r}, which is no number")
        if all(isinstance(number, int) for number in numbers):
            try:
                return Values(values=np.array(numbers, np.int64)), FieldInfo(kind="scalar", dtype="int64")
            except OverflowError:
                raise PackError(f"{self._source}: column {want.column!r} has integers beyond 64 bits") from None
        return Values(values=np.array(numbers, np.float64)), FieldInfo(kind="scalar", dtype="float64")

    def _text(self, row: int, want: _Wanted, value: Any) -> str:
        if isinstance(value, list | dict):
            raise self._error(row, f"column {want.column!r} has {str(value)[:40]!r}, which is no text")
        return str(value)

    def _json(self, row: int, want: _Wanted, value: Any) -> bytes:
        if isinstance(value, str) and want.kind == "json":
            try:
                json.loads(value)
            except ValueError as error:
                raise self._error(row, f"column {want.column!r} is not JSON ({error})") from error
            return value.encode()
        return json.dumps(value, ensure_ascii=False).encode()

    def _array(self, row: int, want: _Wanted, value: Any, kind: str) -> np.ndarray[Any, Any]:
        try:
            array = np.asarray(value, np.int64 if kind == "tokens" else np.float32)
        except (ValueError, TypeError, OverflowError) as error:
            raise self._error(row, f"column {want.column!r} is no array of numbers ({error})") from error
        if kind == "tokens" and (array.ndim != 1 or any(isinstance(v, float) for v in value)):
            raise self._error(row, f"column {want.column!r}: tokens are one list of integers")
        return array

    def _files(self, want: _Wanted, kind: Kind, values: Sequence[Any]) -> tuple[Column, FieldInfo]:
        sizes, mtimes, paths = [], [], []
        for row, value in enumerate(values):
            path = os.path.normpath(value) if isinstance(value, str) and value else ""
            try:
                about = os.stat(os.path.join(self._root, path))
                if not path or not os.path.isfile(os.path.join(self._root, path)):
                    raise self._error(row, f"column {want.column!r}: {value!r} is not a file")
                size, mtime = about.st_size, about.st_mtime_ns
            except OSError as error:
                if not self._faulty:
                    raise self._error(row, f"{value!r} cannot be read: {error.strerror}") from error
                size, mtime = -1, 0
            if size == 0 and not self._faulty:
                raise self._error(row, f"{value!r} is empty (0 bytes)")
            paths.append(path)
            sizes.append(size)
            mtimes.append(mtime)
        files = Files(
            root=self._root,
            paths=paths,
            sizes=np.array(sizes, np.int64),
            mtimes=np.array(mtimes, np.int64),
            types=one_or_all([file_extension(path) for path in paths]),
        )
        if kind in ("tensor", "tokens"):
            return files, array_field(
                files, kind, lambda row: f"{self._source}, row {self._number(row)}: {files.paths[row]!r}"
            )
        return files, FieldInfo(kind=kind)


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and (isinstance(value, int | float) or _number(value) is not None)


def _number(value: Any) -> int | float | None:
    """The number that a cell holds; no underscores, no hexadecimal, no infinities spelt out."""
    if not isinstance(value, str) or not value or not value.isascii() or "_" in value:
        return None
    try:
        return int(value)
    except ValueError:
        pass
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) or value.lower() == "nan" else None
