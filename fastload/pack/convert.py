"""`convert`: data sets of MosaicML (MDS) and LitData into shards, one for one."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, get_args

from fastload.errors import ConfigError, CorruptError, DecodeError, PackError
from fastload.pack.journal import Finished, Journal, refuse_foreign
from fastload.pack.litdata import Chunks
from fastload.pack.manifest import KEY_DIGITS, KEY_NAMES
from fastload.pack.mds import mds_shards, read_mds
from fastload.pack.plan import SHARD_NAMES
from fastload.pack.values import Value, field_of, store
from fastload.shards.idx import Idx, idx_path
from fastload.shards.index import INDEX_NAME, FieldInfo, IndexFile, ShardFile, ShardFormat, merge_fields
from fastload.shards.parquet import ParquetShardWriter
from fastload.shards.tar import TarShardWriter

OnShard = Callable[[int, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """One shard of the source.

    Attributes:
        split: which split it belongs to.
        path: of its file, as errors call it.
        first: number of its first sample over all parts.
        entry: what the source's index says of it.
        read: its samples.
    """

    split: str
    path: Path
    first: int
    entry: Mapping[str, Any]
    read: Callable[[], Iterator[dict[str, Value]]]


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
    parts = [part for split, folder in _splits(source).items() for part in _parts(split, folder)]
    parts = [replace(part, first=first) for part, first in zip(parts, _starts(parts), strict=False)]
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


def _splits(source: Path) -> dict[str, Path]:
    """The folders that have an index, by split."""
    if (source / INDEX_NAME).is_file():
        return {"train": source}
    found = {path.parent.name: path.parent for path in sorted(source.glob(f"*/{INDEX_NAME}"))}
    if not found:
        raise PackError(f"{source} has no {INDEX_NAME}, nor has a folder in it; pass a data set of MDS or LitData")
    return found


def _parts(split: str, folder: Path) -> Iterator[_Part]:
    path = folder / INDEX_NAME
    try:
        index = json.loads(path.read_bytes())
        if "chunks" in index:
            chunks, entries = Chunks(folder, index), index["chunks"]
            for number, entry in enumerate(entries):
                yield _part(split, folder / entry["filename"], entry, partial(chunks.read, number))
        elif index.get("format") != "fastload":
            for entry in mds_shards(index):
                yield _part(split, folder / entry["raw_data"]["basename"], entry, partial(read_mds, folder, entry))
        else:
            raise PackError(f"{folder} is packed by fastload already; stream it as it is")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PackError(f"{path} is no index of MDS or LitData ({type(error).__name__}: {error})") from error


def _part(split: str, path: Path, entry: Mapping[str, Any], read: Callable[[], Iterator[dict[str, Value]]]) -> _Part:
    return _Part(split=split, path=path, first=0, entry=entry, read=read)


def _starts(parts: list[_Part]) -> list[int]:
    return [0, *accumulate(part.entry.get("samples", part.entry.get("chunk_size", 0)) for part in parts)]


def _fields(parts: list[_Part]) -> dict[str, FieldInfo]:
    """The fields of all samples, from the first one."""
    for part in parts:
        for _, sample in _samples(part):
            return {name: field_of(value) for name, value in sample.items()}
    raise PackError("the data set has no samples")


def _samples(part: _Part) -> Iterator[tuple[str, dict[str, Value]]]:
    """Key and values of each sample of a part; its errors say which part."""
    number = part.first
    try:
        for number, sample in enumerate(part.read(), part.first + 1):
            name = next((name for name in KEY_NAMES if isinstance(sample.get(name), str)), None)
            key = f"{number:0{KEY_DIGITS}d}" if name is None else str(sample.pop(name)).replace(".", "_")
            yield key, sample
    except (CorruptError, PackError) as error:
        error.message = f"{part.path}: {error.message}"
        raise
    except OSError as error:
        raise PackError(f"{part.path} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, IndexError, struct.error) as error:
        raise CorruptError(f"{part.path}, after sample {number - part.first}: not readable ({error})") from error


def _write(part: _Part, path: Path, fields: Mapping[str, FieldInfo], shard_format: ShardFormat) -> ShardFile:
    path.parent.mkdir(exist_ok=True)
    writer = TarShardWriter(path, fields) if shard_format == "tar" else ParquetShardWriter(path, fields)
    try:
        for number, (key, sample) in enumerate(_samples(part), 1):
            try:
                writer.add(key, *store(sample, fields))
            except (PackError, DecodeError) as error:
                raise PackError(f"{part.path}, sample {number}: {error.message}", key=key) from error
        return writer.finish()
    except BaseException:
        writer.abort()
        raise


def _names(parts: list[_Part], shard_format: ShardFormat) -> list[str]:
    names, counts = [], dict.fromkeys((part.split for part in parts), 0)
    for part in parts:
        names.append(f"{part.split}/{SHARD_NAMES[shard_format].format(counts[part.split])}")
        counts[part.split] += 1
    return names


def _spans(parts: list[_Part]) -> dict[str, tuple[int, int]]:
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
