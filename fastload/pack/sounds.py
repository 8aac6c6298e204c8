"""Sounds at one rate, in one format, on their way into a shard.

samples -> mean of the channels, if asked -> resample (decode.polyphase) -> 16 or 24 bits -> FLAC or WAV
"""

from __future__ import annotations

import io
import wave
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fastload.decode.clips import open_clip
from fastload.decode.polyphase import convert
from fastload.decode.sniff import sniff
from fastload.errors import DecodeError, missing_extra
from fastload.pack.checks import Facts
from fastload.pack.steps import Outcome
from fastload.pack.tally import Counts

AudioFormat = Literal["flac", "wav"]
AS_ASKED = "as asked for already"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertSound:
    """The step that makes sounds alike; those that are so already stay as they are, byte for byte.

    The result has 16 bits, or 24 where the source has more than 16, rounded to the nearest without dither; so a change
    of format alone loses nothing of integers of up to 24 bits. Values beyond [-1, 1], which float files and filters
    give, are cut, and counted.

    Args:
        sample_rate: in Hz; None: each keeps its own.
        mono: one channel, the mean of all.
        format: "flac" or "wav".
    """

    sample_rate: int | None
    mono: bool
    format: AudioFormat

    name = "audio"

    def __call__(self, raw: memoryview, facts: Facts) -> Outcome:
        clip = open_clip(raw)
        rate = self.sample_rate or clip.sample_rate
        if sniff(raw) == self.format and rate == clip.sample_rate and not (self.mono and clip.channels > 1):
            return Outcome(kept=AS_ASKED)
        samples = clip.read(0, clip.frames).astype(np.float64)  # [C, T]
        if not np.isfinite(samples).all():
            raise DecodeError("the clip holds values that are infinite or no numbers")
        if self.mono and len(samples) > 1:
            samples = samples.mean(axis=0, keepdims=True)
        bits = 16 if clip.bits <= 16 else 24
        values, cut = quantised(convert(samples, clip.sample_rate, rate), bits)
        data = _wav(values, bits, rate) if self.format == "wav" else _flac(values, bits, rate)
        return Outcome(data=data, sums={"bytes_before": len(raw), "bytes_after": len(data), "cut_values": cut})

    def about(self, counts: Counts) -> dict[str, Any]:
        """Counts, bytes before and after, and how many values were beyond [-1, 1]."""
        return counts.to_json("converted")


def quantised(samples: npt.NDArray[np.float64], bits: int) -> tuple[npt.NDArray[np.int32], int]:
    """Samples [C, T] in [-1, 1] as int32 of `bits` bits, interleaved [T, C], and how many were beyond."""
    top = 1 << (bits - 1)
    scaled = np.rint(samples.T * top)
    return scaled.clip(-top, top - 1).astype(np.int32), int((np.abs(scaled) > top).sum())


def _wav(values: npt.NDArray[np.int32], bits: int, rate: int) -> bytes:
    if bits == 16:
        stored = values.astype("<i2").tobytes()
    else:
        stored = np.ascontiguousarray(values, "<i4").reshape(-1, 1).view(np.uint8)[:, :3].tobytes()
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(values.shape[1])
        sound.setsampwidth(bits // 8)
        sound.setframerate(rate)
        sound.writeframes(stored)
    return file.getvalue()


def sndfile_version() -> str:
    """Of the library that writes FLAC.

    Raises: MissingExtraError without the extra `audio`.
    """
    return str(_soundfile().__libsndfile_version__)


def _soundfile() -> Any:
    try:
        import soundfile
    except (ImportError, OSError) as error:
        raise missing_extra("soundfile", "audio", "writing FLAC") from error
    return soundfile


def _flac(values: npt.NDArray[np.int32], bits: int, rate: int) -> bytes:
    soundfile = _soundfile()
    file = io.BytesIO()
    try:
        soundfile.write(file, values << (32 - bits), rate, format="FLAC", subtype=f"PCM_{bits}")
    except (soundfile.SoundFileError, RuntimeError, ValueError) as error:
        raise DecodeError(
            f"{values.shape[1]} channels at {rate} Hz cannot be stored as FLAC ({error}); pass audio_format='wav'"
        ) from error
    return file.getvalue()
