"""Sample-rate conversion of a part of a clip, equal to that part of the whole clip's conversion.

The filter is torchaudio's: a sinc with a Hann window, 6 zero crossings on each side, cut off at 0.99 of the lower
rate's half (torchaudio.functional.resample's defaults). Output sample n stands at input position n * orig / new; with
the rates divided by their greatest common divisor, outputs repeat in blocks of `new` for `orig` inputs, so a part
that starts on a block is filtered like the whole.

torch runs the filter on its own pool of threads, whose size is the process's and is left alone.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fastload.errors import DecodeError, MissingExtraError

ZERO_CROSSINGS = 6
ROLLOFF = 0.99
MAX_FILTER_VALUES = 2**26  # 512 MB while it is computed; 44100 to 48000 Hz needs 26,000


def resampled_frames(frames: int, orig: int, new: int) -> int:
    """How many samples a clip of `frames` has after conversion, as torchaudio counts them."""
    return -(-frames * new // orig)


def input_span(start: int, stop: int, frames: int, orig: int, new: int) -> tuple[int, int, int]:
    """Which input frames the output samples [start, stop) depend on.

    Returns: first frame, end frame, and how many output samples of that part come before `start`.
    """
    orig, new = _reduced(orig, new)
    reach = math.ceil(ZERO_CROSSINGS * orig / (min(orig, new) * ROLLOFF))
    first_block = max(0, start // new - -(-reach // orig))
    last_block = (stop - 1) // new
    return first_block * orig, min(frames, (last_block + 1) * orig + reach), start - first_block * new


def resample(samples: npt.NDArray[np.float32], orig: int, new: int) -> npt.NDArray[np.float32]:
    """float32 [C, T] at `orig` Hz to [C, resampled_frames(T)] at `new` Hz.

    Raises: MissingExtraError if torchaudio cannot be loaded; DecodeError if the rates need a filter too large to hold.
    """
    converted: npt.NDArray[np.float32] = _filter(*_reduced(orig, new))(torch.from_numpy(samples)).numpy()
    return converted


@lru_cache(maxsize=64)
def _filter(orig: int, new: int) -> Any:
    """torchaudio's converter with its filter computed; it has no state, so that threads share it."""
    reach = math.ceil(ZERO_CROSSINGS * orig / (min(orig, new) * ROLLOFF))
    if new * (2 * reach + orig) > MAX_FILTER_VALUES:
        raise DecodeError(
            f"resampling by {new}/{orig} needs a filter of {new * (2 * reach + orig)} values; "
            f"choose a sample_rate that has a larger divisor in common with the clip's"
        )
    try:
        import torchaudio.transforms as transforms
    except (ImportError, OSError, RuntimeError) as error:  # missing, or built for another torch
        raise MissingExtraError(
            f"resampling needs torchaudio, which cannot be loaded ({error}); install the release built for "
            f"torch {torch.__version__}, or declare Audio with the sample rate that the clips have"
        ) from error
    return transforms.Resample(orig, new, lowpass_filter_width=ZERO_CROSSINGS, rolloff=ROLLOFF)


def _reduced(orig: int, new: int) -> tuple[int, int]:
    divisor = math.gcd(orig, new)
    return orig // divisor, new // divisor
