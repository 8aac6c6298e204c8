"""Whether the `.idx` of a tar is to be believed: index.json vouches for it, or else the tar must say the same.

It has no checksum of itself. One that is damaged may look whole, and say that its tar is.

in index.json            the tar          the `.idx` is believed
its checksum             as it may be     yes
another checksum         in index.json    no: it is made again from the tar
another, or no index     as it says       if it is the one that the tar gives
no index                 damaged          if its samples are those of the tar, as far as the tar can be read
another                  damaged          no
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fastload.errors import FastloadError, ShardIndexError
from fastload.reshape.rescan import find_samples, rescan, rescan_foreign, sample_columns
from fastload.shards.idx import Idx, idx_path
from fastload.shards.index import FieldInfo, ShardFile, merge_fields
from fastload.shards.parquetscan import hash_file

Fields = Mapping[str, FieldInfo]
# what reading bytes that were flipped can raise
_UNREADABLE = (FastloadError, ValueError, TypeError, AttributeError, LookupError, OverflowError, MemoryError)


def believed_idx(path: Path, tar: Path, about: ShardFile | None, found: ShardFile, fields: Fields | None) -> Idx | None:
    """The `.idx` of a tar, or None if there is none that can be believed.

    Args:
        path: of the `.idx`.
        tar: its tar.
        about: the shard as index.json has it; None if there is no index.json.
        found: the tar as it is: bytes and checksum.
        fields: of the data set; None where they are not known.
    """
    try:
        idx = Idx(str(path))
        digest = hash_file(path)
        if about is not None and about.index_xxh3 == digest:
            return idx
        if about is not None and (about.bytes, about.xxh3) == (found.bytes, found.xxh3):
            return None
        if idx.tar_xxh3 == found.xxh3:
            return idx if _gives(tar, idx, digest, found, fields) else None
        return idx if about is None and _says_the_same(tar, idx) else None
    except _UNREADABLE:
        return None


def _gives(tar: Path, idx: Idx, digest: str, found: ShardFile, fields: Fields | None) -> bool:
    """Whether the tar, read again, gives just this `.idx`."""
    if fields is not None and _fits(idx.fields, fields):
        try:
            if rescan(tar, found._replace(samples=idx.samples), idx.fields, digest).shard.index_xxh3 == digest:
                return True
        except _UNREADABLE:
            pass
    return rescan_foreign(tar, found.name).shard.index_xxh3 == digest


def _fits(some: Fields, fields: Fields) -> bool:
    """Whether these are the fields of the data set, with as many of its classes as there were."""
    same = _without_classes(some) == _without_classes(fields)
    return same and all(_goes_on(info.classes, fields[name].classes) for name, info in some.items())


def _goes_on(some: tuple[str, ...] | None, classes: tuple[str, ...] | None) -> bool:
    return some == classes or (some is not None and classes is not None and classes[: len(some)] == some)


def _without_classes(fields: Fields) -> list[tuple[str, FieldInfo]]:
    return [(name, replace(info, classes=None)) for name, info in fields.items()]


def _says_the_same(tar: Path, idx: Idx) -> bool:
    """Whether the `.idx` describes a damaged tar: all that is whole of it is as the `.idx` says."""
    with open(tar, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        walked = find_samples(data, tar.name)
        count = min(len(walked.samples), idx.samples)
        with memoryview(data) as view:
            columns, _ = sample_columns(view, walked.samples[:count], idx.fields, tar.name)
    rows = np.arange(count)
    places: list[tuple[Any, Any]] = [(idx.keys(rows), columns.keys), (idx.offsets[:count], columns.offsets)]
    whole = np.asarray(columns.xxh3, np.uint64) == idx.xxh3[:count]
    values = {**columns.scalars, **columns.facts}
    for name, (starts, sizes) in columns.spans.items():
        values |= {f"{name}.offset": starts, f"{name}.length": sizes}
    as_told = all(
        np.array_equal(np.asarray(values[name])[whole], idx.column(name)[:count][whole])
        for name in values
        if name in idx or name not in columns.facts
    )
    torn = walked.fault is not None or not whole.all()
    return torn and as_told and all(np.array_equal(told, there) for told, there in places)


def agreed_fields(root: Path, tars: Iterable[str]) -> dict[str, FieldInfo] | None:
    """The fields that the `.idx` of most tars give, with the classes that others add; None if none can be read.

    Raises: ShardIndexError where as many give other classes: one is damaged, and nothing tells which.
    """
    groups: list[tuple[str, dict[str, FieldInfo], int]] = []
    for name in map(idx_path, tars):
        fields = _read_fields(root / name)
        if fields is None:
            continue
        same = next((at for at, group in enumerate(groups) if group[1] == fields), None)
        if same is None:
            groups.append((name, fields, 1))
        else:
            groups[same] = (*groups[same][:2], groups[same][2] + 1)
    if not groups:
        return None
    first, *others = sorted(groups, key=lambda group: -group[2])
    agreed = first[1]
    for name, fields, count in others:
        if _without_classes(fields) != _without_classes(agreed):
            continue
        try:
            agreed = merge_fields("tar", [(first[0], agreed), (name, fields)])
        except ShardIndexError as error:
            if count == first[2]:
                raise ShardIndexError(
                    f"{error.message}; without index.json nothing tells which is right: delete the .idx that is not"
                ) from error
    return agreed


def _read_fields(path: Path) -> dict[str, FieldInfo] | None:
    """The fields that an `.idx` gives; None where it cannot be read, or a dtype is none."""
    try:
        fields = Idx(str(path)).fields
        for info in fields.values():
            np.dtype(info.dtype)
    except _UNREADABLE:
        return None
    return fields
