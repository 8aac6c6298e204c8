"""Data sets of MosaicML (MDS) and LitData: their splits, their shards, and the samples in these."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from fastload.errors import CorruptError, PackError
from fastload.pack.litdata import Chunks
from fastload.pack.mds import mds_shards, read_mds
from fastload.pack.streams import Sample, Stream, sample_of
from fastload.pack.values import Unfit, Value
from fastload.shards.index import INDEX_NAME

Found = Mapping[str, Value | Unfit | None]  # of a sample: a value of each field, why it cannot be read, or null
_NULL = "is null; fill it at the source, or leave such samples out with drop_missing=True (--drop-missing)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
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
    read: Callable[[], Iterator[Found]]


def foreign_stream(source: Path) -> Stream:
    """The samples of one data set, a folder with an index.json of MDS or LitData.

    Raises:
        PackError: no such folder, or one with several splits: each is packed on its own, or all converted as they are.
    """
    splits = find_splits(source)
    if len(splits) > 1:
        names = ", ".join(map(repr, splits))
        raise PackError(
            f"{source} has the splits {names}: pass one of these folders, or keep all as they are with `fastload"
            " convert`"
        )
    parts = foreign_parts(splits)

    def read() -> Iterator[Sample]:
        for part in parts:
            yield from part_samples(part)

    return Stream(name=str(source), read=read)


def is_foreign(folder: Path) -> bool:
    """Whether a folder, or those in it, have an index.json that fastload did not write."""
    paths = [folder / INDEX_NAME, *sorted(folder.glob(f"*/{INDEX_NAME}"))]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        return False
    try:
        index = json.loads(found.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(index, dict) and ("chunks" in index or (index.get("format") != "fastload" and "shards" in index))


def foreign_parts(splits: Mapping[str, Path]) -> list[Part]:
    """The shards of all splits."""
    parts = [part for split, folder in splits.items() for part in _parts(split, folder)]
    return [replace(part, first=first) for part, first in zip(parts, _starts(parts), strict=False)]


def find_splits(source: Path) -> dict[str, Path]:
    """The folders that have an index, by split; PackError if there is none."""
    if (source / INDEX_NAME).is_file():
        return {"train": source}
    found = {path.parent.name: path.parent for path in sorted(source.glob(f"*/{INDEX_NAME}"))}
    if not found:
        raise PackError(
            f"{source} has no {INDEX_NAME}, nor has a folder in it; pass a data set of MDS or LitData, or shards"
        )
    return found


def _parts(split: str, folder: Path) -> Iterator[Part]:
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


def _part(split: str, path: Path, entry: Mapping[str, Any], read: Callable[[], Iterator[Found]]) -> Part:
    return Part(split=split, path=path, first=0, entry=entry, read=read)


def _starts(parts: list[Part]) -> list[int]:
    return [0, *accumulate(part.entry.get("samples", part.entry.get("chunk_size", 0)) for part in parts)]


def part_samples(part: Part) -> Iterator[Sample]:
    """The samples of a part; errors say which part, and samples count from 1 in it. A damaged value is a fault of its
    sample.

    Raises:
        PackError: something that no field can hold.
        CorruptError: the part is cut off or damaged.
    """
    number = 0
    try:
        for number, values in enumerate(part.read(), 1):
            yield sample_of(f"{part.path}, sample {number}", values, _NULL)
    except (CorruptError, PackError) as error:
        error.message = f"{part.path}: {error.message}"
        raise
    except OSError as error:
        raise PackError(f"{part.path} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, IndexError, struct.error) as error:
        raise CorruptError(f"{part.path}, after sample {number}: not readable ({error})") from error
