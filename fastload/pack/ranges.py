"""Ranges as options give them: "10..50", "..0.5", "2024-01-01..", both ends included, an empty end open.

Numbers are compared as numbers. Dates are compared as ISO 8601 text, and a bound stands for all that begins with it:
"..2023" takes the whole of 2023, "..2023-12-31" the whole day.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fastload.errors import ConfigError

Bools = npt.NDArray[np.bool_]
_DATE = re.compile(r"\d{4}(-\d{2}(-\d{2}([ T]\d{2}(:\d{2}(:\d{2}.*)?)?)?)?)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """From `low` to `high`, both included; an empty end is open. Ends are kept as they were written."""

    low: str
    high: str

    def __str__(self) -> str:
        return f"{self.low}..{self.high}"

    @property
    def has_numbers(self) -> bool:
        return all(_number(end) is not None for end in (self.low, self.high) if end)

    @property
    def has_dates(self) -> bool:
        return all(is_date(end) for end in (self.low, self.high) if end)

    def holds_numbers(self, values: npt.NDArray[np.generic]) -> Bools:
        """Which of some numbers are in it, bool [n]; NaN never is.

        Raises: ConfigError for ends that are no numbers.
        """
        low, high = (_number(end) if end else None for end in (self.low, self.high))
        if (self.low and low is None) or (self.high and high is None):
            raise ConfigError(f"the range {self}: the values are numbers, and these ends are not")
        held: Bools = ~np.isnan(values)
        if low is not None:
            held &= values >= low  # type: ignore[operator]
        if high is not None:
            held &= values <= high  # type: ignore[operator]
        return held

    def holds_dates(self, values: Sequence[str]) -> Bools:
        """Which of some ISO dates, with or without a time, are in it, bool [n].

        Raises: ConfigError for ends that are no dates.
        """
        if not self.has_dates:
            raise ConfigError(f"the range {self}: the values are dates, and these ends are not; write 2024-01-31")
        low, high = self.low.replace("T", " "), self.high.replace("T", " ")
        plain = [value.replace("T", " ") for value in values]
        return np.array([v >= low and (not high or v[: len(high)] <= high) for v in plain], np.bool_)


def parse_range(text: str) -> Range:
    """`"10..50"`, `"..50"`, `"10.."`.

    Raises: ConfigError for anything else, ends that are neither numbers nor ISO dates, or a low end above the high one.
    """
    low, dots, high = (part.strip() for part in str(text).partition(".."))
    found = Range(low=low, high=high)
    if not dots or not (low or high):
        raise ConfigError(f"{text!r} is no range; write low..high, and leave out the end that is open, as in 10..")
    if found.has_numbers:
        empty = bool(low and high) and float(low) > float(high)
    elif found.has_dates:
        empty = bool(low and high) and low.replace("T", " ")[: len(high)] > high.replace("T", " ")
    else:
        raise ConfigError(f"the range {text!r}: ends must be numbers, or dates like 2024-01-31")
    if empty:
        raise ConfigError(f"the range {text!r} holds nothing: its low end is above its high end")
    return found


def is_date(text: str) -> bool:
    """Whether a text is a year, month, day or time in ISO 8601."""
    return _DATE.fullmatch(text) is not None


def _number(text: str) -> int | float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    if value != value:
        return None
    return int(text) if re.fullmatch(r"[+-]?\d+", text) else value
