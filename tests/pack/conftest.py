"""Lets tests import `pack_sources`, and makes the source that most of them pack."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from pack_sources import jpeg


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three classes of 20 JPEGs each, between 1 and 3 kB."""
    for label in range(3):
        folder = tmp_path / "source" / f"class{label}"
        folder.mkdir(parents=True)
        for i in range(20):
            (folder / f"{i:03d}.jpg").write_bytes(jpeg(100 * label + i, width=24 + i))
    return tmp_path / "source"
