"""`merge`: several data sets into one."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from fastload.errors import ConfigError
from fastload.pack.journal import Journal, refuse_foreign
from fastload.pack.lists import add_lists
from fastload.reshape.parts import all_facts, check_keys, in_order, set_parts, typed_bytes
from fastload.reshape.shaping import OnShard, Part, Shape, write_shaped
from fastload.reshape.sources import PackedSet, open_set, refuse_inside
from fastload.reshape.unite import (
    United,
    changer,
    unite,
    united_cleaning,
    united_statistics,
    united_vocabulary,
)
from fastload.shards.index import IndexFile, ShardFormat
from fastload.sizes import parse_size


def merge(
    sources: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    format: ShardFormat | None = None,
    shard_size: int | str | None = None,
    prefix: bool = False,
    progress: OnShard | None = None,
) -> IndexFile:
    """Make one data set of several; splits of one name become one split, the samples of the first source first.

    All must have the same fields. Classes are matched by name: those of the first keep their numbers, others follow,
    and labels are renumbered. A run that was stopped in any way goes on when it is started again; index.json is
    written last.

    Args:
        sources: packed folders, of fastload or not, or other names of shards that `fastload convert` takes.
        out: a new or empty folder, or one with an unfinished run of the same.
        format: "tar" or "parquet"; None: that of the sources.
        shard_size: most bytes of a shard, as a number or like "256MiB"; None: one for each of the sources'.
        prefix: put the source's name and a slash before each key, so that none clash. Two sources with one name are
            called name and name-2.
        progress: called with shards of the sources done, shards in all, and bytes written.

    Returns: what index.json says.

    Raises:
        ConfigError: fewer than two sources, an unknown format, or formats that differ and no choice.
        ShardIndexError: fields that do not fit (which, and where), tokens of several vocabularies.
        PackError: two samples with one key, or a content that is not what its field says.
        CorruptError: a damaged shard of a source.
    """
    if isinstance(sources, str | os.PathLike) or len(sources) < 2:
        raise ConfigError(f"sources={sources!r}: pass at least two data sets")
    if format is not None and format not in get_args(ShardFormat):
        raise ConfigError(f"format={format!r}: pass 'tar' or 'parquet'")
    shard_bytes = None if shard_size is None else parse_size(shard_size)
    for source in sources:
        refuse_inside(source, out)
    refuse_foreign(Path(out))
    sets = _named([open_set(source) for source in sources])
    shard_format = format or _common_format(sets)
    united = unite(sets, shard_format)
    prefixes = [f"{each.name}/" if prefix else "" for each in sets]
    splits = list(dict.fromkeys(split for each in sets for split in each.splits))
    for split in splits:
        advice = "pass prefix=True (--prefix) to put the name of its source before each key"
        check_keys(sets, split, shard_format, lambda number, key: prefixes[number] + key, advice)
    facts = in_order(united.fields, {fact for each in sets for fact in all_facts(each)})
    identity = {"merge": [each.digest for each in sets], "prefixes": prefixes}
    with Journal(Path(out), {**identity, "format": shard_format, "shard_size": shard_bytes}) as journal:
        shape = _shape(sets, united, shard_format, shard_bytes, facts)
        shaped = write_shaped(Path(out), journal, _parts(sets, united, prefixes, facts, splits), shape, progress)
        index = IndexFile(
            shard_format=shard_format,
            fields=shaped.fields,
            shards=shaped.files,
            splits=shaped.splits,
            packed={
                "by": "fastload merge",
                "sources": [
                    {"source": each.name, "samples": each.samples, **({"prefix": p} if p else {})}
                    for each, p in zip(sets, prefixes, strict=True)
                ],
                **united_vocabulary(sets),
            },
        )
        result = {split: index.split(split, str(out)) for split in index.splits}
        index = replace(index, statistics=united_statistics(sets, result) | united_cleaning(sets))
        for each, key_prefix in zip(sets, prefixes, strict=True):
            if each.folder is not None:
                add_lists(Path(out), each.folder, key_prefix)
        index.save(Path(out))
        journal.remove()
    return index


def _named(sets: Sequence[PackedSet]) -> list[PackedSet]:
    """The data sets with names that differ."""
    seen: Counter[str] = Counter()
    named = []
    for each in sets:
        seen[each.name] += 1
        named.append(replace(each, name=f"{each.name}-{seen[each.name]}") if seen[each.name] > 1 else each)
    return named


def _common_format(sets: Sequence[PackedSet]) -> ShardFormat:
    found = {each.shard_format: each.name for each in sets}
    if len(found) > 1:
        said = " and ".join(f"{name} is {shard_format}" for shard_format, name in found.items())
        raise ConfigError(f"{said}: pass the format of the result, 'tar' or 'parquet'")
    return next(iter(found))


def _shape(
    sets: Sequence[PackedSet],
    united: United,
    shard_format: ShardFormat,
    shard_bytes: int | None,
    facts: tuple[str, ...],
) -> Shape:
    known = all(each.own and each.shard_format == "tar" for each in sets)
    fields = {n: i if known else replace(i, extension=None) for n, i in united.fields.items()}
    types = dict.fromkeys(name for each in sets for name in typed_bytes(each)) if shard_format == "parquet" else ()
    return Shape(
        shard_format=shard_format,
        fields=fields,
        shard_bytes=shard_bytes,
        infer=not known,
        facts=facts,
        types=tuple(types),
    )


def _parts(
    sets: Sequence[PackedSet],
    united: United,
    prefixes: Sequence[str],
    facts: tuple[str, ...],
    splits: Sequence[str],
) -> Mapping[str, list[Part]]:
    parts: dict[str, list[Part]] = {split: [] for split in splits}
    for each, prefix, labels in zip(sets, prefixes, united.labels, strict=True):
        for split, some in set_parts(each, united.fields, facts, changer(prefix, labels)).items():
            parts[split] += some
    return parts
