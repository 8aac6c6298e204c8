"""The files of a cache: names, locks and room. All that is shared between processes is in the file system.

    <32 hex>-<name>               an object, whole and checked; a shared flock on it means: in use, not to be removed
    <32 hex>-<name>.<uid>.part    on its way; an exclusive flock on it means: its writer lives. It has its final size
                                  from the beginning, so that it counts as what it will be
    the folder itself             an exclusive flock on it: room is being made, or a part gets its last name

A lock goes with its process, however it ends, so that what nobody holds is free: a part is removed or taken over, an
object may make room. Files of other names are never touched. Before a lock is had the file may be gone or have another
name; one looks again then.

Users share a folder that they all may write. Each has parts of its own, and all read every object, whatever the umask
of its writer; where the folder is sticky (mode 1777), only its writer removes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import xxhash

from fastload.errors import SourceError
from fastload.remote.fetch import Blob
from fastload.remote.urls import path_of
from fastload.stopping import pause

_NAME = re.compile(r"[0-9a-f]{32}-[A-Za-z0-9._-]{1,80}")
_PART = re.compile(_NAME.pattern + r"\.\d+\.part")
_POLL_SECONDS = 0.02
_MOST_SECONDS = 1.0  # of a poll that took longer: the process stood still (Ctrl-Z), and perhaps the other with it
_SPARE = 0.05  # of a disk is left free where no size is set


class NoRoom(Exception):
    """All that could be removed is removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One file: bytes, when it was used last, and whose it is."""

    path: Path
    inode: int
    size: int
    used: int
    owner: int


def name_of(blob: Blob) -> str:
    """A file name for this very object: other URLs and other versions have other names."""
    known = f"xxh3 {blob.xxh3}" if blob.version is None else f"version {blob.version}"
    digest = xxhash.xxh3_128_hexdigest(f"{blob.url}\0{known}\0{blob.size}".encode())
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", path_of(blob.url).rpartition("/")[2])[-80:]
    return f"{digest}-{plain or 'object'}"


def make_as_above(path: Path) -> None:
    """Make a folder, if it is not there, with the mode of the one above: who shares that one shares this."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        made = tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent)  # never to be seen with another mode
        try:
            with contextlib.suppress(PermissionError):
                os.chmod(made, path.parent.stat().st_mode & 0o7777)
            os.rename(made, path)
        except OSError:
            os.rmdir(made)
            if not path.exists():  # else somebody was faster
                raise
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, f"{path.name} is not a folder")


def let_sharers_read(file: int | Path, folder: Path) -> None:
    """Have a file of one's own in a folder readable for all who may write there, whatever the umask."""
    sharers = folder.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    os.chmod(file, stat.S_IMODE(os.stat(file).st_mode) | sharers << 1)  # the bits to read stand left of those to write


def let_go(file: int) -> None:
    """Unlock and close. A process that was forked meanwhile has a copy, and closing alone would leave it the lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_UN)
    finally:
        os.close(file)


class Folder:
    """One folder of objects.

    Args:
        path: made if it is not there; with the mode of the folder above then, so that users who share that share this.
        limit: the most bytes that its files may take; None: what the disk has.
        patience_seconds: how long to wait for another process that gives no sign of life.

    Raises:
        SourceError: from every method: the folder cannot be made, read or written.
    """

    def __init__(self, path: Path, limit: int | None, patience_seconds: float) -> None:
        self.path, self.limit, self._patience = path, limit, patience_seconds

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Errors of the system inside become SourceErrors that name this folder."""
        try:
            yield
        except SourceError:
            raise
        except OSError as error:
            file = "" if error.filename is None else os.path.basename(error.filename)
            what = f" ({file})" if file not in ("", self.path.name) else ""
            raise SourceError(
                f"the cache {self.path} cannot be used: {error.strerror or error}{what}; pass another cache_dir"
            ) from error

    def make(self) -> None:
        """Make the folder, and clear what killed processes left."""
        with self.naming():
            make_as_above(self.path)
            for entry in self._entries(_PART):
                self._remove_unlocked(entry.path)

    def hold(self, name: str) -> int | None:
        """A descriptor of an object, with a shared lock that lasts as long as it or a map of it; None if there is
        none."""
        path = self.path / name
        with self.naming():
            while True:
                try:
                    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                except FileNotFoundError:
                    return None
                try:
                    if self._lock(file, fcntl.LOCK_SH, path):
                        with contextlib.suppress(PermissionError):  # of another user: only its writer's time counts
                            os.utime(file)
                        return os.dup(file)
                finally:
                    os.close(file)

    def begin(self, name: str) -> int | None:
        """A descriptor of an empty part, locked for this writer until `let_go`; None if the object is there by now. The
        folder is made again if somebody has removed it: all that was in it can be fetched again."""
        path = self._part(name)
        with self.naming():
            while not (self.path / name).exists():
                make_as_above(self.path)
                file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
                try:
                    if not self._lock(file, fcntl.LOCK_EX, path):
                        continue
                    if (self.path / name).exists():  # by now: this part was made for nothing
                        self.drop_part(name)
                        return None
                    os.ftruncate(file, 0)
                    let_sharers_read(file, self.path)
                    return os.dup(file)
                finally:
                    os.close(file)
        return None

    def finish(self, name: str) -> None:
        """Give a part, whole and checked, its final name, unless another user's has it by now; not while room is made,
        which might count it not at all."""
        with self.naming(), self._exclusively():
            if (self.path / name).exists():
                self.drop_part(name)
            else:
                os.replace(self._part(name), self.path / name)

    def drop_part(self, name: str) -> None:
        """Remove a part that this process has locked."""
        with self.naming():
            self._part(name).unlink(missing_ok=True)

    def drop(self, name: str, file: int) -> None:
        """Remove an object that was found damaged; who has mapped it keeps it."""
        with self.naming(), contextlib.suppress(FileNotFoundError):  # another thread or process was first
            if os.stat(self.path / name).st_ino == os.fstat(file).st_ino:
                os.unlink(self.path / name)

    def reserve(self, file: int, size: int) -> None:
        """Make room for a part, least recently used objects first, and give it its size.

        Raises:
            NoRoom: the rest is in use.
        """
        with self.naming(), self._exclusively():
            own = os.fstat(file).st_ino
            entries = self._entries(_NAME)
            parts = [entry for entry in self._entries(_PART) if entry.inode != own]
            parts = [part for part in parts if not self._remove_unlocked(part.path)]
            taken = sum(entry.size for entry in (*entries, *parts))
            for entry in sorted(entries, key=lambda entry: entry.used):
                if self._excess(taken + size, size) <= 0:
                    break
                if self._remove_unlocked(entry.path):
                    taken -= entry.size
            if self._excess(taken + size, size) > 0:
                raise NoRoom
            os.ftruncate(file, size)

    def taken(self) -> int:
        """Bytes of all files, those on their way as large as they will be."""
        return sum(entry.size for entry in self._entries(_NAME)) + sum(entry.size for entry in self._entries(_PART))

    def room(self) -> int:
        """The most bytes that all files may take: the limit, or what the disk has for them."""
        if self.limit is not None:
            return self.limit
        with self.naming():
            return max(0, self.taken() - self._excess(0, 0))

    def has_others(self) -> bool:
        """Whether some objects are other users', who alone may remove them from a sticky folder."""
        return any(entry.owner != os.getuid() for entry in self._entries(_NAME))

    def _excess(self, taken: int, size: int) -> int:
        """Bytes above what is allowed."""
        if self.limit is not None:
            return taken - self.limit
        disk = os.statvfs(self.path)
        return size - int(disk.f_bavail * disk.f_frsize - _SPARE * disk.f_blocks * disk.f_frsize)

    def _part(self, name: str) -> Path:
        return self.path / f"{name}.{os.getuid()}.part"

    def _entries(self, names: re.Pattern[str]) -> list[_Entry]:
        found = []
        with os.scandir(self.path) as listing:
            for entry in listing:
                if not names.fullmatch(entry.name) or (names is _NAME and _PART.fullmatch(entry.name)):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    about = entry.stat(follow_symlinks=False)
                    found.append(
                        _Entry(
                            path=Path(entry.path),
                            inode=about.st_ino,
                            size=about.st_size,
                            used=about.st_mtime_ns,
                            owner=about.st_uid,
                        )
                    )
        return found

    def _remove_unlocked(self, path: Path) -> bool:
        """Remove a file unless somebody has it locked; whether it is gone."""
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        except PermissionError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(file, path):  # else this was another file by the time that it was locked
                path.unlink(missing_ok=True)
        except (BlockingIOError, PermissionError):
            return False
        finally:
            let_go(file)
        return True

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        file = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._lock(file, fcntl.LOCK_EX, self.path)
            yield
        finally:
            let_go(file)

    def _lock(self, file: int, kind: int, path: Path) -> bool:
        """Wait for a lock, as long as its holder gives a sign of life: the file changes. False if the file has been
        removed, or has got another name: a part that became an object may be in use for hours."""
        seen, waited = os.fstat(file).st_mtime_ns, 0.0
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, kind | fcntl.LOCK_NB)
                if _is_at(file, path):
                    return True
                fcntl.flock(file, fcntl.LOCK_UN)
                return False
            if not _is_at(file, path):
                return False
            about = os.fstat(file)
            if about.st_mtime_ns != seen:
                seen, waited = about.st_mtime_ns, 0.0
            elif waited > self._patience:
                raise SourceError(
                    f"{path} has been locked for {self._patience:g} s by a process that makes no progress "
                    "(`fuser` names it); end it, or pass another cache_dir"
                )
            since = time.monotonic()
            pause(_POLL_SECONDS)
            waited += min(_MOST_SECONDS, time.monotonic() - since)


def _is_at(file: int, path: Path) -> bool:
    """Whether a path still leads to an open file."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False
