"""Size and orientation from the header of files that Pillow wrote, and clear words for headers that make no sense."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage

from fastload.decode import image_size
from fastload.decode.headers import MAX_PIXELS, exif_orientation, read_header
from fastload.errors import DecodeError

FORMATS = ["JPEG", "PNG", "WebP", "GIF", "BMP", "TIFF"]


def encode(fmt: str, width: int = 30, height: int = 20, mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    PillowImage.new(mode, (width, height)).save(file, fmt, **options)
    return file.getvalue()


def exif(orientation: int) -> PillowImage.Exif:
    data = PillowImage.Exif()
    data[0x010F] = "a camera's name, longer than four bytes"
    data[0x0112] = orientation
    return data


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@pytest.mark.parametrize("fmt", FORMATS)
@given(width=st.integers(1, 300), height=st.integers(1, 300))
@settings(max_examples=15)
def test_size(fmt: str, width: int, height: int) -> None:
    raw = encode(fmt, width, height)
    assert image_size(raw) == (width, height)
    assert image_size(memoryview(raw)) == (width, height)


@pytest.mark.parametrize(
    "raw",
    [
        encode("WebP", lossless=True),
        encode("WebP", mode="RGBA"),
        encode("JPEG", progressive=True),
        encode("JPEG", mode="L"),
        encode("JPEG", mode="CMYK"),
        encode("TIFF", compression="tiff_lzw"),
        encode("TIFF", big_tiff=False, mode="I;16B"),
        encode("JPEG", comment=b"\xff\xc0 in a comment is no frame"),
        b"\xff\xd8\xff" + encode("JPEG")[2:],  # a fill byte before the first marker
        b"BM" + bytes(12) + struct.pack("<IHH", 12, 30, 20),  # OS/2
        b"BM" + bytes(12) + struct.pack("<Iii", 40, 30, -20),  # rows from the top
    ],
)
def test_size_in_variants_of_the_formats(raw: bytes) -> None:
    assert image_size(raw) == (30, 20)


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WebP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(fmt: str, orientation: int) -> None:
    options = {"tiffinfo": {0x0112: orientation}} if fmt == "TIFF" else {"exif": exif(orientation)}
    header = read_header(encode(fmt, **options))
    assert (header.width, header.height) == ((20, 30) if orientation >= 5 else (30, 20))
    assert header.orientation == (1 if fmt == "TIFF" else orientation)


def test_exif_that_cannot_be_read_means_upright() -> None:
    good = exif(6).tobytes()[6:]
    assert exif_orientation(good) == 6
    assert exif_orientation(exif(9).tobytes()[6:]) == 1
    for broken in (b"", b"II", good[:12], b"XX" + good[2:], b"II*\0\xff\xff\xff\xff"):
        assert exif_orientation(broken) == 1


def test_components() -> None:
    assert [read_header(encode("JPEG", mode=mode)).components for mode in ("L", "RGB", "CMYK")] == [1, 3, 4]


PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_SIZE = struct.pack(">IIBBBBB", 30, 20, 8, 2, 0, 0, 0)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "no bytes where a picture should be"),
        (b"hello", "not a JPEG, PNG, WebP, GIF, BMP or TIFF: 5 bytes that start with b'hello'"),
        (encode("JPEG")[:100], "JPEG ends after 100 bytes, inside its header"),
        (b"\xff\xd8\xff\xd9", "JPEG of 4 bytes has no frame header"),
        (b"\xff\xd8\xff\xe0\0\x04ab\x12\x34", "JPEG header has 0x12 at byte 8, where a marker should be"),
        (b"\xff\xd8\xff\xc0\0\x0b\x08\0\0\0\x10\3\0\0\0\xff\xda\0\0", "JPEG header says 16 x 0 pixels"),
        (encode("PNG")[:20], "PNG ends after 20 bytes, inside its header"),
        (encode("PNG")[:60], "PNG ends after 60 bytes, inside chunk b'IDAT', which reaches to"),
        (encode("PNG")[:-12], "PNG ends after .* bytes, before its end chunk"),
        (PNG_START + chunk(b"IDAT", PNG_SIZE), "PNG starts with chunk b'IDAT', where IHDR should be"),
        (PNG_START + chunk(b"IHDR", PNG_SIZE) + chunk(b"acTL", bytes(8)), "PNG animation header says 0 frames"),
        (encode("WebP")[:-1], r"WEBP ends after (\d+) of \d+ bytes"),
        (b"RIFF\x10\0\0\0WEBPVP9 \4\0\0\0abcd", "WEBP starts with chunk b'VP9 ', where VP8"),
        (b"GIF89a\0", "GIF ends after 7 bytes, inside its header"),
        (b"GIF89a\0\0\1\0", "GIF header says 0 x 1 pixels"),
        (b"BM\0\0", "BMP ends after 4 bytes, inside its header"),
        (b"II*\0\x08\0\0\0\2\0" + struct.pack("<HHII", 256, 4, 1, 3), "TIFF ends after 22 bytes, inside its header"),
        (b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", 256, 4, 1, 3) + b"\0\0", "TIFF ends after 24 bytes, inside its"),
        (b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", 256, 3, 2, 3), "TIFF tag 256 has 2 values, where one should be"),
        (b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", 270, 2, 99, 3), "TIFF ends after 22 bytes, inside tag 270"),
    ],
)
def test_headers_that_make_no_sense(raw: bytes, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        image_size(raw)


@pytest.mark.parametrize(
    "raw",
    [
        PNG_START + chunk(b"IHDR", struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0)) + chunk(b"IEND", b""),
        b"GIF89a" + struct.pack("<HH", 10_000, 10_000),
        b"BM" + bytes(12) + struct.pack("<Iii", 40, 10_000, -10_000),
        b"\xff\xd8\xff\xc0\0\x0b\x08" + struct.pack(">HH", 10_000, 10_000) + b"\1\0\0\0\xff\xda\0\0",
    ],
)
def test_decompression_bombs_are_refused_from_the_header(raw: bytes) -> None:
    assert MAX_PIXELS == 89_478_485
    with pytest.raises(DecodeError, match="10000 x 10000 pixels, more than the limit of 89478485; scale it down"):
        image_size(raw)


@pytest.mark.parametrize("fmt", FORMATS)
@given(cut=st.integers(0, 400), position=st.integers(0, 400), patch=st.binary(max_size=6))
def test_no_header_raises_anything_else(fmt: str, cut: int, position: int, patch: bytes) -> None:
    options = {} if fmt in ("GIF", "BMP", "TIFF") else {"exif": exif(3)}
    whole = encode(fmt, **options)
    for raw in (whole[:cut], whole[:position] + patch + whole[position + len(patch) :]):
        try:
            width, height = image_size(raw)
        except DecodeError:
            continue
        assert width * height > 0
