"""Perceptual hashes and MinHash signatures, against the plain algorithms in floating point and with sets."""

from __future__ import annotations

import io
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pack_sources import odd_photo, photo, scene
from PIL import Image

from fastload.errors import DecodeError
from fastload.pack.likeness import SIGNATURE, perceptual_hash, picture_likeness, text_signature


def encoded(picture: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def smooth(seed: int, width: int = 200, height: int = 150) -> Image.Image:
    """A picture of a few soft blobs, as photographs are at a distance."""
    small = Image.fromarray(scene(seed, 8 * 5, 6 * 5)).resize((8, 6), Image.Resampling.BOX)
    return small.resize((width, height), Image.Resampling.BICUBIC)


def plain_hash(picture: Image.Image) -> int:
    """imagehash.phash, written out: DCT-II of 32 x 32 grey pixels, the 8 x 8 lowest against their median."""
    grey = np.asarray(picture.convert("L").resize((32, 32), Image.Resampling.LANCZOS), np.float64)
    cosines = np.array([[math.cos(math.pi * k * (2 * n + 1) / 64) for n in range(32)] for k in range(8)])
    low = (cosines @ grey @ cosines.T).reshape(-1)
    return int("".join("01"[int(value > np.median(low))] for value in low), 2)


def hash_of(raw: bytes) -> int:
    return picture_likeness(memoryview(raw))[0]


@pytest.mark.parametrize("seed", range(12))
def test_the_hash_is_that_of_imagehash(seed: int) -> None:
    picture = smooth(seed) if seed % 2 else Image.fromarray(scene(seed, 201, 99))
    assert hash_of(encoded(picture, "PNG")) == plain_hash(picture)


def test_golden_hashes() -> None:
    """Of ImageHash 4.3.2 for the same pixels: bytes on disk depend on them."""
    for tilt, expected in GOLDEN_HASHES.items():
        x, y = np.meshgrid(np.arange(64), np.arange(48))
        waves = 128 + 60 * np.sin(x / (4 + tilt)) + 50 * np.cos(y / (3 + tilt) + x * tilt / 40)
        assert f"{hash_of(encoded(Image.fromarray(waves.astype(np.uint8)), 'PNG')):016x}" == expected


GOLDEN_HASHES = {
    0: "fdc686f19a866458",
    1: "f87f2a7fd580d080",
    2: "f06f7fc0912c84ae",
    3: "e0376aca95cad568",
}


@given(level=st.integers(0, 255))
def test_a_flat_picture_has_one_hash_on_every_machine(level: int) -> None:
    found = perceptual_hash(np.full((32, 32), level, np.uint8))
    assert found == (1 << 63 if level else 0)


def test_thumbnails_tell_flat_pictures_apart() -> None:
    white, black = (picture_likeness(memoryview(encoded(Image.new("RGB", (40, 30), c))))[1] for c in ("white", "black"))
    assert white.shape == (48,)
    assert int(white.min()) - int(black.max()) > 250


def test_the_picture_as_shown_counts() -> None:
    picture, turned = smooth(3), Image.Exif()
    turned[0x0112] = 6
    sideways = picture.transpose(Image.Transpose.ROTATE_90)
    (one, colours), (other, others) = (
        picture_likeness(memoryview(encoded(picture, quality=95))),
        picture_likeness(memoryview(encoded(sideways, quality=95, exif=turned))),
    )
    assert (one ^ other).bit_count() <= 4
    assert np.abs(colours.astype(int) - others.astype(int)).max() <= 4


@pytest.mark.parametrize("raw", [photo(1, "Gray"), odd_photo(2, mode="CMYK"), odd_photo(3, progressive=True)])
def test_every_kind_of_jpeg_has_a_hash(raw: bytes) -> None:
    assert 0 < hash_of(raw) < 1 << 64


def test_a_truncated_picture_has_none() -> None:
    raw = photo(1)
    with pytest.raises(DecodeError, match="JPEG"):
        picture_likeness(memoryview(raw[: len(raw) // 2]))


# Texts


def shingles(text: str) -> set[str]:
    letters = re.sub(r"\W+", " ", text.casefold()).strip() or text
    letters = letters.ljust(5)
    return {letters[at : at + 5] for at in range(len(letters) - 4)}


def similarity(one: str, other: str) -> float:
    a, b = shingles(one), shingles(other)
    return len(a & b) / len(a | b)


VOCABULARY = "the quick brown fox jumps over lazy dogs while seven wizards yawn"
words = st.lists(st.sampled_from(VOCABULARY.split(" ")), max_size=40)


@given(one=words, other=words)
def test_signatures_agree_as_often_as_sets_do(one: list[str], other: list[str]) -> None:
    a, b = " ".join(one), " ".join(other)
    found = (text_signature(a) == text_signature(b)).mean()
    expected = similarity(a, b)
    deviation = math.sqrt(expected * (1 - expected) / SIGNATURE)
    assert abs(found - expected) <= 5.5 * deviation + 1e-9


def test_the_estimate_is_right_on_average() -> None:
    rng, errors = np.random.default_rng(0), []
    for _ in range(100):
        text = [f"word{number}" for number in rng.integers(0, 1000, 60)]
        other = list(text)
        for at in rng.integers(0, 60, rng.integers(0, 30)):
            other[at] = f"else{at}"
        a, b = " ".join(text), " ".join(other)
        errors.append((text_signature(a) == text_signature(b)).mean() - similarity(a, b))
    assert abs(float(np.mean(errors))) < 0.012  # three standard errors of 100 estimates
    assert float(np.std(errors)) < 0.05


def test_case_and_punctuation_do_not_count() -> None:
    assert (text_signature("Hello,   World! It's me") == text_signature("hello world... IT S ME")).all()


@pytest.mark.parametrize("text", ["", "a", "!", "雨", "四五六七"])
def test_short_texts_have_signatures_of_their_own(text: str) -> None:
    assert (text_signature(text) == text_signature(text)).all()
    assert (text_signature(text) == text_signature(text + "?!xylophone")).mean() < 0.3


def test_golden_signature() -> None:
    assert text_signature("Pack raw samples once into tar or Parquet shards.")[:4].tolist() == GOLDEN_SIGNATURE


def test_a_long_text_is_cut_into_blocks_and_comes_out_whole() -> None:
    text = " ".join(f"{number:x}" for number in range(6000))
    assert len(shingles(text)) > 4 * 4096
    parts = [text_signature(text[start : start + 9004]) for start in range(0, len(text), 9000)]
    assert (text_signature(text) <= np.min(parts, axis=0)).mean() > 0.9


GOLDEN_SIGNATURE = [15392295, 111532763, 96590268, 11502014]
