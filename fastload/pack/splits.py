"""Which split a sample goes to: a keyed hash of its key, so that adding samples never moves one that was there."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import xxhash

from fastload.errors import ConfigError
from fastload.order.hashing import combine

DEFAULT_SPLIT = "train"
_PURPOSE_SPLIT, _PURPOSE_SHUFFLE = 1, 2  # so that the two draws for one key are independent
_NAME = re.compile(r"\w[\w.-]*")
_TOLERANCE = 1e-6  # of the sum of the ratios: three times 1/3 written with six digits


def parse_split(split: str | Mapping[str, float] | None) -> dict[str, float]:
    """`"train=0.9,val=0.1"`, a mapping, or None for one split called "train".

    Raises:
        ConfigError: a name that is no folder name, a ratio outside (0, 1], ratios that do not sum to 1.
    """
    if split is None:
        return {DEFAULT_SPLIT: 1.0}
    ratios = _parse(split) if isinstance(split, str) else dict(split)
    for name, ratio in ratios.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(f"split={split!r}: {name!r} cannot name a folder; use letters, digits, '.', '_' and '-'")
        if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio <= 1:
            raise ConfigError(f"split={split!r}: the ratio of {name!r} must be above 0 and at most 1")
    total = math.fsum(ratios.values())
    if abs(total - 1) > _TOLERANCE:
        raise ConfigError(f"split={split!r}: the ratios sum to {total:g}, not to 1")
    return ratios


def _parse(text: str) -> dict[str, float]:
    ratios: dict[str, float] = {}
    for part in text.split(","):
        name, _, ratio = part.replace(":", "=").partition("=")
        try:
            value = float(ratio)
        except ValueError:
            raise ConfigError(
                f"split={text!r}: {part.strip()!r} is not name=ratio, as in 'train=0.9,val=0.1'"
            ) from None
        if name.strip() in ratios:
            raise ConfigError(f"split={text!r}: {name.strip()!r} is named twice")
        ratios[name.strip()] = value
    return ratios


def assign(keys: Sequence[str], ratios: Mapping[str, float], seed: int) -> npt.NDArray[np.int64]:
    """The split of each key, int64 [n], as numbers into `ratios`: where a uniform hash falls between their sums."""
    uniform = _hashes(keys, combine(seed, _PURPOSE_SPLIT)) * 2.0**-64
    bounds = np.cumsum(list(ratios.values()))[:-1]
    return np.searchsorted(bounds, uniform, "right").astype(np.int64)


def shuffled(keys: Sequence[str], seed: int) -> npt.NDArray[np.int64]:
    """Positions of the keys in the order of a keyed hash, int64 [n]."""
    return np.argsort(_hashes(keys, combine(seed, _PURPOSE_SHUFFLE)), kind="stable")


def _hashes(keys: Sequence[str], key: int) -> npt.NDArray[np.uint64]:
    digest = xxhash.xxh3_64_intdigest
    return np.array([digest(k.encode(), key) for k in keys], np.uint64)
