"""Sources whose samples have to be read before anything is known of them, as streams of values.

Foreign shards, Arrow and Parquet, arrays, compressed documents, medical pictures and Python's own data sets come as a
`Stream`; `spool.py` makes a table of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from fastload.errors import ConfigError, PackError
from fastload.pack.values import Unfit, Value
from fastload.shards.members import sample_key

KEY_NAMES = ("key", "__key__")
LEAVE_OUT = "mend it, or leave such samples out with on_error='skip' (--on-error skip)"
KEY_DIGITS = 9  # fixed, so that a longer source does not rename the samples that were there


class Sample(NamedTuple):
    """One sample of a stream: where it comes from, as errors say it, and its values by field.

    A field "key" or "__key__" of text is the sample's key. `lacking` has the fields without a value, and the error that
    each is where nothing is to be done about it. `split` is that of the source, where it has several. `fault` is why it
    cannot be read, and then only its key counts. It is the first of `faults`, of the fields that cannot, where others
    can: left out of the sample, such a field is none. Where names and contents of files may say who somebody is, lists
    in the output have `place` instead of `where`, and errors alone have `detail` behind `fault`.
    """

    where: str
    values: dict[str, Value]
    lacking: Mapping[str, str] = MappingProxyType({})
    split: str | None = None
    fault: str = ""
    detail: str = ""
    place: str = ""
    faults: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Samples of a source in its order.

    Attributes:
        name: what errors call the source.
        read: gives the samples, anew with each call where the source can be read again.
        classes: field -> names of the classes that its numbers mean.
        ignored: files of a folder that are no samples.
        origin: what index.json calls the source; None: by its name.
    """

    name: str
    read: Callable[[], Iterator[Sample]]
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ignored: Sequence[str] = ()
    origin: str | None = None


def sample_of(where: str, found: Mapping[str, Value | Unfit | None], null: str, what: str = "field") -> Sample:
    """A sample of what was found for each of its fields: a value, None, or why it cannot be read.

    Args:
        where: it comes from.
        found: by field.
        null: what errors say of a value that is None, and what is to be done about it.
        what: they call a field.
    """
    values: dict[str, Value] = {}
    lacking: dict[str, str] = {}
    faults: dict[str, str] = {}
    for name, value in found.items():
        if value is None:
            lacking[name] = f"{what} {name!r} {null}"
        elif isinstance(value, Unfit):
            faults[name] = value.message
        else:
            values[name] = value
    return Sample(where, values, lacking, fault=next(iter(faults.values()), ""), faults=faults)


def whole(sample: Sample) -> dict[str, Value]:
    """The values of a sample that has them all.

    Raises: PackError for one that cannot be read or lacks a value.
    """
    if sample.fault:
        raise PackError(f"{sample.fault}: {sample.detail}" if sample.detail else sample.fault)
    for why in sample.lacking.values():
        raise PackError(why)
    return sample.values


def split_key(values: dict[str, Value], number: int) -> tuple[str, dict[str, Value]]:
    """Key and fields of the number-th sample, from 1, of a source; without a field of text that is the key, its number.

    Dots in a key become "_", as WebDataset would cut it there.

    Raises:
        Unfit: a key that no file could have.
    """
    name = next((name for name in KEY_NAMES if isinstance(values.get(name), str)), None)
    if name is None:
        return f"{number:0{KEY_DIGITS}d}", values
    given = str(values[name])
    if not given or given.startswith("/") or given.endswith("/"):
        raise Unfit(f"{given!r} cannot be a key")
    return sample_key(given.replace(".", "_") + ".x"), {
        field: value for field, value in values.items() if field != name
    }


def chosen(stream: Stream, columns: Mapping[str, str] | None) -> Stream:
    """A stream with some of its fields, under other names: field -> name in the source; None: all, as they are.
    Keys stay, unless others are chosen; a field that cannot be read is a fault of samples only if it is chosen.

    Raises:
        ConfigError: when it is read, for a name that a sample does not have.
    """
    if columns is None:
        return stream

    wanted = {**columns} if any(name in columns for name in KEY_NAMES) else {**columns, "__key__": "__key__"}

    def read() -> Iterator[Sample]:
        for sample in stream.read():
            known = {**sample.values, **sample.lacking, **sample.faults}
            for name in columns.values():
                if name not in known and (sample.faults or not sample.fault):
                    named = ", ".join(map(repr, known))
                    raise ConfigError(f"columns: {sample.where} has no field {name!r}; it has {named}")
            values = {new: sample.values[name] for new, name in wanted.items() if name in sample.values}
            lacking = {new: sample.lacking[name] for new, name in columns.items() if name in sample.lacking}
            faults = {new: sample.faults[name] for new, name in wanted.items() if name in sample.faults}
            fault = next(iter(faults.values()), "") if sample.faults else sample.fault
            yield sample._replace(values=values, lacking=lacking, fault=fault, faults=faults)

    classes = {new: stream.classes[name] for new, name in columns.items() if name in stream.classes}
    return replace(stream, read=read, classes=classes)


def in_file(path: Path, values: Iterator[dict[str, Any]]) -> Iterator[Sample]:
    """The samples of one file, counted from 1 in errors."""
    for number, sample in enumerate(values, 1):
        yield Sample(f"{path}, sample {number}", sample)
