"""Pictures stored differently, tried."""

from __future__ import annotations

import pytest
import samples

from fastload.decode.image import ImageDecoder
from fastload.fields import Image
from fastload.profile import trials


def test_of_pictures_that_take_long_few_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, raws = ImageDecoder(Image(8)), [samples.jpeg(i) for i in range(9)]
    assert trials._affordable(decoder, raws) == raws
    monkeypatch.setattr(trials, "_SECONDS", 0.0)
    assert trials._affordable(decoder, raws) == raws[:3]
