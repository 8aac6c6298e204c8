"""The kernel in C gives what the Python path gives, says no where that one has to decide, and holds on to nothing."""

from __future__ import annotations

import gc
import io
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
import torch
import warm
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage

from fastload.decode import decoder_for, native
from fastload.decode.base import BulkDecoder, decode_rows
from fastload.decode.boxes import center_box, random_box
from fastload.decode.headers import MAX_PIXELS, read_header
from fastload.decode.image import ImageDecoder
from fastload.decode.seekable import make_seekable
from fastload.errors import DecodeError
from fastload.fields import Field, Image, Tensor, Tokens

Pixels = npt.NDArray[np.uint8]
Mode = Literal["RGB", "L"]
# torch uses the arithmetic that the kernel shares with it on processors with AVX2 only
TOLERANCE = 0 if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") else 1


def scene(width: int, height: int) -> Pixels:
    """uint8 [H, W, 3] with saturated edges and noise."""
    rng = np.random.default_rng(width * 1000 + height)
    blobs = rng.integers(0, 256, (-(-height // 5), -(-width // 5), 3))
    large = np.repeat(np.repeat(blobs, 5, axis=0), 5, axis=1)[:height, :width]
    return (large + rng.normal(0, 6, large.shape)).clip(0, 255).astype(np.uint8)


def pillow_jpeg(width: int, height: int, mode: str = "RGB", orientation: int = 1, **options: Any) -> bytes:
    exif = PillowImage.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    PillowImage.fromarray(scene(width, height)).convert(mode).save(file, "JPEG", exif=exif, **options)
    return file.getvalue()


def sampled(width: int, height: int, sampling: str) -> bytes:
    return bytes(simplejpeg.encode_jpeg(scene(width, height), 90, "RGB", sampling))


def seekable(raw: bytes) -> bytes:
    data = make_seekable(raw, min_pixels=0).data
    assert data is not None
    return data


def by_python(field: Image, raw: bytes, key: int) -> Pixels:
    out = np.empty((*field.height_width, field.channels), np.uint8)
    ImageDecoder(field)._decode_alone(raw, out, key)
    return out


def by_kernel(field: Image, raws: list[bytes], keys: list[int], **options: Any) -> tuple[bytes, Pixels]:
    out = np.full((len(raws), *field.height_width, field.channels), 77, np.uint8)
    return native.decode_rows(field, raws, out, keys, MAX_PIXELS, **options), out


KINDS = {
    "444": sampled(150, 100, "444"),
    "422": sampled(151, 99, "422"),
    "420": sampled(161, 97, "420"),
    "440": sampled(130, 101, "440"),
    "411": sampled(170, 90, "411"),
    "grey": pillow_jpeg(140, 90, "L"),
    "progressive": pillow_jpeg(149, 111, progressive=True),
    "restarts": pillow_jpeg(149, 111, restart_marker_rows=1),
    "rgb": pillow_jpeg(120, 80, keep_rgb=True, subsampling=0),
    "narrow": sampled(3, 120, "420"),
    "flat": sampled(120, 3, "420"),
    "edge": sampled(131, 83, "420"),  # the last MCU is 3 pixels wide
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cut", [False, True], ids=["plain", "seekable"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_rows_are_those_of_the_python_path(kind: str, cut: bool, mode: Mode) -> None:
    raw = seekable(KINDS[kind]) if cut else KINDS[kind]
    for field in (
        Image((40, 56), crop="random", mode=mode),
        Image((300, 20), crop="random", mode=mode, scale=(0.001, 0.2), ratio=(0.1, 10)),
        Image(64, crop="center", mode=mode),
        Image((1, 7), mode=mode),
        Image((90, 140), mode=mode),
    ):
        keys = list(range(6))
        statuses, out = by_kernel(field, [raw] * 6, keys)
        assert not any(statuses)
        for key in keys:
            # a crop-seekable file shows what its source shows
            assert np.abs(out[key].astype(int) - by_python(field, KINDS[kind], key)).max() <= TOLERANCE
            assert np.abs(out[key].astype(int) - by_python(field, raw, key)).max() <= TOLERANCE
        np.testing.assert_array_equal(by_kernel(field, [raw] * 6, keys, portable=True)[1], out)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_orientation_and_flips(orientation: int, mode: Mode) -> None:
    raw = pillow_jpeg(150, 100, orientation=orientation)
    for field in (Image((40, 24), crop="random", mode=mode), Image((24, 40), mode=mode)):
        for one in (raw, seekable(raw)):
            statuses, out = by_kernel(field, [one, one], [5, 5], flips=np.array([False, True]))
            assert not any(statuses)
            assert np.abs(out[0].astype(int) - by_python(field, raw, 5)).max() <= TOLERANCE
            np.testing.assert_array_equal(out[1], out[0][:, ::-1])


@given(
    width=st.integers(1, 5000),
    height=st.integers(1, 5000),
    key=st.integers(0, 2**64 - 1),
    scale=st.tuples(st.floats(0.001, 1.5), st.floats(0.001, 1.5)),
    ratio=st.tuples(st.floats(0.05, 20), st.floats(0.05, 20)),
)
@settings(max_examples=1500, deadline=None)
def test_boxes_are_those_that_python_draws(
    width: int, height: int, key: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> None:
    scale, ratio = (min(scale), max(scale)), (min(ratio), max(ratio))
    field = Image((37, 64), crop="random", scale=scale, ratio=ratio)
    assert native.box(field, width, height, key) == random_box(width, height, scale, ratio, key)
    centre = Image((37, 64), crop="center", center_fraction=min(1.0, scale[1]))
    assert native.box(centre, width, height, key) == center_box(width, height, 64, 37, min(1.0, scale[1]))


def test_a_box_in_more_pixels_than_int64_holds() -> None:
    field, side = Image((37, 64), crop="random"), 1 << 40
    assert native.box(field, side, side, 5) == random_box(side, side, field.scale, field.ratio, 5)


@given(at=st.integers(0, 700), patch=st.binary(min_size=1, max_size=6))
@settings(max_examples=600, deadline=None)
def test_headers_are_read_as_python_reads_them(at: int, patch: bytes) -> None:
    raw = pillow_jpeg(20, 30, orientation=6)
    raw = raw[:at] + patch + raw[at + len(patch) :]
    found = native.header(raw)
    if found is None or not 0 < found[0] * found[1] <= MAX_PIXELS:
        return  # left to Python, or refused by decode_rows
    width, height, orientation, components = found
    header = read_header(raw)
    assert (header.width, header.height) == ((height, width) if orientation >= 5 else (width, height))
    assert (header.orientation, header.components) == (orientation, components)


def png() -> bytes:
    file = io.BytesIO()
    PillowImage.fromarray(scene(60, 50)).save(file, "PNG")
    return file.getvalue()


def test_rows_of_all_sorts() -> None:
    cmyk = pillow_jpeg(60, 50, "CMYK")
    broken = seekable(KINDS["420"])[:-100]
    raws = [KINDS["420"], None, png(), cmyk, b"", broken, KINDS["grey"], seekable(KINDS["420"])]
    field = Image(32, crop="center")
    decoder = ImageDecoder(field)
    assert isinstance(decoder, BulkDecoder)
    out = np.full((len(raws), 32, 32, 3), 77, np.uint8)
    errors = decode_rows(decoder, raws, out, list(range(len(raws))))
    assert [row for row, error in enumerate(errors) if error is not None] == [4, 5]
    assert str(errors[4]) == "no bytes where a picture should be"
    assert str(errors[5]) == f"JPEG ends after {len(broken)} bytes, before its end marker"
    assert (out[1] == 77).all()
    for row in (0, 2, 3, 6, 7):
        raw = raws[row]
        assert raw is not None
        assert np.abs(out[row].astype(int) - by_python(field, raw, row)).max() <= TOLERANCE


@pytest.mark.parametrize(
    ("field", "in_bulk", "expected"), [(Tokens(4), True, [3, 1, 2, 0]), (Tensor((3,), "int64"), False, [3, 1, 2])]
)
def test_any_decoder_takes_many_rows(field: Field, in_bulk: bool, expected: list[int]) -> None:
    decoder = decoder_for(field)
    assert isinstance(decoder, BulkDecoder) == in_bulk
    file = io.BytesIO()
    np.save(file, np.array([3, 1, 2]))
    out, lengths = np.full((3, len(expected)), 77), np.full(3, 77)
    errors = decode_rows(decoder, [file.getvalue(), None, b"no array"], out, [0, 1, 2], lengths if in_bulk else None)
    assert [type(error) for error in errors] == [type(None), type(None), DecodeError]
    assert out[:2].tolist() == [expected, [77] * len(expected)]
    assert lengths.tolist()[:2] == ([3, 77] if in_bulk else [77, 77])


@pytest.mark.parametrize("kind", ["420", "progressive"])
def test_a_plain_file_without_its_end_is_found_whatever_the_box(kind: str) -> None:
    field = Image(16, crop="random", scale=(0.01, 0.02))
    for raw in (KINDS[kind][:-2], KINDS[kind][:-900]):
        statuses, _ = by_kernel(field, [raw] * 20, list(range(20)))
        assert all(statuses)


def test_what_does_not_fit_is_refused() -> None:
    field, raw = Image(8), KINDS["420"]
    with pytest.raises(ValueError, match="2 rows, and keys, flips or an output of 192 bytes that do not fit them"):
        native.decode_rows(field, [raw, raw], np.empty((1, 8, 8, 3), np.uint8), [0, 1], MAX_PIXELS)
    with pytest.raises(ValueError, match="1 rows, and keys"):
        native.decode_rows(field, [raw], np.empty((1, 8, 8, 3), np.uint8), [0, 1], MAX_PIXELS)
    with pytest.raises(TypeError, match="read-write bytes-like"):  # it is not contiguous
        native.decode_rows(field, [raw], np.empty((1, 8, 8, 6), np.uint8)[..., ::2], [0], MAX_PIXELS)
    with pytest.raises(TypeError, match="bytes-like"):
        by_kernel(field, ["text"], [0])  # type: ignore[list-item]
    assert any(native.decode_rows(field, [raw], np.empty((1, 8, 8, 3), np.uint8), [0], 161 * 97 - 1))


def test_more_pixels_than_can_be_counted_are_refused() -> None:
    rows = (None,) * (1 << 24)  # of 2**40 pixels each: 2**64, which would be none
    spec = (0, (0.1, 1.0), (0.5, 2.0), 1.0, 1 << 20, 1 << 20, 1, MAX_PIXELS, False)
    with pytest.raises(ValueError, match="16777216 rows, and keys, flips or an output of 0 bytes"):
        native._jpeg.decode_rows(rows, rows, bytearray(), None, spec)


def test_contents_are_given_back() -> None:
    good, bad = bytearray(KINDS["420"]), bytearray(KINDS["420"][:500])
    out = np.empty((2, 8, 8, 3), np.uint8)
    native.decode_rows(Image(8), [good, memoryview(bad)], out, [0, 1], MAX_PIXELS)
    with pytest.raises(TypeError, match="bytes-like"):
        native.decode_rows(Image(8), [good, 7], out, [0, 1], MAX_PIXELS)  # type: ignore[list-item]
    gc.collect()
    good.append(0)  # raises BufferError while something holds on to it
    bad.append(0)


def test_threads_do_not_disturb_each_other() -> None:
    raws = [one for raw in KINDS.values() for one in (raw, seekable(raw), raw[:-300])]
    field = Image(48, crop="random")
    keys = list(range(len(raws)))
    alone = by_kernel(field, raws, keys)
    with ThreadPoolExecutor(8) as threads:
        for statuses, out in threads.map(lambda _: by_kernel(field, raws, keys), range(40)):
            assert statuses == alone[0]
            done = [row for row, status in enumerate(statuses) if status == native.DECODED]
            np.testing.assert_array_equal(out[done], alone[1][done])


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_threads_that_end_leave_no_memory() -> None:
    raws = [KINDS["420"], KINDS["progressive"], KINDS["420"][:-300], seekable(KINDS["420"])]

    def run(times: int) -> None:
        for _ in range(times):
            thread = threading.Thread(target=by_kernel, args=(Image(64), raws, [0, 1, 2, 3]))
            thread.start()
            thread.join()

    run(50)
    before = resident_bytes()
    run(400)
    assert resident_bytes() - before < 8 << 20  # one thread's memory is over 100 kB


@pytest.mark.parametrize("kind", ["420", "444", "grey", "progressive"])
@pytest.mark.parametrize("cut", [False, True], ids=["plain", "seekable"])
@given(position=st.floats(0, 1), patch=st.binary(min_size=1, max_size=4), stop=st.none() | st.floats(0, 1))
@example(position=0.5, patch=b"\xff\xd9", stop=None)
@settings(max_examples=40, deadline=None)
def test_broken_bytes_do_no_harm(kind: str, cut: bool, position: float, patch: bytes, stop: float | None) -> None:
    whole = seekable(KINDS[kind]) if cut else KINDS[kind]
    at = int(position * len(whole))
    raw = (whole[:at] + patch + whole[at + len(patch) :])[: None if stop is None else int(stop * len(whole))]
    field = Image(24, crop="random")
    statuses, out = by_kernel(field, [raw], [9])
    native.header(raw)
    make_seekable(raw, min_pixels=0)
    if statuses[0] != native.DECODED:
        return
    try:
        expected = by_python(field, raw, 9)
    except DecodeError:
        return  # damage outside the box, which the kernel does not look at
    assert np.abs(out[0].astype(int) - expected).max() <= TOLERANCE


WITHOUT_KERNEL = """
import logging, sys
for name in [name for name in sys.modules if name.partition(".")[0] == "fastload"]:
    del sys.modules[name]  # all are imported anew
sys.modules["fastload.decode._jpeg"] = None  # as if it had not been built
logging.basicConfig(stream=sys.stdout, format="%(name)s %(levelname)s %(message)s")
import numpy as np
from fastload.decode import decoder_for
from fastload.decode.seekable import make_seekable
from fastload.fields import Field, Image, Tensor, Tokens
raw = open(sys.argv[1], "rb").read()
out = np.empty((24, 24, 3), np.uint8)
for _ in range(2):
    decoder_for(Image(24, crop="random")).decode_into(raw, out, 9)
print(make_seekable(raw).kept)
sys.stdout.flush()
np.save(sys.argv[2], out)
"""


def test_without_the_kernel_pixels_are_the_same_and_one_line_says_so(tmp_path: Any) -> None:
    raw, result = tmp_path / "a.jpg", tmp_path / "a.npy"
    raw.write_bytes(seekable(KINDS["420"]))
    done = warm.run(WITHOUT_KERNEL, raw, result)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("fastload.decode.native WARNING the native JPEG kernel is not built (")
    assert second == "the native kernel is not built"
    _, out = by_kernel(Image(24, crop="random"), [raw.read_bytes()], [9])
    assert np.abs(out[0].astype(int) - np.load(result)).max() <= TOLERANCE


PEAKS = """
import re, sys
import numpy as np
from fastload.decode import native
from fastload.fields import Image

def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) * 1024

out = np.zeros((1, 32, 32, 3), np.uint8)
for path, pixels in zip(sys.argv[2:], [int(sys.argv[1])] * 2):
    raw = open(path, "rb").read()
    before = peak()
    assert native.decode_rows(Image(32), [raw], out, [0], pixels)[0] == native.DECODED
    print((peak() - before) / pixels)
"""


@pytest.mark.skipif(not native.available() or sys.platform != "linux", reason="needs the kernel, and Linux's /proc")
def test_a_progressive_picture_takes_no_more_memory_than_is_said(tmp_path: Path) -> None:
    """Bytes a pixel, of pictures as large as the limit that is passed: 3 at 4:2:0 and then, of 6 at 4:4:4, 3 more at
    least, as the peak before counts; a picture kept whole beside the coefficients would be 3 more."""
    side = 4000
    picture = PillowImage.fromarray(scene(200, 200)).resize((side, side))
    paths = [tmp_path / "420.jpg", tmp_path / "444.jpg"]
    for path, subsampling in zip(paths, (2, 0), strict=True):
        picture.save(path, progressive=True, subsampling=subsampling, quality=50)
    command = [sys.executable, "-c", PEAKS, str(side * side), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    first, second = map(float, done.stdout.split())
    assert 2 < first < 3.3
    assert first + second < 6.6
