"""What a packed data set is before it becomes another: its splits, its fields, and how it came about."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from fastload.errors import ConfigError, PackError, ShardIndexError
from fastload.remote.urls import is_url, shown
from fastload.shards.foreign import (
    JOURNAL_NAME,
    ONLY_SPLIT,
    find_splits,
    index_of_files,
    is_shard,
    names_below,
    refuse_unfinished,
    shards_among,
)
from fastload.shards.index import INDEX_NAME, FieldInfo, Index, IndexFile, ShardFormat, merge_fields
from fastload.shards.open import open_index


@dataclass(frozen=True, kw_only=True)
class PackedSet:
    """All splits of a packed data set.

    Attributes:
        name: of its folder or file.
        splits: name -> the shards of that split.
        fields: of all splits.
        statistics, packed: as index.json has them; empty where there is none, and of one split's folder but for its
            vocabulary, packed["tokens"].
        own: fastload packed it, so that what can be known of each sample is in its index.
        folder: with the lists of what packing left out; None where fastload did not pack it.
    """

    name: str
    shard_format: ShardFormat
    splits: dict[str, Index]
    fields: dict[str, FieldInfo]
    statistics: dict[str, Any] = field(default_factory=dict)
    packed: dict[str, Any] = field(default_factory=dict)
    own: bool = False
    folder: Path | None = None

    @property
    def samples(self) -> int:
        """Of all splits."""
        return sum(index.samples for index in self.splits.values())

    @property
    def digest(self) -> str:
        """XXH3-64 over all shards and fields: another digest, another data set."""
        parts = [(split, index.digest) for split, index in self.splits.items()]
        return xxhash.xxh3_64_hexdigest(repr((parts, list(self.fields.items()))).encode())


def open_set(data: str | os.PathLike[str]) -> PackedSet:
    """The data set that a folder, an index.json, a file or a pattern names, with all of its splits.

    Raises: as `fastload.shards.open.open_index`; ConfigError for a URL.
    """
    if is_url(os.fspath(data)):
        raise ConfigError(f"{shown(os.fspath(data))}: only local shards are written anew; copy them to a folder first")
    path = Path(os.path.abspath(data))
    if path.name == INDEX_NAME:
        path = path.parent
    if (path / INDEX_NAME).is_file():
        return set_of(IndexFile.load(path / INDEX_NAME), path)
    if path.is_dir() and not _is_split(path):
        refuse_unfinished(path)
        splits = {name: index_of_files([str(p) for p in files]) for name, files in find_splits(path).items()}
    else:
        splits = {path.name if path.is_dir() else ONLY_SPLIT: open_index(data)}
    first = next(iter(splits.values()))
    whole = IndexFile.load(path.parent / INDEX_NAME) if path.is_dir() and _is_split(path) else None
    own = whole is not None and _is_own(whole)
    return PackedSet(
        name=path.name,
        shard_format=first.shard_format,
        splits=splits,
        fields=merge_fields(first.shard_format, ((name, index.fields) for name, index in splits.items())),
        packed={"tokens": whole.packed["tokens"]} if whole is not None and "tokens" in whole.packed else {},
        own=own,
    )


def refuse_inside(source: str | os.PathLike[str], out: str | os.PathLike[str]) -> None:
    """Raise PackError where a data set would be made inside the folder that it is made of, and so be part of it."""
    inner, outer = os.path.realpath(out), os.path.realpath(source)
    if os.path.isdir(source) and (inner + os.sep).startswith(outer + os.sep):
        raise PackError(f"{out} is inside the source {source}, and would become part of it; choose a folder elsewhere")


def is_packed(source: str | os.PathLike[str]) -> bool:
    """Whether these are tar or Parquet shards; else it is a data set of others, or nothing."""
    if is_url(os.fspath(source)):
        return True
    folder = Path(source)
    if (folder / INDEX_NAME).is_file():
        try:
            return bool(json.loads((folder / INDEX_NAME).read_bytes()).get("format") == "fastload")
        except (ValueError, AttributeError):
            return False
    if folder.is_dir():
        return not any(folder.glob(f"*/{INDEX_NAME}")) and (_has_shards(folder) or _is_unfinished(folder))
    return is_shard(folder.name) or (folder.is_file() and folder.name == INDEX_NAME)


def _has_shards(folder: Path) -> bool:
    return bool(shards_among(names_below(folder)))


def _is_unfinished(folder: Path) -> bool:
    return (folder / JOURNAL_NAME).exists()


def set_of(index: IndexFile, folder: Path) -> PackedSet:
    """A packed folder whose index is at hand."""
    return PackedSet(
        name=folder.name,
        shard_format=index.shard_format,
        splits={name: index.split(name, str(folder)) for name in index.splits},
        fields=index.fields,
        statistics=index.statistics,
        packed=index.packed,
        own=_is_own(index),
        folder=folder if _is_own(index) else None,
    )


def _is_own(index: IndexFile) -> bool:
    return bool(index.packed) and index.packed.get("by") != "fastload index"


def _is_split(folder: Path) -> bool:
    try:
        return folder.name in IndexFile.load(folder.parent / INDEX_NAME).splits
    except ShardIndexError:
        return False


def refuse_clashes(files: Sequence[tuple[str, Callable[[], list[str]]]], advice: str) -> None:
    """Raise PackError where a key comes twice; one hash of each key is kept meanwhile.

    Args:
        files: (what errors call the file, what gives its keys).
        advice: how the message ends.
    """
    hashes = [np.array([xxhash.xxh3_64_intdigest(key.encode()) for key in keys()], np.uint64) for _, keys in files]
    bounds = np.cumsum([len(some) for some in hashes])
    joined = np.concatenate(hashes) if hashes else np.zeros(0, np.uint64)
    order = np.argsort(joined, kind="stable")
    for at in np.flatnonzero(joined[order][1:] == joined[order][:-1]).tolist():
        both = order[at : at + 2]
        where = np.searchsorted(bounds, both, "right").tolist()
        rows = [int(one - (bounds[file] - len(hashes[file]))) for one, file in zip(both, where, strict=True)]
        (first, key), (second, other) = ((files[f][0], files[f][1]()[row]) for f, row in zip(where, rows, strict=True))
        if key == other:
            raise PackError(f"two samples have the key {key!r}, in {first} and in {second}; {advice}")
