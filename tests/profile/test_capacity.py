"""What the machine does at best."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fastload.profile import capacity


def test_a_file_is_read_again_no_further_than_it_was_brought_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def least(work: Callable[[], int], seconds: float) -> float:
        return min(work() for _ in range(200))

    (tmp_path / "file").write_bytes(bytes(64 * 16 + 5))
    monkeypatch.setattr(capacity, "_CHUNK", 16)
    monkeypatch.setattr(capacity, "_rate", least)
    assert capacity._file_rate(str(tmp_path / "file"), 1.0) == 16, "and not the 5 at the end"
