"""WAV: every coding against soundfile's reading of the same file, headers by the byte, and words for broken ones."""

from __future__ import annotations

import io
import struct
import wave

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from fastload.decode.wav import read_wav_frames, read_wav_header
from fastload.errors import DecodeError

FMT = struct.pack("<HHIIHH", 1, 2, 8000, 32000, 4, 16)
DATA = np.arange(-10, 10, dtype="<i2").tobytes()  # 10 frames of 2 channels


def chunk(name: bytes, data: bytes, size: int | None = None) -> bytes:
    return name + struct.pack("<I", len(data) if size is None else size) + data + b"\0" * (len(data) % 2)


def riff(*chunks: bytes, size: int | None = None, magic: bytes = b"RIFF") -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return magic + struct.pack("<I", len(body) if size is None else size) + body


def read(raw: bytes) -> np.ndarray:
    header = read_wav_header(raw)
    return read_wav_frames(raw, header, 0, header.frames)


@pytest.mark.parametrize("fmt", ["WAV", "WAVEX", "RF64"])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ALAW", "ULAW"])
@pytest.mark.parametrize("channels", [1, 3])
def test_samples_are_those_that_soundfile_reads(fmt: str, subtype: str, channels: int) -> None:
    sound = np.random.default_rng(0).uniform(-1, 1, (1001, channels))
    file = io.BytesIO()
    soundfile.write(file, sound, 11025, subtype, format=fmt)
    raw = b"?" + file.getvalue()
    expected, _ = soundfile.read(io.BytesIO(file.getvalue()), dtype="float32", always_2d=True)
    header = read_wav_header(memoryview(raw)[1:])
    assert (header.frames, header.sample_rate, header.channels) == (1001, 11025, channels)
    whole = read_wav_frames(memoryview(raw)[1:], header, 0, 1001)
    assert (whole.dtype, whole.shape) == (np.float32, (channels, 1001))
    np.testing.assert_array_equal(whole, expected.T)
    np.testing.assert_array_equal(read_wav_frames(raw[1:], header, 17, 400), expected[17:400].T)


@pytest.mark.parametrize(("subtype", "bits"), [("ALAW", 6), ("ULAW", 7)])
def test_all_companded_codes(subtype: str, bits: int) -> None:
    raw = riff(chunk(b"fmt ", struct.pack("<HHIIHH", bits, 1, 8000, 8000, 1, 8)), chunk(b"data", bytes(range(256))))
    expected, _ = soundfile.read(io.BytesIO(raw), dtype="float32")
    np.testing.assert_array_equal(read(raw)[0], expected)


@given(st.integers(1, 2), st.sampled_from([1, 2, 3, 4]), st.integers(1, 50), st.integers(1, 96000))
def test_the_standard_librarys_files(channels: int, width: int, frames: int, rate: int) -> None:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(width)
        out.setframerate(rate)
        out.writeframes((bytes(range(256)) * 2)[: channels * width * frames])
    header = read_wav_header(file.getvalue())
    with wave.open(io.BytesIO(file.getvalue())) as again:
        assert (header.frames, header.sample_rate, header.channels) == (
            again.getnframes(),
            again.getframerate(),
            again.getnchannels(),
        )
    assert np.abs(read(file.getvalue())).max() <= 1


def test_golden_samples() -> None:
    raw = riff(chunk(b"fmt ", FMT), chunk(b"data", struct.pack("<4h", -32768, 32767, 0, 16384)))
    assert read(raw).tolist() == [[-1.0, 0.0], [32767 / 32768, 0.5]]


@pytest.mark.parametrize(
    "raw",
    [
        riff(chunk(b"fmt ", FMT), chunk(b"data", DATA)),
        riff(chunk(b"LIST", b"odd"), chunk(b"fmt ", FMT + b"\0\0"), chunk(b"data", DATA), chunk(b"LIST", b"more")),
        riff(chunk(b"fmt ", FMT), chunk(b"data", DATA), size=0xFFFFFFFF),
        riff(chunk(b"fmt ", FMT), chunk(b"data", DATA, size=0xFFFFFFFF), size=0xFFFFFFFF),
        riff(chunk(b"fmt ", FMT), chunk(b"data", DATA + b"\1\2", size=0), size=0),
        riff(chunk(b"fmt ", FMT), chunk(b"data", DATA + b"\1\2", size=0x7FFFF000), size=0x7FFFF024),
        riff(
            chunk(b"ds64", struct.pack("<QQQI", 0, len(DATA), 10, 0)),
            chunk(b"fmt ", FMT),
            chunk(b"data", DATA, size=0xFFFFFFFF),
            chunk(b"LIST", b"more"),
            magic=b"RF64",
        ),
    ],
    ids=["plain", "other chunks", "riff unknown", "both unknown", "streamed", "sox", "rf64"],
)
def test_chunks(raw: bytes) -> None:
    assert read_wav_header(raw).frames == 10
    np.testing.assert_array_equal(read(raw).T.ravel() * 32768, np.arange(-10, 10))


def fmt(codec: int, channels: int, rate: int, frame_bytes: int, bits: int) -> bytes:
    return chunk(b"fmt ", struct.pack("<HHIIHH", codec, channels, rate, rate * frame_bytes, frame_bytes, bits))


def test_a_file_that_sox_wrote_into_a_pipe() -> None:
    for frame_bytes in (6, 9):  # its size is rounded down to whole frames
        head = fmt(1, 3, 8000, frame_bytes, frame_bytes * 8 // 3)
        most = 0x7FFFF000 // frame_bytes * frame_bytes
        streamed = riff(head, chunk(b"data", bytes(5 * frame_bytes), size=most), size=most + 36)
        assert read(streamed).shape == (3, 5)
        cut = riff(head, chunk(b"data", bytes(5 * frame_bytes), size=most - frame_bytes), size=most + 36)
        with pytest.raises(DecodeError, match="WAV ends after"):
            read(cut)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not a WAV file: 0 bytes"),
        (b"RIFF\0\0\0\0AVI ", "not a WAV file: 12 bytes that start with b'RIFF"),
        (riff(), "WAV ends after 12 bytes, before its samples"),
        (riff(chunk(b"fmt ", FMT)), "WAV ends after 36 bytes, before its samples"),
        (riff(chunk(b"fmt ", FMT))[:30], "WAV ends after 30 of 36 bytes, inside chunk b'fmt '"),
        (riff(chunk(b"data", DATA), chunk(b"fmt ", FMT)), "WAV of 84 bytes has its samples before any fmt chunk"),
        (riff(chunk(b"fmt ", FMT), chunk(b"data", DATA))[:-1], "WAV ends after 83 of 84 bytes"),
        (riff(chunk(b"fmt ", FMT), chunk(b"data", DATA[:-2])), "WAV holds 38 bytes of samples in frames of 4 bytes"),
        (riff(chunk(b"fmt ", FMT[:14])), "WAV fmt chunk of 14 bytes, where at least 16"),
        (riff(fmt(2, 1, 8000, 1, 4)), "WAV codec 0x0002 with 4 bits; PCM, float"),
        (riff(fmt(1, 0, 8000, 0, 16)), "WAV header says 0 channels of 16 bits in 0 bytes, 8000 Hz"),
        (riff(fmt(1, 1, 0, 2, 16)), "WAV header says 1 channels of 16 bits in 2 bytes, 0 Hz"),
        (riff(fmt(1, 2, 8000, 2, 16)), "WAV header says 2 channels of 16 bits in 2 bytes, 8000 Hz"),
    ],
)
def test_broken_files_are_named(raw: bytes, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        read(raw)


@given(st.integers(0, 90), st.binary(max_size=8), st.integers(0, 90))
def test_no_bytes_raise_anything_else(position: int, patch: bytes, cut: int) -> None:
    whole = riff(chunk(b"LIST", b"odd"), chunk(b"fmt ", FMT), chunk(b"data", DATA))
    for raw in (whole[:position] + patch + whole[position + len(patch) :], whole[:cut]):
        try:
            assert read(raw).dtype == np.float32
        except DecodeError:
            continue
