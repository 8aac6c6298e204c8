"""Resampling is torchaudio's, in 64 bits and in 32, in C and in numpy, whole clips long, and the same every time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchaudio.functional
from hypothesis import given, settings
from hypothesis import strategies as st

from fastload.decode import polyphase
from fastload.decode.polyphase import convert, convert32
from fastload.decode.resample import resampled_frames
from fastload.errors import DecodeError

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


@pytest.fixture(params=["native", "numpy"])
def _build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    assert polyphase._polyphase is not None, "fastload.decode._polyphase is not built: see setup.py"
    if request.param == "numpy":
        monkeypatch.setattr(polyphase, "_polyphase", None)


@pytest.mark.usefixtures("_build")
@pytest.mark.parametrize(("orig", "new"), RATES)
@pytest.mark.parametrize("frames", [1, 7, 441, 5000])
def test_32_bits_are_as_near_as_torchaudios_own(orig: int, new: int, frames: int) -> None:
    samples = noise(frames).astype(np.float32)
    exact = torchaudio.functional.resample(torch.from_numpy(samples).double(), orig, new).numpy()
    theirs = torchaudio.functional.resample(torch.from_numpy(samples), orig, new).numpy()
    ours = convert32(samples, orig, new)
    assert ours.dtype == np.float32
    assert np.abs(ours - exact).max() <= max(2 * np.abs(theirs - exact).max(), 1e-6)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 300), st.integers(1, 60), st.integers(1, 60), st.booleans())
def test_any_rates_in_32_bits(frames: int, orig: int, new: int, strided: bool) -> None:
    samples = noise(frames, 2).astype(np.float32)
    if strided:
        samples = np.asfortranarray(samples)
    np.testing.assert_allclose(convert32(samples, orig, new), convert(samples, orig, new), atol=2e-6)


def test_nothing_is_made_of_nothing() -> None:
    assert convert32(np.zeros((1, 0), np.float32), 8000, 16000).shape == (1, 0)
    assert convert32(np.zeros((0, 9), np.float32), 8000, 16000).shape == (0, 18)


@pytest.mark.parametrize("function", [convert, convert32])
def test_a_filter_that_is_too_large_is_refused(function: object) -> None:
    with pytest.raises(DecodeError, match="needs a filter of"):
        function(np.zeros((1, 9), np.float32), 4_294_967_291, 16_000)  # type: ignore[operator]


def test_what_the_extension_refuses() -> None:
    samples, starts, taps, out = (
        np.zeros((1, 5), np.float32),
        np.zeros(2, np.int64),
        np.zeros((2, 8), np.float32),
        np.zeros((1, 10), np.float32),
    )
    native = polyphase._polyphase
    native.convert(samples, starts, taps, 1, out)
    for wrong in (
        (samples[0], starts, taps, 1, out),
        (samples.astype(np.float64), starts, taps, 1, out),
        (samples, starts[:1], taps, 1, out),
        (samples, starts, taps[:, :7].copy(), 1, out),
        (samples, starts, taps, 0, out),
        (samples, starts, taps, 1, np.zeros((2, 10), np.float32)),
    ):
        with pytest.raises(ValueError, match=r"expected|do not fit"):
            native.convert(*wrong)
    out.flags.writeable = False
    with pytest.raises((ValueError, BufferError)):
        native.convert(samples, starts, taps, 1, out)


def test_places_beyond_all_inputs_are_modulo_two_to_the_64() -> None:
    starts, out = np.array([2**63 - 8, -(2**63)], np.int64), np.full((1, 6), -1, np.float32)
    polyphase._polyphase.convert(np.ones((1, 9), np.float32), starts, np.ones((2, 8), np.float32), 2**62, out)
    assert out.tolist() == [[0, 0, 0, 0, 0, 8]]  # the last: of the block at 2**63


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
