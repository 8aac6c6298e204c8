"""What is drawn of one field of one sample: values, ready for any kind of page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fastload.previews.changes import Piece

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """uint8 [H, W, 3], and how it was brought into [0, 255], if that needs words."""

    pixels: npt.NDArray[np.uint8]
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """float32 [C, T] in [-1, 1]; `length` of its samples are the sample's own, the rest is padding."""

    sound: Floats
    sample_rate: int | None
    length: int

    @property
    def peak(self) -> float:
        return float(np.abs(self.sound).max(initial=0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bands:
    """A spectrogram, float32 [bands, frames]; `length` of its frames are the sample's own."""

    values: Floats
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """Text in pieces; all are "same" where there is nothing to compare with."""

    pieces: tuple[Piece, ...]
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """Anything else, in words."""

    text: str


Cell = Picture | Sound | Bands | Words | Plain


def same(one: Cell, other: Cell) -> bool:
    """Whether two cells look the same; words do if none is marked as changed."""
    match one, other:
        case Picture(), Picture():
            return one.note == other.note and np.array_equal(one.pixels, other.pixels)
        case Sound(), Sound():
            return one.length == other.length and np.array_equal(one.sound, other.sound)
        case Bands(), Bands():
            return one.length == other.length and np.array_equal(one.values, other.values)
        case Words(), Words():
            return one.note == other.note and one.pieces == other.pieces
    return one == other
