"""OUT/rejected.parquet and OUT/suspects.parquet: what cleaning left out, and what it found worth a look."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fastload.errors import PackError
from fastload.pack.rules import Cleaned, Note
from fastload.shards.files import write_atomic
from fastload.shards.foreign import REJECTED_NAME, SUSPECTS_NAME

_COLUMNS = ("key", "source", "reason", "detail")
_SCHEMA = pa.schema([(name, pa.string()) for name in _COLUMNS])


def write_lists(out: Path, cleaned: Cleaned) -> None:
    """Write rejected.parquet, without rows if nothing was rejected, and suspects.parquet if there are any.

    Both have the columns key, source, reason and detail, one row per sample and reason, in the order of the keys. The
    source is a path below the folder that is packed, a line or a row; of what was read as a stream (`streams.py`) the
    path of a file and the place in it ("web/000.tar, sample 'a/1'", "t.parquet, row 7"); of medical files their number,
    and never a name.
    """
    write_atomic(out / REJECTED_NAME, _parquet(cleaned.rejected))
    if cleaned.suspects:
        write_atomic(out / SUSPECTS_NAME, _parquet(cleaned.suspects))
    else:
        (out / SUSPECTS_NAME).unlink(missing_ok=True)


def add_lists(out: Path, more: Path, prefix: str) -> None:
    """Add the lists of another folder to those of a folder; what is in them already is not added again.

    Args:
        out: the folder.
        more: the other; it may have none.
        prefix: put before each of its keys.

    Raises: PackError for a list that cannot be read.
    """
    for name in (REJECTED_NAME, SUSPECTS_NAME):
        if (more / name).exists():
            old = _notes(out / name) if (out / name).exists() else []
            new = [replace(note, key=prefix + note.key) for note in _notes(more / name)]
            notes = dict.fromkeys([*old, *new])
            write_atomic(out / name, _parquet(sorted(notes, key=lambda note: (note.key, note.reason))))


def _notes(path: Path) -> list[Note]:
    try:
        return [Note(**row) for row in pq.read_table(path).select(_COLUMNS).to_pylist()]
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise PackError(f"{path} is no list that packing wrote ({error}); restore it, or move it away") from error


def _parquet(notes: Sequence[Note]) -> bytes:
    columns = {name: [_printable(getattr(note, name)) for note in notes] for name in _COLUMNS}
    file = io.BytesIO()
    pq.write_table(pa.table(columns, schema=_SCHEMA), file)
    return file.getvalue()


def _printable(text: str) -> str:
    """Paths may have bytes that are not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()
