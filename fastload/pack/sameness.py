"""Which samples have the same contents, so that splits have them on one side: digests, and who shares one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import xxhash

from fastload.errors import ConfigError
from fastload.pack.table import Inline, Int64s, Table, Values

_ROWS_A_NAME = 10  # this many rows that differ in their numbers to a text: it is a category, and no content


def in_memory(table: Table) -> bool:
    """Whether contents can be compared without reading anything."""
    return all(isinstance(column, Inline | Values) for column in table.columns.values())


def digests(table: Table, rows: Int64s, apart: Collection[str]) -> list[bytes]:
    """XXH3-128 of what samples hold but for some fields, [m], of a table in memory: as a survey has it of the same
    contents; of all numbers and labels where there is nothing else."""
    contents = [c for name, c in table.columns.items() if isinstance(c, Inline) and name not in apart]
    if not contents:
        lists = [c.values[rows].tolist() for c in table.columns.values() if isinstance(c, Values)]
        lists = lists or [[table.keys[row] for row in rows.tolist()]]
        return [xxhash.xxh3_128_digest(repr(values).encode()) for values in zip(*lists, strict=True)]
    found = []
    for row in rows.tolist():
        state = xxhash.xxh3_128()
        for column in contents:
            content = column.contents[row]
            state.update(len(content).to_bytes(8, "little"))
            state.update(content)
        found.append(state.digest())
    return found


def with_numbers(table: Table, rows: Int64s, contents: Sequence[bytes], apart: Collection[str]) -> Sequence[bytes]:
    """The digests of samples, [m], with the numbers beside their contents where these are texts, JSON or nothing: a
    name or a category in a table of measurements makes no row a copy. A picture is one whatever is measured of it.

    Args:
        table: the samples.
        rows: which, int64 [m].
        contents: a digest of each.
        apart: fields that make no difference, names of classes apart.
    """
    if not {info.kind for name, info in table.fields.items() if name not in apart} <= {"text", "json", "scalar"}:
        return contents
    lists = [
        column.values[rows].tolist()
        for name, column in table.columns.items()
        if isinstance(column, Values) and table.fields[name].classes is None and name not in apart
    ]
    if not lists:
        return contents
    return [digest + repr(values).encode() for digest, *values in zip(contents, *lists, strict=True)]


def refuse_categories(table: Table, rows: Int64s, contents: Sequence[bytes], apart: Collection[str]) -> None:
    """Refuse contents that are few names beside numbers: a hash would put each of them on one side whole.

    Args: as of `with_numbers`.

    Raises:
        ConfigError: there are that many more rows than contents, by their numbers.
    """
    few = len(set(contents))
    if _ROWS_A_NAME * few > len(contents) or _ROWS_A_NAME * few > len(set(with_numbers(table, rows, contents, apart))):
        return
    names = [name for name, column in table.columns.items() if not isinstance(column, Values) and name not in apart]
    raise ConfigError(
        f"{len(contents):,} rows with different numbers have {few:,} different contents ({', '.join(names)}), each of "
        f"which would go to one split whole; if these are names of classes, say so ({names[0]}:{names[0]}:label in "
        "columns), else name what makes rows the same with Cleaning(compare=...), --compare"
    )


def as_one(contents: Sequence[bytes], near: Mapping[int, int], kept: Int64s) -> list[bytes]:
    """The digests, with that of the sample that it is near in place of each near one's, and of its copies'.

    Args:
        contents: a digest of each sample that is kept, [m].
        near: row of a sample -> row of the one that it is near.
        kept: their rows, increasing, int64 [m].
    """
    place = {row: at for at, row in enumerate(kept.tolist())}
    other = {
        contents[place[row]]: contents[place[first]] for row, first in near.items() if row in place and first in place
    }
    return [other.get(digest, digest) for digest in contents]


def straddlers(keys: Sequence[str], contents: Sequence[bytes], names: Sequence[str], numbers: Int64s) -> dict[int, int]:
    """For each sample whose content stays in another split: the first by key of those that stay.

    A content stays in the first of its splits by `ranked`.

    Args:
        keys: of the samples, [m].
        contents: a digest of each, [m].
        names: of the splits.
        numbers: of each sample's split, into `names`, int64 [m].
    """
    ranks, splits = ranked(names, numbers), numbers.tolist()
    stays: dict[bytes, int] = {}
    for at in sorted(range(len(keys)), key=keys.__getitem__):
        if ranks[at] < ranks[stays.setdefault(contents[at], at)]:
            stays[contents[at]] = at
    return {at: first for at, content in enumerate(contents) if splits[first := stays[content]] != splits[at]}


def ranked(names: Sequence[str], numbers: Int64s) -> list[int]:
    """The place of each sample's split, [m]: the one with the fewest samples comes first, of equal ones the last by
    name; `names` and `numbers` are those of `straddlers`."""
    sizes = np.bincount(numbers, minlength=len(names)).tolist()
    last_first = sorted(range(len(names)), key=names.__getitem__, reverse=True)
    place = {split: at for at, split in enumerate(sorted(last_first, key=sizes.__getitem__))}
    return [place[split] for split in numbers.tolist()]


def tied(groups: Sequence[str], contents: Sequence[bytes]) -> list[str]:
    """For each sample the first, by name, of all groups that are tied to its own by contents that they share."""
    parents = {group: group for group in groups}

    def root(group: str) -> str:
        while parents[group] != group:
            parents[group] = group = parents[parents[group]]
        return group

    holders: dict[bytes, str] = {}
    for group, content in zip(groups, contents, strict=True):
        low, high = sorted((root(group), root(holders.setdefault(content, group))))
        parents[high] = low
    return [root(group) for group in groups]
