"""Writing files so that a crash leaves the old content or the new, never half of it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

PARTIAL_SUFFIX = ".partial"  # what is being written; never read as data, removed or replaced by the next run


def fsync_directory(path: Path) -> None:
    """Make a rename inside `path` durable (POSIX: a directory is synced like a file)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(partial: Path, final: Path) -> None:
    """Give a finished and synced temporary file its final name, durably."""
    os.replace(partial, final)
    fsync_directory(final.parent)


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` under a temporary name beside `path`, sync, rename, sync the directory.

    Raises: OSError that names `path`.
    """
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        publish(partial, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None
        raise
