"""Every way to name data, and the index that it stands for.

    OUT, OUT/index.json            what `fastload pack` or `fastload index` made
    OUT/train                      one split of it, as OUT with split="train"
    folder                         of tar or Parquet files by others
    a.tar, b.parquet               single files
    shards-{000..099}.tar, *.tar   patterns: {a..b} and {a,b,c} in the order written, then * ? [] in natural order
    s3://bucket/OUT, https://...   the same behind a URL, all but folders by others and *: stores are not listed
    a list of any of these         joined in its order

`index_folder` writes what the first way reads, for shards that fastload did not pack.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, groupby, pairwise
from pathlib import Path

from fastload.errors import ConfigError, ShardIndexError, SourceError
from fastload.remote.cache import Cache
from fastload.remote.settings import Remote
from fastload.remote.urls import is_url, path_of
from fastload.shards.behind import index_of_urls, open_url
from fastload.shards.foreign import (
    choose_split,
    describe_anew,
    find_splits,
    index_of_files,
    is_shard,
    natural_key,
    one_format,
    refuse_compressed,
    refuse_unfinished,
    refuse_url,
)
from fastload.shards.index import INDEX_NAME, FieldInfo, Index, IndexFile, ShardFile, join, merge_fields

Data = str | os.PathLike[str]

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def open_index(data: Data | Sequence[Data], split: str | None = None, remote: Remote | None = None) -> Index:
    """The index of the shards that `data` names; see the module for the ways to name them.

    No shard is read, but a tar without a current `.idx` is scanned once, and its `.idx` is written beside it (or, where
    that is not allowed, under $XDG_CACHE_HOME/fastload/index). Behind a URL it is fetched for that, and its `.idx` is
    kept in the cache.

    Args:
        data: path, URL, pattern, or a sequence of these.
        split: which split of a folder that has several.
        remote: how URLs are read.

    Raises:
        ConfigError: another kind of file, a URL with *, or a split of something that has none.
        SourceError: a path or pattern that matches nothing, a URL that cannot be fetched.
        ShardIndexError: several splits and no choice, a folder that is incomplete, shards that do not fit each other.
        CorruptError: a file that is not what its name says.
    """
    if isinstance(data, str | os.PathLike):
        paths = list(_paths(os.fspath(data)))
    elif isinstance(data, Sequence):
        paths = [path for item in data for path in _paths(_item(item))]
    else:
        raise ConfigError(f"data={data!r}: pass a path, a pattern or a list of these")
    cache = Cache(remote or Remote()) if any(map(is_url, paths)) else None
    if cache is not None:
        cache.prepare()
    return join(part for kind, run in groupby(paths, is_url) for part in _open_run(list(run), split, cache, kind))


def _open_run(names: list[str], split: str | None, cache: Cache | None, behind_urls: bool) -> Iterator[Index]:
    """Names that stand next to each other, all paths or all URLs."""
    if behind_urls:
        assert cache is not None
        if split is None and all(is_shard(path_of(name)) for name in names):
            yield index_of_urls(names, cache)
            return
        yield from (open_url(name, split, cache) for name in names)
    elif split is None and all(is_shard(name) and os.path.isfile(name) for name in names):
        yield index_of_files(names)
    else:
        yield from (_open_path(Path(name), split) for name in names)


def _item(item: object) -> str:
    if not isinstance(item, str | os.PathLike):
        raise ConfigError(f"data has {item!r} in its list: pass paths and patterns")
    return os.fspath(item)


def _paths(name: str) -> Iterator[str]:
    """The absolute paths, or the URLs, that one name stands for."""
    if not isinstance(name, str) or not name:
        raise ConfigError(f"data={name!r}: pass a path as text")
    if is_url(name):
        if glob.has_magic(path_of(name)):
            raise ConfigError(f"data={name!r}: stores are not listed; write a range such as {{000..099}} in place of *")
        yield from expand_braces(name)
        return
    if os.path.exists(name):  # a file whose name has braces or brackets is that file
        yield os.path.abspath(name)
        return
    for plain in expand_braces(name):
        if not glob.has_magic(plain):
            if not os.path.exists(plain):
                raise SourceError(
                    f"{os.path.abspath(plain)} does not exist" + (f" (from {name!r})" if plain != name else "")
                )
            yield os.path.abspath(plain)
            continue
        found = sorted(glob.glob(plain, recursive=True), key=natural_key)
        if not found:
            raise SourceError(f"no file matches {plain!r} in {os.getcwd()}")
        yield from map(os.path.abspath, found)


def expand_braces(pattern: str) -> list[str]:
    """`a{08..10}{x,y}` -> a08x, a08y, a09x, a09y, a10x, a10y; zeros in front are kept, inner braces first.

    Raises:
        ConfigError: a range that runs backwards.
    """
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    span = _RANGE.fullmatch(match[1])
    if span is not None:
        start, stop, width = int(span[1]), int(span[2]), len(span[1])
        if stop < start:
            raise ConfigError(f"data={pattern!r}: the range {match[0]} runs backwards; write {{{span[2]}..{span[1]}}}")
        choices = [f"{number:0{width}d}" for number in range(start, stop + 1)]
    else:
        choices = match[1].split(",")
    front, back = pattern[: match.start()], pattern[match.end() :]
    return [expanded for choice in choices for expanded in expand_braces(front + choice + back)]


def _open_path(path: Path, split: str | None) -> Index:
    if path.is_dir():
        return _open_folder(path, split)
    if path.name == INDEX_NAME:
        return _open_packed(path.parent, split)
    refuse_compressed(str(path))
    if not is_shard(path.name):
        raise ConfigError(f"{path} is no {INDEX_NAME}, .tar or .parquet; make shards of raw files with `fastload pack`")
    if split is not None:
        raise ConfigError(f"split={split!r}: {path} is one file and has no splits; leave split out")
    return index_of_files([str(path)])


def _open_folder(folder: Path, split: str | None) -> Index:
    if (folder / INDEX_NAME).exists():
        return _open_packed(folder, split)
    refuse_unfinished(folder)
    if (folder.parent / INDEX_NAME).exists():
        whole = IndexFile.load(folder.parent / INDEX_NAME)
        if folder.name in whole.splits:
            if split not in (None, folder.name):
                raise ConfigError(
                    f"split={split!r}: {folder} is the split {folder.name!r}; pass {folder.parent} instead"
                )
            return whole.split(folder.name, str(folder.parent))
    splits = find_splits(folder)
    return index_of_files([str(path) for path in splits[choose_split(splits, split, folder)]])


def _open_packed(folder: Path, split: str | None) -> Index:
    whole = IndexFile.load(folder / INDEX_NAME)
    return whole.split(choose_split(whole.splits, split, folder), str(folder))


def index_folder(folder: Data) -> IndexFile:
    """Read all tar or Parquet files below a folder; write the `.idx` of each tar, and index.json.

    Subfolders are splits ("train", "val"); in a folder without, files named as on the Hugging Face hub
    (train-00000-of-00012.parquet) are told apart by their names, and others are one split called "train". With an
    index.json there already this is a repair: what still fits it is kept, and so are the names of classes; statistics
    only where all shards are those in which they were counted.

    Raises:
        ShardIndexError: no shards, tar and Parquet mixed, fields that differ between shards or from those that were
            packed, an unfinished packing run.
        SourceError: a file or folder that cannot be read, or a folder that cannot be written.
        CorruptError: a shard that is cut off or damaged.
    """
    refuse_url(folder, "shards behind URLs are indexed when they are opened; an index.json is made where they are")
    root = Path(os.path.abspath(folder))
    refuse_unfinished(root)
    splits = find_splits(root)
    paths = [path for files in splits.values() for path in files]
    names = [path.relative_to(root).as_posix() for path in paths]
    shard_format = one_format(names)
    if not os.access(root, os.W_OK):
        raise SourceError(
            f"{root} cannot be written; copy the shards, or stream them as they are, without an index.json"
        )
    before = _before(root / INDEX_NAME)
    shards = {} if before is None else {shard.name: shard for shard in before.shards}
    described = describe_anew(paths, [shards.get(name) for name in names])
    fields = merge_fields(shard_format, ((name, one.fields) for name, one in zip(names, described, strict=True)))
    starts = [0, *accumulate(map(len, splits.values()))]
    files = tuple(one.file._replace(name=name) for name, one in zip(names, described, strict=True))
    index = IndexFile(
        shard_format=shard_format,
        fields=fields if before is None else _as_before(fields, before.fields, root),
        shards=files,
        splits=dict(zip(splits, pairwise(starts), strict=True)),
        statistics=before.statistics if before is not None and _same_files(before.shards, files) else {},
        packed={"by": "fastload index"} if before is None else before.packed,
    )
    index.save(root)
    return index


def _before(path: Path) -> IndexFile | None:
    """The index that is there, None where there is none or it is damaged: it is made again."""
    try:
        return IndexFile.load(path)
    except ShardIndexError:
        return None


def _same_files(some: Sequence[ShardFile], others: Sequence[ShardFile]) -> bool:
    """Whether what was counted in some shards holds for others."""
    return {(file.name, file.xxh3) for file in some} == {(file.name, file.xxh3) for file in others}


def _as_before(fields: dict[str, FieldInfo], before: dict[str, FieldInfo], folder: Path) -> dict[str, FieldInfo]:
    """The fields with the class names that they had: a tar has only their numbers.

    Raises:
        ShardIndexError: a field that a scan of the tars takes for something else than it was packed as.
    """
    for name, info in before.items():
        if name not in fields or fields[name].kind != info.kind:
            found = f"finds {fields[name].kind}" if name in fields else "does not find it"
            raise ShardIndexError(
                f"{folder}: {name!r} was packed as {info.kind}, and a scan {found}; pack again, or delete {INDEX_NAME} "
                "to have the shards indexed as they look"
            )
    return {
        name: replace(info, classes=before[name].classes) if name in before and info.kind == "scalar" else info
        for name, info in fields.items()
    }
