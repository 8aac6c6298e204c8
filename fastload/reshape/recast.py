"""A packed data set in the other format, or in shards of another size: the same samples, in their order, to the bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastload.pack.journal import Journal
from fastload.pack.lists import add_lists
from fastload.reshape.parts import all_facts, check_keys, set_parts, typed_bytes
from fastload.reshape.shaping import OnShard, Shape, write_shaped
from fastload.reshape.sources import PackedSet
from fastload.shards.index import FieldInfo, IndexFile, ShardFormat


def recast(
    source: PackedSet,
    out: Path,
    *,
    shard_format: ShardFormat,
    shard_bytes: int | None = None,
    progress: OnShard | None = None,
) -> IndexFile:
    """Write a packed data set anew.

    Contents, scalars, facts, names of classes, keys, splits and the order of samples stay. Shard by shard
    (`shard_bytes` None), what `fastload pack` made comes back to the byte when it is converted there and back, unless
    more was appended, whose classes and types of files may be others:
    index.json notes under "converted" what the other format cannot say. Data of others gets keys that a tar can have,
    and facts from a look at its contents.

    Args:
        source: the data set.
        out: a new or empty folder, or one with an unfinished run of the same.
        shard_format: of the result.
        shard_bytes: most bytes of a shard; None: one for each of the source.
        progress: called with parts of the source done, parts in all, and bytes written.

    Raises:
        PackError: two samples with one key, a content that is not what its field says, or text that Parquet
            cannot hold because it is not UTF-8.
        CorruptError: a damaged shard of the source.
    """
    converted = _converted(source, shard_format, shard_bytes)
    known = converted.get("extensions") if source.own else None
    fields = {name: _written(info, (known or {}).get(name)) for name, info in source.fields.items()}
    for split in source.splits:
        advice = "rename one, and index the shards anew"
        check_keys([source], split, shard_format, lambda _, key: key, advice)
    facts = all_facts(source)
    shape = Shape(
        shard_format=shard_format,
        fields=fields if shard_format == "tar" else source.fields,
        shard_bytes=shard_bytes,
        infer=known is None,
        facts=facts,
        types=typed_bytes(source) if shard_format == "parquet" else (),
    )
    identity = {"convert": source.digest, "format": shard_format, "shard_size": shard_bytes}
    with Journal(out, identity) as journal:
        shaped = write_shaped(out, journal, set_parts(source, source.fields, facts), shape, progress)
        index = IndexFile(
            shard_format=shard_format,
            fields=shaped.fields,
            shards=shaped.files,
            splits=shaped.splits,
            statistics=source.statistics,
            packed=_packed(source, shard_format, converted),
        )
        if source.folder is not None:
            add_lists(out, source.folder, "")
        index.save(out)
        journal.remove()
    return index


def _written(info: FieldInfo, extension: str | None) -> FieldInfo:
    return replace(info, extension=extension)


def _converted(source: PackedSet, shard_format: ShardFormat, shard_bytes: int | None) -> dict[str, Any]:
    """What is to be known for the way back: the format and extensions of the beginning, and the last shard size."""
    before: Mapping[str, Any] = source.packed.get("converted", {})
    extensions = {name: info.extension for name, info in source.fields.items() if info.extension is not None}
    return {
        "from": before.get("from", source.shard_format),
        "shard_size": shard_bytes or before.get("shard_size"),
        "extensions": extensions if source.shard_format == "tar" else before.get("extensions"),
    }


def _packed(source: PackedSet, shard_format: ShardFormat, converted: Mapping[str, Any]) -> dict[str, Any]:
    """How the result was packed: as the source, and what has become of it since, unless it is back where it was."""
    if not source.own:
        return {"by": "fastload convert", "source": source.name}
    packed = {name: value for name, value in source.packed.items() if name != "converted"}
    if converted["from"] == shard_format and converted["shard_size"] is None:
        return packed
    return {**packed, "converted": {name: value for name, value in converted.items() if value is not None}}
