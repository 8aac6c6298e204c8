"""Crop-seekable JPEG loses nothing, is cut to the pixels of the whole picture, and keeps what it cannot copy."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fastload.decode import native
from fastload.decode.headers import read_header
from fastload.decode.seekable import cut, make_seekable, read_layout

Pixels = npt.NDArray[np.uint8]
SAMPLINGS = ["444", "422", "420", "440", "411", "Gray"]


def scene(width: int, height: int) -> Pixels:
    """uint8 [H, W, 3] with saturated edges, so that chroma changes from pixel to pixel."""
    rng = np.random.default_rng(width * 1000 + height)
    blobs = rng.integers(0, 256, (-(-height // 5), -(-width // 5), 3))
    large = np.repeat(np.repeat(blobs, 5, axis=0), 5, axis=1)[:height, :width]
    return (large + rng.normal(0, 6, large.shape)).clip(0, 255).astype(np.uint8)


def jpeg(width: int, height: int, sampling: str = "420", quality: int = 90) -> bytes:
    pixels = scene(width, height)
    if sampling == "Gray":
        return bytes(simplejpeg.encode_jpeg(pixels[..., :1].copy(), quality, "GRAY", "Gray"))
    return bytes(simplejpeg.encode_jpeg(pixels, quality, "RGB", sampling))


def pillow_jpeg(width: int = 200, height: int = 150, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(scene(width, height)).convert(options.pop("mode", "RGB")).save(file, "JPEG", **options)
    return file.getvalue()


def seekable(raw: bytes) -> bytes:
    made = make_seekable(raw, min_pixels=0)
    assert made.data is not None, made
    assert (made.kept, made.detail) == ("", "")
    return made.data


def decode(raw: bytes) -> Pixels:
    pixels: Pixels = simplejpeg.decode_jpeg(raw, strict=True)
    return pixels


def markers(raw: bytes) -> list[tuple[int, bytes]]:
    """Marker and contents of each segment before the data."""
    found, at = [], 2
    while not found or found[-1][0] != 0xDA:
        size = int.from_bytes(raw[at + 2 : at + 4])
        found.append((raw[at + 1], raw[at + 4 : at + 2 + size]))
        at += 2 + size
    return found


def test_the_kernel_is_built() -> None:
    assert native.available(), "build it: pip install -e . with a C compiler and libjpeg-turbo's headers"


@pytest.mark.parametrize("sampling", SAMPLINGS)
@given(width=st.integers(1, 300), height=st.integers(1, 200))
@settings(max_examples=12, deadline=None)
def test_pixels_stay_the_same(sampling: str, width: int, height: int) -> None:
    source = jpeg(width, height, sampling)
    made = seekable(source)
    np.testing.assert_array_equal(decode(made), decode(source))
    np.testing.assert_array_equal(Image.open(io.BytesIO(made)), Image.open(io.BytesIO(source)))
    assert seekable(source) == made


@pytest.mark.parametrize("sampling", SAMPLINGS)
@given(size=st.tuples(st.integers(1, 300), st.integers(1, 200)), data=st.data())
@settings(max_examples=30, deadline=None)
def test_a_cut_shows_the_pixels_of_the_whole(sampling: str, size: tuple[int, int], data: st.DataObject) -> None:
    width, height = size
    raw = seekable(jpeg(width, height, sampling))
    w, h = data.draw(st.integers(1, width)), data.draw(st.integers(1, height))
    x, y = data.draw(st.integers(0, width - w)), data.draw(st.integers(0, height - h))
    layout = read_layout(memoryview(raw))
    assert layout is not None
    found = cut(memoryview(raw), layout, (x, y, w, h))
    assert found is not None
    assert found == native.cut(raw, (x, y, w, h))
    piece, left, top = found
    inside = decode(piece)[y - top : y - top + h, x - left : x - left + w]
    np.testing.assert_array_equal(inside, decode(raw)[y : y + h, x : x + w])
    assert len(piece) <= len(raw)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_table_says_where_the_markers_are(sampling: str) -> None:
    raw = seekable(jpeg(500, 375, sampling))
    layout = read_layout(raw)
    assert layout is not None
    # any FF in the data that is not stuffed is a marker: found by looking through all bytes
    found = [m.start() for m in re.finditer(rb"\xff[\xd0-\xd7\xd9]", raw[layout.data_at :])]
    behind = [layout.data_at + at + 2 for at in found]
    assert layout.starts[:, 1:].ravel().tolist() == behind
    assert layout.starts[:, 0].tolist() == [layout.data_at, *layout.starts[:-1, -1].tolist()]
    (table,) = [body for marker, body in markers(raw) if marker == 0xE9]
    tiles = layout.starts.shape[0] * (layout.starts.shape[1] - 1)
    assert table[:12] == b"fastload\0\x01\0\x01"
    assert len(table) - 12 <= 2 * tiles  # segments under 16 kB


@pytest.mark.parametrize(
    ("width", "sampling", "tile"),
    [(500, "420", 64), (500, "444", 56), (500, "Gray", 56), (496, "420", 16), (480, "420", 80), (112, "420", 112)],
)
def test_tiles_are_about_64_pixels_wide(width: int, sampling: str, tile: int) -> None:
    layout = read_layout(seekable(jpeg(width, 64, sampling)))
    assert layout is not None
    assert layout.tile_width == tile  # 500 / 16 -> 32 MCUs by 4; / 8 -> 63 by 7; 496 -> 31, prime; 480 -> 30 by 5


def test_a_table_of_more_than_one_segment() -> None:
    raw = seekable(jpeg(2016, 8 * 1100, "Gray", quality=40))
    layout = read_layout(raw)
    assert layout is not None
    assert [body[9:12] for marker, body in markers(raw) if marker == 0xE9] == [b"\x01\0\x01"]
    wide = seekable(jpeg(8 * 251, 8 * 250, "Gray", quality=60))  # 251 is prime: 62,750 tiles of one block
    parts = [body[9:12] for marker, body in markers(wide) if marker == 0xE9]
    assert parts == [b"\x01\0\x02", b"\x01\x01\x02"]
    found = read_layout(wide)
    assert found is not None
    assert found.starts.shape == (250, 252)
    piece = cut(wide, found, (1000, 1000, 9, 9))
    assert piece is not None
    assert piece == native.cut(wide, (1000, 1000, 9, 9))


def test_progressive_becomes_baseline() -> None:
    source = pillow_jpeg(progressive=True)
    made = seekable(source)
    assert 0xC0 in dict(markers(made))
    np.testing.assert_array_equal(decode(made), decode(source))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_and_profile_are_kept_and_other_metadata_is_dropped(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = "a description"
    profile = bytes(range(256)) * 600  # three segments
    made = seekable(pillow_jpeg(exif=exif, icc_profile=profile, comment=b"a comment"))
    picture = Image.open(io.BytesIO(made))
    assert picture.info["icc_profile"] == profile
    assert dict(picture.getexif()) == ({} if orientation == 1 else {0x0112: orientation})
    assert "comment" not in picture.info
    assert read_header(made).orientation == orientation
    layout = read_layout(made)
    assert layout is not None
    piece = cut(made, layout, (10, 10, 20, 20))
    assert piece is not None
    assert {marker for marker, _ in markers(piece[0])} <= {0xE0, 0xDB, 0xC0, 0xC4, 0xDD, 0xDA}


@pytest.mark.parametrize("mode", ["RGB", "YCbCr"])
def test_colour_models_are_kept(mode: str) -> None:
    source = pillow_jpeg(mode=mode, keep_rgb=mode == "RGB", subsampling=0)
    made = seekable(source)
    np.testing.assert_array_equal(decode(made), decode(source))
    layout = read_layout(made)
    assert layout is not None
    piece = cut(made, layout, (64, 8, 64, 8))
    assert piece is not None
    np.testing.assert_array_equal(
        decode(piece[0])[8 - piece[2] :, 64 - piece[1] :][:8, :64], decode(source)[8:16, 64:128]
    )


def without_last_scan(raw: bytes) -> bytes:
    return raw[: raw.rindex(b"\xff\xda")] + b"\xff\xd9"


def with_frame(raw: bytes, marker: int, precision: int = 8) -> bytes:
    at = raw.index(b"\xff\xc0")
    return raw[: at + 1] + bytes([marker]) + raw[at + 2 : at + 4] + bytes([precision]) + raw[at + 5 :]


def corrupt(raw: bytes) -> bytes:
    at = raw.index(b"\xff\xda") + 200
    return raw[:at] + b"\xff\xd3" * 8 + raw[at + 16 :]


@pytest.mark.parametrize(
    ("raw", "kept", "detail"),
    [
        (b"", "not a JPEG", ""),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "not a JPEG", ""),
        (pillow_jpeg()[:100], "a header that is odd or broken", ""),
        (pillow_jpeg()[:3000], "damaged", "Premature end of JPEG file"),
        (corrupt(pillow_jpeg()), "damaged", "Corrupt JPEG data"),
        (with_frame(pillow_jpeg(), 0xC9), "arithmetic coding", ""),
        (with_frame(pillow_jpeg(), 0xC3), "lossless or hierarchical", ""),
        (with_frame(pillow_jpeg(), 0xC1, 12), "samples of other than 8 bits", ""),
        (pillow_jpeg(mode="CMYK"), "CMYK or other inks", ""),
        (without_last_scan(pillow_jpeg(progressive=True)), "progressive, and not all coefficients are there", ""),
        (pillow_jpeg(100, 100), "too small to gain by it", ""),
    ],
)
def test_what_cannot_be_copied_is_kept(raw: bytes, kept: str, detail: str) -> None:
    made = make_seekable(raw)
    assert (made.data, made.kept) == (None, kept)
    assert made.detail.startswith(detail)
    assert bool(made.detail) == bool(detail)


def test_limits_on_pixels() -> None:
    assert make_seekable(jpeg(128, 128)).data is not None
    assert make_seekable(jpeg(128, 127)).kept == "too small to gain by it"
    huge = bytearray(jpeg(64, 64))
    at = huge.index(b"\xff\xc0") + 5
    huge[at : at + 4] = b"\xf0\0\xf0\0"
    assert make_seekable(huge).kept == "more pixels than the limit"


def test_making_seekable_twice_changes_nothing() -> None:
    made = make_seekable(seekable(jpeg(200, 200)))
    assert (made.data, made.kept) == (None, "crop-seekable already")


def test_a_table_that_does_not_fit_is_not_used() -> None:
    raw = seekable(jpeg(300, 200))
    at = raw.index(b"\xff\xdb")
    more_header = raw[:at] + b"\xff\xfe\0\x05abc" + raw[at:]  # what an editor of metadata does
    moved = read_layout(more_header)
    assert moved is not None
    assert moved.data_at == raw.index(b"\xff\xda") + 14 + 7
    interval = raw.index(b"\xff\xdd")
    for broken in (
        raw[:-1],
        raw + b"\0",
        raw[: interval + 5] + b"\x02" + raw[interval + 6 :],
        raw.replace(b"fastload\0\x01", b"fastload\0\x02"),
        jpeg(300, 200),
        b"\xff\xd8\xff",
        b"",
    ):
        assert read_layout(broken) is None
        assert native.cut(broken, (0, 0, 1, 1)) is None


def test_a_marker_that_is_missing_makes_no_cut() -> None:
    raw = bytearray(seekable(jpeg(320, 200)))
    layout = read_layout(raw)
    assert layout is not None
    raw[layout.starts[3, 2] - 1] = 0x00
    assert cut(raw, layout, (70, 50, 60, 20)) is None
    assert native.cut(raw, (70, 50, 60, 20)) is None
    assert cut(raw, layout, (70, 80, 60, 20)) is not None


def test_boxes_outside_the_picture_are_refused() -> None:
    with pytest.raises(ValueError, match=r"box \(0, 0, 301, 1\) is not inside the picture of 300 x 200 pixels"):
        native.cut(seekable(jpeg(300, 200)), (0, 0, 301, 1))
