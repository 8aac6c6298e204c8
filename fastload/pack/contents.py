"""Contents of samples, read into place from wherever their table says they are, each looked at once on the way."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from fastload.errors import DecodeError, PackError
from fastload.pack.checks import FACTS, inspector
from fastload.pack.columns import origin
from fastload.pack.files import read_files, read_into
from fastload.pack.table import Files, Inline, Spans, Table, Values
from fastload.shards.members import scalar_bytes

Int64s = npt.NDArray[np.int64]
Look = Callable[[memoryview], Any]


def fill(table: Table, name: str, rows: Int64s, view: memoryview, starts: Int64s, look: Look) -> dict[str, Int64s]:
    """Put the contents of one field into memory.

    Args:
        table: the samples.
        name: of the field.
        rows: which samples, int64 [n].
        view: the memory; one byte more than the last content takes.
        starts: where each content goes, int64 [n].
        look: called with each content; gives its facts.

    Returns: "<field>.<what>" -> int64 [n], the facts that the index stores.

    Raises:
        PackError: a file that is gone, has changed, cannot be read, or that `look` refuses.
    """
    column, kind = table.columns[name], table.fields[name].kind
    begins, listed = starts.tolist(), rows.tolist()
    match column:
        case Values():
            _fill_values(column.values[rows], view, begins)
            return {}
        case Inline():
            places = [view[a : a + n] for a, n in zip(begins, column.sizes[rows].tolist(), strict=True)]
            for row, place in zip(listed, places, strict=True):
                place[:] = column.contents[row]
            if kind in ("text", "json") and look is inspector(kind):
                return {}  # made from values of the manifest
            found = [look(place) for place in places]
        case Files():
            found = _fill_files(column, rows, view, starts, look)
        case Spans():
            found = _fill_spans(table, column, listed, view, begins, look)
    names = FACTS.get(kind, ())
    facts = np.array(found, np.int64).reshape(len(listed), len(names)) if names else np.zeros((0, 0), np.int64)
    return {f"{name}.{what}": facts[:, at] for at, what in enumerate(names)}


def _fill_values(values: npt.NDArray[Any], view: memoryview, begins: list[int]) -> None:
    known: dict[Any, bytes] = {}
    for value, begin in zip(values.tolist(), begins, strict=True):
        content = known.get(value)
        if content is None:
            content = known[value] = scalar_bytes(value)
        view[begin : begin + len(content)] = content


def _fill_spans(
    table: Table, column: Spans, listed: list[int], view: memoryview, begins: list[int], look: Look
) -> list[Any]:
    found = []
    with column.opened() as descriptor:
        if os.fstat(descriptor).st_mtime_ns != column.mtime:
            raise PackError(f"{column.path} has changed since packing began; run the command again")
        for row, begin in zip(listed, begins, strict=True):
            place = view[begin : begin + int(column.sizes[row])]
            column.read_into(descriptor, row, place)
            try:
                found.append(look(place))
            except DecodeError as error:
                raise PackError(f"{origin(table, row)}: {error.message}", key=table.keys[row]) from error
    return found


def _fill_files(column: Files, rows: Int64s, view: memoryview, starts: Int64s, look: Look) -> list[Any]:
    """Read whole files into `view`; asks for one byte more than expected, so that growth is seen too."""
    paths, sizes = [column.paths[row] for row in rows.tolist()], column.sizes[rows]
    _read_all(column.root, paths, view, starts, sizes)
    found: list[Any] = []
    try:
        for begin, end in zip(starts.tolist(), (starts + sizes).tolist(), strict=True):
            found.append(look(view[begin:end]))
    except DecodeError as error:
        path = os.path.join(column.root, paths[len(found)])
        raise PackError(
            f"{path}: {error.message}; remove or mend the file, or skip such (on_error='skip', --on-error skip)"
        ) from error
    return found


def _read_all(folder: str, paths: list[str], view: memoryview, starts: Int64s, sizes: Int64s) -> None:
    done, path = 0, ""
    try:
        # looked up once, and not again with each file
        root = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            while (done := read_files(root, paths, starts, sizes, view, done)) < len(paths):
                path, begin, end = paths[done], int(starts[done]), int(starts[done] + sizes[done])
                _read_one(root, path, view[begin : end + 1])
                done += 1
        finally:
            os.close(root)
    except OSError as error:
        gone = isinstance(error, FileNotFoundError)
        what = "is gone since packing began" if gone else f"cannot be read: {error.strerror}"
        raise PackError(f"{os.path.join(folder, path)} {what}; run the command again once it is back") from error


def _read_one(root: int, path: str, place: memoryview) -> None:
    """Read a file that is one byte shorter than its place."""
    descriptor = _open_file(root, path)
    try:
        if os.readv(descriptor, (place,)) != len(place) - 1:
            _read_rest(descriptor, path, place[:-1])
    finally:
        os.close(descriptor)


def _open_file(root: int, path: str) -> int:
    """Its descriptor. If a pipe has taken its place, who writes to it is not waited for."""
    flags = os.O_RDONLY | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_NONBLOCK, dir_fd=root)
    except BlockingIOError:  # another program has a lease on it, which it gives up
        return os.open(path, flags, dir_fd=root)


def _read_rest(descriptor: int, path: str, place: memoryview) -> None:
    """Read a file that did not come in one piece."""
    done = read_into(descriptor, place, 0)
    if done < len(place) or os.pread(descriptor, 1, done):
        raise PackError(
            f"{path} had {len(place)} bytes when packing began, and now has {os.fstat(descriptor).st_size};"
            " wait until it is complete and run the command again"
        )
