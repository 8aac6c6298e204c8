"""Documents joined into rows of one length, for language models: a table of rows in place of a table of texts.

    documents, by split -> tokens, end of text after each (workers) -> cut every `length` tokens -> rows in one file

Shards are planned before anything is read, and how many rows there are shows only when all is tokenized. So that is
done first, once, into a file inside the output folder that is deleted at the end: it takes the space of all rows once
more. A run that goes on tokenizes again, and keeps the shards whose rows are the same.

Documents are joined in the order of the source, those of one split only. Rows are full: every token of every document
is in one, but for the last tokens of a split, fewer than `length`, which are dropped or filled up. A row is cut
anywhere; where documents end is where the end of text stands, which no text spells (see `vocabulary`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import xxhash

from fastload.errors import ConfigError, PackError
from fastload.pack.checks import Facts, inspector
from fastload.pack.contents import fill
from fastload.pack.splitting import Sharing
from fastload.pack.table import Int64s, Spans, Table
from fastload.pack.tasks import Task, Tell
from fastload.pack.tokenizing import npy_head, text_field, tokens_name
from fastload.pack.vocabulary import Tokens, Vocabulary
from fastload.pack.workers import Pool
from fastload.shards.index import FieldInfo
from fastload.shards.members import content_extension, member_prefixes
from fastload.shards.tar import RUN_BYTES, RUN_SAMPLES

LastRow = Literal["drop", "pad"]
KEY_DIGITS = 6


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
class TokenizeRun:
    """Tokenize documents [start, stop) of the order; gives a `TokenizedRun`."""

    number: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizedRun:
    """Tokens of some documents, one after the other, an end of text after each; and how many each has with it."""

    tokens: Tokens
    lengths: Int64s


class Tokenizer:
    """Carries out `TokenizeRun` tasks.

    Args:
        table: the documents.
        name: the field of their texts.
        order: rows of the table, int64 [m].
        sequences: what rows to make.
    """

    def __init__(self, table: Table, name: str, order: Int64s, sequences: Sequences) -> None:
        self.table = table
        self.name = name
        self.order = order
        self.sequences = sequences

    def carry_out(self, task: TokenizeRun, tell: Tell) -> TokenizedRun:
        """Read and tokenize some documents.

        Raises: PackError: a text that is gone, has changed, cannot be read, or is not UTF-8.
        """
        rows, vocabulary = self.order[task.start : task.stop], self.sequences.vocabulary
        sizes = self.table.columns[self.name].sizes[rows]
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        buffer = np.empty(int(starts[-1]) + 1, np.uint8)
        end = np.array([self.sequences.end], vocabulary.dtype)
        check = inspector("text")
        parts: list[Tokens] = []
        lengths: list[int] = []

        def look(raw: memoryview) -> Facts:
            facts, tokens = check(raw), vocabulary.encode(raw)
            parts.extend((tokens, end))
            lengths.append(len(tokens) + 1)
            return facts

        fill(self.table, self.name, rows, buffer.data, starts[:-1], look)
        tell(len(rows), len(buffer) - 1)
        return TokenizedRun(tokens=np.concatenate(parts), lengths=np.array(lengths, np.int64))


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """Rows in place of documents.

    Attributes:
        table, sharing: of the rows.
        counts: split -> documents, tokens, rows, what was dropped or padded; JSON values.
        left_out: fields of the documents that rows do not have.
    """

    table: Table
    sharing: Sharing
    counts: dict[str, dict[str, int]]
    left_out: tuple[str, ...]


def join_documents(
    table: Table,
    sharing: Sharing,
    sequences: Sequences,
    *,
    path: Path,
    open_pool: Callable[[Tokenizer, int], Pool],
    tell: Tell,
) -> Joined:
    """Tokenize documents and join them into rows.

    The key of a row is that of the document it begins with, and the number of the row among those, from 0:
    "wiki/a-000000".

    Args:
        table: the documents.
        sharing: which of them are packed, and into which split.
        sequences: what rows to make.
        path: of the file of rows; one that is there is written anew.
        open_pool: what tokenizes, from what and in how many pieces at most.
        tell: called with documents and bytes as they are done.

    Raises:
        ConfigError: the documents have no field of texts, or several.
        PackError: a text that cannot be read, or a split that has fewer tokens than a row.
        OSError: the file cannot be written.
    """
    name = text_field(table, sequences.text)
    places = np.argsort(sharing.numbers, kind="stable")
    order, split_of = sharing.rows[places], sharing.numbers[places]
    tasks = list(_tasks(table.columns[name].sizes[order], split_of))
    with open(path, "wb") as file:
        rows = _Rows(file, sequences)
        splits = [_Split() for _ in sharing.names]
        waiting: dict[int, TokenizedRun] = {}
        done = 0

        def take(task: Any, result: TokenizedRun) -> Iterable[Task]:
            nonlocal done
            waiting[task.number] = result
            while done in waiting:  # rows are cut in order, whichever worker is first
                first = tasks[done].start
                splits[int(split_of[first])].add(waiting.pop(done), first, rows)
                done += 1
                if done == len(tasks) or split_of[tasks[done].start] != split_of[first]:
                    splits[int(split_of[first])].finish(rows)
            return ()

        with open_pool(Tokenizer(table, name, order, sequences), len(tasks)) as pool:
            pool.run(iter(tasks), take, tell)  # type: ignore[arg-type]
    counts = {split: found.counts(sequences, split) for split, found in zip(sharing.names, splits, strict=True)}
    documents = [document for split in splits for document in split.documents]
    tokens = tokens_name(name)
    info = FieldInfo(kind="tokens", dtype=sequences.vocabulary.dtype)
    made = Table(
        keys=list(_keys([table.keys[order[document]] for document in documents])),
        columns={tokens: rows.column(path)},
        fields={tokens: _with_extension(tokens, info)},
        ignored_files=table.ignored_files,
    )
    numbers = np.repeat(np.arange(len(splits)), [len(split.documents) for split in splits])
    return Joined(
        table=made,
        sharing=Sharing(names=sharing.names, rows=np.arange(len(documents)), numbers=numbers),
        counts=counts,
        left_out=tuple(other for other in table.fields if other != name),
    )


def _with_extension(name: str, info: FieldInfo) -> FieldInfo:
    ending = member_prefixes({name: info})[name] + content_extension(info)
    return FieldInfo(kind=info.kind, dtype=info.dtype, extension=ending)


def _tasks(sizes: Int64s, split_of: Int64s) -> Iterator[TokenizeRun]:
    """Documents in pieces of one split each, [start, stop) of the order."""
    ends = np.cumsum(sizes)
    start = number = 0
    while start < len(sizes):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + RUN_BYTES, "right")))
        stop = min(stop, start + RUN_SAMPLES, int(np.searchsorted(split_of, split_of[start], "right")))
        yield TokenizeRun(number=number, start=start, stop=stop)
        start, number = stop, number + 1


def _keys(documents: list[str]) -> Iterator[str]:
    number, last = 0, None
    for key in documents:
        number = number + 1 if key == last else 0
        last = key
        yield f"{key}-{number:0{KEY_DIGITS}d}"


class _Rows:
    """The file of rows, each a .npy of the same size."""

    def __init__(self, file: BinaryIO, sequences: Sequences) -> None:
        self._file = file
        self._sequences = sequences
        self._dtype = np.dtype(sequences.vocabulary.dtype).newbyteorder("<")
        self._head = np.frombuffer(npy_head(self._dtype, sequences.length), np.uint8)
        self._digests: list[int] = []

    @property
    def length(self) -> int:
        return self._sequences.length

    @property
    def sequences(self) -> Sequences:
        return self._sequences

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
class _Split:
    """One split on its way into rows.

    Attributes:
        documents: of each row, the document that it begins with, a place in the order.
        rest: tokens that are in no row yet, and of each the document.
    """

    documents: list[int] = field(default_factory=list)
    rest: npt.NDArray[Any] | None = None
    rest_documents: Int64s = field(default_factory=lambda: np.zeros(0, np.int64))
    joined: int = 0
    tokens: int = 0
    ends: int = 0
    padding: int = 0
    dropped: int = 0

    def add(self, run: TokenizedRun, first: int, rows: _Rows) -> None:
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

    def finish(self, rows: _Rows) -> None:
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


def needs_end(vocabulary: Vocabulary) -> None:
    """Raise ConfigError if a vocabulary has no end of text."""
    if vocabulary.end_of_text is None:
        raise ConfigError(
            f"{vocabulary.name} has no token that usually ends a text; say which one stands between documents:"
            " end_of_text='<name>'"
        )
