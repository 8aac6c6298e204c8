"""Sound: header, crop, samples, channels, sample rate, into the row.

    raw -> clip (frames, rate, channels) -> part that the crop needs -> float32 [C, n] -> mono or stereo -> resample
    -> pad

Only the frames that end up in the row are decoded (WAV) or kept (other formats), plus the resampling filter's reach.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fastload.decode.base import Raw, Spec
from fastload.decode.clips import Clip, Samples, open_clip
from fastload.decode.polyphase import convert32
from fastload.decode.resample import input_span, resampled_frames
from fastload.errors import DecodeError
from fastload.fields import Audio
from fastload.order import hashing


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
        return convert32(self._mixed(clip.read(first, end)), clip.sample_rate, new)[:, skip : skip + length]

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
