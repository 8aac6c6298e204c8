"""JPEGs of a few bytes that would take seconds to decode, for they scan the same pixels again and again."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from fastload.decode import native
from fastload.decode.headers import MAX_PIXELS
from fastload.decode.image import ImageDecoder
from fastload.decode.seekable import make_seekable
from fastload.errors import DecodeError
from fastload.fields import Image


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def scanned(width: int, height: int, scans: int) -> bytes:
    """A valid progressive JPEG, grey: one scan of DC, then 15 bits a scan for 32,767 blocks without a coefficient."""
    blocks = -(-width // 8) * -(-height // 8)
    head = segment(0xDB, bytes([0]) + bytes([1] * 64)) + segment(
        0xC2, bytes([8]) + struct.pack(">HHB", height, width, 1) + bytes([1, 0x11, 0])
    )
    for table, symbol in ((0x00, 0), (0x10, 0xE0)):  # one code of one bit each
        head += segment(0xC4, bytes([table, 1]) + bytes(15) + bytes([symbol]))
    body = segment(0xDA, bytes([1, 1, 0, 0, 0, 0])) + bytes(-(-blocks // 8))
    for number in range(scans - 1):
        bits = "0" + "1" * 14
        bits *= -(-blocks // 32_767)
        bits += "1" * (-len(bits) % 8)
        data = bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)).replace(b"\xff", b"\xff\x00")
        body += segment(0xDA, bytes([1, 1, 0, 1 + number % 63, 1 + number % 63, 0])) + data
    return b"\xff\xd8" + head + body + b"\xff\xd9"


def decode(raw: bytes, *, kernel: bool) -> None:
    decoder = ImageDecoder(Image(16))
    decoder._native = kernel and native.available()
    decoder.decode_into(raw, np.zeros((16, 16, 3), np.uint8), 0)


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize(("side", "scans"), [(64, 501), (9000, 30)])
def test_more_scans_than_any_encoder_writes_are_refused(side: int, scans: int, kernel: bool) -> None:
    with pytest.raises(DecodeError, match=f"{scans} scans of {side} x {side} pixels.*a decompression bomb"):
        decode(scanned(side, side, scans), kernel=kernel)


@pytest.mark.parametrize("kernel", [True, False])
def test_as_many_as_are_allowed_are_decoded(kernel: bool) -> None:
    decode(scanned(64, 64, 500), kernel=kernel)


def test_scans_behind_the_end_and_in_thumbnails_are_none_of_the_picture() -> None:
    def among_others(raw: bytes) -> bytes:
        film = b"\xff\xda" * 600
        return raw[:2] + segment(0xE1, film) + raw[2:] + film

    decode(among_others(scanned(64, 64, 3)), kernel=False)
    with pytest.raises(DecodeError, match=r"JPEG has 501 scans of 64 x 64 pixels.*a decompression bomb"):
        decode(among_others(scanned(64, 64, 501)), kernel=False)


@pytest.mark.skipif(not native.available(), reason="packing without the kernel keeps JPEGs as they are")
def test_they_are_packed_as_they_are() -> None:
    made = make_seekable(scanned(64, 64, 501), min_pixels=0)
    assert made.data is None
    assert native.transcode(scanned(64, 64, 501), 0, MAX_PIXELS)[2] == "too many scans: a decompression bomb"
