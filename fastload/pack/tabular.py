"""Manifests as they are on disk, CSV, JSON Lines and Parquet: columns of cells."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from fastload.errors import PackError
from fastload.pack.arrow import is_plain
from fastload.pack.missing import Cells, Lenience
from fastload.pack.streams import KEY_DIGITS, LEAVE_OUT
from fastload.pack.table import LeftOut
from fastload.shards.parquetscan import open_parquet


def read_cells(source: Path, lenience: Lenience) -> Cells:
    """The rows of a .csv, .tsv, .jsonl, .ndjson or .parquet file.

    Args:
        source: the manifest.
        lenience: with `lenience.faulty`, rows that cannot be read are left out; with `lenience.mends`, JSON rows may
            lack columns, whose values are then None.

    Raises: PackError for a file that is not what its name says, or a row that is cut.
    """
    match source.suffix.lower():
        case ".csv" | ".tsv":
            return _read_csv(source, lenience.faulty)
        case ".parquet":
            return _read_parquet(source, lenience.faulty)
    return _read_jsonl(source, lenience)


def _open(source: Path) -> tuple[io.StringIO, bool]:
    """The text, its line breaks as they are, for those in quoted cells are contents; and whether all of it is UTF-8.
    What is not stands there as half characters, which no UTF-8 holds."""
    try:
        raw = source.read_bytes()
    except OSError as error:
        raise PackError(f"{source} cannot be read: {error.strerror}") from error
    try:
        return io.StringIO(raw.decode("utf-8-sig"), newline=""), True
    except UnicodeDecodeError:
        return io.StringIO(raw.decode("utf-8-sig", "surrogateescape"), newline=""), False


def _read_csv(source: Path, faulty: bool) -> Cells:
    csv.field_size_limit(1 << 30)
    text, whole = _open(source)
    reader = csv.reader(text, delimiter=_delimiter(source, text), strict=True)
    numbers: list[int] = []
    left_out: list[LeftOut] = []
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise PackError(f"{source}, line {reader.line_num}: not CSV ({error}); mend it") from error
    if why := "" if whole else _not_utf8("".join(header)):
        raise PackError(f"{source}, line 1: {why}; convert the file")
    if len(set(header)) < len(header) or "" in header:
        raise PackError(f"{source}: the first line must name each column, once; it is {','.join(header)!r}")
    columns: dict[str, list[str]] = {name: [] for name in header}
    appends = [column.append for column in columns.values()]
    for number, (cells, why) in enumerate(_csv_rows(source, reader), 1):
        if not why and len(cells) != len(header):
            why = f"{len(cells)} cells where the header has {len(header)}"
        elif not why and not whole:
            why = _not_utf8("".join(cells))
        if why:
            left_out.append(_left_out(source, number, f"line {reader.line_num}", why, faulty))
            continue
        numbers.append(number)
        for append, cell in zip(appends, cells, strict=True):
            append(cell)
    return Cells(data=columns, numbers=numbers if left_out else range(1, len(numbers) + 1), left_out=tuple(left_out))


def _csv_rows(source: Path, reader: Any) -> Iterator[tuple[list[str], str]]:
    """The cells of each row that is not blank, or why there are none; after those it goes on with the next line."""
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end" in str(error):
                raise PackError(
                    f"{source}, line {start}: a quote opens in this row and none closes it, to the end of the file"
                    f" ({reader.line_num - start + 1:,} lines); close it"
                ) from error
            yield [], f"not CSV ({error})"
            continue
        if cells:
            yield cells, ""


def _not_utf8(text: str) -> str:
    """What `_open` found there that is not UTF-8; empty where nothing is."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"not UTF-8 (byte 0x{ord(error.object[error.start]) & 0xFF:02x})"
    return ""


def _delimiter(source: Path, text: io.StringIO) -> str:
    """Tabs in a .tsv file; in a .csv file a comma, or what spreadsheets write where numbers have commas."""
    if source.suffix.lower() == ".tsv":
        return "\t"
    first = text.readline()
    text.seek(0)
    return next((mark for mark in (",", ";", "\t") if mark in first), ",")


def _left_out(source: Path, number: int, place: str, why: str, faulty: bool) -> LeftOut:
    """A row that cannot be read; PackError where that is an error."""
    if not faulty:
        raise PackError(f"{source}, {place}: {why}; {LEAVE_OUT}")
    return LeftOut(key=f"{number:0{KEY_DIGITS}d}", place=place, why=why, reason="unreadable")


def _read_jsonl(source: Path, lenience: Lenience) -> Cells:
    columns: dict[str, list[Any]] = {}
    numbers: list[int] = []
    left_out: list[LeftOut] = []
    opened, whole = _open(source)
    lines = ((line, text) for line, text in enumerate(opened, 1) if text.strip())
    for number, (line, text) in enumerate(lines, 1):
        wrong = "" if whole else _not_utf8(text)
        row, why = (None, wrong) if wrong else json_row(text.rstrip("\r\n"))
        if row is None:
            left_out.append(_left_out(source, number, f"line {line}", why, lenience.faulty))
            continue
        if lenience.mends:
            for name in row:  # in its order: that of a set of names changes from run to run
                if name not in columns:
                    columns[name] = [None] * len(numbers)
            row = {name: row.get(name) for name in columns}
        if not columns:
            columns = {str(name): [] for name in row}
        if row.keys() != columns.keys():
            differing = ", ".join(map(repr, sorted(row.keys() ^ columns.keys())))
            raise PackError(f"{source}, line {line}: has other columns than the first row: {differing}")
        numbers.append(number)
        for name, value in row.items():
            columns[name].append(value)
    return Cells(data=columns, numbers=numbers if left_out else range(1, len(numbers) + 1), left_out=tuple(left_out))


def json_row(text: str) -> tuple[dict[str, Any] | None, str]:
    """The columns of one line of JSON, without its break; or None, and why there are none."""
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        return None, f"not JSON ({error})"
    if not isinstance(row, dict) or not row:
        return None, f"a row must be a JSON object with columns, not {text.strip()[:40]!r}"
    if "\\u" in text:  # only an escape can make what no text holds
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            return None, f"{error.object[error.start : error.end]!r} is half a character"
    return row, ""


def _read_parquet(source: Path, faulty: bool) -> Cells:
    table = open_parquet(source, verify_pages=True).read()
    for column in table.schema:
        if not is_plain(column.type):
            raise PackError(
                f"{source}: column {column.name!r} is of type {column.type}, which a manifest cannot hold beside names"
                " of files; pack the contents from files, or without the names (kind='shards')"
            )
    data: dict[str, list[Any]] = {}
    left_out: dict[int, LeftOut] = {}
    for name in table.schema.names:
        try:
            data[name] = table.column(name).to_pylist()
        except UnicodeDecodeError:
            data[name] = _half_texts(table.column(name), f"{source}: column {name!r}")
            for row, value in enumerate(data[name]):
                if row not in left_out and value is not None and (why := _not_utf8(value)):
                    why = f"column {name!r} is {why}"
                    left_out[row] = _left_out(source, row + 1, f"row {row + 1}", why, faulty)
    numbers: Sequence[int] = range(1, table.num_rows + 1)
    if left_out:
        kept = [row for row in range(table.num_rows) if row not in left_out]
        numbers = [row + 1 for row in kept]
        data = {name: [values[row] for row in kept] for name, values in data.items()}
    return Cells(data=data, numbers=numbers, left_out=tuple(left_out[row] for row in sorted(left_out)))


def _half_texts(column: pa.ChunkedArray, where: str) -> list[str | None]:
    """The texts of a column, of which some are not UTF-8, as `_open` gives them."""
    if pt.is_nested(column.type):
        raise PackError(f"{where} has texts that are not UTF-8; convert them")
    stored = column.cast(pa.large_binary()).to_pylist()
    return [None if value is None else value.decode("utf-8", "surrogateescape") for value in stored]
