"""Which samples a damaged page of a Parquet file is of.

A page has one CRC-32 for all its rows, and pictures and sounds share one of a whole row group: the checksum says that a
page is damaged, not where. So its contents are read as they are and decoded: those that do not decode are named. Where
all of them do, or the page cannot even be decompressed, the file does not say more than the rows of the page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fastload.decode import decoder_for
from fastload.errors import FastloadError, MissingExtraError
from fastload.shards.index import FieldInfo
from fastload.shards.parquetscan import KEY_COLUMN, open_parquet
from fastload.shards.read_parquet import RowGroup

_PAGE_ROWS = 1024  # pages of pyarrow end at multiples of it


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedRow:
    """A sample that is damaged, or the first that may be: its key, if that can be read, and what is known."""

    key: str | None
    what: str


def damaged_rows(
    path: Path, file: pq.ParquetFile, group: int, column: str, info: FieldInfo | None, error: Exception
) -> list[DamagedRow]:
    """What is known of the rows of a column whose pages do not have the checksums that they were written with.

    Args:
        path: of the file.
        file: opened to verify pages.
        group: of the rows.
        column: of the row group.
        info: the field that the column is; None: it cannot be decoded.
        error: what reading it said.
    """
    where, size = f"row group {group}, column {column!r}", file.metadata.row_group(group).num_rows
    keys = _keys(file, group) if column != KEY_COLUMN else None
    first, broken = _first_row(file, group, column), _undecodable(path, group, column, info)
    found = {row: why for row, why in (broken or {}).items() if row >= first}
    if found:
        return [
            DamagedRow(
                key=keys[row] if keys else None,
                what=f"{where}, row {row} of the group: does not decode: {why}; its page is damaged: {error}",
            )
            for row, why in found.items()
        ]
    last = f" to {size - 1}" if size > first + 1 else ""
    named = f" (this sample to {keys[size - 1]!r})" if keys and last else ""
    why = "its contents can no longer be taken apart" if broken is None else "all of them still decode"
    if last:
        why = f"; a page has one checksum for all its rows and {why}, so that the file does not say which"
    what = f"{where}, in rows {first}{last} of the group{named}: {error}{why if last else ''}"
    return [DamagedRow(key=keys[first] if keys else None, what=what)]


def _keys(file: pq.ParquetFile, group: int) -> list[str] | None:
    if KEY_COLUMN not in file.schema_arrow.names:
        return None
    try:
        return [str(key) for key in file.read_row_group(group, columns=[KEY_COLUMN], use_threads=False).column(0)]
    except (pa.ArrowException, OSError):
        return None


def _first_row(file: pq.ParquetFile, group: int, column: str) -> int:
    """The first row of the first damaged page, or one before it."""
    rows = 0
    try:
        for batch in file.iter_batches(_PAGE_ROWS, row_groups=[group], columns=[column], use_threads=False):
            rows += batch.num_rows
    except (pa.ArrowException, OSError):
        pass
    return min(rows, int(file.metadata.row_group(group).num_rows) - 1)


def _undecodable(path: Path, group: int, column: str, info: FieldInfo | None) -> Mapping[int, str] | None:
    """Rows whose contents, as they are, do not decode, and why; None where they cannot be told apart."""
    if info is None or info.kind == "scalar":
        return None
    try:
        decoder = decoder_for(info.default_field(), info.dtype)
        table = open_parquet(path).read_row_group(group, columns=[column], use_threads=False)
        blobs = RowGroup(table, (), (column,), "").blobs[column]
    except (pa.ArrowException, OSError, FastloadError):
        return None
    found = {}
    for row in range(table.num_rows):
        raw = blobs.get(row)
        if isinstance(raw, FastloadError):
            continue
        try:
            decoder.decode(raw, 0)
        except MissingExtraError:
            return None
        except FastloadError as error:
            found[row] = error.message
    return found
