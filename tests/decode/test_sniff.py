"""Containers are told by their first bytes, from files that their own writers made."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
from PIL import Image as PillowImage

from fastload.decode import sniff


def picture(fmt: str) -> bytes:
    file = io.BytesIO()
    PillowImage.new("RGB", (9, 7), (10, 20, 30)).save(file, fmt)
    return file.getvalue()


def sound(fmt: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros((8000, 1), np.float32), 8000, format=fmt)
    return file.getvalue()


def array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.arange(3))
    return file.getvalue()


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WebP", "GIF", "BMP", "TIFF"])
def test_pictures(fmt: str) -> None:
    assert sniff(picture(fmt)) == fmt.lower()


@pytest.mark.parametrize("fmt", ["WAV", "RF64", "FLAC", "OGG", "MP3"])
def test_sounds(fmt: str) -> None:
    assert sniff(sound(fmt)) == ("wav" if fmt == "RF64" else fmt.lower())


def test_arrays_and_big_endian_tiff() -> None:
    assert sniff(array()) == "npy"
    assert sniff(b"MM\0*\0\0\0\x08") == "tiff"


@pytest.mark.parametrize("raw", [b"", b"hello", b"\xff", b"\xff\xff", b"RIFF\0\0\0\0AVI ", b"II", b"\x89PNG"])
def test_other_bytes_are_none_of_them(raw: bytes) -> None:
    assert sniff(raw) is None


def test_a_view_is_as_good_as_bytes() -> None:
    assert sniff(memoryview(b"xx" + picture("PNG"))[2:]) == "png"
