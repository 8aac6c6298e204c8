"""Pieces of a file: read whole, or an error that says which bytes are not there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastload.errors import PackError
from fastload.pack.table import Spans

ROWS = np.arange(3)


@pytest.fixture
def spans(tmp_path: Path) -> Spans:
    """Three pieces of 40 bytes, one byte apart."""
    (tmp_path / "file").write_bytes(b"-".join(letter * 40 for letter in (b"a", b"b", b"c")))
    return Spans(path=str(tmp_path / "file"), starts=ROWS * 41, sizes=np.full(3, 40), mtime=0)


def test_pieces_that_come_in_parts(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of more than 2 GiB, which one call does not give."""
    whole = os.preadv

    def some(descriptor: int, buffers: Any, offset: int) -> int:
        return whole(descriptor, [buffer[:9] for buffer in buffers], offset)

    monkeypatch.setattr(os, "preadv", some)
    monkeypatch.setattr(os, "pread", lambda descriptor, size, offset: bytes(min(size, 9)))
    assert spans.read(ROWS[::-1]) == [b"c" * 40, b"b" * 40, b"a" * 40]


def test_a_file_that_is_shorter_gone_or_broken(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    os.truncate(spans.path, 70)
    assert spans.read(ROWS[:1]) == [b"a" * 40]
    with pytest.raises(PackError, match=r"file has become shorter .*: it has 29 of 40 bytes from byte 41 on; run the"):
        spans.read(ROWS)

    def broken(descriptor: int, buffers: Any, offset: int) -> int:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", broken)
        with pytest.raises(PackError, match=r"file cannot be read: Input/output error; run the command again once"):
            spans.read(ROWS)
    os.unlink(spans.path)
    with pytest.raises(PackError, match=r"file cannot be read: No such file or directory; run the command again"):
        spans.read(ROWS)
