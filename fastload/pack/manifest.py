"""CSV, JSON Lines and Parquet manifests as tables: columns of paths, numbers, texts and class names."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from fastload.errors import ConfigError, PackError
from fastload.pack.missing import Lenience, mend
from fastload.pack.npyfiles import array_field, array_info, npy_bytes
from fastload.pack.streams import KEY_DIGITS, KEY_NAMES
from fastload.pack.table import (
    Column,
    Files,
    Inline,
    Table,
    Values,
    class_table,
    label_info,
    one_or_all,
    settled,
    with_extensions,
)
from fastload.pack.tabular import read_cells
from fastload.shards.index import FieldInfo, Kind
from fastload.shards.members import DEFAULT_NAMES, file_extension, sample_key
from fastload.shards.members import KIND_OF_EXTENSION as KINDS

Columns = str | Mapping[str, str] | Sequence[str]
_PATH_COLUMNS = ("path", "file", "filename", "file_name")
_MEDIA_COLUMNS: tuple[Kind, ...] = ("image", "audio")  # names of columns of files that say the kind too
_FILE_KINDS: tuple[Kind, ...] = ("image", "audio", "tensor", "text")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """One field that was asked for: its column, and its kind if that is forced."""

    field: str
    column: str
    kind: Kind | Literal["label"] | None


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

    A column holds names of image, audio, .npy or .txt files, and becomes that kind of field, if it is called "path",
    "file", "filename", "file_name", "image" or "audio", if one of its values is such a file, or all look like one. One
    of numbers becomes a scalar, a text column for the field "label" a class label, lists and records JSON, anything
    else text. Integers stay as they are, also in "label"; the kind "label" makes classes of them, numbered from 0 in
    their order. Keys come from a column "key", else from the first file column, else they are row numbers.

    Args:
        source: a .csv, .tsv, .jsonl, .ndjson or .parquet file; paths in it are relative to its folder.
        columns: field -> column or "column:kind"; None: every column, under its own name.
        lenience: what is no error; with `lenience.mends`, JSON rows may also lack columns.

    Raises:
        PackError: no rows, a row that is cut or lacks a value, a file that is missing or empty, keys that clash.
        ConfigError: an unknown column or kind.
    """
    cells = read_cells(source, lenience)
    if not cells.numbers:
        more = f" that can be read ({cells.left_out[0].place}: {cells.left_out[0].why})" if cells.left_out else ""
        raise PackError(f"{source} has no rows{more}")
    key_column, wanted = _wanted(parse_columns(columns), cells.data, source)
    mended = mend(cells, {want.field: want.column for want in wanted}, key_column, lenience)
    data = mended.data
    if not mended.numbers:
        first = mended.left_out[0]
        raise PackError(f"{source}: every row lacks a value ({first.why} in {first.place})")
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
    table = Table(
        keys=keys,
        columns=found,
        fields=with_extensions(found, fields),
        numbers=mended.numbers,
        left_out=mended.left_out,
    )
    return settled(table, rows.place, lenience.faulty)


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
        if kind and kind not in (*get_args(Kind), "label"):
            raise ConfigError(f"columns: {kind!r} is no kind of field; pass one of {', '.join(get_args(Kind))}, label")
        if name in KEY_NAMES:
            key = column
        else:
            wanted.append(_Wanted(field=name, column=column, kind=kind or None))  # type: ignore[arg-type]
    if not wanted:
        raise ConfigError(f"columns={columns!r} names no field")
    return key, wanted


class _Rows:
    """Columns of one manifest.

    Args:
        source: the manifest.
        numbers: what errors call each row.
        faulty: files may be empty or missing.
    """

    def __init__(self, source: Path, numbers: Sequence[int], faulty: bool) -> None:
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
                if not isinstance(value, str) and not (want.kind is not None and isinstance(value, int)):
                    raise self._error(row, f"column {want.column!r} has {value!r} among class names; write it as text")
            classes, labels = class_table([str(value) for value in values])
            return Values(values=labels), label_info(classes)
        if kind == "scalar":
            return self._scalars(want, values)
        if kind == "text" and (want.kind is not None or not self._names_files(want, values)):
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
            keys = [sample_key(path) if path else self._numbered(row) for row, path in enumerate(files.paths)]
        else:
            rows = max(len(column.sizes) for column in columns.values())
            return [self._numbered(row) for row in range(rows)]
        return keys

    def place(self, row: int) -> str:
        """What errors call a row."""
        return f"{self._source}, row {self._number(row)}"

    def _error(self, row: int, what: str) -> PackError:
        return PackError(f"{self.place(row)}: {what}")

    def _numbered(self, row: int) -> str:
        return f"{self._number(row):0{KEY_DIGITS}d}"

    def _number(self, row: int) -> int:
        return self._numbers[row]

    def _infer(self, want: _Wanted, values: Sequence[Any]) -> str:
        if all(isinstance(v, bool) for v in values) or all(_is_number(v) for v in values):
            return "scalar"
        if any(isinstance(v, list | dict) for v in values):
            return "tokens" if want.field == "tokens" else "json"
        if all(_is_number(v) or v == "" for v in values) and any(v != "" for v in values):
            what = f"column {want.column!r} is empty, among numbers; fill it (--fill {want.field}=0), leave such rows"
            what += f" out (--drop-missing), or make it text ({want.field}:{want.column}:text)"
            raise self._error(list(values).index(""), what)
        if self._names_files(want, values):
            return self._file_kind(want, [str(v) for v in values])
        return "label" if want.field == DEFAULT_NAMES["scalar"] else "text"

    def _file_kind(self, want: _Wanted, paths: Sequence[str]) -> str:
        kinds = {KINDS.get(file_extension(path)) for path in paths} & set(_FILE_KINDS)
        named = next((kind for kind in _MEDIA_COLUMNS if kind in (want.field, want.column)), None)
        if len(kinds) > 1:
            raise PackError(
                f"{self._source}: column {want.column!r} names files of several kinds"
                f" ({', '.join(sorted(map(str, kinds)))});"
                f" force one with {want.field}:{want.column}:kind"
            )
        if not kinds and named is None:
            raise PackError(
                f"{self._source}: column {want.column!r} names files, such as {paths[0]!r}, and no ending tells of what"
                f" kind; force one, as in {want.field}:{want.column}:image, or {want.field}:{want.column}:text for the"
                " names themselves"
            )
        kind = str(next(iter(kinds), named))
        return "tokens" if kind == "tensor" and want.field == "tokens" else kind

    def _names_files(self, want: _Wanted, values: Sequence[Any]) -> bool:
        """Whether a column holds names of files: it is called so, all look like it, or one does and is there."""
        if {want.field, want.column} & {*_PATH_COLUMNS, *_MEDIA_COLUMNS}:
            return True
        look = [isinstance(v, str) and KINDS.get(file_extension(v)) in _FILE_KINDS for v in values]
        return all(look) or any(
            os.path.isfile(os.path.join(self._root, value))
            for value, looks in zip(values, look, strict=True)
            if looks and "\0" not in value
        )

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
            path, size, mtime, wrong = self._file(value)
            if wrong and not self._faulty:
                hint = "mend it, or leave such rows out with on_error='skip' (--on-error skip)"
                if want.kind is None:
                    hint += f"; if these are no names of files, pass {want.field}:{want.column}:text"
                raise self._error(row, f"column {want.column!r}: {value!r} {wrong}; {hint}")
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
            return files, array_field(files, kind, lambda row: f"{self.place(row)}: {files.paths[row]!r}", self._faulty)
        return files, FieldInfo(kind=kind)

    def _file(self, value: Any) -> tuple[str, int, int, str]:
        """Path, size (-1 where there is no file), time, and what is wrong."""
        if not isinstance(value, str) or not value or "\0" in value:
            return "", -1, 0, "is no name of a file"
        path = os.path.normpath(value)
        try:
            about = os.stat(os.path.join(self._root, path))
        except OSError as error:
            return path, -1, 0, f"cannot be read: {error.strerror}"
        if not stat.S_ISREG(about.st_mode):
            return path, -1, 0, "is not a file"
        return path, about.st_size, about.st_mtime_ns, "" if about.st_size else "is empty (0 bytes)"


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
