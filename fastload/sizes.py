"""Sizes in bytes, as people write them."""

from __future__ import annotations

import re

from fastload.errors import ConfigError

_UNITS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 1 << 10,
    "mi": 1 << 20,
    "gi": 1 << 30,
    "ti": 1 << 40,
}


def parse_size(size: int | str, name: str = "shard_size") -> int:
    """Bytes: 1000, "256MiB", "1GB", "64 kB".

    Args:
        size: what is written.
        name: of the argument, for errors.

    Raises:
        ConfigError: for anything else, or less than one byte.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?", str(size).strip().lower())
    if isinstance(size, bool | float) or not match or match[2] not in _UNITS:
        raise ConfigError(f"{name}={size!r}: pass bytes, or a size such as '256MiB' or '1GB'")
    value = int(float(match[1]) * _UNITS[match[2]]) if "." in match[1] else int(match[1]) * _UNITS[match[2]]
    if value < 1:
        raise ConfigError(f"{name}={size!r}: must be at least 1 byte")
    return value
