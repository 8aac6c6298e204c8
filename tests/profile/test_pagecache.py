"""Files in the page cache, asked of the system itself."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from fastload.profile.pagecache import forgotten, in_memory, read


def test_a_file_that_was_forgotten_is_read_back(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    Path(path).write_bytes(os.urandom(3 << 20))
    if not forgotten(path):
        pytest.skip("the file system of the temporary folder forgets nothing, as one in memory")
    assert not in_memory(path)
    assert not read(path, time.perf_counter() - 1), "too late"
    assert read(path, time.perf_counter() + 60)
    assert in_memory(path)


def test_a_file_that_is_gone_is_nothing_to_bring_back(tmp_path: Path) -> None:
    path = str(tmp_path / "gone")
    assert not in_memory(path)
    assert not forgotten(path)
    assert read(path, 0.0)
