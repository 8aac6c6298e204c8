"""How samples are shared out over splits, as asked for, and which split each of a table's samples goes to.

shares             a hash of the content, so that one content is never on two sides
shares, group_by   a hash of the group's value: all of one value on one side (group_regex: of a part of the key); groups
                   that share a content are one
shares, stratify   a hash within each class, cut so that every class has the shares
folds              shares of 1/k each, with either of the above
ranges, by         the range that a field's number or date is in
column             a field's value is the split's name
nothing asked for  the source's own splits, where its folders or files are named for such; else all in "train"

Hashes keep copies on one side; where the last three have them on several, a rule (rules.py) leaves out all but one's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from fastload.errors import ConfigError, PackError
from fastload.pack.columns import numbers, texts
from fastload.pack.ranges import Range, is_date, parse_range
from fastload.pack.sameness import tied
from fastload.pack.splits import assign, assign_stratified
from fastload.pack.table import Int64s, Table, Values
from fastload.shards.foreign import SPLIT_NAMES

Straddling = Literal["drop", "keep"]
DEFAULT_SPLIT = "train"
_NAME = re.compile(r"\w[\w.-]*")
_TOLERANCE = 1e-6  # of the sum of the ratios: three times 1/3 written with six digits


@dataclass(frozen=True, slots=True, kw_only=True)
class Splitting:
    """How samples are shared out over splits.

    Attributes:
        shares: `"train=0.9,val=0.1"` or a mapping, summing to 1. Which split a sample goes to depends on its content
            (the fields of `Cleaning.compare`; numbers and labels, where there is nothing else) and the seed alone:
            copies are on one side, and samples that are added, wherever in the source, move none that were there.
            Files are read once more for it, before packing. Near duplicates that cleaning reports go with the earlier
            one, by key.
        stratify: field whose every class (or value) has the shares, to less than one sample. Samples added to a class
            move a few of its old ones (`splits.assign_stratified`); without `stratify` none move, and classes have the
            shares on average.
        group_by: field, such as a patient or a speaker, all of whose samples of one value are on one side; the shares
            are then of the groups, not of the samples. Groups that share a content are on one side, under the name of
            the first; leave copies out with `Cleaning(duplicates="drop")` where that ties too many. Adding samples
            moves none, unless it ties groups together that were not.
        group_regex: likewise, of what its first group finds in the key, as r"^(patient\\d+)_"; every key must have it.
        folds: this many splits of equal shares, fold-0, fold-1, ...; read several as one by giving a dataset a list.
        ranges: `"train=..2023-12-31,val=2024-01-01.."` or a mapping, with `by`; both ends are included.
        by: field of numbers or of ISO dates that decides; a sample in no range, or in two, is an error.
        column: field whose values are the names of the splits.
        straddling: what becomes of contents that ranges, a column or the source's own folders put into several splits.
            Contents are the fields of `Cleaning.compare`; without it, all but numbers and labels, which alone are none.
            Where they are texts and JSON, as in a table, samples are copies only if their numbers are the same too, but
            for a field "label" and what the splits go by; name the text in `compare` where numbers beside it do not
            count. "drop": they stay in the smallest of these splits, of equal ones in the last by name, so that a test
            set is what it was and a training set loses the least share; those in the others are left out, and listed
            with the reason "straddles". Copies inside one split are not touched. Near duplicates that cleaning reports
            count as copies: all that are near one sample are one content. Files are read once more for it, before
            packing. "keep": all stay, and nothing is read for it. None: "drop" with ranges or a column, "keep" where
            the source's own splits are taken over. Not with shares or folds, which have copies on one side in any case.
        sparse: a split that gets no sample is left out, where it else is an error; for few samples that are added to
            others, as `append` does.

    Raises:
        ConfigError: options that exclude each other, names that are no folder names, shares that do not sum to 1,
            ranges that are none.
    """

    shares: str | Mapping[str, float] | None = None
    stratify: str | None = None
    group_by: str | None = None
    group_regex: str | None = None
    folds: int | None = None
    ranges: str | Mapping[str, str] | None = None
    by: str | None = None
    column: str | None = None
    straddling: Straddling | None = None
    sparse: bool = False

    def __post_init__(self) -> None:
        ways = {"shares": self.shares, "folds": self.folds, "ranges": self.ranges, "column": self.column}
        given = [name for name, value in ways.items() if value is not None]
        if len(given) > 1:
            raise ConfigError(f"splits come from one of {', '.join(ways)}; {' and '.join(given)} are given")
        if (self.ranges is None) != (self.by is None):
            raise ConfigError(
                f"by={self.by!r} and ranges={self.ranges!r} go together (--split-by needs --split): a field, and a"
                " range per split, as train=..2023,val=2024.."
            )
        together = {"stratify": self.stratify, "group_by": self.group_by, "group_regex": self.group_regex}
        asked = [name for name, value in together.items() if value is not None]
        if len(asked) > 1:
            raise ConfigError(f"{' and '.join(asked)} cannot both hold: a group has several classes; pass one")
        if asked and self.shares is None and self.folds is None:
            raise ConfigError(f"{asked[0]} needs shares or folds (--split or --folds), such as train=0.9,val=0.1")
        if self.group_regex is not None:
            _compiled(self.group_regex)
        if self.straddling not in (None, *get_args(Straddling)):
            raise ConfigError(f"straddling={self.straddling!r}: pass 'drop' or 'keep'")
        if self.straddling is not None and (self.shares is not None or self.folds is not None):
            raise ConfigError(
                f"straddling={self.straddling!r} (--straddling) is of splits by ranges, by a column or of the source's"
                f" own; {given[0]} have copies on one side anyhow: leave it out"
            )
        _ = self.ratios, self.bounds

    @property
    def asked(self) -> bool:
        """Whether anything is said of splits."""
        return any(way is not None for way in (self.shares, self.folds, self.ranges, self.column))

    @property
    def by_content(self) -> bool:
        """Whether samples are shared out by a hash, so that contents count."""
        return len(self.ratios) > 1

    @property
    def grouped(self) -> bool:
        """Whether groups are shared out, and not samples."""
        return self.group_by is not None or self.group_regex is not None

    @property
    def apart(self) -> tuple[str, ...]:
        """Fields that say where a sample belongs, and are no content."""
        return tuple(n for n in (self.group_by, self.stratify, self.by, self.column) if n is not None)

    def separates(self, table: Table) -> bool:
        """Whether contents that are in several splits of a table are left out of all but one.

        Numbers and labels alone are none, as for `Cleaning.duplicates`: few values are often equal by chance.
        """
        if all(isinstance(column, Values) or name in self.apart for name, column in table.columns.items()):
            return False
        if self.ranges is not None or self.column is not None:
            return self.straddling != "keep"
        return self.straddling == "drop" and table.splits is not None and len(set(table.splits)) > 1

    @property
    def ratios(self) -> dict[str, float]:
        """Share of each split; empty where ranges or a column decide."""
        if self.folds is not None:
            if isinstance(self.folds, bool) or not isinstance(self.folds, int) or self.folds < 2:
                raise ConfigError(f"folds={self.folds!r}: pass an integer of at least 2")
            return {f"fold-{number}": 1 / self.folds for number in range(self.folds)}
        return {} if self.ranges is not None or self.column is not None else parse_shares(self.shares)

    @property
    def bounds(self) -> dict[str, Range]:
        """Range of each split; empty where none were given."""
        if self.ranges is None:
            return {}
        named = _parse(self.ranges, "ranges", "name=low..high, as in 'train=..2023,val=2024..'")
        return {_folder(name, self.ranges): parse_range(text) for name, text in named.items()}

    def to_json(self) -> dict[str, Any]:
        """As options of a run: what was asked for, nothing that was not, but for the default of ranges and columns."""
        bounds = {name: str(bound) for name, bound in self.bounds.items()}
        told = self.ranges is not None or self.column is not None
        others = {
            "stratify": self.stratify,
            "group_by": self.group_by,
            "group_regex": self.group_regex,
            "split_by": self.by,
            "split_column": self.column,
            "straddling": self.straddling or ("drop" if told else None),
        }
        return {"split": self.ratios or bounds or None, **{name: v for name, v in others.items() if v is not None}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """Which samples are packed, and into which split.

    Attributes:
        names: of the splits, in order.
        rows: of the table, increasing, int64 [m].
        numbers: the split of each of them, into `names`, int64 [m].
    """

    names: tuple[str, ...]
    rows: Int64s
    numbers: Int64s


def parse_splitting(split: str | Mapping[str, float] | Splitting | None) -> Splitting:
    """What `pack(split=)` takes: a `Splitting`, or its shares alone."""
    return split if isinstance(split, Splitting) else Splitting(shares=split)


def parse_shares(split: str | Mapping[str, float] | None) -> dict[str, float]:
    """`"train=0.9,val=0.1"`, a mapping, or None for one split called "train".

    Raises:
        ConfigError: a name that is no folder name, a ratio outside (0, 1], ratios that do not sum to 1.
    """
    if split is None:
        return {DEFAULT_SPLIT: 1.0}
    ratios: dict[str, float] = {}
    for name, ratio in _parse(split, "split", "name=ratio, as in 'train=0.9,val=0.1'").items():
        try:
            value = float(ratio) if isinstance(ratio, str) else ratio
        except ValueError:
            raise ConfigError(f"split={split!r}: {ratio!r} is no ratio; write it as in 'train=0.9,val=0.1'") from None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
            raise ConfigError(f"split={split!r}: the ratio of {name!r} must be above 0 and at most 1")
        ratios[_folder(name, split)] = value
    total = math.fsum(ratios.values())
    if abs(total - 1) > _TOLERANCE:
        raise ConfigError(f"split={split!r}: the ratios sum to {total:g}, not to 1")
    return ratios


def _folder(name: Any, split: Any) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(f"split={split!r}: {name!r} cannot name a folder; use letters, digits, '.', '_' and '-'")
    return name


def _parse(text: str | Mapping[str, Any], option: str, form: str) -> dict[str, Any]:
    """`"a=x,b=y"` as a mapping; shares may be written with ':' too."""
    if not isinstance(text, str):
        return dict(text)
    named: dict[str, str] = {}
    for part in text.split(","):
        name, mark, value = (part.replace(":", "=") if option == "split" else part).partition("=")
        if not mark:
            raise ConfigError(f"{option}={text!r}: {part.strip()!r} is not {form}")
        if name.strip() in named:
            raise ConfigError(f"{option}={text!r}: {name.strip()!r} is named twice")
        named[name.strip()] = value.strip()
    return named


def share_out(
    table: Table,
    splitting: Splitting,
    *,
    seed: int,
    rows: Int64s | None = None,
    contents: Sequence[bytes] | None = None,
) -> Sharing:
    """The split of each sample.

    Args:
        table: the samples.
        splitting: how.
        seed: of the hashes.
        rows: which samples are packed, increasing, int64 [m]; None: all.
        contents: a digest of each one's content, [m], of those with the same one on the same side; None: by keys.

    Raises:
        ConfigError: a field that is not there, or whose values do not fit.
        PackError: a sample without a split, or with two; a split without a sample, unless they may be `sparse`.
    """
    rows = np.arange(len(table.keys), dtype=np.int64) if rows is None else rows
    told = as_told(table, splitting, rows)
    if told is None:
        names, found = tuple(splitting.ratios), _by_hash(table, splitting, seed, rows, contents)
    else:
        names, found = told
    counts = np.bincount(found, minlength=len(names))
    if splitting.sparse:
        there = np.flatnonzero(counts)
        return Sharing(names=tuple(names[at] for at in there), rows=rows, numbers=np.searchsorted(there, found))
    for name, count in zip(names, counts.tolist(), strict=True):
        if count == 0:
            wider = "a wider range" if splitting.by is not None else "a larger ratio"
            why = _too_few(table, splitting, rows, contents)
            raise PackError(
                f"the split {name!r} gets none of {len(rows)} samples; give it {wider}, or leave it out{why}"
            )
    return Sharing(names=names, rows=rows, numbers=found)


def as_told(table: Table, splitting: Splitting, rows: Int64s) -> tuple[tuple[str, ...], Int64s] | None:
    """The splits that ranges, a column or the source itself tell; None where samples are shared out by hashes.

    Returns: their names, and of each sample the number of its split among them, int64 [m].

    Raises: as `share_out`, but for splits without a sample.
    """
    if splitting.by is not None:
        return tuple(splitting.bounds), _by_range(table, splitting.by, splitting.bounds, rows)
    if splitting.column is not None:
        return _by_column(table, splitting.column, rows)
    if table.splits is not None and not splitting.asked:
        return _as_they_are([table.splits[row] for row in rows.tolist()])
    return None


def _by_hash(table: Table, splitting: Splitting, seed: int, rows: Int64s, contents: Sequence[bytes] | None) -> Int64s:
    ratios = splitting.ratios
    if len(ratios) == 1:
        return np.zeros(len(rows), np.int64)
    groups = _groups(table, splitting, rows)
    if groups is not None:
        return assign(groups if contents is None else tied(groups, contents), ratios, seed)
    tokens = contents if contents is not None else [table.keys[row] for row in rows.tolist()]
    if splitting.stratify is not None:
        return assign_stratified(tokens, texts(table, splitting.stratify, rows), ratios, seed)
    return assign(tokens, ratios, seed)


def _as_they_are(splits: Sequence[str]) -> tuple[tuple[str, ...], Int64s]:
    names = tuple(sorted(set(splits), key=SPLIT_NAMES.index))
    numbered = {name: number for number, name in enumerate(names)}
    return names, np.array([numbered[split] for split in splits], np.int64)


def _too_few(table: Table, splitting: Splitting, rows: Int64s, contents: Sequence[bytes] | None) -> str:
    """Why there may be too few different samples for all splits."""
    groups = _groups(table, splitting, rows)
    if contents is None or not splitting.by_content:
        return ""
    if groups is not None:
        alone, together = len(set(groups)), len(set(tied(groups, contents)))
        what = f"{alone} groups are {together}, by contents that they share"
    else:
        alone, together = len(contents), len(set(contents))
        what = f"the contents of {alone} samples are {together}, with copies on one side"
    return f" ({what}; duplicates='drop', --duplicates drop, leaves copies out)" if together < alone else ""


def _groups(table: Table, splitting: Splitting, rows: Int64s) -> Sequence[str] | None:
    """The group of each sample: a field's value, or what a regular expression finds in its key."""
    if splitting.group_by is not None:
        return texts(table, splitting.group_by, rows)
    regex = splitting.group_regex
    if regex is None:
        return None
    pattern, found = _compiled(regex), []
    for row in rows.tolist():
        match = pattern.search(table.keys[row])
        if match is None or match[1] is None:
            raise PackError(f"group_regex={regex!r} does not match the key", key=table.keys[row])
        found.append(match[1])
    return found


def _compiled(regex: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(regex)
    except re.error as error:
        raise ConfigError(f"group_regex={regex!r} is no regular expression: {error}") from error
    if not pattern.groups:
        raise ConfigError(f"group_regex={regex!r} has no group; put what is in common in brackets, as in r'^(\\d+)_'")
    return pattern


def _by_range(table: Table, field: str, bounds: Mapping[str, Range], rows: Int64s) -> Int64s:
    values = numbers(table, field, rows)
    shown: Sequence[Any]
    if values is not None:
        shown, held = values.tolist(), [bound.holds_numbers(values) for bound in bounds.values()]
    else:
        shown = texts(table, field, rows)
        for row, text in zip(rows.tolist(), shown, strict=True):
            if not is_date(text):
                raise PackError(
                    f"{field}={text!r} is neither a number nor a date like 2024-01-31; write such dates, or split"
                    " another way",
                    key=table.keys[row],
                )
        held = [bound.holds_dates(shown) for bound in bounds.values()]
    matrix = np.stack(held)  # [splits, m]
    for at in np.flatnonzero(matrix.sum(0) != 1).tolist()[:1]:
        ranges = [name for name, inside in zip(bounds, matrix[:, at].tolist(), strict=True) if inside]
        what = f"is in {' and '.join(ranges)}" if ranges else f"is in none of {', '.join(bounds)}"
        raise PackError(
            f"{field}={shown[at]!r} {what}; change the ranges so that each value is in one",
            key=table.keys[int(rows[at])],
        )
    found: Int64s = matrix.argmax(0)
    return found


def _by_column(table: Table, field: str, rows: Int64s) -> tuple[tuple[str, ...], Int64s]:
    values = texts(table, field, rows)
    names = tuple(sorted(set(values)))
    for name in names:
        if not _NAME.fullmatch(name):
            row = int(rows[values.index(name)])
            raise PackError(
                f"{field}={name!r} cannot name a split; use letters, digits, '.', '_' and '-'", key=table.keys[row]
            )
    numbered = {name: number for number, name in enumerate(names)}
    return names, np.array([numbered[value] for value in values], np.int64)
