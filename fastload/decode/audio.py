"""Sound: header, crop, samples, channels, sample rate, into the row.

    raw -> clip (frames, rate, channels) -> part that the crop needs -> float32 [C, n] -> mono or stereo -> resample
    -> pad

Only the frames that end up in the row are decoded (WAV) or kept (other formats), plus the resampling filter's reach.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fastload.decode.base import Raw, Spec
from fastload.decode.resample import input_span, resample, resampled_frames
from fastload.decode.sniff import beginning, sniff
from fastload.decode.wav import read_wav_frames, read_wav_header
from fastload.errors import DecodeError, missing_extra
from fastload.fields import Audio
from fastload.order import hashing

_OGG_PAGE_BYTES = 27 + 255 + 255 * 255  # the longest page there is (RFC 3533)

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """An encoded clip whose header has been read; `read(start, stop)` gives float32 [C, stop - start]."""

    frames: int
    sample_rate: int
    channels: int
    read: Callable[[int, int], Samples]


def audio_info(raw: Raw) -> tuple[int, int, int]:
    """Frames (samples per channel), sample rate in Hz and channels of an encoded clip, from its header.

    Raises: DecodeError for bytes that are no sound or are cut; MissingExtraError for other than WAV without the extra
    `audio`.
    """
    clip = open_clip(raw)
    return clip.frames, clip.sample_rate, clip.channels


class AudioDecoder:
    """Clips of one declared duration, or each in its own."""

    def __init__(self, field: Audio) -> None:
        self.field = field
        self.spec = Spec(parallel=True)
        if field.seconds is not None:
            self.spec = Spec(
                shape=(field.channels, field.samples), dtype=np.dtype(np.float32), has_length=True, parallel=True
            )

    def decode_into(self, raw: Raw, out: npt.NDArray[Any], key: int) -> int:
        clip = open_clip(raw)
        samples = self._part(clip, out.shape[1], int(key))
        length = int(samples.shape[1])
        out[:, :length] = samples
        out[:, length:] = 0
        return length

    def decode(self, raw: Raw, key: int) -> Samples:
        """float32 [C, T]; with `seconds`, padded to that."""
        if self.spec.shape is not None:
            out = np.empty(self.spec.shape, np.float32)
            self.decode_into(raw, out, key)
            return out
        clip = open_clip(raw)
        return self._part(clip, None, int(key))

    def _part(self, clip: Clip, samples: int | None, key: int) -> Samples:
        """At most `samples` of the clip at the output rate, float32 [C, n]."""
        new = self.field.sample_rate or clip.sample_rate
        total = resampled_frames(clip.frames, clip.sample_rate, new)
        length = total if samples is None else min(samples, total)
        start = self._start(total - length, key)
        if new == clip.sample_rate:
            return self._mixed(clip.read(start, start + length))
        first, end, skip = input_span(start, start + length, clip.frames, clip.sample_rate, new)
        return resample(self._mixed(clip.read(first, end)), clip.sample_rate, new)[:, skip : skip + length]

    def _start(self, spare: int, key: int) -> int:
        if self.field.crop == "random":
            return int(hashing.draw(key, hashing.OP_AUDIO_CROP, 0) * (spare + 1))
        return spare // 2 if self.field.crop == "center" else 0

    def _mixed(self, samples: Samples) -> Samples:
        channels = len(samples)
        if self.field.mono:
            return samples if channels == 1 else samples.mean(axis=0, keepdims=True)
        if channels > 2:
            raise DecodeError(f"clip of {channels} channels, where Audio(mono=False) takes one or two; pass mono=True")
        return samples if channels == 2 else np.repeat(samples, 2, axis=0)


def open_clip(raw: Raw) -> Clip:
    """Read the header of a clip.

    Raises: DecodeError for bytes that are no sound, are cut, or hold no frames.
    """
    if not len(raw):
        raise DecodeError("no bytes where a clip should be")
    kind = sniff(raw)
    if kind == "wav":
        header = read_wav_header(raw)
        clip = Clip(
            frames=header.frames,
            sample_rate=header.sample_rate,
            channels=header.channels,
            read=lambda start, stop: read_wav_frames(raw, header, start, stop),
        )
    elif kind in ("flac", "ogg", "mp3"):
        clip = _open_soundfile(raw, kind.upper())
    else:
        raise DecodeError(f"not a WAV, FLAC, OGG or MP3: {len(raw)} bytes that start with {beginning(raw)}")
    if clip.frames < 1:
        raise DecodeError(f"{str(kind).upper()} of {len(raw)} bytes holds no samples")
    return clip


def _open_soundfile(raw: Raw, kind: str) -> Clip:
    try:
        import soundfile
    except (ImportError, OSError) as error:
        raise missing_extra("soundfile", "audio", f"reading {kind}") from error
    if kind == "OGG":
        _check_last_page(raw)
    try:
        file = soundfile.SoundFile(io.BytesIO(raw))
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise DecodeError(f"{kind} of {len(raw)} bytes cannot be read: {error}") from error

    def read(start: int, stop: int) -> Samples:
        try:
            file.seek(start)
            frames = file.read(stop - start, dtype="float32", always_2d=True)  # [n, C]
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise DecodeError(f"{kind} of {len(raw)} bytes does not decode: {error}") from error
        if len(frames) != stop - start:
            raise DecodeError(f"{kind} ends after {start + len(frames)} of {file.frames} samples ({len(raw)} bytes)")
        return np.ascontiguousarray(frames.T)

    return Clip(frames=file.frames, sample_rate=file.samplerate, channels=file.channels, read=read)


def _check_last_page(raw: Raw) -> None:
    """OGG does not say how long it is, but each page does, and a cut goes through one (RFC 3533)."""
    tail = bytes(raw[-_OGG_PAGE_BYTES:])
    page = tail.rfind(b"OggS")
    body = page + 27 + tail[page + 26] if 0 <= page < len(tail) - 26 else len(tail) + 1  # behind the segment table
    if body > len(tail) or body + sum(tail[page + 27 : body]) > len(tail):
        raise DecodeError(f"OGG ends after {len(raw)} bytes, inside a page")
