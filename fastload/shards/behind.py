"""Shards behind URLs: the index of a packed folder, and shards of others, described one by one.

A store is asked for what is named and never listed. What a shard of others has in it is learned once: its `.idx` (or,
of a Parquet file, a small index.json) is kept in the cache, under a name that changes when the shard does.
"""

from __future__ import annotations

import os
import posixpath
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from fastload.errors import ConfigError, FastloadError, ShardIndexError, SourceError
from fastload.remote.cache import Cache
from fastload.remote.fetch import Blob, fetch_bytes, is_refusal, look, missing
from fastload.remote.folder import let_sharers_read, name_of
from fastload.remote.urls import join_url, parent_url, path_of, shown
from fastload.shards.foreign import SCAN_THREADS, choose_split, is_shard, one_format, refuse_compressed
from fastload.shards.idx import Idx
from fastload.shards.index import (
    INDEX_NAME,
    FieldInfo,
    Index,
    IndexFile,
    ShardFile,
    idx_path,
    merge_fields,
)
from fastload.shards.parquetscan import scan_parquet
from fastload.shards.tar import scan_tar


@dataclass(frozen=True, slots=True, kw_only=True)
class _Described:
    """One shard: what is in it, what tells that it has changed, and where its `.idx` is; None for Parquet."""

    file: ShardFile
    fields: dict[str, FieldInfo]
    blob: Blob
    idx: str | None = None


def open_url(url: str, split: str | None, cache: Cache) -> Index:
    """The index of what one URL names: a packed folder, its index.json, one split of it, or one shard.

    Raises:
        ConfigError: another kind of file, or a split of a single shard.
        SourceError: there is nothing, or it cannot be fetched.
        ShardIndexError: several splits and no choice, or a damaged index.
    """
    path = path_of(url).rstrip("/")
    name = path.rpartition("/")[2]
    refuse_compressed(shown(url))
    if is_shard(name):
        if split is not None:
            raise ConfigError(f"split={split!r}: {shown(url)} is one file and has no splits; leave split out")
        return index_of_urls([url], cache)
    refused: list[SourceError] = []
    whole, folder = _packed_or_refused(url, cache, refused)
    if whole is not None:
        return whole.split(choose_split(whole.splits, split, shown(folder).rstrip("/")), folder, cache)
    above = None if name == INDEX_NAME else _packed_or_refused(parent_url(url), cache, refused)[0]
    if above is not None and name in above.splits:
        if split not in (None, name):
            raise ConfigError(
                f"split={split!r}: {shown(url)} is the split {name!r}; pass {shown(parent_url(url))} instead"
            )
        return above.split(name, parent_url(url), cache)
    if refused:
        raise refused[0]
    raise SourceError(
        f"{shown(join_url(folder, INDEX_NAME))} does not exist; upload the {INDEX_NAME} that `fastload pack` or "
        f"`fastload index` makes, or name the shards: {shown(folder).rstrip('/')}/shard-{{000000..000099}}.tar"
    )


def _packed_or_refused(url: str, cache: Cache, refused: list[SourceError]) -> tuple[IndexFile | None, str]:
    """As `packed_folder`; what was refused counts as nothing, and is noted."""
    try:
        return packed_folder(url, cache)
    except SourceError as error:
        if not is_refusal(error):
            raise
        refused.append(error)
        return None, url


def packed_folder(url: str, cache: Cache) -> tuple[IndexFile | None, str]:
    """The index.json of a folder, or at a URL of its own, and the folder's URL; None if there is no index.json."""
    folder = parent_url(url) if path_of(url).endswith("/" + INDEX_NAME) else url
    at = join_url(folder, INDEX_NAME)
    content = fetch_bytes(at, cache.remote)
    return None if content is None else IndexFile.from_bytes(content, shown(at)), folder


def index_of_urls(urls: Sequence[str], cache: Cache) -> Index:
    """The index of shards behind URLs that are read as one, in this order; those without an `.idx` are fetched once.

    Raises:
        ShardIndexError: tar and Parquet mixed, or fields that differ.
        SourceError: one that does not exist or cannot be fetched.
        CorruptError: one that is not what its name says.
    """
    shard_format = one_format([path_of(url) for url in urls])
    describe = _describe_tar if shard_format == "tar" else _describe_parquet
    with ThreadPoolExecutor(min(SCAN_THREADS, len(urls))) as pool:
        described = list(pool.map(partial(_describe, describe, cache), urls))
    names = _relative_names(urls)
    return Index(
        shard_format=shard_format,
        fields=merge_fields(shard_format, ((name, one.fields) for name, one in zip(names, described, strict=True))),
        files=tuple(one.file._replace(name=name) for name, one in zip(names, described, strict=True)),
        paths=tuple(urls),
        idx_paths=tuple(one.idx for one in described if one.idx is not None),
        cache=cache,
        blobs={one.blob.url: one.blob for one in described},
    )


def _relative_names(urls: Sequence[str]) -> list[str]:
    """What the shards are called: their paths from the folder that they all share."""
    paths = [path_of(url).partition("://")[2] for url in urls]
    common = posixpath.commonpath([posixpath.dirname(path) for path in paths]) if paths else ""
    return [path[len(common) :].lstrip("/") for path in paths]


def _describe(describe: Callable[[Blob, Cache], _Described], cache: Cache, url: str) -> _Described:
    head = look(url, cache.remote)
    if head is None:
        raise missing(url, "404")
    return describe(Blob(url=url, size=head.size, version=head.version), cache)


def _describe_tar(blob: Blob, cache: Cache) -> _Described:
    place = cache.index_folder / f"{name_of(blob)}.idx"
    idx = _kept_idx(place, blob) or _idx_beside(place, blob, cache) or _scanned_idx(place, blob, cache)
    name = path_of(blob.url).rpartition("/")[2]
    return _Described(
        file=ShardFile(name=name, samples=idx.samples, bytes=idx.tar_bytes, xxh3=idx.tar_xxh3),
        fields=idx.fields,
        blob=replace(blob, xxh3=idx.tar_xxh3),
        idx=str(place),
    )


def _kept_idx(place: Path, blob: Blob) -> Idx | None:
    """The `.idx` in the cache, if it is one and describes as many bytes."""
    if not place.is_file():
        return None
    try:
        idx = Idx(str(place))
    except FastloadError:
        return None
    return idx if idx.tar_bytes == blob.size else None


def _idx_beside(place: Path, blob: Blob, cache: Cache) -> Idx | None:
    """The `.idx` that lies beside the tar; None where there is none, or it is another tool's (DALI has such files
    too) or of another tar."""
    plain, mark, query = blob.url.partition("?")
    try:
        content = fetch_bytes(idx_path(plain) + mark + query, cache.remote)
    except SourceError as error:
        if not is_refusal(error):
            raise
        return None
    if content is None:
        return None
    with _own(place) as own:
        own.write_bytes(content)
        if _kept_idx(own, blob) is None:
            return None
        _keep(own, place)
    return Idx(str(place))


def _scanned_idx(place: Path, blob: Blob, cache: Cache) -> Idx:
    in_use = cache.open(blob)
    with _own(place) as own, _naming(blob):
        scan_tar(cache.place(blob), own)
        _keep(own, place)
    in_use.release()
    return Idx(str(place))


def _describe_parquet(blob: Blob, cache: Cache) -> _Described:
    place = cache.index_folder / f"{name_of(blob)}.json"
    known = _kept_json(place, blob)
    if known is None:
        in_use = cache.open(blob)
        with _naming(blob):
            file, fields = scan_parquet(cache.place(blob), checksum=True)
        known = IndexFile(shard_format="parquet", fields=fields, shards=(file,), splits={"train": (0, 1)})
        with _own(place) as own:
            own.write_bytes(known.to_bytes())
            _keep(own, place)
        in_use.release()
    file = known.shards[0]
    # without a checksum in the index, as a local one is described: the same data has the same fingerprint
    return _Described(file=file._replace(xxh3=None), fields=known.fields, blob=replace(blob, xxh3=file.xxh3))


def _kept_json(place: Path, blob: Blob) -> IndexFile | None:
    if not place.is_file():
        return None
    try:
        known = IndexFile.load(place)
    except ShardIndexError:
        return None
    return known if known.shards and known.shards[0].bytes == blob.size else None


@contextmanager
def _own(place: Path) -> Iterator[Path]:
    """A temporary name of this process and thread: several ranks may describe a shard for the first time."""
    own = place.with_name(f".{place.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        yield own
    finally:
        own.unlink(missing_ok=True)


def _keep(own: Path, place: Path) -> None:
    """Give a file its name, for all who share the cache. In a sticky folder one that another user made by now stays."""
    let_sharers_read(own, place.parent)
    try:
        os.replace(own, place)
    except PermissionError as error:
        if not place.is_file():
            raise SourceError(f"{place} cannot be written ({error.strerror}); pass another cache_dir") from error


@contextmanager
def _naming(blob: Blob) -> Iterator[None]:
    """Errors inside name the URL and not the file in the cache."""
    try:
        yield
    except FastloadError as error:
        error.shard = shown(blob.url)
        raise
