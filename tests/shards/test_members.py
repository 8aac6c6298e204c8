"""Keys of many files are those of each."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastload.shards.members import sample_key, sample_keys


@settings(deadline=None)
@given(st.lists(st.text("ab._/", min_size=1, max_size=9)))
@example(["__a__/b.jpg", "_a/b.jpg", "a.b/c", "a/.jpg", ".jpg", "a", "a/b.c.jpg", "a/b.", "/"])
def test_keys_of_many_files(paths: list[str]) -> None:
    assert sample_keys(paths) == [sample_key(path) for path in paths]


def test_keys_of_plain_names() -> None:
    assert sample_keys(["a/b.jpg", "a/b.c.jpg", "__a__/b.jpg"]) == ["a/b", "a/b_c", "_a__/b"]
