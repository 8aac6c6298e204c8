"""Objects behind URLs as local files: each is fetched once, checked, kept under a limit, and shared by all processes.

Contract
  1. Whole     What `open` gives is, to the bit, what the index describes. A cached file that is not is removed and
               fetched again, once.
  2. Once      However many threads and processes ask for an object, one fetches it, and the others wait. Of several
               users who ask at the same time, one each; the first one's is kept.
  3. Limit     Files, those on their way included, stay within `cache_size`. What is in use is never removed: if that is
               all there is, who needs more asks the holders in its own process to let go, and then waits.
  4. Error     `open` returns or raises within the time that `Remote` states; who waited for a transfer that failed
               gets its error.
  5. Stop      A thread whose work was given up (see `fastload.stopping`) leaves within a chunk, or a stall.
"""

from __future__ import annotations

import copy
import errno
import mmap
import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import xxhash

from fastload.errors import CorruptError, SourceError
from fastload.remote.fetch import Blob, fetch
from fastload.remote.folder import Folder, NoRoom, let_go, make_as_above, name_of
from fastload.remote.settings import Remote
from fastload.remote.urls import shown
from fastload.stopping import pause, stop_here

FOLDER_NAME = "remote"
INDEX_FOLDER_NAME = "index"
_ROOM_POLL_SECONDS = 0.05


class Holder(Protocol):
    """Who keeps objects open that it could open again."""

    def let_go(self) -> None:
        """Drop them."""
        ...


class _Holders:
    """Some of them, as long as they live. Any thread may add one while another asks them: a WeakSet may not be."""

    def __init__(self) -> None:
        self._references: dict[int, list[weakref.ref[Holder]]] = {}  # by process

    def add(self, holder: Holder) -> None:
        """One more."""
        own = self._references.setdefault(os.getpid(), [])
        own.append(weakref.ref(holder, own.remove))

    def let_go(self) -> None:
        """Ask all of this process: those from before a fork may be locked by threads left behind."""
        for reference in list(self._references.get(os.getpid(), ())):
            holder = reference()
            if holder is not None:
                holder.let_go()


@dataclass(slots=True)
class _Failure:
    """A transfer that failed: when, why, and whether one who needs the object has been told."""

    at: float
    error: SourceError | CorruptError
    told: bool

    def concerns(self, since: float, ahead: bool) -> bool:
        """Whether it is the answer to who has asked since then: who waited for it. And, of what came damaged, to who
        asks for it ahead, and once to who needs it. A store that could not be reached is tried again."""
        damaged = isinstance(self.error, CorruptError) and (ahead or not self.told)
        self.told = self.told or not ahead
        return damaged or self.at >= since


@dataclass(slots=True)
class _Process:
    """What the threads of one process share; made anew after a fork, for locks may be held by threads left behind."""

    folder: Folder
    slots: threading.BoundedSemaphore
    verified: set[tuple[str, int, int]] = field(default_factory=set)  # name, inode, bytes
    failed: dict[str, _Failure] = field(default_factory=dict)  # by name


class Cache:
    """The cache that `Remote` describes. Any number of threads may call; it can be pickled.

    Attributes:
        remote: where it is, how large, and how long to try.
        keep_damaged: give out objects whose checksum is wrong whenever they are fetched, for the samples in them have
            their own (on_error="mask").
        readers: keep objects open that they read; asked first to let go where room is short.
        holders: keep objects that will be read; asked next.
    """

    def __init__(self, remote: Remote) -> None:
        self.remote = remote
        self.keep_damaged = False
        self.readers, self.holders = _Holders(), _Holders()
        self._own: dict[int, _Process] = {}  # by process

    def __getstate__(self) -> dict[str, Any]:
        return {"remote": self.remote, "keep_damaged": self.keep_damaged}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Cache.__init__(self, state["remote"])
        self.keep_damaged = state["keep_damaged"]

    @property
    def limit(self) -> int | None:
        return self.remote.limit

    @property
    def index_folder(self) -> Path:
        """Where indexes of shards that fastload did not pack are kept."""
        return self.remote.folder / INDEX_FOLDER_NAME

    def has(self, blob: Blob) -> bool:
        """Whether an object lies there now."""
        return self.place(blob).is_file()

    def room(self) -> int:
        """The most bytes that its objects may take: `cache_size`, or what the disk has for them. Raises SourceError."""
        return self._process().folder.room()

    def close_readers(self) -> None:
        """Have everything closed that is not being read this moment, in this process; it is opened again at need."""
        self.readers.let_go()

    def prepare(self) -> None:
        """Make its folders.

        Raises:
            SourceError: they cannot be made or written.
        """
        folder = self._process().folder
        with folder.naming():
            make_as_above(self.index_folder)
            for path in (folder.path, self.index_folder):
                if not os.access(path, os.W_OK):
                    raise PermissionError(errno.EACCES, "it cannot be written", str(path))

    def place(self, blob: Blob) -> Path:
        """Where an object lies while it is open."""
        return self.remote.folder / FOLDER_NAME / name_of(blob)

    def _process(self) -> _Process:
        own = self._own.get(os.getpid())
        if own is None:
            patience = self.remote.give_up_seconds + self.remote.stall_seconds
            folder = Folder(self.remote.folder / FOLDER_NAME, self.limit, patience)
            folder.make()
            made = _Process(folder=folder, slots=threading.BoundedSemaphore(self.remote.downloads))
            own = self._own.setdefault(os.getpid(), made)  # several threads may come first
        return own

    def open(self, blob: Blob, *, ahead: bool = False) -> memoryview:
        """A read-only view of an object; it is in use as long as any view of it lives.

        Args:
            blob: which one.
            ahead: it is not needed yet: wait for room as long as it takes, and ask nobody to let go.

        Raises:
            SourceError: it cannot be had; see `fetch`. Or the cache is full, or cannot be used.
            CorruptError: what the server has is not what the index says.
            EngineError: what it was opened for was closed.
        """
        own, name, since = self._process(), name_of(blob), time.monotonic()
        found_damaged = 0
        while True:
            file = own.folder.hold(name)
            if file is None:
                self._fetch(own, name, blob, since, ahead)
                continue
            try:
                with own.folder.naming():  # no descriptor or memory may be left for a map
                    if _is_whole(own, name, file, blob):
                        return _map(file)
                own.folder.drop(name, file)
            finally:
                os.close(file)
            found_damaged += 1
            if found_damaged == 2:
                raise CorruptError(
                    f"{own.folder.path / name} was damaged again after {shown(blob.url)} had been fetched anew; "
                    "check the disk, or pass another cache_dir"
                )

    def _fetch(self, own: _Process, name: str, blob: Blob, since: float, ahead: bool) -> None:
        """Fetch an object into its place, or wait until another has."""
        full_since: float | None = None
        while (part := own.folder.begin(name)) is not None:
            done = False
            try:
                self._try(own, part, name, blob, since, ahead)
                own.folder.finish(name)
                done = True
                about = os.fstat(part)
                own.verified.add((name, about.st_ino, about.st_size))
                return
            except NoRoom:
                again = full_since is not None
                full_since = time.monotonic() if full_since is None else full_since
            finally:
                try:
                    if not done:
                        own.folder.drop_part(name)
                finally:
                    let_go(part)
            self._wait_for_room(own, blob, full_since, ahead, again)

    def _try(self, own: _Process, part: int, name: str, blob: Blob, since: float, ahead: bool) -> None:
        """Transfer an object, unless that has just failed; note if it fails."""
        failed = own.failed.get(name)
        if failed is not None and failed.concerns(since, ahead):
            raise copy.copy(failed.error)
        try:
            self._transfer(own, part, blob)
        except (SourceError, CorruptError) as error:  # a copy: without the frames that it came through
            own.failed[name] = _Failure(at=time.monotonic(), error=copy.copy(error), told=not ahead)
            raise

    def _transfer(self, own: _Process, part: int, blob: Blob) -> None:
        def reserve(size: int) -> None:
            if self.limit is not None and size > self.limit:
                raise SourceError(
                    f"{shown(blob.url)} has {size} bytes, more than cache_size={self.remote.cache_size!r}; raise it"
                )
            own.folder.reserve(part, size)

        def write(offset: int, chunk: bytes) -> None:
            try:
                view = memoryview(chunk)
                while len(view):
                    written = os.pwrite(part, view, offset)
                    view, offset = view[written:], offset + written
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise NoRoom from error
                raise SourceError(f"the cache {own.folder.path} cannot be written: {error.strerror}") from error

        if blob.size is not None:
            reserve(blob.size)  # before a connection is made that would have to wait
        with _turn(own.slots):
            fetch(blob, write, reserve, self.remote, keep_damaged=self.keep_damaged)

    def _wait_for_room(self, own: _Process, blob: Blob, since: float, ahead: bool, again: bool) -> None:
        if not ahead:
            self.close_readers()
            if again:
                self.holders.let_go()
            if time.monotonic() - since > self.remote.give_up_seconds:
                limit = "the disk" if self.limit is None else f"cache_size={self.remote.cache_size!r}"
                others = " or other users'" if own.folder.has_others() else ""
                raise SourceError(
                    f"no room for {shown(blob.url)} ({blob.size} bytes) in {own.folder.path}: {limit} is full "
                    f"and all {own.folder.taken()} bytes in it are in use{others}; raise cache_size, lower window, or "
                    "pass another cache_dir"
                )
        pause(_ROOM_POLL_SECONDS)


@dataclass(frozen=True, slots=True)
class Cached:
    """An object, and the cache that it is read through."""

    cache: Cache
    blob: Blob

    def fetch(self) -> memoryview:
        """Have it in the cache, ahead of its use; see `Cache.open`."""
        return self.cache.open(self.blob, ahead=True)


def _is_whole(own: _Process, name: str, file: int, blob: Blob) -> bool:
    """Whether a cached file is what it should be; its checksum is taken once in each process."""
    about = os.fstat(file)
    if blob.size is not None and about.st_size != blob.size:
        return False
    mark = (name, about.st_ino, about.st_size)
    if blob.xxh3 is None or mark in own.verified:
        return True
    if xxhash.xxh3_64_hexdigest(_map(file)) != blob.xxh3:
        return False
    own.verified.add(mark)
    return True


def _map(file: int) -> memoryview:
    """A view of a file. The map has a copy of the descriptor, and with it the lock, for as long as it lives."""
    if os.fstat(file).st_size == 0:
        return memoryview(b"")
    return memoryview(mmap.mmap(file, 0, access=mmap.ACCESS_READ))


@contextmanager
def _turn(slots: threading.BoundedSemaphore) -> Iterator[None]:
    """One of the downloads that may run at a time."""
    while not slots.acquire(timeout=0.1):
        if stop_here().is_set():
            pause(0)
    try:
        yield
    finally:
        slots.release()
