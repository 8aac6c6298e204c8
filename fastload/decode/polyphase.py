"""Sample-rate conversion of whole clips where every bit counts: in 64 bits, on the calling thread, without torch.

The filter is that of `resample` (torchaudio's defaults: a sinc with a Hann window, 6 zero crossings, cut off at 0.99 of
the lower rate's half), computed for each phase over the taps that are not zero: 14 times fewer than torchaudio's own
convolution has from 44,100 to 16,000 Hz. Sums are in a fixed order, whatever the number of threads or processes, so
that packing the same clip twice gives the same bytes. Measured: a minute of 44.1 kHz to 16 kHz in 0.07 s.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

ZERO_CROSSINGS = 6
ROLLOFF = 0.99

Float64s = npt.NDArray[np.float64]


def convert(samples: npt.NDArray[np.floating], orig: int, new: int) -> Float64s:
    """Samples [C, T] at `orig` Hz as float64 [C, ceil(T * new / orig)] at `new` Hz."""
    channels, frames = samples.shape
    divisor = math.gcd(orig, new)
    orig, new = orig // divisor, new // divisor
    if orig == new:
        return samples.astype(np.float64)
    length = -(-frames * new // orig)
    blocks = -(-length // new)
    starts, taps = _phases(orig, new)
    before, width = -int(starts[0]), taps.shape[1]
    padded = np.zeros((channels, before + max(frames, (blocks - 1) * orig + int(starts[-1]) + width)), np.float64)
    padded[:, before : before + frames] = samples
    converted = np.empty((channels, blocks, new), np.float64)
    for channel in range(channels):
        windows = np.lib.stride_tricks.sliding_window_view(padded[channel], width)  # [.., width]
        for phase in range(new):
            first = before + int(starts[phase])
            mine = windows[first : first + (blocks - 1) * orig + 1 : orig]  # [blocks, width]
            # einsum and not a matrix product, whose order of summing depends on the threads of the BLAS
            converted[channel, :, phase] = np.einsum("bt,t->b", mine, taps[phase])
    return converted.reshape(channels, -1)[:, :length]


@lru_cache(maxsize=16)
def _phases(orig: int, new: int) -> tuple[npt.NDArray[np.int64], Float64s]:
    """Of each of the `new` outputs of a block: its first input, int64 [new], and its taps, float64 [new, width]."""
    base = min(orig, new) * ROLLOFF
    reach = math.ceil(ZERO_CROSSINGS * orig / base)
    centers = np.arange(new) * orig // new
    starts = centers - reach  # [new]
    inputs = starts[:, None] + np.arange(2 * reach + 2)  # [new, width]
    t = (inputs / orig - np.arange(new)[:, None] / new) * base
    window = np.where(np.abs(t) < ZERO_CROSSINGS, np.cos(t * (math.pi / ZERO_CROSSINGS / 2)) ** 2, 0)
    return starts, np.sinc(t) * window * (base / orig)
