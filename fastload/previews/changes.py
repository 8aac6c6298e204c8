"""Two sequences of words side by side: what was inserted, deleted and masked. A replacement is both of the first."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

Mark = Literal["same", "deleted", "inserted", "masked"]


@dataclass(frozen=True, slots=True)
class Piece:
    """Words in a row that share a mark."""

    text: str
    mark: Mark = "same"


def changes(before: Sequence[str], after: Sequence[str], masks: Collection[str] = ()) -> tuple[Piece, ...]:
    """The words of `after`, and between them those of `before` that went.

    Sequences of one length are compared place by place where that marks no more words than an alignment would
    (Ratcliff and Obershelp's, as in difflib): masking keeps places, and an alignment would not.

    Args:
        masks: words that stand for others; they are "masked" where they were put in.
    """
    aligned = _aligned(before, after)
    if len(before) == len(after):
        in_place = [("same" if a == b else "replaced", [a], [b]) for a, b in zip(before, after, strict=True)]
        if _cost(in_place) <= _cost(aligned):
            aligned = [
                (kind, [a for _, old, _ in run for a in old], [b for _, _, new in run for b in new])
                for kind, run in ((kind, list(run)) for kind, run in groupby(in_place, key=lambda step: step[0]))
            ]
    pieces: list[Piece] = []
    for kind, old, new in aligned:
        if kind == "same":
            pieces.append(Piece(" ".join(new)))
            continue
        if old:
            pieces.append(Piece(" ".join(old), "deleted"))
        for masked, run in groupby(new, key=lambda word: word in masks):
            pieces.append(Piece(" ".join(run), "masked" if masked else "inserted"))
    return tuple(pieces)


_Step = tuple[str, list[str], list[str]]  # "same" or anything else, words before, words after


def _aligned(before: Sequence[str], after: Sequence[str]) -> list[_Step]:
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    return [
        ("same" if kind == "equal" else kind, list(before[a:b]), list(after[c:d]))
        for kind, a, b, c, d in matcher.get_opcodes()
    ]


def _cost(steps: Sequence[_Step]) -> int:
    """Words marked."""
    return sum(len(old) + len(new) for kind, old, new in steps if kind != "same")


def shortened(pieces: Sequence[Piece], most: int) -> tuple[tuple[Piece, ...], int]:
    """The first `most` words, and how many more there are."""
    kept, left = [], most
    total = sum(len(piece.text.split(" ")) for piece in pieces)
    for piece in pieces:
        words = piece.text.split(" ")[:left]
        if words:
            kept.append(Piece(" ".join(words), piece.mark))
        left -= len(words)
    return tuple(kept), max(0, total - most)
