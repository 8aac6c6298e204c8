"""What was cut off is found without decoding it all, wherever it was cut; and nothing else is taken for it."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from fastload import Cleaning
from fastload.decode.clips import open_clip
from fastload.errors import DecodeError
from fastload.pack import pack
from fastload.pack.checks import inspector

RATE = 16000


def picture(kind: str, mode: str = "RGB", seed: int = 0, **options: Any) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (23, 37, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind, **options)
    return file.getvalue()


def sound(kind: str, subtype: str | None = None, channels: int = 1) -> bytes:
    """A second of noise."""
    file = io.BytesIO()
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (RATE, channels))
    soundfile.write(file, samples, RATE, format=kind, subtype=subtype)
    return file.getvalue()


def cuts(whole: bytes) -> list[int]:
    return [len(whole) // 10, len(whole) // 2, len(whole) * 9 // 10, len(whole) - 20, len(whole) - 1]


def check_cuts(kind: str, whole: bytes, facts: tuple[int, ...]) -> None:
    look = inspector("audio" if facts[1] == RATE else "image")
    assert look(memoryview(whole)) == facts
    for size in cuts(whole):
        with pytest.raises(DecodeError, match=kind):
            look(memoryview(whole[:size]))


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4"])
def test_tiffs_that_are_cut(compression: str | None) -> None:
    options = {} if compression is None else {"compression": compression}
    check_cuts("TIFF", picture("TIFF", "1" if compression == "group4" else "RGB", **options), (37, 23))


@pytest.mark.parametrize("mode", ["L", "P", "1", "I;16", "CMYK"])
def test_tiffs_of_other_modes_that_are_cut(mode: str) -> None:
    check_cuts("TIFF", picture("TIFF", mode), (37, 23))


def test_other_pictures_that_are_cut() -> None:
    for kind, options in (
        ("PNG", {}), ("WEBP", {}), ("WEBP", {"lossless": True}), ("JPEG", {}), ("JPEG", {"progressive": True}),
    ):  # fmt: skip
        check_cuts(kind, picture(kind, **options), (37, 23))


def test_tiffs_that_are_whole() -> None:
    look = inspector("image")
    pages = [Image.fromarray(np.full((23, 37, 3), value, np.uint8)) for value in (10, 20, 30)]
    file = io.BytesIO()
    pages[0].save(file, "TIFF", save_all=True, append_images=pages[1:])
    assert look(memoryview(file.getvalue())) == (37, 23)
    whole = picture("TIFF")
    assert look(memoryview(whole + b"padding")) == (37, 23)
    strip_bytes = struct.pack("<HHII", 279, 4, 1, 23 * 37 * 3)
    assert whole.count(strip_bytes) == 1
    too_many = whole.replace(strip_bytes, struct.pack("<HHII", 279, 4, 1, 23 * 37 * 3 + 1000))
    assert look(memoryview(too_many)) == (37, 23)  # decoders read no more than the rows


@pytest.mark.parametrize(
    ("kind", "subtype", "channels"),
    [
        ("FLAC", "PCM_16", 1),
        ("FLAC", "PCM_24", 2),
        ("MP3", None, 1),
        ("MP3", None, 2),
        ("WAV", "PCM_16", 2),
        ("WAV", "FLOAT", 1),
        ("RF64", "PCM_16", 1),
        ("OGG", "VORBIS", 2),
    ],
)
def test_sounds_that_are_cut(kind: str, subtype: str | None, channels: int) -> None:
    check_cuts("WAV" if kind == "RF64" else kind, sound(kind, subtype, channels), (RATE, RATE))


def test_sounds_that_are_whole() -> None:
    look = inspector("audio")
    flac, mp3, wav = (sound(kind) for kind in ("FLAC", "MP3", "WAV"))
    tag = b"ID3\x04\0\0" + bytes([0, 0, 7, 0x68]) + bytes(1000)
    last = b"TAG" + bytes(125)
    for raw in (flac + last, flac + bytes(500), tag + flac, tag + mp3, mp3 + last, tag + mp3 + last):
        assert look(memoryview(raw)) == (RATE, RATE)
    with pytest.raises(DecodeError, match=r"MP3 of .* bytes lacks the last of its 16000 samples: it was cut off"):
        look(memoryview((tag + mp3)[:-200]))
    silent = mp3.replace(b"Xing", b"none").replace(b"Info", b"none")  # it no longer says how long it is
    for raw in (silent, tag + silent + last, silent[: len(silent) // 2]):
        frames, _ = look(memoryview(raw))
        assert open_clip(raw).read(0, frames).shape == (1, frames)
        assert (frames > RATE) == (len(raw) >= len(silent))
    start = wav.index(b"data")
    odd = wav[:start] + b"LIST\3\0\0\0abc\0" + wav[start:]
    assert look(memoryview(odd)) == (RATE, RATE)
    for size in (0, 0xFFFFFFFF):
        streamed = bytearray(wav)
        struct.pack_into("<I", streamed, 4, size)
        struct.pack_into("<I", streamed, start + 4, size)
        assert look(memoryview(bytes(streamed))) == (RATE, RATE)


def test_a_stale_length_in_an_mp3_is_believed_only_if_samples_are_missing() -> None:
    mp3 = sound("MP3")
    at = max(mp3.find(b"Xing"), mp3.find(b"Info"))
    (flags,) = struct.unpack_from(">I", mp3, at + 4)
    assert flags & 3 == 3
    longer = bytearray(mp3)
    struct.pack_into(">I", longer, at + 12, len(mp3) + 5000)
    assert inspector("audio")(memoryview(bytes(longer))) == (RATE, RATE)


def test_a_flac_that_does_not_say_how_long_it_is() -> None:
    flac = bytearray(sound("FLAC"))
    flac[21] &= 0xF0  # total samples of STREAMINFO: 36 bits, 0 if they are not known
    flac[22:26] = bytes(4)
    assert inspector("audio")(memoryview(bytes(flac))) == (RATE, RATE)
    clip = open_clip(bytes(flac))
    whole = open_clip(sound("FLAC"))
    np.testing.assert_array_equal(clip.read(RATE - 9, RATE), whole.read(RATE - 9, RATE))
    assert clip.read(0, clip.frames).shape == (1, RATE)


def test_packing_leaves_out_what_was_cut(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    for number in range(4):
        raw = picture("TIFF", seed=number)
        (tmp_path / "s" / f"{number}.tif").write_bytes(raw[: len(raw) // 2] if number == 2 else raw)
    index = pack(tmp_path / "s", tmp_path / "out", clean=Cleaning(on_error="skip"), workers=1)
    assert index.samples("train") == 3
    assert index.statistics["cleaning"]["rejected"] == {"unreadable": 1}


@pytest.mark.parametrize("mode", ["RGB", "P", "1"])
@pytest.mark.parametrize("kind", ["bmp", "gif"])
def test_pictures_that_are_cut_before_their_last_pixel(kind: str, mode: str) -> None:
    whole, look = picture(kind, mode, **({"comment": "x" * 300} if kind == "gif" else {})), inspector("image")
    assert look(memoryview(whole)) == look(memoryview(whole + b"padding")) == (37, 23)
    for size in (len(whole) - 2, len(whole) * 3 // 4, len(whole) // 2):
        with pytest.raises(
            DecodeError, match=f"{kind.upper()} of {size} bytes ends before its pixels do: it was cut off"
        ):
            look(memoryview(whole[:size]))
    if kind == "gif":
        assert look(memoryview(whole[:-1])) == (37, 23)  # decoders do without the trailer
