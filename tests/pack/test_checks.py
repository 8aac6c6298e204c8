"""The look at each content while it is packed: what is whole, and what was cut off."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from fastload.errors import DecodeError
from fastload.pack.checks import inspector


@pytest.mark.parametrize("mode", ["RGB", "P", "1"])
@pytest.mark.parametrize("kind", ["bmp", "gif"])
def test_pictures_that_are_cut_before_their_last_pixel(kind: str, mode: str) -> None:
    file = io.BytesIO()
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (23, 37, 3), np.uint8)).convert(mode)
    picture.save(file, kind, **({"comment": "x" * 300} if kind == "gif" else {}))
    whole, look = file.getvalue(), inspector("image")
    assert look(memoryview(whole)) == look(memoryview(whole + b"padding")) == (37, 23)
    for size in (len(whole) - 2, len(whole) * 3 // 4, len(whole) // 2):
        with pytest.raises(
            DecodeError, match=f"{kind.upper()} of {size} bytes ends before its pixels do: it was cut off"
        ):
            look(memoryview(whole[:size]))
    if kind == "gif":
        assert look(memoryview(whole[:-1])) == (37, 23)  # decoders do without the trailer
