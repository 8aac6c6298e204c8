from __future__ import annotations

import os
from pathlib import Path

import pytest
from samples import Leftovers

from fastload.errors import SourceError
from fastload.source import map_file


def test_a_file_is_seen_whole_and_read_only(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    view = map_file(str(path), 10)
    assert view.readonly
    assert bytes(view[2:5]) == b"234"


def test_the_map_lives_as_long_as_any_view_of_it_and_then_lets_its_file_go(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 5000)
    before = Leftovers()
    part = map_file(str(path), 5000)[4000:]
    assert bytes(part) == b"x" * 1000
    del part
    before.assert_none()


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    assert bytes(map_file(str(path), 0)) == b""


@pytest.mark.parametrize("size", [0, 9, 11])
def test_a_file_of_another_size_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * size)
    before = Leftovers()
    with pytest.raises(SourceError, match=rf"file has {size} bytes, and its index says 10: it was cut off or changed"):
        map_file(str(path), 10)
    before.assert_none()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nowhere cannot be read: No such file or directory"):
        map_file(str(tmp_path / "nowhere"), 10)
    with pytest.raises(SourceError, match="Is a directory"):
        map_file(str(tmp_path), os.stat(tmp_path).st_size)
