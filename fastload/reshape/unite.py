"""Several data sets seen as one: fields that fit all, one table of classes, keys told apart, counts added up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fastload.errors import PackError, ShardIndexError
from fastload.prepared import MEAN, with_means
from fastload.reshape.records import Record
from fastload.reshape.sources import PackedSet
from fastload.shards.columns import read_columns
from fastload.shards.index import FieldInfo, Index, ShardFormat, merge_fields
from fastload.statistics import FieldStatistics, joined


@dataclass(frozen=True, slots=True, kw_only=True)
class United:
    """What several data sets have in common.

    Attributes:
        fields: that fit all: the classes of the first, then those that others add, in their order.
        labels: by data set: field -> the number in `fields` of each of its classes.
    """

    fields: dict[str, FieldInfo]
    labels: tuple[dict[str, tuple[int, ...]], ...]


def unite(sets: Sequence[PackedSet], shard_format: ShardFormat) -> United:
    """The fields and classes of several data sets together.

    Raises:
        ShardIndexError: a field that one lacks, that has another kind or sort of number in it, or whose numbers are
            classes in one and plain numbers in another; tokens of several vocabularies.
    """
    united_vocabulary(sets)
    classes: dict[str, dict[str, int]] = {}
    for each in sets:
        for name, info in each.fields.items():
            if info.classes is not None:
                table = classes.setdefault(name, {})
                for one in info.classes:
                    table.setdefault(one, len(table))
    for name in classes:
        lacking = [each.name for each in sets if name in each.fields and each.fields[name].classes is None]
        if lacking:
            raise ShardIndexError(
                f"the numbers of field {name!r} have no names of classes in {lacking[0]}, and have in another;"
                " pack it with names, or all without"
            )
    bare = [(each.name, {n: replace(i, classes=None) for n, i in each.fields.items()}) for each in sets]
    known = {n for each in sets if each.own for n, info in each.fields.items() if info.kind == "tensor"}
    merged = merge_fields(shard_format, bare, known)  # packing has said so; only tars that were scanned are guessed at
    labels = tuple(
        {n: tuple(classes[n][one] for one in each.fields[n].classes or ()) for n in classes} for each in sets
    )
    fields = {n: replace(i, classes=tuple(classes[n]) if n in classes else None) for n, i in merged.items()}
    return United(fields=fields, labels=labels)


def united_vocabulary(sets: Sequence[PackedSet]) -> dict[str, Any]:
    """The vocabulary of the tokens, as index.json has it, under its name; empty where none is known.

    Raises: ShardIndexError for several: the same number is another token in each, and nothing else would tell.
    """
    known = [(each.name, each.packed["tokens"]) for each in sets if "tokens" in each.packed]
    if not known:
        return {}
    first, about = known[0]
    for name, other in known[1:]:
        if other["digest"] != about["digest"]:
            these, those = (f"{one['tokenizer']}, {one['digest']}" for one in (other, about))
            raise ShardIndexError(
                f"tokens in {name} are of another vocabulary ({these}) than in {first} ({those}); pack both with one"
                " tokenizer"
            )
    return {"tokens": about}


def changer(prefix: str, labels: Mapping[str, tuple[int, ...]]) -> Callable[[Record], Record] | None:
    """What makes a sample of one set one of all: its key gets a prefix, its labels other numbers; None: nothing.

    Raises, when called: PackError for a label without a class.
    """
    moved = {name: table for name, table in labels.items() if table != tuple(range(len(table)))}
    if not prefix and not moved:
        return None

    def change(record: Record) -> Record:
        scalars = dict(record.scalars)
        for name, table in moved.items():
            label = int(scalars[name])
            if not 0 <= label < len(table):
                raise PackError(f"label {label} of field {name!r} is none of {len(table)} classes", key=record.key)
            scalars[name] = table[label]
        return replace(record, key=prefix + record.key, scalars=scalars)

    return change


def united_statistics(sets: Sequence[PackedSet], result: Mapping[str, Index]) -> dict[str, Any]:
    """What index.json counts, for all sets together: classes anew, the rest added up where every set has it.

    Args:
        sets: the data sets, with the statistics of each.
        result: split -> its shards, as they are now.
    """
    found: dict[str, Any] = {}
    for name in dict.fromkeys(name for each in sets for name in each.statistics):
        add = _fields_added if name == "fields" else _counts_added
        by_split = {
            split: add([each.statistics.get(name, {}).get(split) for each in sets if split in each.splits])
            for split in result
        }
        if None not in by_split.values():
            found[name] = by_split
    classes = class_statistics(result)
    return ({"classes": classes} if classes else {}) | {n: about for n, about in found.items() if n != "classes"}


def united_cleaning(sets: Sequence[PackedSet]) -> dict[str, Any]:
    """What cleaning left out of several sets, as one counts it, under its name; empty if none was cleaned."""
    counts = [each.statistics["cleaning"] for each in sets if "cleaning" in each.statistics]
    return {"cleaning": _counts_added(counts)} if counts else {}


def class_statistics(splits: Mapping[str, Index]) -> dict[str, dict[str, int]]:
    """Split -> class -> samples, of the field "label"; empty if it has no classes."""
    counted = {}
    for split, index in splits.items():
        info = index.fields.get("label")
        if info is None or info.classes is None:
            return {}
        labels = read_columns(index, ["label"])["label"].astype(np.int64)
        counts = np.bincount(labels[labels >= 0], minlength=len(info.classes)).tolist()
        counted[split] = dict(zip(info.classes, counts, strict=False))
    return counted


def _fields_added(parts: Sequence[Any]) -> dict[str, Any] | None:
    """The statistics of fields over several sets; None if one has none. Pixels only where each set has summed them."""
    if not all(parts):
        return None
    some = [{name: FieldStatistics.from_json(about) for name, about in part.items()} for part in parts]
    unknown = {name for part in some for name, about in part.items() if about.pixels is None}
    return {
        name: (replace(about, pixels=None) if name in unknown else about).to_json()
        for name, about in joined(some).items()
    }


def _counts_added(parts: Sequence[Any]) -> Any:
    """Counts, or mappings of them, added up; None where one is missing or is no count."""
    if all(isinstance(part, Mapping) for part in parts):
        names = dict.fromkeys(name for part in parts for name in part if not name.startswith(MEAN))
        added = {name: _counts_added([part[name] for part in parts if name in part]) for name in names}
        return None if None in added.values() else with_means(added)
    if all(isinstance(part, int) and not isinstance(part, bool) for part in parts):
        return sum(parts)
    return None
