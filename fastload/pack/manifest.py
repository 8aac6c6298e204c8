"""CSV, JSON Lines and Parquet manifests as tables: columns of paths, numbers, texts and class names."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from fastload.errors import ConfigError, PackError
from fastload.pack import cells
from fastload.pack.files import modified
from fastload.pack.missing import Cells, Lenience, mend
from fastload.pack.npyfiles import array_field
from fastload.pack.streams import KEY_DIGITS, KEY_NAMES, LEAVE_OUT
from fastload.pack.table import (
    Column,
    Files,
    LeftOut,
    Table,
    one_or_all,
    settled,
    with_extensions,
)
from fastload.pack.tabular import read_cells
from fastload.pack.values import Unfit
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
        PackError: no rows, or one that lacks a value; where that is an error, a row that is cut or has a value that its
            field cannot hold, a file that is missing or empty, keys that clash.
        ConfigError: an unknown column or kind.
    """
    read = read_cells(source, lenience)
    if not read.numbers:
        more = f" that can be read ({read.left_out[0].place}: {read.left_out[0].why})" if read.left_out else ""
        raise PackError(f"{source} has no rows{more}")
    key_column, wanted = _wanted(parse_columns(columns), read.data, source)
    mended = mend(read, {want.field: want.column for want in wanted}, key_column, lenience)
    if not mended.numbers:
        first = mended.left_out[0]
        raise PackError(f"{source}: every row lacks a value ({first.why} in {first.place})")
    rows = _Rows(source, mended.numbers, lenience.faulty)
    made = [rows.made(want, mended.data[want.column]) for want in wanted]
    if rows.faults:
        mended, kept = rows.without_faults(mended, key_column and mended.data[key_column])
        made = [(kind, [values[row] for row in kept], of_files) for kind, values, of_files in made]
        rows = _Rows(source, mended.numbers, lenience.faulty)
    found: dict[str, Column] = {}
    fields: dict[str, FieldInfo] = {}
    for want, (kind, values, of_files) in zip(wanted, made, strict=True):
        if of_files:
            column, info = rows.files(want, kind, values)  # type: ignore[arg-type]
        else:
            column, info = cells.column_of(kind, values)
        name = info.kind if columns is None and want.field in _PATH_COLUMNS and of_files else want.field
        if name in fields:
            raise PackError(
                f"{source}: two columns become the field {name!r}; say which with columns={{field: column}}"
            )
        found[name], fields[name] = column, info
    keys = rows.keys(key_column and mended.data[key_column], found)
    table = Table(
        keys=keys,
        columns=found,
        fields=with_extensions(found, fields),
        numbers=mended.numbers,
        left_out=mended.left_out,
    )
    return settled(table, rows.place, lenience.faulty, rows.faults)


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
        faulty: files may be empty or missing, and rows that a field cannot hold are no error.

    Attributes:
        faults: row -> why it is to be left out.
    """

    def __init__(self, source: Path, numbers: Sequence[int], faulty: bool) -> None:
        self.faults: dict[int, str] = {}
        self._numbers = numbers
        self._faulty = faulty
        self._source = source
        self._root = str(source.parent)

    def made(self, want: _Wanted, values: Sequence[Any]) -> tuple[str, Sequence[Any], bool]:
        """The kind of a field; what becomes of its cells, None for those of `faults`; whether they name files."""
        for row, value in enumerate(values):
            if value is None:
                raise self._error(row, f"column {want.column!r} is null; fill it or leave the row out")
        kind = want.kind or self._infer(want, values)
        make = self._maker(want, kind, values)
        if make is None:
            return kind, values, True
        made: list[Any] = []
        for row, value in enumerate(values):
            try:
                made.append(make(value))
            except Unfit as error:
                self._refuse(row, error.message)
                made.append(None)
        if kind == "scalar":
            for row, why in cells.beyond_64_bits(want.column, made).items():
                self._refuse(row, why)
        return kind, made, False

    def _maker(self, want: _Wanted, kind: str, values: Sequence[Any]) -> Callable[[Any], Any] | None:
        """What makes a value of a cell; None where cells name files."""
        match kind:
            case "label":
                return partial(cells.class_name, want.column, want.kind is not None)
            case "scalar":
                return partial(cells.number, want.column)
            case "json":
                return partial(cells.document, want.column, want.kind == "json")
            case "text" if want.kind is not None or not self._names_files(want, values):
                return partial(cells.text, want.column)
            case "tensor" | "tokens" if not all(isinstance(value, str) for value in values):
                return partial(cells.array, want.column, kind)
        return None

    def _refuse(self, row: int, why: str) -> None:
        if not self._faulty:
            raise self._error(row, f"{why}; {LEAVE_OUT}")
        self.faults.setdefault(row, why)

    def without_faults(self, mended: Cells, keys: Sequence[Any] | None) -> tuple[Cells, list[int]]:
        """The other rows, and which they are; PackError where there are none."""
        left_out = [
            LeftOut(
                key=str(keys[row]) if keys is not None and keys[row] else self._numbered(row),
                place=self.place(row),
                why=why,
                reason="unreadable",
            )
            for row, why in sorted(self.faults.items())
        ]
        kept = [row for row in range(len(self._numbers)) if row not in self.faults]
        if not kept:
            first = left_out[0]
            raise PackError(f"{self._source} has no rows that can be read ({first.place}: {first.why})")
        found = Cells(
            data={name: [values[row] for row in kept] for name, values in mended.data.items()},
            numbers=[self._numbers[row] for row in kept],
            left_out=(*mended.left_out, *left_out),
        )
        return found, kept

    def keys(self, given: Sequence[Any] | None, columns: Mapping[str, Column]) -> list[str]:
        files = next((column for column in columns.values() if isinstance(column, Files)), None)
        if given is not None:
            keys = ["" if value is None else str(value).replace(".", "_") for value in given]
            for row, key in enumerate(keys):
                if not key or key.startswith("/") or key.endswith("/"):
                    self._refuse(row, f"{given[row]!r} cannot be a key")
                    keys[row] = self._numbered(row)
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
        if all(isinstance(v, bool) for v in values) or all(cells.is_number(v) for v in values):
            return "scalar"
        if any(isinstance(v, list | dict) for v in values):
            return "tokens" if want.field == "tokens" else "json"
        if all(cells.is_number(v) or v == "" for v in values) and any(v != "" for v in values):
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

    def files(self, want: _Wanted, kind: Kind, values: Sequence[Any]) -> tuple[Column, FieldInfo]:
        """The column of files that cells name."""
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
        return path, about.st_size, modified(about), "" if about.st_size else "is empty (0 bytes)"
