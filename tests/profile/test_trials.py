"""Pictures stored differently, tried."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import samples

from fastload.decode.image import ImageDecoder
from fastload.fields import Image
from fastload.profile import trials
from fastload.shards.read import Rows


def test_of_pictures_that_take_long_few_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, raws = ImageDecoder(Image(8)), [samples.jpeg(i) for i in range(9)]
    assert trials._affordable(decoder, raws) == raws
    monkeypatch.setattr(trials, "_SECONDS", 0.0)
    assert trials._affordable(decoder, raws) == raws[:3]


def test_a_trial_is_judged_by_what_was_measured_right_after_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, raws = ImageDecoder(Image(8)), [samples.jpeg(0)]
    speeds = iter([1.0, 0.1, 0.5, 0.2, 0.9])  # of the machine, which others use
    monkeypatch.setattr(trials, "_PAIRS", 5)
    took: list[float] = []

    def seconds(decoder: Any, of: list[bytes]) -> float:
        if of is raws:
            took.append(1 / next(speeds))
        return took[-1] * (1.0 if of is raws else 0.25) * (8 if len(took) == 4 and of is not raws else 1)

    monkeypatch.setattr(trials, "_seconds", seconds)
    assert trials._trial("", "", decoder, raws, [b""]).factor == pytest.approx(0.25)


def test_of_what_is_fetched_a_picture_is_only_a_part() -> None:
    decoder, raws = ImageDecoder(Image(2)), [samples.jpeg(i) for i in range(4)]
    rows = Rows(keys=["a", "b", "c", "d"], scalars={}, raw={"image": list(raws)}, intact=True)
    recorded: Any = SimpleNamespace(rows={(b"", b""): rows}, bytes=sum(map(len, raws)))
    (alone,) = trials.try_changes({"image": decoder}, recorded)
    (beside,) = trials.try_changes({"image": decoder}, recorded, 10 * recorded.bytes / len(raws))
    assert alone.size < 1
    assert 1 - beside.size == pytest.approx((1 - alone.size) / 10)
