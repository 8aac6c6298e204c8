"""Rows of one length, cut out of a stream of tokens and written one after the other (sequences.py makes the stream)."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import xxhash

from fastload.errors import PackError
from fastload.pack.table import Int64s, Spans
from fastload.pack.tokenizing import npy_head
from fastload.pack.vocabulary import Tokens, Vocabulary

LastRow = Literal["drop", "pad"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequences:
    """What rows to make.

    Attributes:
        vocabulary: with an end of text.
        length: tokens in a row.
        last: "drop" leaves out the last tokens of a split, fewer than a row; "pad" fills up with ends of text.
        text: the field of the documents' texts; None: "text", or the only one.
    """

    vocabulary: Vocabulary
    length: int
    last: LastRow
    text: str | None = None

    @property
    def end(self) -> int:
        assert self.vocabulary.end_of_text is not None
        return self.vocabulary.end_of_text


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizedRun:
    """Tokens of some documents, one after the other, an end of text after each; and how many each has with it."""

    tokens: Tokens
    lengths: Int64s


class RowFile:
    """The file of rows, each a .npy of the same size."""

    def __init__(self, file: BinaryIO, sequences: Sequences) -> None:
        self._file = file
        self.sequences = sequences
        self._dtype = np.dtype(sequences.vocabulary.dtype).newbyteorder("<")
        self._head = np.frombuffer(npy_head(self._dtype, sequences.length), np.uint8)
        self._digests: list[int] = []

    @property
    def length(self) -> int:
        return self.sequences.length

    @property
    def _row_bytes(self) -> int:
        return len(self._head) + self.length * self._dtype.itemsize

    def write(self, tokens: npt.NDArray[Any]) -> None:
        """Append rows, [k, length]."""
        contents = np.empty((len(tokens), self._row_bytes), np.uint8)
        contents[:, : len(self._head)] = self._head
        contents[:, len(self._head) :] = np.ascontiguousarray(tokens, self._dtype).view(np.uint8)
        self._digests += [xxhash.xxh3_64_intdigest(row.data) for row in contents]
        self._file.write(contents.data)

    def column(self, path: Path) -> Spans:
        """Where the rows are, once the file is closed."""
        count = len(self._digests)
        return Spans(
            path=os.path.abspath(path),  # workers on other machines are elsewhere
            starts=np.arange(count, dtype=np.int64) * self._row_bytes,
            sizes=np.full(count, self._row_bytes, np.int64),
            mtime=path.stat().st_mtime_ns,
            digests=np.array(self._digests, np.uint64),
        )


@dataclass(slots=True)
class SplitRows:
    """One split on its way into rows.

    Attributes:
        documents: of each row, the document that it begins with, a place in the order.
        rest, rest_documents: tokens that are in no row yet, and of each the document.
        joined, tokens: documents so far, and tokens with an end of text for each.
        ends: how many of the tokens are ends of text; more than documents if texts hold some.
        padding, dropped: tokens that were added to the last row, or were too few for one.
    """

    documents: list[int] = field(default_factory=list)
    rest: npt.NDArray[Any] | None = None
    rest_documents: Int64s = field(default_factory=lambda: np.zeros(0, np.int64))
    joined: int = 0
    tokens: int = 0
    ends: int = 0
    padding: int = 0
    dropped: int = 0

    def add(self, run: TokenizedRun, first: int, rows: RowFile) -> None:
        """Take the documents that begin with place `first` of the order."""
        documents = np.repeat(np.arange(first, first + len(run.lengths)), run.lengths)
        tokens = run.tokens if self.rest is None else np.concatenate([self.rest, run.tokens])
        documents = np.concatenate([self.rest_documents, documents])
        self.joined += len(run.lengths)
        self.tokens += len(run.tokens)
        self.ends += int((run.tokens == rows.sequences.end).sum())
        whole = len(tokens) // rows.length * rows.length
        rows.write(tokens[:whole].reshape(-1, rows.length))
        self.documents += documents[: whole : rows.length].tolist()
        self.rest, self.rest_documents = tokens[whole:].copy(), documents[whole:].copy()

    def finish(self, rows: RowFile) -> None:
        """Do with the last tokens what was asked for."""
        if self.rest is None or not len(self.rest):
            return
        if rows.sequences.last == "drop":
            self.dropped = len(self.rest)
            return
        self.padding = rows.length - len(self.rest)
        filled = np.full(rows.length, rows.sequences.end, self.rest.dtype)
        filled[: len(self.rest)] = self.rest
        rows.write(filled[None])
        self.documents.append(int(self.rest_documents[0]))

    def counts(self, sequences: Sequences, split: str) -> dict[str, int]:
        """What became of the split.

        Raises: PackError if it has no row.
        """
        if not self.documents:
            raise PackError(
                f"the split {split!r} has {self.tokens} tokens, fewer than one row of {sequences.length}; shorten the"
                " rows, or pass last_row='pad'"
            )
        counts = {"documents": self.joined, "tokens": self.tokens, "rows": len(self.documents)}
        counts |= {"dropped_tokens": self.dropped, "padding_tokens": self.padding}
        spelt = self.ends - self.joined
        return counts | ({"end_of_text_inside_documents": spelt} if spelt else {})
