"""Packed data sets as parts to be written: what their samples have, completed where some lack it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial

from fastload.errors import DecodeError, PackError
from fastload.pack.checks import FACTS, inspector
from fastload.reshape.records import Record, fact_columns, kept_types, read_keys, read_records
from fastload.reshape.shaping import Part, tar_key
from fastload.reshape.sources import PackedSet, refuse_clashes
from fastload.shards.index import FieldInfo, Index, ShardFormat

Change = Callable[[Record], Record]


def set_parts(
    source: PackedSet, fields: Mapping[str, FieldInfo], facts: Iterable[str], change: Change | None = None
) -> dict[str, list[Part]]:
    """The files of a data set, by split; empty ones are left out.

    Args:
        source: the data set.
        fields: of the result.
        facts: that every sample is to have; found out where the source does not note them.
        change: what becomes of each sample.
    """
    wanted = facts_by_field(fields, facts)
    return {
        split: [
            Part(
                name=f"{source.name}/{about.name}",
                samples=about.samples,
                read=partial(_changed, index, file, fields, wanted, change),
            )
            for file, about in enumerate(index.files)
            if about.samples
        ]
        for split, index in source.splits.items()
    }


def _changed(
    index: Index,
    file: int,
    fields: Mapping[str, FieldInfo],
    facts: Mapping[str, list[str]],
    change: Change | None,
    start: int,
) -> Iterator[Record]:
    for record in read_records(index, file, start):
        whole = _with_facts(record, fields, facts, index.files[file].name)
        yield whole if change is None else change(whole)


def _with_facts(record: Record, fields: Mapping[str, FieldInfo], facts: Mapping[str, list[str]], shard: str) -> Record:
    """The sample with the facts that it lacks, from a look at its contents.

    Raises: PackError where a content is not what its field says.
    """
    found: dict[str, int] = {}
    for name, (_, content) in record.contents.items():
        lacking = [fact for fact in facts.get(name, ()) if fact not in record.facts]
        if not lacking:
            continue
        kind = fields[name].kind
        try:
            seen = inspector(kind)(memoryview(content))
        except DecodeError as error:
            raise PackError(f"field {name!r}: {error.message}", shard=shard, key=record.key) from error
        found |= {f"{name}.{what}": value for what, value in zip(FACTS.get(kind, ()), seen, strict=True)}
    return replace(record, facts={**record.facts, **found}) if found else record


def all_facts(source: PackedSet) -> tuple[str, ...]:
    """The facts that the samples of a data set have, or get where fastload did not pack it, in the order of packing."""
    found = {fact for index in source.splits.values() for fact in fact_columns(index)}
    if not source.own:
        found |= {f"{name}.{what}" for name, info in source.fields.items() for what in FACTS.get(info.kind, ())}
    return in_order(source.fields, found)


def in_order(fields: Mapping[str, FieldInfo], facts: Iterable[str]) -> tuple[str, ...]:
    """Facts as `fastload pack` orders them: by field, then as `FACTS` lists them, then others by name."""
    left = set(facts)
    listed = [f"{name}.{what}" for name, info in fields.items() for what in FACTS.get(info.kind, ())]
    known = [fact for fact in listed if fact in left]
    return (*known, *sorted(left - set(known)))


def facts_by_field(fields: Mapping[str, FieldInfo], facts: Iterable[str]) -> dict[str, list[str]]:
    """Field -> those of the facts that a look at its contents gives."""
    wanted = set(facts)
    by_field = {
        name: [f"{name}.{what}" for what in FACTS.get(info.kind, ()) if f"{name}.{what}" in wanted]
        for name, info in fields.items()
    }
    return {name: some for name, some in by_field.items() if some}


def typed_bytes(source: PackedSet) -> tuple[str, ...]:
    """The fields of bytes that are files of some type, which Parquet does not say by itself."""
    named = [name for name, info in source.fields.items() if info.kind == "bytes"]
    if source.shard_format == "tar":
        return tuple(name for name in named if (source.fields[name].extension or "").rpartition(".")[2] != "bin")
    kept = {name for index in source.splits.values() for name in kept_types(index)} if named else set()
    return tuple(name for name in named if name in kept)


def check_keys(
    sources: Iterable[PackedSet], split: str, shard_format: ShardFormat, rename: Callable[[int, str], str], advice: str
) -> None:
    """Every key of a split once, as it will be written.

    Args:
        sources: that are written into one.
        split: of them.
        shard_format: of the result.
        rename: from the number of a source and a key in it to the key in the result.
        advice: how the error ends.

    Raises: PackError, see `refuse_clashes`; one for a key that a tar cannot have.
    """

    def keys(number: int, index: Index, file: int) -> list[str]:
        renamed = [rename(number, key) for key in read_keys(index, file)]
        return [tar_key(key) for key in renamed] if shard_format == "tar" else renamed

    refuse_clashes(
        [
            (f"{source.name}/{about.name}", partial(keys, number, source.splits[split], file))
            for number, source in enumerate(sources)
            if split in source.splits
            for file, about in enumerate(source.splits[split].files)
        ],
        advice,
    )
