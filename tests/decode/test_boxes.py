"""Crop boxes: inside the picture, of the asked area and aspect, distributed like torchvision's; orientation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PillowImage
from PIL import ImageOps
from torchvision.transforms import RandomResizedCrop

from fastload.decode.boxes import center_box, orient, random_box, stored_box, swaps_axes
from fastload.order import hashing

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
sides = st.integers(1, 2000)
keys = st.integers(0, 2**64 - 1)


def span(low: float, high: float) -> st.SearchStrategy[tuple[float, float]]:
    return st.tuples(st.floats(low, high), st.floats(low, high)).map(lambda pair: (min(pair), max(pair)))


@given(sides, sides, span(0.01, 2.0), span(0.1, 10.0), keys)
def test_random_box_is_inside_and_of_the_asked_area_and_aspect(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float], key: int
) -> None:
    x, y, w, h = random_box(width, height, scale, ratio, key)
    assert 0 <= x <= x + w <= width
    assert 0 <= y <= y + h <= height
    assert min(w, h) >= 1
    # sides are rounded by at most half a pixel: the unrounded box has the area and the aspect
    low_aspect, high_aspect = (w - 0.5) / (h + 0.5), (w + 0.5) / max(h - 0.5, 1e-9)
    fits = low_aspect <= ratio[1] * 1.000001 and high_aspect >= ratio[0] * 0.999999
    central = (x, y) == ((width - w) // 2, (height - h) // 2) and (w == width or h == height)
    assert fits or (central and 1 in (w, h))
    area_fits = (w - 0.5) * (h - 0.5) <= scale[1] * width * height * 1.000001 and (w + 0.5) * (h + 0.5) >= scale[
        0
    ] * width * height * 0.999999
    assert area_fits or central


def test_random_box_depends_on_the_key_alone() -> None:
    boxes = [random_box(500, 375, SCALE, RATIO, key) for key in range(100)]
    assert boxes == [random_box(500, 375, SCALE, RATIO, key) for key in range(100)]
    assert len(set(boxes)) == 100


def test_golden_boxes() -> None:
    key = int(hashing.sample_keys(0, 0, 7))
    assert random_box(500, 375, SCALE, RATIO, key) == (181, 33, 288, 322)
    assert random_box(10, 1000, SCALE, (1.0, 1.0), 1) == (0, 495, 10, 10)  # a fallback: no square of 8% fits
    assert random_box(1000, 10, SCALE, (1.0, 1.0), 1) == (495, 0, 10, 10)


@pytest.mark.parametrize(("width", "height"), [(500, 375), (100, 400)])
def test_random_box_is_distributed_like_torchvisions(width: int, height: int) -> None:
    count = 3000
    keys = hashing.sample_keys(0, 0, np.arange(count))
    ours = np.array([random_box(width, height, SCALE, RATIO, int(key)) for key in keys], float)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        picture = torch.empty(3, height, width)
        drawn = [RandomResizedCrop.get_params(picture, list(SCALE), list(RATIO)) for _ in range(count)]
    theirs = np.array([(left, top, w, h) for top, left, h, w in drawn], float)
    for mine, other in zip(features(ours), features(theirs), strict=True):
        # two-sample Kolmogorov-Smirnov statistic; 1.95 * sqrt(2 / n) is passed once in a thousand times by chance
        assert ks_statistic(mine, other) < 1.95 * math.sqrt(2 / count)


def features(boxes: np.ndarray) -> list[np.ndarray]:
    """x, y, w, h, area and log aspect of boxes [N, 4]."""
    x, y, w, h = boxes.T
    return [x, y, w, h, w * h, np.log(w / h)]


def ks_statistic(a: np.ndarray, b: np.ndarray) -> float:
    at = np.concatenate([a, b])
    below = [np.searchsorted(np.sort(values), at, side="right") / len(values) for values in (a, b)]
    return float(np.abs(below[0] - below[1]).max())


@given(sides, sides, st.integers(1, 512), st.integers(1, 512), st.floats(0.01, 1.0))
def test_center_box_is_central_and_of_the_outputs_aspect(
    width: int, height: int, out_width: int, out_height: int, fraction: float
) -> None:
    x, y, w, h = center_box(width, height, out_width, out_height, fraction)
    assert 0 <= x <= x + w <= width
    assert 0 <= y <= y + h <= height
    assert abs((width - w) - 2 * x) <= 1
    assert abs((height - h) - 2 * y) <= 1
    step = fraction * min(width / out_width, height / out_height)
    assert abs(w - max(1, out_width * step)) <= 0.5
    assert abs(h - max(1, out_height * step)) <= 0.5


def test_center_box_is_the_evaluation_recipe() -> None:
    assert center_box(500, 375, 224, 224, 224 / 256) == (86, 23, 328, 328)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 8), st.data())
def test_cropping_stored_pixels_and_turning_equals_turning_and_cropping(
    width: int, height: int, orientation: int, data: st.DataObject
) -> None:
    stored = np.arange(width * height).reshape(height, width)
    shown = orient(stored, orientation)
    assert (shown.shape == (width, height)) if swaps_axes(orientation) else (shown.shape == (height, width))
    shown_height, shown_width = shown.shape
    x, y = data.draw(st.integers(0, shown_width - 1)), data.draw(st.integers(0, shown_height - 1))
    w, h = data.draw(st.integers(1, shown_width - x)), data.draw(st.integers(1, shown_height - y))
    sx, sy, sw, sh = stored_box((x, y, w, h), shown_width, shown_height, orientation)
    cropped = stored[sy : sy + sh, sx : sx + sw]
    np.testing.assert_array_equal(orient(cropped, orientation), shown[y : y + h, x : x + w])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_pillows(orientation: int) -> None:
    stored = np.arange(12, dtype=np.uint8).reshape(3, 4)
    picture = PillowImage.fromarray(stored)
    picture.getexif()[0x0112] = orientation
    np.testing.assert_array_equal(orient(stored, orientation), np.asarray(ImageOps.exif_transpose(picture)))
