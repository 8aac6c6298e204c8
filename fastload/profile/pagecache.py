"""Files in the system's page cache: whether they are there, to have them forgotten, and to bring them back."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

_PLACES, _APART = 16, 1 << 16  # of a file, looked at for pages that stayed in memory; looking may bring their like in
_ASKED = 5  # times to forget a file
_PIECE = 1 << 20  # bytes read at a time


def can_forget() -> bool:
    """Whether the system can be asked."""
    return hasattr(os, "posix_fadvise")


def forgotten(path: str) -> bool:
    """Ask the system to forget a file, and look whether it did. What anybody maps stays."""
    try:
        with _opened(path) as file:
            os.fdatasync(file)  # pages that are not written yet cannot be dropped
            for _ in range(_ASKED):
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
                if not any(_in_memory(file, offset) for offset in _places(file)):
                    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)  # what looking brought in
                    return True
                time.sleep(0.01)  # pages that were used just now are let go a little later
    except OSError:
        return False
    return False


def in_memory(path: str) -> bool:
    """Whether a file is there as a whole, as far as some of its places tell."""
    try:
        with _opened(path) as file:
            return all(_in_memory(file, offset) for offset in _places(file))
    except OSError:
        return False


def read(path: str, deadline: float) -> bool:
    """Bring a file in; False where it was not done by then, of time.perf_counter()."""
    piece = bytearray(_PIECE)
    try:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(piece):
                if time.perf_counter() > deadline:
                    return False
    except OSError:  # gone, say: there is nothing to bring in
        return True
    return True


@contextmanager
def _opened(path: str) -> Iterator[int]:
    file = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)  # looking must not read ahead
        yield file
    finally:
        os.close(file)


def _places(file: int) -> range:
    size = os.fstat(file).st_size
    return range(0, size, max(size // _PLACES, _APART))


def _in_memory(file: int, offset: int) -> bool:
    try:
        os.preadv(file, [bytearray(1)], offset, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    return True
