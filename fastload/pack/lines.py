"""Text files as tables: a sample per line, or per paragraph."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fastload.errors import PackError
from fastload.pack.streams import KEY_DIGITS
from fastload.pack.table import Spans, Table
from fastload.shards.index import FieldInfo

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_Piece = tuple[int, int, int]  # line number from 1, first byte, bytes


def lines_table(source: Path) -> Table:
    """One sample per line that is not blank; the key is its line number, from 1; the text has no line break."""
    return _table(source, list(_lines(source)), "line of text")


def paragraphs_table(source: Path) -> Table:
    """One sample for the lines between blank ones; the key is the number of the first, from 1. The text has the breaks
    between its lines, and none at its end."""
    pieces: list[_Piece] = []
    last = 0  # line number
    for number, start, size in _lines(source):
        if pieces and number == last + 1:
            first, begin, _ = pieces[-1]
            pieces[-1] = first, begin, start + size - begin
        else:
            pieces.append((number, start, size))
        last = number
    return _table(source, pieces, "paragraph")


def _lines(source: Path) -> Iterator[_Piece]:
    """Lines that are not blank, without the mark of UTF-8 and their breaks."""
    at = 0
    with open(source, "rb", buffering=1 << 20) as file:
        for number, line in enumerate(file, 1):
            mark = len(BYTE_ORDER_MARK) if at == 0 and line.startswith(BYTE_ORDER_MARK) else 0
            text = line[mark:].rstrip(b"\r\n")
            if text.strip():
                yield number, at + mark, len(text)
            at += len(line)


def _table(source: Path, pieces: list[_Piece], what: str) -> Table:
    if not pieces:
        raise PackError(f"{source} has no {what}")
    numbers, starts, sizes = zip(*pieces, strict=True)
    spans = Spans(
        path=str(source),
        starts=np.array(starts, np.int64),
        sizes=np.array(sizes, np.int64),
        mtime=source.stat().st_mtime_ns,
    )
    keys = [f"{number:0{KEY_DIGITS}d}" for number in numbers]
    return Table(keys=keys, columns={"text": spans}, fields={"text": FieldInfo(kind="text", extension="txt")})
