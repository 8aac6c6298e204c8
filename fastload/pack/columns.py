"""The values of a field that are known before contents are read: numbers, class names, texts of a manifest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fastload.errors import ConfigError
from fastload.pack.table import Files, Inline, Int64s, Spans, Table, Values


def numbers(table: Table, field: str, rows: Int64s) -> npt.NDArray[np.generic] | None:
    """The numbers of a field at some rows, [m]; None if it holds something else, class labels included.

    Raises: ConfigError for a field that the source does not have.
    """
    column = table.columns[_known(table, field)]
    return column.values[rows] if isinstance(column, Values) and table.fields[field].classes is None else None


def texts(table: Table, field: str, rows: Int64s) -> Sequence[str]:
    """The values of a field at some rows as text, [m]: the name of a class, a text, a number as written.

    Raises: ConfigError for a field that the source does not have, or whose values are contents of files.
    """
    column, info = table.columns[_known(table, field)], table.fields[field]
    if isinstance(column, Values):
        listed = column.values[rows].tolist()
        return [str(value) for value in listed] if info.classes is None else [info.classes[value] for value in listed]
    if isinstance(column, Inline) and info.kind in ("text", "json"):
        return [column.contents[row].decode() for row in rows.tolist()]
    if isinstance(column, Spans) and column.digests is not None and info.kind in ("text", "json"):
        return [content.decode() for content in column.read(rows)]
    raise ConfigError(f"the field {field!r} holds {info.kind} contents; name one with a value for each sample")


def origin(table: Table, row: int) -> str:
    """Where a sample is from, for people: the path of its first file, its line or its row; of a stream the file and
    where in it."""
    if table.places is not None:
        return table.places[row]
    for column in table.columns.values():
        if isinstance(column, Files) and column.paths[row]:  # an empty cell names none
            return column.paths[row]
        if isinstance(column, Spans):
            return column.place(table.keys[row])
    return f"row {row + 1 if table.numbers is None else table.numbers[row]}"


def _known(table: Table, field: str) -> str:
    if field not in table.columns:
        raise ConfigError(
            f"there is no field {field!r}; the source has {', '.join(map(repr, table.columns))}"
            " (of a manifest, name more with columns)"
        )
    return field
