"""One process at a time: a lock file that says whose it is, and that outlives no process."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fastload.errors import PackError

LOCK_NAME = "lock"
WRITING_NAME = ".fastload-writing"  # hidden, so that readers pass it over; holds the lock
STRAGGLER_SECONDS = 20.0  # workers of a killed run end within one piece of work
_POLL_SECONDS = 0.02


@contextmanager
def held(out: Path, doing: str) -> Iterator[None]:
    """Be the only one that changes a packed folder, whatever it is that the others do.

    Raises: as `acquire`.
    """
    folder = out / WRITING_NAME
    descriptor = acquire(folder, out, doing)
    try:
        yield
    finally:
        (folder / LOCK_NAME).unlink(missing_ok=True)
        remove_if_empty(folder)
        release(descriptor)


def remove_if_empty(folder: Path) -> None:
    """Remove a folder that held a lock, unless the next one who waited has taken it over, or has removed it."""
    try:
        folder.rmdir()
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def release(descriptor: int) -> None:
    """Let a lock go, also where a process that was forked meanwhile has a copy of its descriptor."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def acquire(folder: Path, out: Path, doing: str) -> int:
    """Take the lock in a folder, made if missing; gives the descriptor that holds it, also in forked processes.

    Args:
        folder: holds the lock file; whoever holds the lock may remove both.
        out: what errors name.
        doing: what errors say of the other process, such as "packing into".

    Raises:
        PackError: another process that is alive holds it.
    """
    deadline = time.monotonic() + STRAGGLER_SECONDS
    while True:
        make_folder(folder)
        try:
            descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:  # its holder finished and removed the folder
            if time.monotonic() > deadline:  # no folder at all, such as a link to nothing
                raise
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_same_file(descriptor, folder / LOCK_NAME):  # else its holder finished and removed it
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{socket.gethostname()} {os.getpid()}".encode(), 0)
                return descriptor
        except BlockingIOError:
            owner = os.pread(descriptor, 256, 0).decode()
            if _is_alive(owner) or time.monotonic() > deadline:
                os.close(descriptor)
                raise PackError(
                    f"another process ({owner or 'just starting'}) is {doing} {out}; wait for it,"
                    " or choose another folder"
                ) from None
        os.close(descriptor)
        time.sleep(_POLL_SECONDS)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, unless it is there; what is there may be removed at any moment, on which
    Path.mkdir(exist_ok=True) fails."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir()


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _is_alive(owner: str) -> bool:
    """Whether the process that a lock names is running; on another machine it is taken to be."""
    host, _, process = owner.rpartition(" ")
    if host != socket.gethostname() or not process.isdigit():
        return bool(host)
    try:
        state = Path("/proc", process, "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"  # a zombie holds nothing
