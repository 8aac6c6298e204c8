"""Sums of sizes and pixels: the same however the parts are added, and what numpy says of the whole."""

from __future__ import annotations

import json

import numpy as np
import pytest
import samples
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st

from fastload.decode.image import ImageDecoder
from fastload.errors import DecodeError
from fastload.fields import Image
from fastload.statistics import FieldStatistics, Measure, PixelSums, field_statistics, joined, measured

numbers = st.lists(st.integers(0, 2**45), max_size=30)


@given(st.lists(numbers, min_size=1, max_size=5), st.randoms())
def test_measures_of_parts_are_those_of_the_whole(parts: list[list[int]], random: object) -> None:
    whole = Measure.of([number for part in parts for number in part])
    shuffled = list(parts)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert Measure.total_of(map(Measure.of, shuffled)) == whole
    assert Measure.from_json(json.loads(json.dumps(whole.to_json()))) == whole


@given(numbers)
def test_a_measure_is_what_it_says(values: list[int]) -> None:
    measure = Measure.of(values)
    assert (measure.count, measure.total) == (len(values), sum(values))
    assert (measure.least, measure.most) == (min(values, default=0), max(values, default=0))
    assert measure.mean == (sum(values) / len(values) if values else 0)
    assert sum(measure.histogram) == len(values)
    for bits, count in enumerate(measure.histogram):
        assert count == sum(value.bit_length() == bits for value in values)


def test_pixels_are_those_that_a_loader_gives() -> None:
    raws = [samples.jpeg(i) for i in range(4)]
    sums = PixelSums.total_of(PixelSums.of(raw) for raw in raws)
    decoder = ImageDecoder(Image())
    pixels = np.concatenate([decoder.decode(raw, 0).reshape(3, -1) for raw in raws], 1) / 255  # float64 [3, n]
    assert (sums.pictures, sums.pixels) == (4, pixels.shape[1])
    np.testing.assert_allclose(sums.mean, pixels.mean(1), rtol=1e-12)
    np.testing.assert_allclose(sums.std, pixels.std(1), rtol=1e-12)
    assert PixelSums.from_json(json.loads(json.dumps(sums.to_json()))) == sums


def test_a_picture_of_one_colour_has_no_deviation() -> None:

    white = simplejpeg.encode_jpeg(np.full((16, 16, 3), 255, np.uint8))
    sums = PixelSums.of(white)
    assert (sums.mean, sums.std) == ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0))


def test_a_damaged_picture_is_an_error() -> None:
    with pytest.raises(DecodeError, match="ends after"):
        PixelSums.of(samples.jpeg(0)[:-30])


def test_fields_are_joined_by_name() -> None:
    first = measured({"image": [10, 20], "text": [5, 5]}, {"image.width": [3, 4]})
    pixels = PixelSums.of(samples.jpeg(1))
    second = {"image": FieldStatistics(pixels=pixels)}
    both = joined([first, second])
    assert list(both) == ["image", "text"]
    assert both["image"].pixels == pixels
    assert both["image"].measures == {"bytes": Measure.of([10, 20]), "width": Measure.of([3, 4])}
    data = {"fields": {"train": {name: about.to_json() for name, about in both.items()}}}
    assert field_statistics(data, "train", "image") == both["image"]
    assert field_statistics(data, "train", "audio") is None
    assert field_statistics({}, "train", "image") is None
