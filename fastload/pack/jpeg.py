"""JPEGs on their way into a shard: made crop-seekable where that loses nothing, else kept as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from fastload.decode.seekable import MIN_PIXELS, make_seekable
from fastload.pack.checks import Facts
from fastload.pack.steps import Outcome
from fastload.pack.tally import Counts

JpegMode = Literal["seekable", "keep"]
TOO_SMALL = "too small to gain by it"
_START_OF_IMAGE = b"\xff\xd8"
_OTHER, _SMALL = Outcome(), Outcome(kept=TOO_SMALL)  # made once: there may be millions of thumbnails


@dataclass(frozen=True, slots=True)
class CropSeekable:
    """The step that makes JPEGs crop-seekable (`fastload.decode.seekable`); other pictures do not concern it."""

    name = "jpeg"

    def __call__(self, raw: memoryview, facts: Facts) -> Outcome:
        if raw[:2] != _START_OF_IMAGE:
            return _OTHER
        if facts[0] * facts[1] < MIN_PIXELS:  # known already: thumbnails would spend a third of their time on it
            return _SMALL
        result = make_seekable(raw)
        return Outcome(data=result.data, kept=result.kept)

    def about(self, counts: Counts) -> dict[str, Any]:
        """How many were made crop-seekable, and how many were kept, by the reason."""
        return counts.to_json("seekable")
