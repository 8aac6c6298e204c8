"""A stream of samples becomes a table: contents go to one file, where they have a place and a size.

Shards are planned before any content is read, which needs every size; a stream tells one only when it has been read. So
it is read once, in order, into a file inside the output folder that is deleted with the run's journal: it takes the
space of all contents once more, and each is written and read once more. Numbers stay in memory. In return sources of
every kind are split, sharded and made crop-seekable alike, by any number of workers.

A run that goes on reads the stream again, and keeps the shards whose samples have the contents that they had.
"""

from __future__ import annotations

import os
import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from fastload.errors import DecodeError, PackError
from fastload.pack.checks import inspector
from fastload.pack.missing import STRICT, Lenience, StreamMender
from fastload.pack.places import Places
from fastload.pack.streams import KEY_DIGITS, LEAVE_OUT, Stream, split_key
from fastload.pack.table import (
    Column,
    LeftOut,
    Spans,
    Table,
    Values,
    class_table,
    label_info,
    one_or_all,
    settled,
    with_extensions,
)
from fastload.pack.tasks import Tell
from fastload.pack.values import Unfit, Unlike, Value, encoded, field_of, refuse_blank, unlike
from fastload.shards.index import FieldInfo
from fastload.shards.members import DEFAULT_NAMES
from fastload.shards.tar import write_all

_BUFFER_BYTES = 1 << 20
_TOLD_SAMPLES = 64
_INT64 = range(-(1 << 63), 1 << 63)
_Number = bool | int | float


def spool(stream: Stream, path: Path, tell: Tell, lenience: Lenience = STRICT, *, keep_splits: bool = False) -> Table:
    """Read a stream into a file; its table.

    Text in a field "label" is the name of a class, as in a manifest. Numbers that are whole in some samples and not in
    others are float64.

    Args:
        stream: what to read.
        path: of the file; one that is there is written anew.
        tell: called with the samples and bytes that were read since the last call.
        lenience: whether contents may be damaged, for cleaning to find; what to do about missing values.
        keep_splits: those of the source are taken over, and a key may be in each of them.

    Raises:
        ConfigError: something to fill that is no field.
        PackError: no samples, one with other fields than the first, a first one that most others do not fit; where that
            is an error, one that cannot be read or lacks a value, values of other types than the first one's, damaged
            contents, keys that clash; or the file cannot be written.
    """
    keys: list[str] = []
    numbers = array("q")  # of the samples in the source, from 1
    splits: list[str | None] = []
    places = Places()
    columns: dict[str, _Collector] = {}
    odd: list[LeftOut] = []  # unlike the first that is kept
    told = 0
    with open(path, "wb", buffering=0) as opened:
        file, mender = _File(opened, lenience.faulty), StreamMender(lenience)
        for number, sample in enumerate(stream.read(), 1):
            key = f"{number:0{KEY_DIGITS}d}"
            try:
                key, values = split_key(sample.values, number)
                if not mender.mended(sample, key, values, columns):
                    continue
                _add(values, columns, file, before=len(keys), mender=mender)
            except _Unwritable:
                raise
            except (Unfit, DecodeError) as error:
                if not lenience.faulty:
                    raise PackError(f"{sample.where}: {error.message}; {LEAVE_OUT}") from error
                if not keys:
                    columns.clear()  # which are those of the first sample that is kept
                mender.leave_out(sample, key, error.message)
                if keys and isinstance(error, Unlike):
                    odd.append(mender.left_out[-1])
                continue
            except PackError as error:
                raise PackError(f"{sample.where}: {error.message}") from error
            mender.keep()
            keys.append(key)
            numbers.append(number)
            splits.append(sample.split)
            places.append(sample.place or sample.where)
            if number % _TOLD_SAMPLES == 0:
                tell(_TOLD_SAMPLES, file.size - told)
                told = file.size
        file.flush()
        tell(len(keys) % _TOLD_SAMPLES, file.size - told)
    if not keys:
        raise PackError(f"{stream.name} has no samples{_first(mender.left_out)}")
    if not columns:
        raise PackError(f"{stream.name}: its samples have a key and no field")
    if len(odd) > len(keys):
        raise _odd_first(stream.name, places[0], len(keys), odd)
    mender.check()
    about = path.stat()
    made = {name: column.finish(path, about, stream.classes.get(name)) for name, column in columns.items()}
    fields = {name: info for name, (_, info) in made.items()}
    contents = {name: column for name, (column, _) in made.items()}
    extended = with_extensions(contents, fields)
    table = Table(
        keys=keys,
        columns=contents,
        fields=extended,
        ignored=stream.ignored,
        numbers=numbers,
        left_out=tuple(mender.left_out),
        splits=[split or "" for split in splits] if any(splits) else None,
        places=places,
    )
    return settled(table, places.__getitem__, lenience.faulty, _unnamed(table), by_split=keep_splits)


def _add(
    values: Mapping[str, Value], columns: dict[str, _Collector], file: _File, before: int, mender: StreamMender
) -> None:
    """Add one sample.

    Args:
        values: of its fields.
        columns: of the samples before; the first makes them.
        file: where contents go.
        before: how many samples there are.
        mender: says which values stand for missing ones, and what stands for those that all samples before lack: only
            now its type is known.
    """
    if not before:
        columns.update({name: _collector(name, value, file) for name, value in values.items()})
    if values.keys() != columns.keys():
        raise _other_fields(values, columns)
    # all are looked at before one is added: a sample that is left out leaves nothing behind
    anew = {name: _collector(name, values[name], file) for name in mender.retyped}
    collectors = {**columns, **anew}
    taken: dict[str, Any] = {}
    for name, value in values.items():
        column = collectors[name]
        taken[name] = _filler(column, name, value) if name in mender.filled else column.checked(name, value)
    for name, column in anew.items() if before else ():
        filler = _filler(column, name, mender.retyped[name])
        for _ in range(before):
            column.add(filler)
    columns.update(anew)
    for name, one in taken.items():
        columns[name].add(one)


def _filler(column: _Collector, name: str, value: Value) -> Any:
    """What stands for missing values, as `add` takes it. That it does not fit is no fault of a sample, which it would
    be left out for."""
    try:
        return column.checked(name, value)
    except (Unfit, DecodeError) as error:
        raise PackError(f"fill: {error.message}") from error


def _first(left_out: Sequence[LeftOut]) -> str:
    """What errors say of samples that are left out."""
    if not left_out:
        return ""
    lacking = " that lack no value" if any(left.reason == "missing" for left in left_out) else " that can be read"
    return f"{lacking} ({len(left_out):,} are left out; {left_out[0].place}: {left_out[0].why})"


def _odd_first(name: str, first: str, kept: int, odd: Sequence[LeftOut]) -> PackError:
    return PackError(
        f"{name}: only {kept:,} of {kept + len(odd):,} samples fit the first one that is kept, {first}; {len(odd):,} do"
        f" not ({odd[0].place}: {odd[0].why}); mend the first one, or leave it out at the source"
    )


def _other_fields(values: Mapping[str, Value], first: Mapping[str, object]) -> PackError:
    lacking, more = first.keys() - values.keys(), values.keys() - first.keys()
    what = [f"lacks {', '.join(map(repr, sorted(lacking)))}"] if lacking else []
    what += [f"also has {', '.join(map(repr, sorted(more)))}"] if more else []
    return PackError(f"the sample {' and '.join(what)}, unlike the first one; every sample needs the same fields")


def _collector(name: str, value: Value, file: _File) -> _Collector:
    """What takes the values of a field, by that of the first sample."""
    if name == DEFAULT_NAMES["scalar"] and isinstance(value, str):
        return _Classes()
    info = field_of(value)
    return _Numbers(kinds={type(value)}) if info.kind == "scalar" else _Contents(info, file)


class _Unwritable(PackError):
    """The file cannot be written; no fault of a sample."""


@dataclass(slots=True)
class _File:
    """What is written, in pieces of a megabyte.

    Attributes:
        file: unbuffered, so that closing it after an error does not fail once more.
        faulty: contents may be damaged.
        size: bytes so far, with those that are pending.
    """

    file: FileIO
    faulty: bool
    size: int = 0
    pending: bytearray = field(default_factory=bytearray)

    def write(self, content: bytes) -> None:
        self.pending += content
        self.size += len(content)
        if len(self.pending) >= _BUFFER_BYTES:
            self.flush()

    def flush(self) -> None:
        try:
            write_all(self.file.fileno(), memoryview(self.pending), self.size - len(self.pending))
        except OSError as error:
            raise _Unwritable(
                f"{self.file.name} cannot be written ({error.strerror or error}): contents of such a source go there"
                " first, and take their space twice; make space and run the same command again"
            ) from error
        self.pending = bytearray()


@dataclass(slots=True)
class _Contents:
    """Contents of one field, on their way into the file."""

    info: FieldInfo
    file: _File
    starts: array[int] = field(default_factory=lambda: array("q"))
    sizes: array[int] = field(default_factory=lambda: array("q"))
    digests: array[int] = field(default_factory=lambda: array("Q"))
    types: list[str] = field(default_factory=list)
    shapes: set[tuple[int, ...]] = field(default_factory=set)

    def checked(self, name: str, value: Value) -> tuple[str, bytes, tuple[int, ...] | None]:
        """What `add` takes; Unfit or DecodeError for a value that does not belong here."""
        file_type, content = encoded(name, value, self.info)
        if not self.file.faulty:
            self._inspect(name, content)
        return file_type, content, value.shape if isinstance(value, np.ndarray) else None

    def add(self, checked: tuple[str, bytes, tuple[int, ...] | None]) -> None:
        file_type, content, shape = checked
        if shape is not None and len(self.shapes) < 2:
            self.shapes.add(shape)
        self.starts.append(self.file.size)
        self.sizes.append(len(content))
        self.digests.append(xxhash.xxh3_64_intdigest(content))
        self.types.append(sys.intern(file_type))  # few of them, however many samples
        self.file.write(content)

    def _inspect(self, name: str, content: bytes) -> None:
        try:
            inspector(self.info.kind)(memoryview(content))
        except DecodeError as error:
            error.message = f"field {name!r}: {error.message}"
            raise

    def finish(self, path: Path, about: os.stat_result, classes: tuple[str, ...] | None) -> tuple[Column, FieldInfo]:
        shape = next(iter(self.shapes)) if self.info.kind == "tensor" and len(self.shapes) == 1 else None
        column = Spans(
            path=os.path.abspath(path),
            starts=np.frombuffer(self.starts, np.int64),
            sizes=np.frombuffer(self.sizes, np.int64),
            mtime=about.st_mtime_ns,
            types=one_or_all(self.types),
            digests=np.frombuffer(self.digests, np.uint64),
        )
        return column, replace(self.info, shape=shape)


@dataclass(slots=True)
class _Numbers:
    """Numbers of one field; `kinds` begins with that of its first value, which fillers before it have to fit."""

    kinds: set[type]
    numbers: list[_Number] = field(default_factory=list)

    def checked(self, name: str, value: Value) -> _Number:
        kind = type(value)
        if kind not in (bool, int, float) or (kind is bool) != (bool in self.kinds):
            dtype = "bool" if bool in self.kinds else "float64" if float in self.kinds else "int64"
            raise unlike(name, value, FieldInfo(kind="scalar", dtype=dtype))
        if isinstance(value, int) and value not in _INT64:
            raise Unfit(f"field {name!r}: {value} does not fit into 64 bits")
        return value  # type: ignore[return-value]

    def add(self, checked: _Number) -> None:
        self.kinds.add(type(checked))
        self.numbers.append(checked)

    def finish(self, path: Path, about: os.stat_result, classes: tuple[str, ...] | None) -> tuple[Column, FieldInfo]:
        dtype = "bool" if bool in self.kinds else "float64" if float in self.kinds else "int64"
        values = np.array(self.numbers, dtype)
        if classes is not None and dtype == "int64":
            return Values(values=values), label_info(classes)
        return Values(values=values), FieldInfo(kind="scalar", dtype=dtype)


@dataclass(slots=True)
class _Classes:
    """Names of classes of one field."""

    names: list[str] = field(default_factory=list)

    def checked(self, name: str, value: Value) -> str:
        if not isinstance(value, str):
            raise unlike(name, value, FieldInfo(kind="text"))
        refuse_blank("field", name, value)
        return value

    def add(self, checked: str) -> None:
        self.names.append(sys.intern(checked))

    def finish(self, path: Path, about: os.stat_result, classes: tuple[str, ...] | None) -> tuple[Column, FieldInfo]:
        names, labels = class_table(self.names)
        return Values(values=labels), label_info(names)


def _unnamed(table: Table) -> dict[int, str]:
    """The samples whose class has no name, and what is to be said of them."""
    found: dict[int, str] = {}
    for name, info in table.fields.items():
        column = table.columns[name]
        if info.classes is None or not isinstance(column, Values):
            continue
        labels, count = column.values.astype(np.int64), len(info.classes)
        for row in np.flatnonzero((labels < 0) | (labels >= count)).tolist():
            why = f"field {name!r} has the class {labels[row]}, and there are names of {count}"
            found.setdefault(row, f"{why}; correct it at the source, or leave the field out with columns=")
    return found


_Collector = _Contents | _Numbers | _Classes
