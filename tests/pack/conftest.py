"""Lets tests import `pack_sources`, and makes the source that most of them pack."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from pack_sources import jpeg, odd_photo, photo
from PIL import Image


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three classes of 20 JPEGs each, between 1 and 3 kB."""
    for label in range(3):
        folder = tmp_path / "source" / f"class{label}"
        folder.mkdir(parents=True)
        for i in range(20):
            (folder / f"{i:03d}.jpg").write_bytes(jpeg(100 * label + i, width=24 + i))
    return tmp_path / "source"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """JPEGs of every kind: 12 that can be made crop-seekable, two that cannot, and one that is too small to gain."""
    rotated = Image.Exif()
    rotated[0x0112] = 6
    files = {f"{sampling}-{i}": photo(i, sampling) for sampling in SAMPLINGS for i in range(2)}
    files |= {
        "progressive": odd_photo(1, progressive=True),
        "rotated": odd_photo(2, exif=rotated, icc_profile=bytes(100)),
        "cmyk": odd_photo(3, mode="CMYK"),
        "partial": without_last_scan(odd_photo(4, progressive=True)),
        "small": jpeg(5),
    }
    for number, (name, content) in enumerate(files.items()):
        path = tmp_path / "photos" / ("cat", "dog")[number % 2] / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "photos"


SAMPLINGS = ("444", "422", "420", "440", "Gray")


def without_last_scan(raw: bytes) -> bytes:
    return raw[: raw.rindex(b"\xff\xda")] + b"\xff\xd9"
