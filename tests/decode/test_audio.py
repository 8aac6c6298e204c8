"""Clips: cropped before they are resampled, yet equal to torchaudio's resampling of the whole; padded; mono, stereo."""

from __future__ import annotations

import io
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch
import torchaudio
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastload.decode import Spec, audio_info, decoder_for
from fastload.decode.resample import input_span, resampled_frames
from fastload.errors import DecodeError, MissingExtraError
from fastload.fields import Audio
from fastload.order import hashing

RATES = [8000, 11025, 16000, 22050, 44100, 48000]
Samples = npt.NDArray[np.float32]


def sound(frames: int, channels: int = 1, seed: int = 0) -> Samples:
    """float32 [C, frames] in [-0.9, 0.9]."""
    return np.random.default_rng(seed).uniform(-0.9, 0.9, (channels, frames)).astype(np.float32)


def encode(samples: Samples, rate: int, fmt: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples.T, rate, format=fmt, subtype="FLOAT" if fmt == "WAV" else None)
    return file.getvalue()


def decode(field: Audio, raw: bytes | memoryview, key: int = 0) -> tuple[Samples, int]:
    """The row and its true length."""
    decoder = decoder_for(field)
    assert decoder.spec.shape is not None
    batch = np.full((3, *decoder.spec.shape), 9, np.float32)
    length = decoder.decode_into(raw, batch[1, ...], key)
    assert (batch[[0, 2]] == 9).all()
    np.testing.assert_array_equal(np.asarray(decoder.decode(raw, key)), batch[1])
    return batch[1], length


def ragged(field: Audio, raw: bytes) -> Samples:
    value = decoder_for(field).decode(raw, 0)
    assert isinstance(value, np.ndarray)
    assert value.dtype == np.float32
    return value


def test_spec() -> None:
    row = Spec(shape=(1, 8000), dtype=np.dtype("float32"), has_length=True, parallel=True)
    assert decoder_for(Audio(16000, 0.5)).spec == row
    assert decoder_for(Audio(16000, 0.5, mono=False)).spec.shape == (2, 8000)
    assert decoder_for(Audio(16000)).spec == Spec(parallel=True)


@pytest.mark.parametrize("fmt", ["WAV", "FLAC", "OGG", "MP3"])
def test_info_and_whole_clips_of_every_format(fmt: str) -> None:
    samples = sound(12_000, 2)
    raw = encode(samples, 16000, fmt)
    expected = soundfile.read(io.BytesIO(raw), dtype="float32", always_2d=True)[0].T
    assert audio_info(memoryview(raw)) == (expected.shape[1], 16000, 2)
    np.testing.assert_array_equal(ragged(Audio(mono=False), raw), expected)
    np.testing.assert_allclose(ragged(Audio(), raw), expected.mean(axis=0, keepdims=True), atol=1e-7)


@pytest.mark.parametrize("fmt", ["WAV", "FLAC", "OGG", "MP3"])
def test_crops_of_every_format(fmt: str) -> None:
    raw = encode(sound(40_000), 16000, fmt)
    whole = ragged(Audio(), raw)
    for crop, starts in (("center", [16_000]), (None, [0])):
        row, length = decode(Audio(16000, 0.5, crop=crop), raw)
        assert length == 8000
        np.testing.assert_allclose(row, whole[:, starts[0] : starts[0] + 8000], atol=1e-5)


COVER = b"ID3\x04\0\0" + bytes([0, 3, 0, 0]) + bytes(3 << 14)  # a tag of 48 KiB
LAST = b"TAG" + bytes(125)
FRAMES_OF_MPEG_2, DELAY = 576, 576 + 529  # of LAME and of the decoder, as LAME notes it


def untold(mp3: bytes, bitrate: int) -> tuple[bytes, int]:
    """An MP3 of 16 kHz that does not say how long it is, and how long it is. It starts with two frames of silence, of
    which the first has this bitrate by its number; the other was the one that said it."""
    at = max(mp3.find(b"Xing"), mp3.find(b"Info"))
    frames = int.from_bytes(mp3[at + 8 : at + 12], "big")
    kbits = {1: 8, 14: 160}[bitrate]
    silence = bytes([mp3[0], mp3[1], bitrate << 4 | mp3[2] & 0x0C, mp3[3]]).ljust(72 * kbits // 16, b"\0")
    return silence + mp3[:at] + b"none" + mp3[at + 4 :], (frames + 2) * FRAMES_OF_MPEG_2


@pytest.mark.parametrize("bitrate", [1, 14])  # libsndfile takes it for that of all frames
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("before", "behind"), [(b"", b""), (COVER, LAST), (COVER * 2, bytes(999))])
def test_an_mp3_that_does_not_say_how_long_it_is(bitrate: int, channels: int, before: bytes, behind: bytes) -> None:
    told = encode(sound(30_000, channels), 16_000, "MP3")
    middle, frames = untold(told, bitrate)
    raw = before + middle + behind
    assert audio_info(memoryview(raw)) == (frames, 16_000, channels)
    whole = ragged(Audio(mono=channels == 1), raw)
    assert whole.shape == (channels, frames)
    at = 2 * FRAMES_OF_MPEG_2 + DELAY
    np.testing.assert_allclose(whole[:, at : at + 30_000], ragged(Audio(mono=channels == 1), told), atol=1e-6)
    row, _ = decode(Audio(16_000, 0.5, crop="center", mono=channels == 1), raw)
    start = (frames - 8000) // 2
    np.testing.assert_allclose(row, whole[:, start : start + 8000], atol=1e-5)


@pytest.mark.parametrize(("place", "left_out"), [(4, bytes(4)), (7, b"\x0e"), (8, bytes(4))])  # flags, or the number
def test_an_mp3_whose_first_frame_tells_other_things(place: int, left_out: bytes) -> None:
    told = encode(sound(30_000), 16_000, "MP3")
    at = max(told.find(b"Xing"), told.find(b"Info"))
    frames = int.from_bytes(told[at + 8 : at + 12], "big") * FRAMES_OF_MPEG_2
    raw = told[: at + place] + left_out + told[at + place + len(left_out) :]
    assert audio_info(raw) == (frames, 16_000, 1)
    whole = ragged(Audio(), raw)
    assert whole.shape == (1, frames)
    np.testing.assert_allclose(whole[:, DELAY : DELAY + 30_000], ragged(Audio(), told), atol=1e-6)


def test_headers_in_the_middle_of_frames_are_none() -> None:
    told = encode(sound(30_000), 16_000, "MP3")
    middle, frames = untold(told, 1)
    first = middle.index(told[:3], 72) + 72  # in the second
    for count in (1, 3):
        raw = middle[:first] + told[:4] * count + middle[first + 4 * count :]
        assert audio_info(raw)[0] == frames


def test_an_mp3_that_does_not_say_how_long_it_is_and_is_damaged_or_cut() -> None:
    middle, frames = untold(encode(sound(30_000), 16_000, "MP3"), 1)
    half = len(middle) // 2
    for raw in (middle[:-50], middle[:half], middle[:half] + b"junk" * 9 + middle[half:], middle + b"junk"):
        found = audio_info(raw)[0]
        assert frames // 3 < found <= frames
        assert ragged(Audio(), raw).shape == (1, found)


def test_short_clips_are_padded_with_zeros() -> None:
    samples = sound(100)
    row, length = decode(Audio(16000, 0.01, crop="random"), encode(samples, 16000))
    assert length == 100
    np.testing.assert_array_equal(row[:, :100], samples)
    assert row.shape == (1, 160)
    assert not row[:, 100:].any()


def test_random_crops_start_where_the_key_says() -> None:
    samples = np.arange(1000, dtype=np.float32)[None]
    raw = encode(samples, 1000)
    starts = []
    for key in hashing.sample_keys(0, 0, np.arange(300)).tolist():
        row, length = decode(Audio(1000, 0.9, crop="random"), raw, key)
        starts.append(int(row[0, 0]))
        assert starts[-1] == int(hashing.draw(key, hashing.OP_AUDIO_CROP, 0) * 101)
        np.testing.assert_array_equal(row[0], np.arange(starts[-1], starts[-1] + 900))
        assert length == 900
    assert min(starts) < 5
    assert max(starts) > 95


@given(
    st.sampled_from(RATES),
    st.sampled_from(RATES),
    st.integers(1, 3000),
    st.integers(1, 1000),
    st.sampled_from(["random", "center", None]),
    st.integers(0, 2**64 - 1),
)
@settings(max_examples=40, deadline=None)
def test_a_resampled_crop_is_that_part_of_the_resampled_whole(
    orig: int, new: int, frames: int, samples: int, crop: Any, key: int
) -> None:
    clip = sound(frames)
    raw = encode(clip, orig)
    whole = torchaudio.functional.resample(torch.from_numpy(clip), orig, new).numpy()
    total = whole.shape[1]
    assert resampled_frames(frames, orig, new) == total
    np.testing.assert_allclose(ragged(Audio(new), raw), whole, atol=1e-4)
    field = Audio(new, samples / new, crop=crop)
    row, length = decode(field, raw, key)
    assert length == min(total, samples)
    spare = total - length
    draw = hashing.draw(key, hashing.OP_AUDIO_CROP, 0)
    start = {"random": int(draw * (spare + 1)), "center": spare // 2, None: 0}[crop]
    np.testing.assert_allclose(row[:, :length], whole[:, start : start + length], atol=1e-4)
    assert not row[:, length:].any()


def test_only_the_frames_that_the_filter_reaches_are_read() -> None:
    first, end, skip = input_span(160_000, 176_000, 4_410_000, 44_100, 16_000)
    assert (first, end, skip) == (440_559, 485_117, 160)
    assert input_span(0, 10, 20, 8000, 16000) == (0, 12, 0)


def test_channels() -> None:
    stereo, triple = sound(50, 2), sound(50, 3)
    row, _ = decode(Audio(8000, 0.00625), encode(stereo, 8000))
    np.testing.assert_allclose(row, stereo.mean(axis=0, keepdims=True), atol=1e-7)
    row, _ = decode(Audio(8000, 0.00625, mono=False), encode(stereo, 8000))
    np.testing.assert_array_equal(row, stereo)
    row, _ = decode(Audio(8000, 0.00625, mono=False), encode(stereo[:1], 8000))
    np.testing.assert_array_equal(row, stereo[[0, 0]])
    with pytest.raises(DecodeError, match=r"clip of 3 channels, where Audio\(mono=False\) takes one or two"):
        decode(Audio(8000, 0.00625, mono=False), encode(triple, 8000))


def test_threads_do_not_disturb_each_other() -> None:
    raws = [encode(sound(4000, seed=seed), 11025, fmt) for seed in range(4) for fmt in ("WAV", "FLAC", "OGG")]
    decoder = decoder_for(Audio(16000, 0.1, crop="random"))
    alone = [np.asarray(decoder.decode(raw, key)) for key, raw in enumerate(raws)]
    with ThreadPoolExecutor(8) as threads:
        for _ in range(5):
            for one, other in zip(alone, threads.map(decoder.decode, raws, range(len(raws))), strict=True):
                np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "no bytes where a clip should be"),
        (b"hello", "not a WAV, FLAC, OGG or MP3: 5 bytes that start with b'hello'"),
        (encode(sound(0), 8000), "WAV of .* bytes holds no samples"),
        (encode(sound(5000), 8000)[:5000], "WAV ends after 5000 of "),
        (encode(sound(5000), 8000, "FLAC")[:5000], "FLAC (ends after|of 5000 bytes)"),
        (encode(sound(5000), 8000, "OGG")[:-1], "OGG ends after .* bytes, inside a page"),
        (encode(sound(5000), 8000, "OGG")[:20], "OGG ends after 20 bytes, inside a page"),
        (b"fLaC" + bytes(50), "FLAC of 54 bytes cannot be read: "),
        (b"ID3" + bytes(50), "MP3 of 53 bytes cannot be read: "),
    ],
)
def test_broken_clips_are_named(raw: bytes, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        decode(Audio(8000, 1.0), raw)
    with pytest.raises(DecodeError, match=message):
        decoder_for(Audio()).decode(raw, 0)


@pytest.mark.parametrize("fmt", ["FLAC", "OGG", "MP3"])
@given(position=st.integers(0, 3000), patch=st.binary(min_size=1, max_size=8), cut=st.integers(0, 3000))
@example(position=21, patch=b"\x01", cut=0)  # an MP3 that promises 9,663,678,416 samples
@settings(max_examples=30, deadline=None)
def test_no_bytes_raise_anything_else(fmt: str, position: int, patch: bytes, cut: int) -> None:
    whole = WHOLE[fmt]
    position %= len(whole)
    for raw in (whole[:position] + patch + whole[position + len(patch) :], whole[: cut % len(whole)]):
        try:
            assert ragged(Audio(), raw).shape[0] == 1
        except DecodeError:
            continue


WHOLE = {fmt: encode(sound(2000), 8000, fmt) for fmt in ("FLAC", "OGG", "MP3")}


def test_rates_without_a_common_divisor_are_refused_before_they_fill_the_memory() -> None:
    with pytest.raises(DecodeError, match=r"resampling by 16000/2147483647 needs a filter of \d+ values"):
        decoder_for(Audio(16_000)).decode(encode(sound(100), 2_147_483_647), 0)


def test_resampling_needs_no_torchaudio(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torchaudio", "torchaudio.transforms", "torchaudio.functional"):
        monkeypatch.setitem(sys.modules, name, None)  # an import now raises ImportError
    assert ragged(Audio(9000), encode(sound(70), 7000)).shape == (1, 90)


def test_without_soundfile_only_wav_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    raws = {fmt: encode(sound(100), 8000, fmt) for fmt in ("WAV", "FLAC")}
    monkeypatch.setitem(sys.modules, "soundfile", None)
    assert audio_info(raws["WAV"]) == (100, 8000, 1)
    with pytest.raises(MissingExtraError, match=r"reading FLAC needs soundfile.*\[audio\]"):
        audio_info(raws["FLAC"])
