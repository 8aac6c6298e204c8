"""Values as pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastload.augment import Normalize
from fastload.previews.cells import Bands, Sound
from fastload.previews.pixels import (
    BANDS_HEIGHT,
    WAVE_HEIGHT,
    WIDTH,
    Scale,
    bands_pixels,
    picture,
    sound_pixels,
    spectrogram,
    with_targets,
)

PIXELS = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32, torch.float16])
def test_pictures_of_any_dtype(dtype: torch.dtype) -> None:
    values = {torch.uint8: PIXELS, torch.uint16: (PIXELS.to(torch.int32) * 257).to(torch.uint16)}
    found = picture(values.get(dtype, PIXELS.to(dtype) / 255), None)
    np.testing.assert_array_equal(found.pixels, PIXELS.permute(1, 2, 0).numpy())
    assert found.note == ""


@pytest.mark.parametrize(("dtype", "levels"), [(torch.float32, 0), (torch.float16, 1), (torch.bfloat16, 3)])
def test_normalisation_is_undone(dtype: torch.dtype, levels: int) -> None:
    normalize = Normalize(dtype=dtype)
    values = normalize.apply(PIXELS[None], {})[0]
    found = picture(values, Scale(mean=normalize.mean, std=normalize.std))
    assert np.abs(found.pixels.astype(int) - PIXELS.permute(1, 2, 0).numpy()).max() <= levels
    assert found.note == "normalisation undone"


def test_other_floats_are_stretched_and_that_is_said() -> None:
    values = torch.tensor([[[-1.0, 0.0, 1.0]]])
    found = picture(values, None)
    assert found.pixels[0, :, 0].tolist() == [0, 128, 255]
    assert found.note == "-1.00 to 1.00 shown as black to white"


def test_channels_that_are_no_colours() -> None:
    found = picture(PIXELS[:2], None)
    np.testing.assert_array_equal(found.pixels[..., 1], PIXELS[0].numpy())
    assert found.note == "channel 1 of 2"


def test_masks_boxes_and_keypoints_are_drawn_over_a_picture() -> None:
    grey = picture(torch.full((3, 40, 60), 100, dtype=torch.uint8), None)
    mask = torch.zeros(40, 60)
    mask[:5, :5] = 1
    boxes = torch.tensor([[10.0, 10.0, 30.0, 25.0], [0.0, 0.0, 0.0, 0.0]])
    found = with_targets(grey, [mask], [boxes], [torch.tensor([[50.0, 20.0]])]).pixels
    assert (grey.pixels == 100).all(), "the picture itself stays"
    changed = (found != 100).any(2)
    expected = np.zeros((40, 60), np.bool_)
    expected[:5, :5] = True
    expected[10:25, 10:30] = True
    expected[11:24, 11:29] = False  # a line of one pixel
    expected[18:22, 48:52] = changed[18:22, 48:52]
    np.testing.assert_array_equal(changed, expected)
    assert changed[19:21, 49:51].all(), "a point around the corner of its four pixels"
    assert with_targets(grey, [torch.ones(1, 7, 7)], [], []).pixels.max() == 100, "a mask of another size is left out"


def test_narrow_boxes_are_drawn_and_what_is_not_finite_is_left_out() -> None:
    grey = picture(torch.full((3, 40, 60), 100, dtype=torch.uint8), None)
    nan, infinite = float("nan"), float("inf")
    narrow = with_targets(grey, [], [torch.tensor([[10.0, 10, 10.5, 30], [20.25, 5, 30, 5.5]])], []).pixels
    changed = (narrow != 100).any(2)
    assert changed[10:29, 10].all()
    assert changed[5, 20:29].all()
    assert changed.sum() <= 2 * 20
    boxes = torch.tensor([[nan, 1.0, 5, 5], [1.0, 1, infinite, 5]])
    points = torch.tensor([[nan, 3.0], [infinite, 3.0], [3.0, -infinite]])
    assert (with_targets(grey, [], [boxes], [points]).pixels == 100).all()


def tone(hertz: float, seconds: float = 1.0, rate: int = 8000) -> Sound:
    time = np.arange(round(seconds * rate)) / rate
    return Sound(sound=np.sin(2 * np.pi * hertz * time)[None].astype(np.float32), sample_rate=rate, length=len(time))


@pytest.mark.parametrize("hertz", [500.0, 1000.0, 3000.0])
def test_a_tone_is_a_line_at_its_height(hertz: float) -> None:
    bands = spectrogram(tone(hertz))
    assert bands.values.shape[0] == 129  # 256 samples are 32 ms
    assert set(bands.values[:, 5:-5].argmax(0).tolist()) == {round(hertz / 8000 * 256)}
    drawn = bands_pixels(bands, 129)
    assert abs(128 - drawn[:, WIDTH // 2].sum(1).argmax() - hertz / 8000 * 256) <= 1  # from the bottom up


def test_torchs_default_device_does_not_matter() -> None:
    values, scale, sound = PIXELS / 255, Scale(mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3)), tone(500.0)
    with torch.device("meta"):
        drawn, bands = picture(values, scale), spectrogram(sound)
    np.testing.assert_array_equal(drawn.pixels, picture(values, scale).pixels)
    np.testing.assert_array_equal(bands.values, spectrogram(sound).values)


def test_the_wave_is_as_high_as_the_sound_is_loud_and_grey_in_padding() -> None:
    sound = np.concatenate([tone(200, 0.5).sound / 2, np.zeros((1, 4000), np.float32)], 1)
    drawn = sound_pixels(Sound(sound=sound, sample_rate=8000, length=4000), peak=1.0)
    assert drawn.shape == (WAVE_HEIGHT + BANDS_HEIGHT, WIDTH, 3)
    ink = (drawn[:WAVE_HEIGHT] != 255).any(2)
    assert abs(int(ink[:, 10].sum()) - WAVE_HEIGHT // 2) <= 2
    assert ink[:, -10].sum() == 1
    red, _, blue = drawn[:WAVE_HEIGHT, -10][ink[:, -10]][0].tolist()
    assert blue - red < 20


@pytest.mark.parametrize("samples", [0, 1, 20])
def test_a_very_short_sound(samples: int) -> None:
    cell = Sound(sound=np.zeros((2, samples), np.float32), sample_rate=None, length=samples)
    assert sound_pixels(cell, cell.peak).shape == (WAVE_HEIGHT + BANDS_HEIGHT, WIDTH, 3)


def test_a_spectrogram_shows_its_values_from_dark_to_light_and_where_it_ends() -> None:
    values = np.zeros((4, 8), np.float32)
    values[0, 2] = 1.0
    drawn = bands_pixels(Bands(values=values, length=6), 40)
    light = drawn.sum(2)
    row, column = np.unravel_index(np.where(drawn.min(2) == 255, 0, light).argmax(), light.shape)
    assert 30 <= row < 40
    assert 80 <= column < 120
    assert (drawn[:, 6 * WIDTH // 8] == 255).all()
    assert not (drawn[:, 5 * WIDTH // 8] == 255).all()


def test_infinite_values_do_not_hide_the_rest() -> None:
    values = np.array([[-np.inf, 0.0, 1.0]], np.float32)
    assert len(np.unique(bands_pixels(Bands(values=values, length=3), 10))) > 2
