"""`convert`: data sets of MosaicML (MDS) and LitData into shards, one for one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import get_args

from fastload.errors import ConfigError, DecodeError, PackError
from fastload.pack.foreign import Part, find_splits, foreign_parts, part_samples
from fastload.pack.journal import Finished, Journal, refuse_foreign
from fastload.pack.plan import SHARD_NAMES
from fastload.pack.streams import split_key
from fastload.pack.values import field_of, store
from fastload.shards.idx import Idx, idx_path
from fastload.shards.index import FieldInfo, IndexFile, ShardFile, ShardFormat, merge_fields
from fastload.shards.parquet import ParquetShardWriter
from fastload.shards.tar import TarShardWriter

OnShard = Callable[[int, int, int], None]


def convert(
    source: str | Path, out: str | Path, *, format: ShardFormat = "tar", progress: OnShard | None = None
) -> IndexFile:
    """Convert an MDS or LitData data set: each of its shards becomes one of `out`, with its samples in their order.

    A field "__key__" or "key" of text is the samples' key, otherwise they are numbered. A run that was stopped in any
    way goes on when it is started again; finished shards are kept, and index.json is written last.

    Args:
        source: a folder with an index.json, or one whose subfolders have one: these are then the splits.
        out: a new or empty folder, or one with an unfinished run of the same source and format.
        format: "tar" (WebDataset) or "parquet".
        progress: called with shards done, shards in all, and bytes written.

    Returns: what index.json says.

    Raises:
        ConfigError: an unknown format.
        PackError: no such data set, something in it that no field can hold (which), or a faulty sample (where).
        CorruptError: a shard of the source is cut off or damaged.
    """
    source, out = Path(source), Path(out)
    if format not in get_args(ShardFormat):
        raise ConfigError(f"format={format!r}: pass 'tar' or 'parquet'")
    refuse_foreign(out)
    parts = foreign_parts(find_splits(source))
    fields = _fields(parts)
    with Journal(out, {"source": str(source.absolute()), "convert": format}) as journal:
        journal.remove_leftovers()
        files: list[ShardFile] = []
        for number, (part, name) in enumerate(zip(parts, _names(parts, format), strict=True), 1):
            digest = json.dumps(part.entry, sort_keys=True)
            known = journal.finished.get(name)
            if known is None or known.digest != digest or not (out / name).exists():
                file = replace(_write(part, out / name, fields, format), name=name)
                journal.record(name, Finished(digest=digest, file=file))
            files.append(journal.finished[name].file)
            if progress is not None:
                progress(number, len(parts), sum(file.bytes for file in files))
        index = IndexFile(
            shard_format=format,
            fields=_written_fields(out, files, fields, format),
            shards=tuple(files),
            splits=_spans(parts),
            packed={"by": "fastload convert", "source": source.resolve().name},
        )
        index.save(out)
        journal.remove()
    return index


def _fields(parts: list[Part]) -> dict[str, FieldInfo]:
    """The fields of all samples, from the first one."""
    for part in parts:
        for _, values in part_samples(part):
            return {name: field_of(value) for name, value in split_key(values, 1)[1].items()}
    raise PackError("the data set has no samples")


def _write(part: Part, path: Path, fields: Mapping[str, FieldInfo], shard_format: ShardFormat) -> ShardFile:
    path.parent.mkdir(exist_ok=True)
    writer = TarShardWriter(path, fields) if shard_format == "tar" else ParquetShardWriter(path, fields)
    try:
        for number, (where, values) in enumerate(part_samples(part), part.first + 1):
            key = None
            try:
                key, values = split_key(values, number)
                writer.add(key, *store(values, fields))
            except (PackError, DecodeError) as error:
                raise PackError(f"{where}: {error.message}", key=key) from error
        return writer.finish()
    except BaseException:
        writer.abort()
        raise


def _names(parts: list[Part], shard_format: ShardFormat) -> list[str]:
    names, counts = [], dict.fromkeys((part.split for part in parts), 0)
    for part in parts:
        names.append(f"{part.split}/{SHARD_NAMES[shard_format].format(counts[part.split])}")
        counts[part.split] += 1
    return names


def _spans(parts: list[Part]) -> dict[str, tuple[int, int]]:
    splits = [part.split for part in parts]
    names = list(dict.fromkeys(splits))
    return dict(zip(names, pairwise([0, *accumulate(splits.count(name) for name in names)]), strict=True))


def _written_fields(
    out: Path, files: list[ShardFile], fields: dict[str, FieldInfo], shard_format: ShardFormat
) -> dict[str, FieldInfo]:
    """The fields as the shards have them: in tars with the extensions that all members share."""
    if shard_format == "parquet":
        return fields
    return merge_fields("tar", ((file.name, Idx(idx_path(str(out / file.name))).fields) for file in files))
