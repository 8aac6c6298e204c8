"""What a worker finds out about contents before packing: whether they can be read, their digests, facts, likenesses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from fastload.decode.clips import open_clip
from fastload.decode.headers import read_header
from fastload.decode.pixels import decode_pixels
from fastload.errors import DecodeError, PackError
from fastload.pack.checks import FACTS, Facts, inspector
from fastload.pack.contents import fill
from fastload.pack.findings import Findings
from fastload.pack.likeness import SIGNATURE, THUMB_BYTES, picture_likeness, text_signature
from fastload.pack.table import Files, Int64s, Table, Values
from fastload.pack.tasks import Tell
from fastload.shards.index import Kind
from fastload.shards.tar import RUN_BYTES, RUN_SAMPLES


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """What is to be found out.

    Attributes:
        full: decode pictures and sounds.
        compare: the fields whose contents make the digest.
        pictures: the fields whose perceptual hash and thumbnail are wanted.
        texts: the fields whose texts, one after the other, make the signature.
        rest: the fields whose contents make a second digest.
    """

    full: bool
    compare: tuple[str, ...]
    pictures: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    rest: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """Look at samples [start, stop) of the table; gives `Findings`. Surveys are numbered from 0."""

    number: int
    start: int
    stop: int


class Surveyor:
    """Carries out `Survey` tasks of one table."""

    def __init__(self, table: Table, questions: Questions) -> None:
        self.table = table
        self.questions = questions

    def carry_out(self, task: Survey, tell: Tell) -> Findings:
        """Look at some samples. A sample that cannot be read is in the findings, and no error.

        Raises:
            PackError: a source that holds all samples is gone or has changed.
            MissingExtraError: what reads a kind of sound is not installed.
        """
        parts = []
        sizes = content_sizes(self.table, task.start, task.stop)
        for start, stop in pieces(sizes, RUN_BYTES, RUN_SAMPLES):
            parts.append(self._look_at(np.arange(task.start + start, task.start + stop, dtype=np.int64)))
            tell(stop - start, int(sizes[start:stop].sum()))
        return Findings.joined(parts)

    def _look_at(self, rows: Int64s) -> Findings:
        try:
            return _Run(self.table, self.questions, rows).findings()
        except PackError as error:  # a file is gone, has changed or may not be read: looking one by one tells which
            if not any(isinstance(column, Files) for column in self.table.columns.values()):
                raise
            if len(rows) > 1:
                return Findings.joined(self._look_at(rows[at : at + 1]) for at in range(len(rows)))
            return Findings(
                faults={0: error.message.partition(";")[0]},
                values=_blank(self.table, self.questions, len(rows)),
                passing=True,
            )


def content_sizes(table: Table, start: int, stop: int) -> Int64s:
    """Bytes of the contents of samples [start, stop), numbers left out; what is missing has none."""
    total = np.zeros(stop - start, np.int64)
    for name in _content_fields(table):
        total += table.columns[name].sizes[start:stop].clip(0)
    return total


def pieces(sizes: Int64s, most_bytes: int, most_samples: int) -> Iterator[tuple[int, int]]:
    """[start, stop) of consecutive samples that are together within both limits, or are one sample."""
    ends, start = np.cumsum(sizes), 0
    while start < len(sizes):
        before = int(ends[start - 1]) if start else 0
        stop = max(int(np.searchsorted(ends, before + most_bytes, "right")), start + 1)
        stop = min(stop, start + most_samples, len(sizes))
        yield start, stop
        start = stop


class _Run:
    """Some samples that are in memory together; their numbers count from 0."""

    def __init__(self, table: Table, questions: Questions, rows: Int64s) -> None:
        self._table = table
        self._asked = questions
        self._rows = rows
        self._faults: dict[int, str] = {}
        self._values = _blank(table, questions, len(rows))
        self._digests = [xxhash.xxh3_128() for _ in rows]
        self._rest = [xxhash.xxh3_128() for _ in rows] if questions.rest else []
        self._words: list[list[str]] = [[] for _ in rows]

    def findings(self) -> Findings:
        names = _content_fields(self._table)
        for name in names:
            self._find_empty(name)
        there = np.array([at for at in range(len(self._rows)) if at not in self._faults], np.int64)
        for name in names:
            for at, content in self._read(name, there):
                self._look(name, at, content)
        for at in there.tolist():
            self._values["digest"][at] = np.frombuffer(self._digests[at].digest(), np.uint8)
            if self._rest:
                self._values["rest"][at] = np.frombuffer(self._rest[at].digest(), np.uint8)
            if self._asked.texts:
                self._values["signature"][at] = text_signature("\n".join(self._words[at]))
        for values in self._values.values():
            values[list(self._faults)] = 0
        return Findings(faults=self._faults, values=self._values)

    def _find_empty(self, name: str) -> None:
        column = self._table.columns[name]
        if isinstance(column, Files):
            for at in np.flatnonzero(column.sizes[self._rows] <= 0).tolist():
                missing = column.sizes[self._rows[at]] < 0
                self._fault(at, name, "there is no such file" if missing else "the file is empty (0 bytes)")

    def _fault(self, at: int, name: str, why: str) -> None:
        self._faults.setdefault(at, f"{name}: {why}")

    def _read(self, name: str, there: Int64s) -> Iterator[tuple[int, memoryview]]:
        """Contents of one field by number; those that are faulty are noted and left out."""
        rows, listed = self._rows[there], there.tolist()
        sizes = self._table.columns[name].sizes[rows]
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        view = memoryview(bytearray(int(starts[-1]) + 1))
        look = _Lenient(self._table.fields[name].kind, self._asked.full)
        for fact, values in fill(self._table, name, rows, view, starts[:-1], look).items():
            self._values[fact][there] = values
        for number, why in look.faults.items():
            self._fault(listed[number], name, why)
        for number, at in enumerate(listed):
            if at not in self._faults:
                yield at, view[int(starts[number]) : int(starts[number + 1])]

    def _look(self, name: str, at: int, content: memoryview) -> None:
        """What one content adds to what is known of its sample."""
        if name in self._asked.compare:
            _add(self._digests[at], content)
        if name in self._asked.rest:
            _add(self._rest[at], content)
        if self._table.fields[name].kind == "text":
            text = str(content, "utf-8")
            self._values[f"{name}.characters"][at] = len(text)
            if name in self._asked.texts:
                self._words[at].append(text)
        if name in self._asked.pictures:
            try:
                likeness = picture_likeness(content)
                self._values[f"{name}.phash"][at], self._values[f"{name}.thumbnail"][at] = likeness
            except DecodeError as error:
                self._fault(at, name, error.message)


def _add(digest: xxhash.xxh3_128, content: memoryview) -> None:
    """One content of several: with its length, so that no other way to cut them gives the same."""
    digest.update(len(content).to_bytes(8, "little"))
    digest.update(content)


def _content_fields(table: Table) -> list[str]:
    return [name for name, column in table.columns.items() if not isinstance(column, Values)]


def _blank(table: Table, questions: Questions, count: int) -> dict[str, npt.NDArray[Any]]:
    """Zeros for all that is to be found out about some samples."""
    values: dict[str, npt.NDArray[Any]] = {"digest": np.zeros((count, 16), np.uint8)}
    for name in _content_fields(table):
        kind = table.fields[name].kind
        for fact in (*FACTS.get(kind, ()), *(("characters",) if kind == "text" else ())):
            values[f"{name}.{fact}"] = np.zeros(count, np.int64)
    for name in questions.pictures:
        values[f"{name}.phash"] = np.zeros(count, np.uint64)
        values[f"{name}.thumbnail"] = np.zeros((count, THUMB_BYTES), np.uint8)
    if questions.texts:
        values["signature"] = np.zeros((count, SIGNATURE), np.uint32)
    if questions.rest:
        values["rest"] = np.zeros((count, 16), np.uint8)
    return values


class _Lenient:
    """Looks at contents one after the other, and remembers faults instead of raising them.

    Attributes:
        faults: number of the content, in the order of looking -> why it cannot be used.
    """

    def __init__(self, kind: Kind, full: bool) -> None:
        self.faults: dict[int, str] = {}
        self._look = inspector(kind)
        self._decode = _DECODERS.get(kind) if full else None
        self._nothing: Facts = (0,) * len(FACTS.get(kind, ()))
        self._looked = 0

    def __call__(self, raw: memoryview) -> Facts:
        number, self._looked = self._looked, self._looked + 1
        try:
            facts = self._look(raw)
            if self._decode is not None:
                self._decode(raw)
            return facts
        except DecodeError as error:
            self.faults[number] = error.message
            return self._nothing


def _decode_picture(raw: memoryview) -> None:
    header = read_header(raw)
    decode_pixels(raw, header, "I;16" if header.kind == "tiff" else "RGB")  # which takes numbers of 32 bits as well


def _decode_sound(raw: memoryview) -> None:
    clip = open_clip(raw)
    clip.read(0, clip.frames)


_DECODERS: Mapping[Kind, Callable[[memoryview], None]] = {"image": _decode_picture, "audio": _decode_sound}
