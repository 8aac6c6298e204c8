"""Sounds of one rate and format, made while they are packed: torchaudio's samples, exact lengths, nothing unsaid."""

from __future__ import annotations

import io
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torchaudio.functional
from pack_sources import tree, wav
from typer.testing import CliRunner

import fastload
from fastload.cli import app
from fastload.decode.clips import open_clip
from fastload.errors import ConfigError, MissingExtraError, PackError
from fastload.pack import Prepare, pack
from fastload.pack.sounds import AS_ASKED, AudioFormat, ConvertSound, quantised
from fastload.verify import verify

RATE = 22050


def clip(seed: int, frames: int = 3000, channels: int = 2, **options: Any) -> bytes:
    """A file of soundfile's: noise of half the range."""
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, (frames, channels))
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, **{"format": "WAV", "subtype": "PCM_16", **options})
    return file.getvalue()


def converted(raw: bytes, rate: int | None = None, mono: bool = False, format: AudioFormat = "flac") -> Any:
    return ConvertSound(sample_rate=rate, mono=mono, format=format)(memoryview(raw), ())


def samples(raw: bytes) -> np.ndarray:
    """float32 [C, T]"""
    opened = open_clip(raw)
    return opened.read(0, opened.frames)


@pytest.mark.parametrize("format", ["flac", "wav"])
@pytest.mark.parametrize("mono", [True, False])
@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_samples_are_torchaudios_to_half_a_step(format: AudioFormat, mono: bool, rate: int) -> None:
    raw = clip(1)
    data = converted(raw, rate, mono, format).data
    before = torch.from_numpy(samples(raw).astype(np.float64))
    expected = torchaudio.functional.resample(before.mean(0, keepdim=True) if mono else before, RATE, rate)
    after = open_clip(data)
    assert (after.sample_rate, after.channels, after.bits) == (rate, 1 if mono else 2, 16)
    assert after.frames == expected.shape[1] == -(-3000 * rate // RATE)
    np.testing.assert_allclose(after.read(0, after.frames), expected, atol=0.5 / 32768 + 1e-7)


@pytest.mark.parametrize("format", ["flac", "wav"])
@pytest.mark.parametrize(("subtype", "bits"), [("PCM_16", 16), ("PCM_24", 24), ("PCM_U8", 16), ("ULAW", 16)])
def test_another_format_alone_loses_nothing(format: AudioFormat, subtype: str, bits: int) -> None:
    raw = clip(2, subtype=subtype)
    outcome = converted(raw, format=format)
    if format == "wav":
        assert outcome.kept == AS_ASKED
        raw = clip(2, format="FLAC", subtype=subtype) if subtype.startswith("PCM_") and "U8" not in subtype else raw
        outcome = converted(raw, format="wav")
    if outcome.data is not None:
        assert open_clip(outcome.data).bits == bits
        np.testing.assert_array_equal(samples(outcome.data), samples(raw))


def test_floats_get_24_bits_and_what_is_beyond_is_cut_and_counted() -> None:
    values = np.array([[0.5, -0.25, 1.5, -2.0, 1.0, -1.0, 1 / 3]])
    file = io.BytesIO()
    soundfile.write(file, values.T, RATE, format="WAV", subtype="FLOAT")
    outcome = converted(file.getvalue())
    assert outcome.sums["cut_values"] == 2
    np.testing.assert_allclose(samples(outcome.data), values.clip(-1, 1), atol=2**-23)


@pytest.mark.parametrize(("format", "subtype"), [("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")])
def test_compressed_sounds_become_what_they_decode_to(format: str, subtype: str) -> None:
    raw = clip(3, frames=20_000, format=format, subtype=subtype)
    data = converted(raw).data
    np.testing.assert_allclose(samples(data), samples(raw).clip(-1, 1 - 2**-15), atol=0.5 / 32768 + 1e-7)


def test_wav_is_what_other_programs_read() -> None:
    for subtype, width in (("PCM_16", 2), ("PCM_24", 3)):
        data = converted(clip(4, subtype=subtype), 16000, format="wav").data
        with wave.open(io.BytesIO(data)) as sound:
            assert (sound.getframerate(), sound.getsampwidth(), sound.getnchannels()) == (16000, width, 2)
        read, rate = soundfile.read(io.BytesIO(data), dtype="float32")
        assert rate == 16000
        np.testing.assert_array_equal(read.T, samples(data))


def test_rounding() -> None:
    values, cut = quantised(np.array([[0.5 / 32768, 1.5 / 32768, 1.0, -1.0, 1.1, -1.1]]), 16)
    assert values[:, 0].tolist() == [0, 2, 32767, -32768, 32767, -32768]
    assert cut == 2


def test_what_is_so_already_stays_byte_for_byte() -> None:
    for raw, format in ((clip(5, channels=1, format="FLAC"), "flac"), (clip(5, channels=1), "wav")):
        assert converted(raw, RATE, True, format).kept == AS_ASKED
        assert converted(raw, RATE // 2, True, format).data is not None


# Packed


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """Ten clips of several formats, rates and lengths."""
    files = {f"{i}.wav": clip(i, 1000 + 100 * i) for i in range(6)}
    files |= {"a.flac": clip(6, format="FLAC"), "b.ogg": clip(7, 20_000, format="OGG", subtype="VORBIS")}
    files |= {"c.wav": wav(500, 16000), "d.wav": wav(700, 8000)}
    (tmp_path / "sounds").mkdir()
    for name, content in files.items():
        (tmp_path / "sounds" / name).write_bytes(content)
    return tmp_path / "sounds"


def test_lengths_in_the_index_are_exact(sounds: Path, tmp_path: Path) -> None:
    index = pack(sounds, tmp_path / "out", prepare=Prepare(sample_rate=16000, mono=True))
    assert index.fields["audio"].extension == "flac"
    assert set(index.packed["libraries"]) == {"libsndfile"}
    about = index.statistics["audio"]["train"]
    assert (about["converted"], about["kept"], about["cut_values"]) == (10, {}, 0)
    data = fastload.IndexedDataset(tmp_path / "out", fields={"audio": fastload.Audio(16000)})
    lengths = {data[i]["__key__"]: data[i]["audio"].shape for i in range(len(data))}
    assert lengths["3"] == (1, -(-1300 * 16000 // RATE))
    assert lengths["c"] == (1, 500)
    assert lengths["d"] == (1, 1400)
    frames = index.statistics["fields"]["train"]["audio"]["frames"]
    assert frames["sum"] == sum(length for _, length in lengths.values())
    assert verify(tmp_path / "out", decode=True).ok


def test_a_loader_hears_the_same_as_without_preparing(sounds: Path, tmp_path: Path) -> None:
    pack(sounds, tmp_path / "raw")
    pack(sounds, tmp_path / "flac", prepare=Prepare(sample_rate=16000, mono=True))
    pack(sounds, tmp_path / "wav", prepare=Prepare(sample_rate=16000, mono=True, audio_format="wav"))
    fields = {"audio": fastload.Audio(16000)}
    raw, flac, wavs = (fastload.IndexedDataset(tmp_path / name, fields=fields) for name in ("raw", "flac", "wav"))
    for i in range(len(raw)):
        np.testing.assert_allclose(flac[i]["audio"], raw[i]["audio"], atol=2**-14)
        np.testing.assert_array_equal(flac[i]["audio"], wavs[i]["audio"])


@pytest.mark.parametrize("form", ["tar", "parquet"])
def test_any_number_of_workers_writes_the_same(
    sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Any
) -> None:
    monkeypatch.setattr("fastload.pack.plan.RUN_BYTES", 8000)
    prepare = Prepare(sample_rate=16000)
    for workers in (1, 2, 7):
        index = pack(sounds, tmp_path / str(workers), prepare=prepare, shard_size=20_000, workers=workers, format=form)
        assert len(index.shards) > 2
    assert tree(tmp_path / "2") == tree(tmp_path / "7") == tree(tmp_path / "1")


# Refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample_rate": 0}, "sample_rate=0: pass a whole number from 1 to 655350"),
        ({"sample_rate": 16000.0}, "sample_rate=16000.0: pass a whole number"),
        ({"mono": 1}, "mono=1: pass True or False"),
        ({"audio_format": "mp3"}, "audio_format='mp3': pass 'flac' or 'wav'"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Prepare(**options)


def test_a_source_without_sounds(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"need sounds; the source has 'image' \(image\), 'label' \(scalar\)"):
        pack(images, tmp_path / "out", prepare=Prepare(sample_rate=16000))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers(tmp_path: Path, value: float) -> None:
    (tmp_path / "s").mkdir()
    soundfile.write(tmp_path / "s/a.wav", np.array([0.5, value, 0.1]), 8000, subtype="FLOAT")
    with pytest.raises(PackError, match=r"a.wav: the clip holds values that are infinite or no numbers; remove"):
        pack(tmp_path / "s", tmp_path / "out", prepare=Prepare(sample_rate=16000), workers=1)


def test_more_channels_than_flac_has(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s/a.wav").write_bytes(clip(1, channels=9))
    with pytest.raises(PackError, match=r"a.wav: 9 channels at 16000 Hz cannot be stored as FLAC .*audio_format='wav'"):
        pack(tmp_path / "s", tmp_path / "out", prepare=Prepare(sample_rate=16000), workers=1)
    pack(tmp_path / "s", tmp_path / "out", prepare=Prepare(sample_rate=16000, audio_format="wav"), workers=1)


def test_flac_without_its_library(sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(MissingExtraError, match=r"writing FLAC.*\[audio\]"):
        pack(sounds, tmp_path / "out", prepare=Prepare(mono=True))


def test_the_command(sounds: Path, tmp_path: Path) -> None:
    command = ["pack", str(sounds), str(tmp_path / "out"), "--sample-rate", "16000", "--mono", "--audio-format", "wav"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "; 9 sounds converted, " in done.stdout
    assert " kB, 1 kept as they are\n" in done.stdout
