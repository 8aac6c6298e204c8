"""`convert`: data sets of MosaicML (MDS) and LitData into shards, one for one; packed ones into another shape."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import get_args

import xxhash

from fastload.errors import ConfigError, DecodeError, PackError
from fastload.pack.checks import FACTS
from fastload.pack.foreign import Part as ForeignPart
from fastload.pack.foreign import find_splits, foreign_parts, part_samples
from fastload.pack.journal import Journal, refuse_foreign
from fastload.pack.streams import split_key, whole
from fastload.pack.values import field_of, store
from fastload.reshape.parts import check_keys
from fastload.reshape.recast import recast
from fastload.reshape.records import Record
from fastload.reshape.shaping import OnShard, Part, Shape, write_shaped
from fastload.reshape.sources import is_packed, open_set, refuse_inside, set_of
from fastload.shards.index import FieldInfo, IndexFile, ShardFormat
from fastload.sizes import parse_size


def convert(
    source: str | Path,
    out: str | Path,
    *,
    format: ShardFormat = "tar",
    shard_size: int | str | None = None,
    progress: OnShard | None = None,
) -> IndexFile:
    """Convert a data set: each shard of the source becomes one of `out`, or as many as `shard_size` asks for.

    The source is an MDS or LitData data set, or a packed one: of fastload (tar to Parquet and back without loss, see
    `fastload.reshape.recast`), WebDataset tars, Parquet files. Samples keep their order. In MDS and LitData, a field
    "__key__" or "key" of text is the samples' key, otherwise they are numbered. A run that was stopped in any way goes
    on when it is started again; finished shards are kept, and index.json is written last.

    Args:
        source: a folder with an index.json, or one whose subfolders have one: these are then the splits; a folder of
            tar or Parquet files; a file, or a pattern such as "a-{000..099}.tar".
        out: a new or empty folder, or one with an unfinished run of the same source and options.
        format: "tar" (WebDataset) or "parquet".
        shard_size: most bytes of a shard, as a number or like "256MiB"; None: one for each shard of the source.
        progress: called with shards of the source done, shards in all, and bytes written.

    Returns: what index.json says.

    Raises:
        ConfigError: an unknown format, or a shard size that is none.
        PackError: no such data set, something in it that no field can hold (which), a faulty sample (where), or two
            samples with one key.
        ShardIndexError: packed shards that do not fit each other, or whose packing was not finished.
        CorruptError: a shard of the source is cut off or damaged.
    """
    if format not in get_args(ShardFormat):
        raise ConfigError(f"format={format!r}: pass 'tar' or 'parquet'")
    shard_bytes = None if shard_size is None else parse_size(shard_size)
    refuse_inside(source, out)
    refuse_foreign(Path(out))
    if is_packed(source):
        return recast(open_set(source), Path(out), shard_format=format, shard_bytes=shard_bytes, progress=progress)
    return _convert_streams(Path(source), Path(out), format, shard_bytes, progress)


def _convert_streams(
    source: Path, out: Path, shard_format: ShardFormat, shard_bytes: int | None, progress: OnShard | None
) -> IndexFile:
    """MDS and LitData."""
    parts = foreign_parts(find_splits(source))
    fields = _fields(parts)
    splits: dict[str, list[Part]] = {part.split: [] for part in parts}
    for part in parts:
        read = partial(_records, part, fields)
        splits[part.split].append(Part(name=str(part.path), samples=_count(part), read=read))
    facts = tuple(f"{name}.{what}" for name, info in fields.items() for what in FACTS.get(info.kind, ()))
    entries = json.dumps([part.entry for part in parts], sort_keys=True)
    identity = {
        "source": str(source.absolute()),
        "convert": shard_format,
        "shard_size": shard_bytes,
        "entries": xxhash.xxh3_64_hexdigest(entries.encode()),
    }
    with Journal(out, identity) as journal:
        shape = Shape(shard_format=shard_format, fields=fields, shard_bytes=shard_bytes, facts=facts)
        shaped = write_shaped(out, journal, splits, shape, progress)
        index = IndexFile(
            shard_format=shard_format,
            fields=shaped.fields,
            shards=shaped.files,
            splits=shaped.splits,
            packed={"by": "fastload convert", "source": source.resolve().name},
        )
        for split in index.splits:  # what others write is in no index: keys are known when the shards are there
            advice = f"rename one in the source, delete {out}, and convert again"
            check_keys([set_of(index, out)], split, shard_format, lambda _, key: key, advice)
        index.save(out)
        journal.remove()
    return index


def _fields(parts: list[ForeignPart]) -> dict[str, FieldInfo]:
    """The fields of all samples, from the first one."""
    for part in parts:
        for sample in part_samples(part):
            try:
                return {name: field_of(value) for name, value in split_key(whole(sample), 1)[1].items()}
            except PackError as error:
                raise PackError(f"{sample.where}: {error.message}") from error
    raise PackError("the data set has no samples")


def _count(part: ForeignPart) -> int:
    return int(part.entry.get("samples", part.entry.get("chunk_size", 0)))


def _records(part: ForeignPart, fields: Mapping[str, FieldInfo], start: int) -> Iterator[Record]:
    """The samples of a part, from a row on, as they are stored."""
    for number, sample in islice(enumerate(part_samples(part), part.first + 1), start, None):
        key = None
        try:
            key, values = split_key(whole(sample), number)
            contents, scalars, facts = store(values, fields)
        except (PackError, DecodeError) as error:
            raise PackError(f"{sample.where}: {error.message}", key=key) from error
        yield Record(key=key, contents=contents, scalars=scalars, facts=facts)
