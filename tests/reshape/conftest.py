"""Lets tests import `reshape_sources` and the sources of packing's tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "pack"))
sys.path.insert(0, str(Path(__file__).parent))

from reshape_sources import make_everything


@pytest.fixture
def everything(tmp_path: Path) -> Path:
    return make_everything(tmp_path / "source", range(30))
