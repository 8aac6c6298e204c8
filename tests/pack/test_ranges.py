"""Ranges: parsed, both ends in them, and a date bound standing for all that begins with it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastload.errors import ConfigError
from fastload.pack.ranges import is_date, parse_range


@given(st.lists(st.integers(-50, 50), max_size=30), st.integers(-50, 50), st.integers(0, 50))
def test_numbers_between_the_ends_are_in(values: list[int], low: int, width: int) -> None:
    held = parse_range(f"{low}..{low + width}").holds_numbers(np.array(values, np.int64))
    assert held.tolist() == [low <= value <= low + width for value in values]


def test_an_open_end_is_open_and_nan_is_in_none() -> None:
    values = np.array([-np.inf, 0.5, np.nan, 1e300])
    assert parse_range("..0.5").holds_numbers(values).tolist() == [True, True, False, False]
    assert parse_range("0.6..").holds_numbers(values).tolist() == [False, False, False, True]


def test_large_integers_are_compared_exactly() -> None:
    values = np.array([2**62, 2**62 + 1], np.int64)
    assert parse_range(f"{2**62 + 1}..").holds_numbers(values).tolist() == [False, True]


@given(st.dates(), st.dates(), st.dates())
def test_dates_are_compared_as_dates(low: object, high: object, value: object) -> None:
    low, high = sorted([str(low), str(high)])
    assert parse_range(f"{low}..{high}").holds_dates([f"{value}"]).tolist() == [low <= str(value) <= high]


def test_a_date_bound_takes_all_that_begins_with_it() -> None:
    values = ["2023-12-31", "2023-12-31T23:59:59", "2023-12-31 08:00", "2024-01-01", "2024-01-01T00:00"]
    assert parse_range("..2023-12-31").holds_dates(values).tolist() == [True, True, True, False, False]
    assert parse_range("2024..").holds_dates(values).tolist() == [False, False, False, True, True]
    assert parse_range("2023..2023").holds_dates(values).tolist() == [True, True, True, False, False]


@pytest.mark.parametrize("text", ["2023", "2023-01", "2023-01-31", "2023-01-31T10:00", "2023-01-31 10:00:00.5Z"])
def test_what_is_a_date(text: str) -> None:
    assert is_date(text)
    assert not is_date(f"on {text}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10", "'10' is no range; write low..high"),
        ("..", "'..' is no range"),
        ("a..b", "the range 'a..b': ends must be numbers, or dates"),
        ("nan..1", "ends must be numbers"),
        ("5..1", "'5..1' holds nothing: its low end is above its high end"),
        ("2024-02..2024-01", "holds nothing"),
    ],
)
def test_bad_ranges_are_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_range(text)


def test_ends_and_values_of_different_kinds_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"2024-01-01\.\.: the values are numbers, and these ends are not"):
        parse_range("2024-01-01..").holds_numbers(np.arange(3))
    with pytest.raises(ConfigError, match="the values are dates, and these ends are not; write 2024-01-31"):
        parse_range("0.5..").holds_dates(["2024"])
