"""JPEGs on their way into a shard: made crop-seekable where that loses nothing, else kept as they are; and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from fastload.decode.seekable import MIN_PIXELS, make_seekable
from fastload.pack.checks import Facts

JpegMode = Literal["seekable", "keep"]
TOO_SMALL = "too small to gain by it"
_START_OF_IMAGE = b"\xff\xd8"


@dataclass(frozen=True, slots=True, kw_only=True)
class JpegCounts:
    """What became of some JPEGs.

    Attributes:
        seekable: how many were made crop-seekable.
        kept: how many were stored as they are, by the reason.
    """

    seekable: int = 0
    kept: Mapping[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.seekable or self.kept)

    def to_json(self) -> dict[str, Any]:
        return {"seekable": self.seekable, "kept": dict(sorted(self.kept.items()))}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(seekable=data["seekable"], kept=data["kept"])

    @classmethod
    def total(cls, counts: Iterable[JpegCounts]) -> Self:
        seekable, kept = 0, Counter[str]()
        for some in counts:
            seekable += some.seekable
            kept.update(some.kept)
        return cls(seekable=seekable, kept=dict(kept))


class Seekables:
    """Looks at pictures one after the other, and makes crop-seekable JPEGs of those where it can be done.

    Args:
        look: the inspector of pictures; gives width and height, raises DecodeError for a fault.

    Attributes:
        made: number of the picture, in the order of looking -> what to store in its place.
    """

    def __init__(self, look: Callable[[memoryview], Facts]) -> None:
        self.made: dict[int, bytes] = {}
        self._look = look
        self._looked = 0
        self._kept: Counter[str] = Counter()

    def __call__(self, raw: memoryview) -> Facts:
        """What `look` gives; remembers what was made of the picture."""
        facts = self._look(raw)
        if raw[:2] == _START_OF_IMAGE:
            if facts[0] * facts[1] < MIN_PIXELS:  # known already: thumbnails would spend a third of their time on it
                self._kept[TOO_SMALL] += 1
            else:
                result = make_seekable(raw)
                if result.data is None:
                    self._kept[result.kept] += 1
                else:
                    self.made[self._looked] = result.data
        self._looked += 1
        return facts

    @property
    def counts(self) -> JpegCounts:
        return JpegCounts(seekable=len(self.made), kept=dict(self._kept))
