"""Texts as token numbers on their way into a shard, one row for each text. sequences.py makes rows of one length."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fastload.errors import ConfigError
from fastload.pack.checks import Facts
from fastload.pack.steps import Outcome
from fastload.pack.table import Table
from fastload.pack.tally import Counts
from fastload.pack.vocabulary import Tokens, Vocabulary
from fastload.shards.index import FieldInfo
from fastload.shards.members import DEFAULT_NAMES, content_extension, member_prefixes

_ALIGNMENT = 64  # numpy's, of the header of a .npy


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenize:
    """The step that makes a .npy of token numbers of a text."""

    vocabulary: Vocabulary

    name = "tokens"

    def __call__(self, raw: memoryview, facts: Facts) -> Outcome:
        tokens = self.vocabulary.encode(raw)
        data = as_row(tokens)
        return Outcome(data=data, sums={"bytes_before": len(raw), "bytes_after": len(data), "tokens": len(tokens)})

    def about(self, counts: Counts) -> dict[str, Any]:
        """Counts, bytes before and after, and tokens."""
        return counts.to_json("tokenized")


def npy_head(dtype: np.dtype[Any], count: int) -> bytes:
    """What stands before the numbers of a row in a .npy, as numpy writes it (format 1.0)."""
    about = f"{{'descr': '{dtype.newbyteorder('<').str}', 'fortran_order': False, 'shape': ({count},), }}".encode()
    padding = -(10 + len(about) + 1) % _ALIGNMENT
    return b"\x93NUMPY\1\0" + (len(about) + padding + 1).to_bytes(2, "little") + about + b" " * padding + b"\n"


def text_field(table: Table, wanted: str | None) -> str:
    """The field whose texts are tokenized: the one that is wanted, else "text", else the only one.

    Raises: ConfigError where there is none, or several and none is called "text".
    """
    texts = [name for name, info in table.fields.items() if info.kind == "text"]
    if wanted is not None:
        if wanted not in texts:
            known = ", ".join(map(repr, texts)) or "none"
            raise ConfigError(f"text={wanted!r} is no field of texts; those are {known}")
        return wanted
    if not texts:
        kinds = ", ".join(f"{name!r} ({info.kind})" for name, info in table.fields.items())
        raise ConfigError(f"a tokenizer needs texts; the source has {kinds}")
    if DEFAULT_NAMES["text"] in texts:
        return DEFAULT_NAMES["text"]
    if len(texts) > 1:
        raise ConfigError(f"{', '.join(map(repr, texts))} are all texts; say which becomes tokens: text={texts[0]!r}")
    return texts[0]


def with_tokens(table: Table, name: str, vocabulary: Vocabulary) -> tuple[Table, str]:
    """The table with tokens in place of a field of texts, and what that field is then called.

    "text" becomes "tokens", "caption" becomes "caption_tokens".

    Raises: ConfigError where there is a field of that name already.
    """
    tokens = tokens_name(name)
    if tokens in table.fields:
        raise ConfigError(f"tokens of {name!r} would be the field {tokens!r}, which the source has already; rename it")
    info = FieldInfo(kind="tokens", dtype=vocabulary.dtype)
    fields = {tokens if n == name else n: info if n == name else about for n, about in table.fields.items()}
    ending = member_prefixes(fields)[tokens] + content_extension(info)
    fields[tokens] = replace(info, extension=ending)
    columns = {tokens if n == name else n: column for n, column in table.columns.items()}
    return replace(table, columns=columns, fields=fields), tokens


def tokens_name(name: str) -> str:
    """What the tokens of a field of texts are called."""
    return DEFAULT_NAMES["tokens"] if name == DEFAULT_NAMES["text"] else f"{name}_tokens"


def as_row(tokens: Tokens) -> bytes:
    """Tokens as a .npy."""
    return npy_head(tokens.dtype, len(tokens)) + tokens.tobytes()
