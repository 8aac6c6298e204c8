"""The files of an index, wherever they lie: local ones are mapped, those behind URLs come through the cache."""

from __future__ import annotations

import io
import os
from typing import Any

import pyarrow as pa

from fastload.errors import ConfigError
from fastload.remote.cache import Cache
from fastload.remote.fetch import Blob, fetch_part
from fastload.remote.settings import Remote
from fastload.remote.urls import is_url, shown
from fastload.shards.idx import Idx
from fastload.shards.index import Index
from fastload.source import map_file

SMALL_BYTES = 1 << 20  # a file of which parts are not worth their requests: the end of a Parquet file alone is 64 KiB


def view_file(index: Index, file: int) -> memoryview:
    """A read-only view of a whole file of shards.

    Raises:
        SourceError: it is missing, unreadable, cannot be fetched, or has another size than the index says.
        CorruptError: what was fetched is not what the index describes.
    """
    if not is_url(index.paths[file]):
        return map_file(index.paths[file], index.files[file].bytes)
    return cache_of(index).open(index.blob(file))


def open_idx(index: Index, file: int, *, check: bool = True) -> Idx:
    """The `.idx` of a tar; its checksum is taken if `check`. Raises as `Idx` does, and as `view_file`."""
    path, digest = index.idx_paths[file], index.files[file].index_xxh3 if check else None
    if not is_url(path):
        return Idx(path, digest)
    return Idx(path, digest, content=pa.py_buffer(cache_of(index).open(index.idx_blob(file))))


def parquet_input(index: Index, file: int) -> str | pa.BufferReader:
    """What pyarrow reads a Parquet file from. Raises as `view_file`, of files behind URLs."""
    if not is_url(index.paths[file]):
        return index.paths[file]
    return pa.BufferReader(pa.py_buffer(view_file(index, file)))


def parquet_parts(index: Index, file: int) -> Parts | None:
    """A Parquet file of which little is to be read, and only that is fetched. None where `parquet_input` is at hand or
    costs hardly more."""
    if not is_url(index.paths[file]) or index.files[file].bytes <= SMALL_BYTES:
        return None
    cache, blob = cache_of(index), index.blob(file)
    return None if cache.has(blob) else Parts(blob, index.files[file].bytes, cache.remote)


class Parts(io.RawIOBase):
    """An object behind a URL as a file that is fetched piece by piece, as it is read.

    What it gives is held against no checksum; where parts cannot be had, reading raises OSError.
    """

    def __init__(self, blob: Blob, size: int, remote: Remote) -> None:
        self._blob, self._size, self._remote, self._at = blob, size, remote, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        stop = min(self._at + len(buffer), self._size)
        if stop <= self._at:
            return 0
        found = fetch_part(self._blob, self._at, stop, self._remote)
        if found is None:
            raise io.UnsupportedOperation(f"{shown(self._blob.url)} gives no parts")
        buffer[: len(found)] = found
        self._at = stop
        return len(found)


def cache_of(index: Index) -> Cache:
    """The cache of an index that has URLs."""
    assert index.cache is not None, "an index with URLs has a cache"
    return index.cache


def shards_at_hand(index: Index) -> int:
    """How many shards may be kept open without filling the cache; a large number where there is no limit."""
    if index.cache is None or index.cache.limit is None:
        return 1 << 30
    largest = max((file.bytes for number, file in enumerate(index.files) if is_url(index.paths[number])), default=1)
    return max(1, index.cache.limit // (2 * max(1, largest)))


def room_sizes(index: Index, window: int) -> list[int]:
    """Bytes of the files that a cache must have room for: the `window` largest behind URLs and one on its way; of data
    that is all local, what they would be behind URLs."""
    remote = [file.bytes for number, file in enumerate(index.files) if is_url(index.paths[number])]
    return sorted(remote or [file.bytes for file in index.files], reverse=True)[: max(1, window) + 1]


def check_room(index: Index, window: int) -> None:
    """Refuse a cache that cannot hold the shards that are mixed at a time: each would be fetched for every batch anew.

    Raises:
        ConfigError: cache_size is smaller than `room_sizes` sum up to.
    """
    if index.cache is None or index.cache.limit is None:
        return
    sizes = room_sizes(index, window)
    if sum(sizes) > index.cache.limit:
        raise ConfigError(
            f"cache_size={index.cache.remote.cache_size!r} is less than the {sum(sizes)} bytes of {len(sizes)} shards: "
            f"window={window} mixes {max(1, window)} at a time, and the next is fetched meanwhile; raise it, or pass a "
            "smaller window"
        )
