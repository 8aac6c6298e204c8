"""What errors say beyond the words they were given."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastload import errors
from fastload.errors import missing_extra


def test_a_missing_extra_is_got_from_where_fastload_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package index has another fastload, which pip takes where this one is not installed."""
    monkeypatch.setattr(errors, "ROOT", tmp_path)
    needs = "reading FLAC needs soundfile, which is not installed; pip install "
    assert str(missing_extra("soundfile", "audio", "reading FLAC")) == f"{needs}'fastload[audio]'"
    (tmp_path / "pyproject.toml").touch()
    assert str(missing_extra("soundfile", "audio", "reading FLAC")) == f"{needs}-e '{tmp_path}[audio]'"
