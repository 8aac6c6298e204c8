"""Two texts side by side."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastload.previews.changes import Piece, changes, shortened

WORDS = st.lists(st.sampled_from(["a", "b", "c", "d", "[MASK]"]), max_size=12)


@pytest.mark.parametrize(
    ("before", "after", "pieces"),
    [
        ("a b c", "a b c", [("a b c", "same")]),
        ("a b c", "a c", [("a", "same"), ("b", "deleted"), ("c", "same")]),
        ("a c", "a b c", [("a", "same"), ("b", "inserted"), ("c", "same")]),
        ("a b c", "a x c", [("a", "same"), ("b", "deleted"), ("x", "inserted"), ("c", "same")]),
        ("a b c", "a [MASK] [MASK]", [("a", "same"), ("b c", "deleted"), ("[MASK] [MASK]", "masked")]),
        ("a b", "a x [MASK]", [("a", "same"), ("b", "deleted"), ("x", "inserted"), ("[MASK]", "masked")]),
        ("", "a", [("a", "inserted")]),
        ("a", "", [("a", "deleted")]),
        ("", "", []),
    ],
)  # fmt: skip
def test_what_became_of_each_word(before: str, after: str, pieces: list[tuple[str, str]]) -> None:
    found = changes(before.split(), after.split(), ["[MASK]"])
    assert [(piece.text, piece.mark) for piece in found] == pieces


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=12))
def test_masks_are_found_in_their_places(tokens: list[tuple[str, bool]]) -> None:
    """However often the same words come."""
    before = [word for word, _ in tokens]
    after = ["[MASK]" if masked else word for word, masked in tokens]
    found = changes(before, after, ["[MASK]"])
    places = [piece.mark for piece in found if piece.mark != "deleted" for _ in piece.text.split()]
    assert places == ["masked" if masked else "same" for _, masked in tokens]


@given(WORDS, WORDS)
def test_both_texts_can_be_read_off(before: list[str], after: list[str]) -> None:
    found = changes(before, after, ["[MASK]"])
    words = [(word, piece.mark) for piece in found for word in piece.text.split()]
    assert [word for word, mark in words if mark != "deleted"] == after
    assert [word for word, mark in words if mark in ("same", "deleted")] == before
    assert all(word == "[MASK]" for word, mark in words if mark == "masked")


def test_long_texts_are_cut_and_what_is_left_out_is_counted() -> None:
    pieces = (Piece("a b"), Piece("c d", "deleted"), Piece("e"))
    assert shortened(pieces, 3) == ((Piece("a b"), Piece("c", "deleted")), 2)
    assert shortened(pieces, 5) == (pieces, 0)
