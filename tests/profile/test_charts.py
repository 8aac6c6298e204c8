"""The curves of the report."""

from __future__ import annotations

import re

import pytest

from fastload.profile.capacity import Capacity, fit
from fastload.profile.charts import curves


@pytest.mark.parametrize("first", [0.5, 90.0, 12_387.0, 480_000.0, 1_525_732.0, 99e6])
def test_every_mark_and_label_lies_inside_the_picture(first: float) -> None:
    threads = (1, 2, 3, 8)
    rates = tuple(first * speedup for speedup in (1, 1.9, 2.6, 5))
    drawn = curves(Capacity(stage="read", threads=threads, rates=rates, cpu_ms=0.1, scaling=fit(threads, rates)))
    assert drawn.count("<circle") == 4
    for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', drawn):
        assert 58 <= float(x) <= 328
        assert 12 <= float(y) <= 182
    labels = re.findall(r'text-anchor="end">([^<]+)<', drawn)
    assert len(labels) == 3
    assert max(map(len, labels)) <= 7, "7 characters of this size fit left of the axis"
