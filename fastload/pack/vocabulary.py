"""Tokenizers as workers get them: a definition that is read once, and text to token numbers.

`tokenizers` (Hugging Face) is asked for the numbers of the text alone: nothing is added, cut or padded, and text that
spells a special token is tokenized as text, so that a document cannot end itself.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from fastload.errors import ConfigError, missing_extra

BYTES = "bytes"
TOKENIZER_NAME = "tokenizer.json"
# what vocabularies call the end of a document: GPT-2 and Pythia, Llama 3, Llama 2 and T5, Gemma, others, BERT
END_OF_TEXT_NAMES = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[EOS]", "[SEP]")
_BYTE_VALUES = 256

Tokens = npt.NDArray[Any]  # uint16 or int32


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """A tokenizer.

    Attributes:
        name: of its file, or "bytes".
        definition: what its file holds; "" for bytes.
        size: numbers are below this.
        end_of_text: the number that stands between documents; None if the tokenizer has none.
    """

    name: str
    definition: str
    size: int
    end_of_text: int | None

    @property
    def dtype(self) -> str:
        """Of stored numbers: "uint16" where they fit, else "int32"."""
        return "uint16" if self.size <= 1 << 16 else "int32"

    @property
    def digest(self) -> str:
        """XXH3-64 of the definition, 16 hex digits."""
        return xxhash.xxh3_64_hexdigest(self.definition.encode())

    def encode(self, text: bytes | memoryview) -> Tokens:
        """The numbers of a UTF-8 text, [T] of `dtype`; without any end of text."""
        if not self.definition:
            return np.frombuffer(text, np.uint8).astype(self.dtype)
        encoded = _library(self.definition).encode(str(text, "utf-8"), add_special_tokens=False)
        return np.array(encoded.ids, self.dtype)

    def token(self, number: int) -> str:
        """How a token reads; a number that the tokenizer lacks reads as itself, a byte that is no letter as "\\x0a"."""
        if self.definition:
            return _library(self.definition).id_to_token(number) or str(number)
        if number == self.end_of_text:
            return "<end>"
        return chr(number) if 0x20 < number < 0x7F else f"\\x{number:02x}"

    def to_json(self) -> dict[str, Any]:
        about = {"tokenizer": self.name, "digest": self.digest, "vocabulary": self.size}
        return about | ({} if self.end_of_text is None else {"end_of_text": self.end_of_text})


def load_vocabulary(tokenizer: str | os.PathLike[str], end_of_text: str | None = None) -> Vocabulary:
    """Read a tokenizer.

    Args:
        tokenizer: a tokenizer.json, or a folder that has one; or "bytes": each byte of UTF-8 is a token, and 256 is the
            end of a text.
        end_of_text: the token that stands between documents; None: the first of END_OF_TEXT_NAMES that it has.

    Raises:
        ConfigError: a file that is missing or no tokenizer, a token that it does not have.
        MissingExtraError: a file without the extra `text`.
    """
    if tokenizer == BYTES:
        if end_of_text is not None:
            raise ConfigError(f"end_of_text={end_of_text!r}: the tokenizer 'bytes' has 256 for it; leave it out")
        return Vocabulary(name=BYTES, definition="", size=_BYTE_VALUES + 1, end_of_text=_BYTE_VALUES)
    path = Path(tokenizer)
    path = path / TOKENIZER_NAME if path.is_dir() else path
    try:
        definition = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"tokenizer={str(tokenizer)!r} cannot be read ({error}); pass a {TOKENIZER_NAME}, or 'bytes'"
        ) from error
    try:
        library = _library(definition)
    except Exception as error:  # what the library raises on a definition that it does not know
        if isinstance(error, ImportError):
            raise
        raise ConfigError(f"{path} is no {TOKENIZER_NAME} of Hugging Face tokenizers ({error})") from error
    numbers = library.get_vocab(with_added_tokens=True)
    if not numbers:
        raise ConfigError(f"{path} has an empty vocabulary")
    wanted = END_OF_TEXT_NAMES if end_of_text is None else (end_of_text,)
    found = next((numbers[name] for name in wanted if name in numbers), None)
    if found is None and end_of_text is not None:
        raise ConfigError(f"end_of_text={end_of_text!r} is no token of {path}")
    return Vocabulary(name=path.name, definition=definition, size=max(numbers.values()) + 1, end_of_text=found)


def library_version() -> str:
    """Of `tokenizers`.

    Raises: MissingExtraError without the extra `text`.
    """
    return str(_tokenizers().__version__)


def _tokenizers() -> Any:
    try:
        import tokenizers
    except (ImportError, OSError) as error:
        raise missing_extra("tokenizers", "text", "a tokenizer.json") from error
    return tokenizers


@lru_cache(maxsize=4)
def _library(definition: str) -> Any:
    library = _tokenizers().Tokenizer.from_str(definition)
    library.no_padding()
    library.no_truncation()
    library.encode_special_tokens = True
    return library
