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

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastload.errors import ConfigError
from fastload.pack.checks import Facts, inspector
from fastload.pack.contents import fill
from fastload.pack.rows import RowFile, Sequences, SplitRows, TokenizedRun
from fastload.pack.splitting import Sharing
from fastload.pack.table import Int64s, Table
from fastload.pack.tasks import Task, Tell
from fastload.pack.tokenizing import text_field, tokens_name
from fastload.pack.vocabulary import Tokens, Vocabulary
from fastload.pack.workers import Pool
from fastload.shards.index import FieldInfo
from fastload.shards.members import content_extension, member_prefixes
from fastload.shards.tar import RUN_BYTES, RUN_SAMPLES

KEY_DIGITS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizeRun:
    """Tokenize documents [start, stop) of the order; gives a `TokenizedRun`."""

    number: int
    start: int
    stop: int


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
        rows = RowFile(file, sequences)
        splits = [SplitRows() for _ in sharing.names]
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
        keys=list(_keys(documents, [table.keys[order[document]] for document in documents])),
        columns={tokens: rows.column(path)},
        fields={tokens: _with_extension(tokens, info)},
        ignored=table.ignored,
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


def _keys(documents: list[int], names: list[str]) -> Iterator[str]:
    """Keys of rows, from the document that each begins with, and that one's key, which another split may have too."""
    number, last = 0, None
    for document, key in zip(documents, names, strict=True):
        number = number + 1 if document == last else 0
        last = document
        yield f"{key}-{number:0{KEY_DIGITS}d}"


def needs_end(vocabulary: Vocabulary) -> None:
    """Raise ConfigError if a vocabulary has no end of text."""
    if vocabulary.end_of_text is None:
        raise ConfigError(
            f"{vocabulary.name} has no token that usually ends a text; say which one stands between documents:"
            " end_of_text='<name>'"
        )
