"""Pages and pictures that several commands share."""

from __future__ import annotations

import base64
import io
import wave

import numpy as np
import PIL.Image
import pytest

from fastload.report.page import render_page
from fastload.report.pictures import LOSSLESS_SIDE, new_sheet, picture_uri, sound_uri


def test_a_page_escapes_what_it_is_given_and_holds_its_style() -> None:
    page = render_page("{{ t }}", "<p>{{ t }}</p>", {"t": "<b> & 'x'"}, style="p { color: red; }")
    assert page.startswith("<!doctype html>")
    assert page.count("&lt;b&gt; &amp; &#39;x&#39;") == 2
    assert "p { color: red; }" in page
    assert 'name="viewport"' in page, "a phone shows it at its own width"
    assert "@media print { body { max-width: none;" in page
    assert "print-color-adjust: exact" in page, "bars are backgrounds, which browsers leave out"


def test_a_name_that_the_values_lack_is_an_error() -> None:
    with pytest.raises(Exception, match="'missing' is undefined"):
        render_page("t", "{{ missing }}", {})


def _held(uri: str) -> tuple[str, bytes]:
    head, _, body = uri.partition(",")
    return head, base64.b64decode(body)


@pytest.mark.parametrize("shape", [(7, 5, 3), (LOSSLESS_SIDE, 4)])
def test_small_pictures_are_held_exactly(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    head, body = _held(picture_uri(pixels))
    assert head == "data:image/png;base64"
    np.testing.assert_array_equal(np.array(PIL.Image.open(io.BytesIO(body))), pixels)


def test_large_pictures_are_held_closely() -> None:
    ramp = np.linspace(0, 255, LOSSLESS_SIDE + 1).astype(np.uint8)
    pixels = np.stack([np.tile(ramp, (50, 1))] * 3, 2)
    head, body = _held(picture_uri(pixels))
    assert head == "data:image/jpeg;base64"
    assert np.abs(np.array(PIL.Image.open(io.BytesIO(body))).astype(int) - pixels).max() <= 3


def test_sound_is_held_as_a_16_bit_wav_and_cut_at_full_scale() -> None:
    sound = np.array([[0.0, 0.5, 2.0], [-0.5, -1.0, -3.0]], np.float32)
    head, body = _held(sound_uri(sound, 8000))
    assert head == "data:audio/wav;base64"
    with wave.open(io.BytesIO(body)) as file:
        assert (file.getnchannels(), file.getframerate(), file.getsampwidth(), file.getnframes()) == (2, 8000, 2, 3)
        frames = np.frombuffer(file.readframes(3), "<i2").reshape(3, 2)
    assert frames.tolist() == [[0, -16384], [16384, -32767], [32767, -32767]]


def test_a_sheet_has_a_bare_cell_for_each_picture() -> None:
    figure, cells = new_sheet("Title", 5, 4, width=1.0, height=1.0)
    assert len(cells) == 8
    assert figure.get_suptitle() == "Title"
    assert not any(cell.axison for cell in cells)
