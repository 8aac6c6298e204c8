"""Where bytes come from: local files, memory-mapped. What is behind URLs becomes local files first, see
`fastload.remote`."""

from __future__ import annotations

import mmap
import os

from fastload.errors import SourceError


def was_cut(view: memoryview) -> bool:
    """Whether the file of a mapped view is shorter by now. To read on would end the process (SIGBUS)."""
    return isinstance(view.obj, mmap.mmap) and view.obj.size() < len(view.obj)


def map_file(path: str, expected_bytes: int) -> memoryview:
    """A read-only view of a whole file; the map lives as long as any view of it.

    Raises:
        SourceError: the file is missing or unreadable, or has another size than the index says.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != expected_bytes:
                raise SourceError(
                    f"{path} has {size} bytes, and its index says {expected_bytes}: it was cut off or changed; "
                    "fetch it again, or make the index again with `fastload index`"
                )
            if size == 0:
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"{path} cannot be read: {error.strerror or error}") from error
