"""Whole numbers as arguments: any integer type comes in, Python's own int goes on."""

from __future__ import annotations

import operator
from typing import SupportsIndex

from fastload.errors import ConfigError


def integer(name: str, value: SupportsIndex, *, least: int | None = None) -> int:
    """`value` as an int, so that numpy's integers neither overflow in a hash nor end in a state that JSON refuses.

    Raises:
        ConfigError: it is not a whole number (floats are refused, 32.0 too, and truth values), or is below `least`.
    """
    try:
        number = operator.index(value)
        if isinstance(value, bool):
            raise TypeError
    except TypeError:
        raise ConfigError(f"{name}={value!r}: must be an integer, not {type(value).__name__}") from None
    if least is not None and number < least:
        raise ConfigError(f"{name}={number}: must be at least {least}")
    return number
