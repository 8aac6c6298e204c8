"""Resampling in 64 bits is torchaudio's, whole clips long, and the same every time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchaudio.functional
from hypothesis import given, settings
from hypothesis import strategies as st

from fastload.decode.polyphase import convert
from fastload.decode.resample import resample, resampled_frames

RATES = [(8000, 16000), (44100, 16000), (48000, 16000), (22050, 16000), (16000, 8000), (16000, 44100), (48000, 44100)]


def noise(frames: int, channels: int = 2) -> np.ndarray:
    return np.random.default_rng(frames).uniform(-1, 1, (channels, frames))


@pytest.mark.parametrize(("orig", "new"), RATES)
@pytest.mark.parametrize("frames", [1, 7, 441, 5000])
def test_the_filter_is_torchaudios(orig: int, new: int, frames: int) -> None:
    samples = noise(frames)
    converted = convert(samples, orig, new)
    expected = torchaudio.functional.resample(torch.from_numpy(samples), orig, new).numpy()
    assert converted.shape == expected.shape == (2, resampled_frames(frames, orig, new))
    np.testing.assert_allclose(converted, expected, atol=1e-12)
    single = resample(samples.astype(np.float32), orig, new)  # whose filter is of 32 bits
    np.testing.assert_allclose(converted, single, atol=2**-15)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 300), st.integers(1, 60), st.integers(1, 60))
def test_any_rates(frames: int, orig: int, new: int) -> None:
    samples = noise(frames, 1)
    expected = torchaudio.functional.resample(torch.from_numpy(samples), orig, new).numpy()
    np.testing.assert_allclose(convert(samples, orig, new), expected, atol=1e-12)


def test_a_rate_of_its_own_changes_nothing() -> None:
    samples = noise(50)
    np.testing.assert_array_equal(convert(samples, 8000, 8000), samples)


def test_the_number_of_threads_changes_no_bit() -> None:
    samples, before = noise(100_000), torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            found.append(convert(samples, 44100, 16000).tobytes())
    finally:
        torch.set_num_threads(before)
    assert found[1] == found[2] == found[0]
