"""What is to be packed, as columns: where each content comes from, how many bytes it has, what the index says of it.

Nothing but manifests' own values is read yet: a table of a million files is a list of names and a few arrays.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from fastload.errors import PackError
from fastload.pack.files import read_into
from fastload.pack.places import Places
from fastload.shards.index import FieldInfo
from fastload.shards.members import content_extension, member_prefixes, scalar_bytes

Int64s = npt.NDArray[np.int64]
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_INTEGER = re.compile(r"[+-]?\d+")


@dataclass(frozen=True, kw_only=True)
class Files:
    """One file per sample.

    Attributes:
        root: folder that the paths are relative to.
        paths: [n], with forward slashes.
        sizes: bytes, int64 [n]; -1 for a file that is not there, of a source whose faults are for cleaning to find.
        mtimes: nanoseconds, int64 [n]: so that a run that goes on notices edited files.
        types: file type ("jpg") of all, or of each.
    """

    root: str
    paths: Sequence[str]
    sizes: Int64s
    mtimes: Int64s
    types: str | Sequence[str]

    def take(self, rows: Int64s) -> Files:
        return replace(
            self,
            root=os.path.abspath(self.root),
            paths=[self.paths[row] for row in rows.tolist()],
            sizes=self.sizes[rows],
            mtimes=self.mtimes[rows],
            types=_types_of(self.types, rows),
        )


@dataclass(frozen=True, kw_only=True)
class Values:
    """A number per sample: int64, float64 or bool [n]."""

    values: npt.NDArray[np.generic]

    @cached_property
    def sizes(self) -> Int64s:
        """Bytes of each number as a tar member has it, int64 [n]."""
        distinct, inverse = np.unique(self.values, return_inverse=True)
        lengths = np.array([len(scalar_bytes(v)) for v in distinct], np.int64)
        return lengths[inverse.reshape(-1)] if len(lengths) else np.zeros(0, np.int64)

    def take(self, rows: Int64s) -> Values:
        return Values(values=self.values[rows])


@dataclass(frozen=True, kw_only=True)
class Inline:
    """Contents that are in memory, because the manifest holds them."""

    contents: Sequence[bytes]

    @cached_property
    def sizes(self) -> Int64s:
        return np.array([len(content) for content in self.contents], np.int64)

    def take(self, rows: Int64s) -> Inline:
        return Inline(contents=[self.contents[row] for row in rows.tolist()])


@dataclass(frozen=True, kw_only=True)
class Spans:
    """Pieces of one file, such as its lines.

    Attributes:
        path: of the file.
        starts, sizes: first bytes and lengths, int64 [n].
        mtime: of the file, nanoseconds.
        types: file type ("jpg") of all, or of each; "" for what has none.
        digests: XXH3-64 of each piece, uint64 [n], of a file that every run makes anew; None: its time stands for it.
    """

    path: str
    starts: Int64s
    sizes: Int64s
    mtime: int
    types: str | Sequence[str] = ""
    digests: npt.NDArray[np.uint64] | None = None

    def read(self, rows: Int64s) -> list[bytes]:
        """The pieces at some rows.

        Raises: PackError for a file that is gone, cannot be read, or has become shorter.
        """
        pieces = []
        with self.opened() as descriptor:
            for row in rows.tolist():
                piece = bytearray(int(self.sizes[row]))
                self.read_into(descriptor, row, memoryview(piece))
                pieces.append(bytes(piece))
        return pieces

    @contextmanager
    def opened(self) -> Iterator[int]:
        """A descriptor of the file; what the system refuses, then or later, is a PackError."""
        try:
            with open(self.path, "rb", buffering=0) as file:
                yield file.fileno()
        except OSError as error:
            why = error.strerror or error
            raise PackError(f"{self.path} cannot be read: {why}; run the command again once it is back") from error

    def read_into(self, descriptor: int, row: int, place: memoryview) -> None:
        """Put one piece into its place; PackError where the file ends before it."""
        start = int(self.starts[row])
        if (found := read_into(descriptor, place, start)) < len(place):
            raise PackError(
                f"{self.path} has become shorter since packing began: it has {found:,} of {len(place):,} bytes from"
                f" byte {start:,} on; run the command again"
            )

    def place(self, key: str) -> str:
        """What errors call one piece: the line of a file whose keys are line numbers."""
        return f"sample {key!r}" if self.digests is not None else f"{self.path}, line {int(key)}"

    def take(self, rows: Int64s) -> Spans:
        return replace(
            self,
            path=os.path.abspath(self.path),
            starts=self.starts[rows],
            sizes=self.sizes[rows],
            types=_types_of(self.types, rows),
            digests=None if self.digests is None else self.digests[rows],
        )


Column = Files | Values | Inline | Spans


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A sample that is not in the table: its key, where it is from, why it is left out, and that in one word."""

    key: str
    place: str
    why: str
    reason: str = "missing"


@dataclass(frozen=True, kw_only=True)
class Table:
    """All samples of a source in its natural order.

    Attributes:
        keys: [n], each once; where the source's splits are kept, once in each.
        columns: field -> where its contents come from.
        fields: field -> what the index says of it; the same names in the same order.
        ignored: files of a folder that are no samples.
        numbers: what errors call the rows, from 1, where some of the source are left out; None: all in order.
        left_out: samples that are left out already; None for a source whose samples cannot lack a value.
        splits: the split that the source has each sample in, [n]; None where its names do not say.
        places: where each sample of a stream is from, [n]; None where its columns tell.
    """

    keys: Sequence[str]
    columns: Mapping[str, Column]
    fields: Mapping[str, FieldInfo]
    ignored: Sequence[str] = ()
    numbers: Sequence[int] | None = None
    left_out: tuple[LeftOut, ...] | None = None
    splits: Sequence[str] | None = None
    places: Places | None = None

    def take(self, rows: Int64s) -> Table:
        """Some of the samples, in the order of `rows`, with absolute paths: a table that can be sent elsewhere."""
        return replace(
            self,
            keys=[self.keys[row] for row in rows.tolist()],
            columns={name: column.take(rows) for name, column in self.columns.items()},
            numbers=None if self.numbers is None else [self.numbers[row] for row in rows.tolist()],
            splits=None if self.splits is None else [self.splits[row] for row in rows.tolist()],
            places=None if self.places is None else self.places.take(rows.tolist()),
        )

    @property
    def pictures(self) -> tuple[str, ...]:
        """The fields that may hold JPEGs."""
        return tuple(name for name, info in self.fields.items() if info.kind == "image")

    @cached_property
    def endings(self) -> dict[str, str | list[str]]:
        """Field -> what follows the key and the dot in a tar, for all samples or for each."""
        prefixes = member_prefixes(self.fields)
        endings: dict[str, str | list[str]] = {}
        for name, column in self.columns.items():
            types = file_types(column)
            if isinstance(types, str):
                endings[name] = prefixes[name] + content_extension(self.fields[name], types)
            else:
                by_type = {t: prefixes[name] + content_extension(self.fields[name], t) for t in set(types)}
                each = [by_type[t] for t in types]
                endings[name] = each if len(set(by_type.values())) > 1 else each[0]
        return endings


def _types_of(types: str | Sequence[str], rows: Int64s) -> str | Sequence[str]:
    return types if isinstance(types, str) else [types[row] for row in rows.tolist()]


def file_types(column: Column) -> str | Sequence[str]:
    """File type of all contents of a column, or of each; "" where they have none."""
    return column.types if isinstance(column, Files | Spans) else ""


def check_keys(keys: Sequence[str], place: Callable[[int], str], splits: Sequence[str] | None = None) -> None:
    """Every key once, UTF-8, and without control characters, which tools that list or extract archives trip over.

    Args:
        keys: [n].
        place: what errors call the origin of a row's key.
        splits: in each of which a key may be once, [n]; None: it may be once in all.

    Raises:
        PackError: naming the place of a key that cannot be one, or both places of one that comes twice.
    """
    for row, why in _key_faults(keys, place, splits):
        raise PackError(f"{_printable(place(row))}: {why}")


def settled(
    table: Table,
    place: Callable[[int], str],
    faulty: bool,
    others: Mapping[int, str] | None = None,
    *,
    by_split: bool = False,
) -> Table:
    """The table with keys that `check_keys` takes.

    Args:
        table: of the source.
        place: what errors call a row.
        faulty: samples with other keys, or other faults, are left out, and no error.
        others: row -> another fault of it.
        by_split: the splits of the source are kept, and a key may be in each of them.

    Raises: PackError for a fault that is an error, or where no sample is left.
    """
    splits = table.splits if by_split else None
    if not faulty:
        for row, why in sorted((others or {}).items()):
            raise PackError(f"{_printable(place(row))}: {why}")
        check_keys(table.keys, place, splits)
        return table
    faults = dict(others or {})
    faults |= dict(_key_faults(table.keys, place, splits, faults))
    if not faults:
        return table
    left_out = [
        LeftOut(key=table.keys[row], place=_printable(place(row)), why=why, reason="unreadable")
        for row, why in sorted(faults.items())
    ]
    if len(left_out) == len(table.keys):
        raise PackError(f"none of {len(left_out):,} samples can be read: {left_out[0].place}: {left_out[0].why}, ...")
    kept = np.array([row for row in range(len(table.keys)) if row not in faults], np.int64)
    return replace(table.take(kept), left_out=(*(table.left_out or ()), *left_out))


def _key_faults(
    keys: Sequence[str], place: Callable[[int], str], splits: Sequence[str] | None, others: Collection[int] = ()
) -> Iterator[tuple[int, str]]:
    """Rows whose keys cannot be theirs, and why; `others` have none, being left out in any case."""
    named: Sequence[object] = keys if splits is None else list(zip(splits, keys, strict=True))
    if len(set(named)) == len(keys) and _is_plain("".join(keys)):
        return
    first: dict[object, int] = {}
    for row, key in enumerate(keys):
        if row in others:
            continue
        if not _is_plain(key):
            wrong = "has control characters" if _CONTROL.search(key) else "is not UTF-8"
            yield row, f"the key {key!r} {wrong}; rename it"
        elif first.setdefault(named[row], row) != row:
            other = place(first[named[row]])
            hint = "a key is the path without its extension, dots in the name count as '_'"
            yield row, f"the key {key!r} is that of {other} too; rename one ({hint})"


def _printable(place: str) -> str:
    return place.encode("utf-8", "backslashreplace").decode()


def _is_plain(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return _CONTROL.search(text) is None


def with_extensions(columns: Mapping[str, Column], fields: Mapping[str, FieldInfo]) -> dict[str, FieldInfo]:
    """The fields, with the ending of their members where all share one."""
    prefixes = member_prefixes(fields)
    found = {}
    for name, info in fields.items():
        types = file_types(columns[name])
        ending = prefixes[name] + content_extension(info, types) if isinstance(types, str) else None
        found[name] = replace(info, extension=ending)
    return found


def class_table(names: Sequence[str]) -> tuple[tuple[str, ...], Int64s]:
    """Class names in order, and the number of each given name's class, int64 [n]. All-integer names sort as numbers."""
    distinct = sorted(set(names))
    if all(_INTEGER.fullmatch(name) for name in distinct):
        distinct.sort(key=int)
    numbers = {name: number for number, name in enumerate(distinct)}
    return tuple(distinct), np.array([numbers[name] for name in names], np.int64)


def label_info(classes: tuple[str, ...]) -> FieldInfo:
    """The field of a class label."""
    return FieldInfo(kind="scalar", dtype="int64", classes=classes, extension="cls")


def one_or_all(types: Sequence[str]) -> str | Sequence[str]:
    """The type that all share, or each one's."""
    return types[0] if len(set(types)) == 1 else types
