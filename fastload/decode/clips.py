"""An encoded clip: what its header says, and any part of its samples. No torch here: the packer reads headers too."""

from __future__ import annotations

import bisect
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fastload.decode.base import Raw
from fastload.decode.mp3 import counted, has_frame_count
from fastload.decode.sniff import beginning, sniff
from fastload.decode.wav import COMPANDED, read_wav_frames, read_wav_header
from fastload.errors import DecodeError, missing_extra

# Read at once: a damaged header may promise more samples than memory holds, and the file ends long before.
_BLOCK_FRAMES = 1 << 22
_MOST_FLAC_FRAMES = 1 << 36
_UNKNOWN_FRAMES = (1 << 63) - 1  # what libsndfile gives for a FLAC that does not say
_OGG_PAGE_BYTES = 27 + 255 + 255 * 255  # the longest page there is (RFC 3533)

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """An encoded clip whose header has been read; `read(start, stop)` gives float32 [C, stop - start].

    Attributes:
        bits: how many a value has: of PCM those of the file; 32 of floats and 64-bit floats; 16 of compressed ones.
    """

    frames: int
    sample_rate: int
    channels: int
    bits: int
    read: Callable[[int, int], Samples]


def audio_info(raw: Raw) -> tuple[int, int, int]:
    """Frames (samples per channel), sample rate in Hz and channels of an encoded clip, from its header.

    Raises: DecodeError for bytes that are no sound or are cut; MissingExtraError for other than WAV without the extra
    `audio`.
    """
    clip = open_clip(raw)
    return clip.frames, clip.sample_rate, clip.channels


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
            bits=16 if header.codec in COMPANDED else min(header.bits, 32),
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

    def open_file(content: Raw) -> Any:
        try:
            return soundfile.SoundFile(io.BytesIO(content))
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise DecodeError(f"{kind} of {len(raw)} bytes cannot be read: {error}") from error

    known = counted(raw) if kind == "MP3" else None
    file = open_file(raw if known is None else known[0])
    if file.frames == _UNKNOWN_FRAMES and b"fLaC" in bytes(raw[: 1 << 20]):
        file = open_file(_with_length(raw, open_file))
    frames = file.frames if known is None else known[1]
    if file.format == "MP3" and known is None and not has_frame_count(raw):
        frames = _decoded_frames(file, len(raw))

    def read(start: int, stop: int) -> Samples:
        try:
            file.seek(start)
            blocks = [file.read(min(stop - start, _BLOCK_FRAMES), dtype="float32", always_2d=True)]  # [n, C] each
            while len(blocks[-1]) and (left := stop - start - sum(map(len, blocks))):
                blocks.append(file.read(min(left, _BLOCK_FRAMES), dtype="float32", always_2d=True))
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise DecodeError(f"{kind} of {len(raw)} bytes does not decode: {error}") from error
        found = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
        if len(found) != stop - start:
            raise DecodeError(f"{kind} ends after {start + len(found)} of {frames} samples ({len(raw)} bytes)")
        return np.ascontiguousarray(found.T)

    bits = {"PCM_S8": 8, "PCM_24": 24}.get(file.subtype, 16)
    return Clip(frames=frames, sample_rate=file.samplerate, channels=file.channels, bits=bits, read=read)


def _decoded_frames(file: Any, size_bytes: int) -> int:
    """How many samples an MP3 decodes to, for whose number libsndfile has a guess."""
    frames = 0
    try:
        while found := len(file.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)):
            frames += found
    except RuntimeError as error:  # soundfile's own are such
        raise DecodeError(f"MP3 of {size_bytes} bytes does not decode: {error}") from error
    return frames


def _with_length(raw: Raw, open_file: Callable[[bytes], Any]) -> bytes:
    """A FLAC that was streamed, with the number of its samples in its header (RFC 9639, 8.2), without which its end
    cannot be read: that of the first sample that cannot be sought."""

    def has(frame: int) -> bool:
        try:
            open_file(bytes(raw)).seek(frame)
        except RuntimeError:
            return False
        return True

    stop = 1
    while stop < _MOST_FLAC_FRAMES and has(stop):
        stop *= 2
    frames = bisect.bisect_left(range(stop), True, key=lambda frame: not has(frame))
    made = bytearray(raw)
    at = made.index(b"fLaC") + 8 + 13  # 36 bits
    made[at : at + 5] = (made[at] >> 4 << 36 | frames).to_bytes(5, "big")
    return bytes(made)


def _check_last_page(raw: Raw) -> None:
    """OGG does not say how long it is, but each page does, and a cut goes through one (RFC 3533)."""
    tail = bytes(raw[-_OGG_PAGE_BYTES:])
    page = tail.rfind(b"OggS")
    body = page + 27 + tail[page + 26] if 0 <= page < len(tail) - 26 else len(tail) + 1  # behind the segment table
    if body > len(tail) or body + sum(tail[page + 27 : body]) > len(tail):
        raise DecodeError(f"OGG ends after {len(raw)} bytes, inside a page")
