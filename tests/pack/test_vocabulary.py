"""Tokenizers as values: how their tokens read."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, models

from fastload.pack.vocabulary import load_vocabulary


def test_how_tokens_read(tmp_path: Path) -> None:
    Tokenizer(models.WordLevel({"one": 0, "two": 1}, "one")).save(str(tmp_path / "tokenizer.json"))
    words = load_vocabulary(tmp_path)
    assert [words.token(number) for number in (0, 1, 7)] == ["one", "two", "7"]
    letters = load_vocabulary("bytes")
    assert [letters.token(number) for number in (65, 10, 32, 200, 256)] == ["A", "\\x0a", "\\x20", "\\xc8", "<end>"]
