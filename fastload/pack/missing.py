"""Values that a manifest or a stream lacks: filled, or their rows left out, before any column is made of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from fastload.errors import ConfigError, PackError
from fastload.pack.streams import KEY_DIGITS, LEAVE_OUT, Sample
from fastload.pack.table import LeftOut
from fastload.pack.values import Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Lenience:
    """Which faults of a source are not errors.

    Attributes:
        faulty: files that are empty or not there are listed, for cleaning to leave out; what cannot even be listed is
            left out.
        drop: rows of a manifest that lack a value are left out.
        fill: field or column -> what stands for its missing values.
    """

    faulty: bool = False
    drop: bool = False
    fill: Mapping[str, Any] = field(default_factory=dict)

    @property
    def mends(self) -> bool:
        """Whether anything is to be done about missing values."""
        return self.drop or bool(self.fill)


STRICT = Lenience()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """The rows of a manifest.

    Attributes:
        data: column -> values.
        numbers: of the rows in the manifest, from 1.
        left_out: the others.
    """

    data: Mapping[str, Sequence[Any]]
    numbers: Sequence[int]
    left_out: tuple[LeftOut, ...] = ()


def mend(cells: Cells, fields: Mapping[str, str], key: str | None, lenience: Lenience) -> Cells:
    """Fill missing values, then leave out rows that still lack one. Missing are null, empty text and NaN; "nan" as text
    in a column of numbers.

    Args:
        cells: the rows.
        fields: field -> the column that it is made of; others are not looked at.
        key: the column of keys.
        lenience: what is to be done.

    Raises: ConfigError for something to fill that is neither a field nor its column.
    """
    for name in lenience.fill:
        if name not in fields and name not in fields.values():
            raise ConfigError(f"fill: there is no field or column {name!r}; there are {', '.join(map(repr, fields))}")
    if not lenience.mends:
        return cells
    made = dict(cells.data)
    lacking: dict[int, str] = {}  # row -> column
    for name, column in fields.items():
        values = made[column]
        missing = _missing(values)
        if missing and (name in lenience.fill or column in lenience.fill):
            wanted = lenience.fill[name] if name in lenience.fill else lenience.fill[column]
            filler = _like(wanted, [value for row, value in enumerate(values) if row not in missing])
            made[column] = [filler if row in missing else value for row, value in enumerate(values)]
        elif lenience.drop:
            for row in missing:
                lacking.setdefault(row, column)
    if not lacking:
        return replace(cells, data=made)
    kept = [row for row in range(len(cells.numbers)) if row not in lacking]
    keys = cells.data[key] if key is not None else [None] * len(cells.numbers)
    left_out = [
        LeftOut(
            key=str(keys[row]) if keys[row] else f"{cells.numbers[row]:0{KEY_DIGITS}d}",
            place=f"row {cells.numbers[row]}",
            why=f"column {column!r} is empty",
        )
        for row, column in sorted(lacking.items())
    ]
    return Cells(
        data={column: [values[row] for row in kept] for column, values in made.items()},
        numbers=[cells.numbers[row] for row in kept],
        left_out=(*cells.left_out, *left_out),
    )


class StreamMender:
    """Does to samples of a stream, one after the other, what `mend` does to a manifest, and leaves out faulty ones.

    Attributes:
        left_out: the samples that are left out.
        retyped: field -> what stands for its missing values, of the fields whose first value is in the last sample:
            what stood for them until then was of any type.
        filled: the fields of the last sample whose values were missing and are filled.
    """

    def __init__(self, lenience: Lenience) -> None:
        self.left_out: list[LeftOut] = []
        self.retyped: dict[str, Any] = {}
        self.filled: set[str] = set()
        self._lenience = lenience
        self._known: dict[str, None] = {}  # fields of the source, those to fill apart
        self._seen: dict[str, Any] = {}  # a value of each field, for the type
        self._first: dict[str, Any] = {}  # those of the last sample

    def mended(self, sample: Sample, key: str, values: dict[str, Value], fields: Iterable[str]) -> bool:
        """Fill what `values` lacks; False if the sample is left out.

        Args:
            sample: as it was read.
            key, values: of the sample; values are added.
            fields: of the samples before.

        Raises: PackError for a missing value that is neither filled nor left out, or a fault that is an error.
        """
        self.retyped, self._first, self.filled = {}, {}, set()
        if sample.fault:
            if not self._lenience.faulty:
                detail = f": {sample.detail}" if sample.detail else ""
                raise PackError(f"{sample.fault}{detail}; {LEAVE_OUT}")
            return self.leave_out(sample, key, sample.fault)
        fill, drop = self._lenience.fill, self._lenience.drop
        if not fill and not drop:
            for why in sample.lacking.values():
                raise PackError(why)
            return True
        self._known |= dict.fromkeys([*values, *sample.lacking])
        for name in dict.fromkeys([*sample.lacking, *fields, *values, *fill]):
            if name in values and not _lacks(values[name]):
                if name not in self._seen:
                    self._first[name] = values[name]
            elif name in fill:
                values[name] = _like(fill[name], [self._seen[name]] if name in self._seen else [])
                self.filled.add(name)
            elif drop:
                return self.leave_out(sample, key, f"field {name!r} is missing", "missing")
            elif name in sample.lacking:
                raise PackError(sample.lacking[name])
        self.retyped = {name: _like(fill[name], [value]) for name, value in self._first.items() if name in fill}
        return True

    def keep(self) -> None:
        """The last sample stays: what it is the first to have says of what type a field is."""
        self._seen |= self._first

    def leave_out(self, sample: Sample, key: str, why: str, reason: str = "unreadable") -> Literal[False]:
        """Leave the last sample out; gives what `mended` gives of such."""
        self.left_out.append(LeftOut(key=key, place=sample.place or sample.where, why=why, reason=reason))
        return False

    def check(self) -> None:
        """Raise ConfigError for something to fill that no sample has, or says that it lacks."""
        for name in self._lenience.fill:
            if name not in self._known:
                raise ConfigError(f"fill: there is no field {name!r}; there are {', '.join(map(repr, self._known))}")


def _lacks(value: Any) -> bool:
    """Whether this is no value: null, NaN or blank text."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def _missing(values: Sequence[Any]) -> set[int]:
    """The rows of a manifest's column without a value."""
    found, not_numbers = set[int](), set[int]()
    for row, value in enumerate(values):
        if _lacks(value):
            found.add(row)
        elif isinstance(value, str) and value.strip().lower() == "nan":
            not_numbers.add(row)
    if not_numbers:
        others = (value for row, value in enumerate(values) if row not in found and row not in not_numbers)
        if all(_is_number(value) for value in others):
            found |= not_numbers
    return found


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _like(wanted: Any, others: Sequence[Any]) -> Any:
    """A value given as text, as the type that the column has."""
    if not isinstance(wanted, str) and others and all(isinstance(value, str) for value in others):
        return str(wanted)
    if not isinstance(wanted, str) or any(isinstance(value, str) for value in others) or not others:
        return wanted
    try:
        return json.loads(wanted)
    except ValueError:
        return wanted
