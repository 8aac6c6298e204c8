"""Contact sheets: texts of any script fit into their lines, and samples are named."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage

from fastload.previews.cells import Picture, Plain, Words
from fastload.previews.changes import Piece
from fastload.previews.sheet import ACROSS, _wrapped, save_sheets, width_of
from fastload.previews.shown import Sample, Shown, Variant


def shown(before: dict[str, Picture | Words | Plain], after: dict[str, Picture | Words | Plain]) -> Shown:
    variant = Variant(epoch=0, cells={**before, **after}, drawn=())
    sample = Sample(key="0042/cat", before=before, variants=(variant,))
    return Shown(data="x", total=1, augment=(), samples=(sample,), by_batch=(), cropped=())


def test_columns_that_characters_take() -> None:
    assert [width_of(text) for text in ("", "abc", "\u6f22\u5b57", "\U0001f600!", "e\u0301")] == [0, 3, 4, 3, 1]


def test_long_words_and_wide_ones_are_wrapped_and_not_cut_off() -> None:
    text = "".join(chr(0x4E00 + n) for n in range(3 * ACROSS))
    lines = list(_wrapped(Words(pieces=(Piece("some words"), Piece(text, "inserted")))))
    assert "".join(piece.text for line in lines for piece in line if piece.mark == "inserted") == text
    assert max(sum(width_of(piece.text) + 1 for piece in line) - 1 for line in lines) <= ACROSS
    assert len(lines) == 1 + 6


def test_sheets_of_any_script_warn_of_nothing(tmp_path: Path) -> None:
    words = Words(pieces=(Piece("\u6f22\u5b57 \U0001f600"), Piece("\u0e01 \u05d0 x", "deleted")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (written,) = save_sheets(shown({"text": words}, {}), tmp_path)
    assert written.name == "text.png"


def test_a_picture_is_named_by_its_key_and_by_what_it_is(tmp_path: Path) -> None:
    picture = Picture(pixels=np.zeros((8, 8, 3), np.uint8))
    known = shown({"image": picture, "label": Plain(text="3")}, {})
    assert known.samples[0].title() == "0042/cat, label 3"
    assert known.samples[0].title("\n") == "0042/cat\nlabel 3"
    assert shown({"label": Plain(text="cat")}, {}).samples[0].title() == "0042/cat"
    heights = []
    for found in (known, shown({"image": picture}, {})):
        (written,) = save_sheets(found, tmp_path)
        with PillowImage.open(written) as sheet:
            heights.append(sheet.height)
    assert heights[0] > heights[1], "room for a second line"
