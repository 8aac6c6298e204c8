"""A packed folder and the shards of its next version: new names for these, and an index.json of both, replaced last."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastload.errors import PackError
from fastload.pack.plan import SHARD_NAMES
from fastload.reshape.sources import PackedSet, set_of
from fastload.reshape.unite import unite, united_cleaning, united_statistics
from fastload.shards.files import fsync_directory
from fastload.shards.idx import idx_path
from fastload.shards.index import INDEX_NAME, IndexFile, ShardFile

_NUMBER = re.compile(r"(\d+)\.(?:tar|parquet)$")


def check_moves(out: Path, before: IndexFile, more: PackedSet, staging: Path) -> None:
    """Whether `grown` can do its work; it can also where it has begun.

    Args:
        out, before, more: as in `grown`.
        staging: the folder that holds `more`.

    Raises:
        PackError: another file has one of the new names, or a shard is gone.
    """
    for source, target in _moves(out, before, more):
        if source.exists() and target.exists():
            raise PackError(f"{target} is in the way: it is not in {INDEX_NAME}; delete it and run the command again")
        if not source.exists() and not target.exists():
            raise PackError(f"{source} is gone; delete {staging} and append again")


def grown(out: Path, before: IndexFile, more: PackedSet, entry: Mapping[str, Any]) -> IndexFile:
    """Move shards into a packed folder and replace its index.json by one that has them too.

    Run again after being killed, it goes on: what has its new name already is left.

    Args:
        out: the folder.
        before: its index.json.
        more: a data set with the folder's fields whose files may be moved, on the same file system; see `check_moves`.
        entry: what the history says of it, besides the version and the counts.

    Raises:
        OSError: a file cannot be moved.
    """
    moves = list(_moves(out, before, more))
    for source, target in moves:
        if source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(source, target)
    for folder in sorted({target.parent for _, target in moves} | {out}):
        fsync_directory(folder)
    index = _index(out, before, more, entry)
    index.save(out)
    return index


def _moves(out: Path, before: IndexFile, more: PackedSet) -> Iterator[tuple[Path, Path]]:
    """From where to where, the `.idx` before its tar."""
    for split, files in _renamed(before, more).items():
        index = more.splits[split]
        for path, file in zip(index.paths, files, strict=True):
            if more.shard_format == "tar":
                yield Path(idx_path(path)), Path(idx_path(str(out / file.name)))
            yield Path(path), out / file.name


def _renamed(before: IndexFile, more: PackedSet) -> dict[str, list[ShardFile]]:
    """The new shards of each split, numbered on from those that are there."""
    renamed = {}
    for split, index in more.splits.items():
        start, stop = before.splits.get(split, (0, 0))
        numbers = [int(found[1]) for file in before.shards[start:stop] if (found := _NUMBER.search(file.name))]
        first = max(numbers, default=-1) + 1
        name = SHARD_NAMES[before.shard_format]
        renamed[split] = [
            file._replace(name=f"{split}/{name.format(first + at)}") for at, file in enumerate(index.files)
        ]
    return renamed


def _index(out: Path, before: IndexFile, more: PackedSet, entry: Mapping[str, Any]) -> IndexFile:
    old, renamed = set_of(before, out), _renamed(before, more)
    shards: list[ShardFile] = []
    splits = {}
    for split in dict.fromkeys([*before.splits, *more.splits]):
        start, stop = before.splits.get(split, (0, 0))
        first = len(shards)
        shards += [*before.shards[start:stop], *renamed.get(split, ())]
        splits[split] = (first, len(shards))
    history = before.packed.get("history") or [{"version": 1, **_counts(old)}]
    version = int(history[-1]["version"]) + 1
    index = replace(
        before,
        fields=unite([old, more], before.shard_format).fields,
        shards=tuple(shards),
        splits=splits,
        packed={
            **_packed(before),
            "version": version,
            "history": [*history, {"version": version, **_counts(more), **entry}],
        },
    )
    result = {split: index.split(split, str(out)) for split in splits}
    return replace(index, statistics=united_statistics([old, more], result) | united_cleaning([old, more]))


def _packed(before: IndexFile) -> dict[str, Any]:
    """How the folder was packed, without the extensions that converting back would give: others may come."""
    packed = dict(before.packed)
    if "converted" in packed:
        packed["converted"] = {name: value for name, value in packed["converted"].items() if name != "extensions"}
    return packed


def _counts(packed: PackedSet) -> dict[str, int]:
    return {"samples": packed.samples, "shards": sum(len(index.files) for index in packed.splits.values())}
