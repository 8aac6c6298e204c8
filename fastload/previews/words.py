"""Tokens as a tokenizer writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fastload.errors import ConfigError, missing_extra


def token_names(path: Path) -> Callable[[int], str]:
    """How the tokens of a tokenizer.json read, by number; a number that it lacks reads as itself.

    Raises:
        ConfigError: no such file, or it holds no tokenizer.
        MissingExtraError: tokenizers is not installed.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise missing_extra("tokenizers", "text", "showing tokens as text") from error
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise ConfigError(f"{str(path)!r} holds no tokenizer: {error}") from error
    return lambda number: tokenizer.id_to_token(number) or str(number)
