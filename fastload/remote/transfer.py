"""One request to a store, to read or to write: obstore for s3, gs, az, http and https, fsspec for every other scheme.

Nothing is tried again here. What fails is an error of answers.py, which tells whether trying again may help.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from fastload.errors import ConfigError, MissingExtraError, missing_extra
from fastload.remote.answers import Exists, Head, Missing, NoRange, Opened, Refused, Transient, first_line, ours
from fastload.remote.settings import Remote
from fastload.remote.urls import scheme, shown, split_url

CHUNK = 1 << 16  # what is lost of a transfer that is cut off; 10 us each
_OBSTORE = {"s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss", "http", "https"}
PARTIAL_SUFFIX = ".partial"
_DAY = timedelta(days=1)  # of a whole request: only stalls are bounded

_stores: dict[tuple[str, float, str], Any] = {}
_used_by: list[int] = []  # the process that sent the first request


def request(url: str, offset: int | None, remote: Remote) -> Opened:
    """What is at a URL, from byte `offset` on; the chunks come as they are read. None: the head alone.

    Raises:
        Transient, Missing, Refused, NoRange: at once, or from the iterator.
        MissingExtraError: obstore, fsspec or what it needs for this scheme is not installed.
    """
    if not _used_by:
        _used_by.append(os.getpid())
    by = _by_obstore if uses_obstore(url) else _by_http if _is_http(url) else _by_fsspec
    stream = _translated(by(url, offset, remote), url, remote)
    return next(stream), stream


def part(url: str, start: int, stop: int, remote: Remote) -> bytes:
    """Bytes [start, stop) of what is at a URL; fewer where it ends before.

    Raises: as `request`, at once.
    """
    if not _used_by:
        _used_by.append(os.getpid())
    return bytes(next(_translated(_part(url, start, stop, remote), url, remote)))


def _part(url: str, start: int, stop: int, remote: Remote) -> Iterator[Any]:
    if uses_obstore(url):
        folder, name = split_url(url)
        yield _obstore(url).get_range(_store(folder, remote), name, start=start, end=stop)
    else:
        files, path = _file_system(url, remote)
        yield files.cat_file(path, start=start, end=stop)


def send_file(file: Path, url: str, remote: Remote) -> None:
    """Put a file at a URL: whole or not at all; what is there is replaced.

    Raises: Transient, Missing, Refused; MissingExtraError as `request`.
    """
    if not _used_by:
        _used_by.append(os.getpid())
    put = _put_by_obstore if uses_obstore(url) else _put_by_fsspec
    for _ in _translated(put(file, url, remote), url, remote):
        pass


def create(content: bytes, url: str, remote: Remote) -> None:
    """Put a small object where there is none. Stores decide between two that do so at once (If-None-Match); of one that
    cannot, the object is looked for first.

    Raises: Exists, Transient, Missing, Refused; MissingExtraError as `request`.
    """
    if not _used_by:
        _used_by.append(os.getpid())
    put = _create_by_obstore if uses_obstore(url) else _create_by_fsspec
    for _ in _translated(put(content, url, remote), url, remote):
        pass


def remove(url: str, remote: Remote) -> None:
    """Delete an object.

    Raises: Transient, Missing, Refused; MissingExtraError as `request`.
    """
    for _ in _translated(_remove(url, remote), url, remote):
        pass


def _create_by_obstore(content: bytes, url: str, remote: Remote) -> Iterator[None]:
    folder, name = split_url(url)
    obstore, store = _obstore(url), _store(folder, remote)
    try:
        yield obstore.put(store, name, content, mode="create")
    except Exception as error:
        if not _cannot_create(error):
            raise
        with contextlib.suppress(FileNotFoundError):
            _head(store, name)
            raise Exists(first_line(error)) from error
        yield obstore.put(store, name, content)


def _cannot_create(error: Exception) -> bool:
    """Whether a store has no conditions; raises Exists where it has, and the condition fails."""
    if type(error).__name__ in ("AlreadyExistsError", "PreconditionError"):
        raise Exists(first_line(error)) from error
    return type(error).__name__ in ("NotSupportedError", "NotImplementedError") or "status code: 501" in str(error)


def _create_by_fsspec(content: bytes, url: str, remote: Remote) -> Iterator[None]:
    files, path = _file_system(url, remote)
    files.makedirs(files._parent(path), exist_ok=True)
    try:
        yield files.pipe_file(path, content, mode="create")
    except FileExistsError as error:
        raise Exists(first_line(error)) from error
    except (NotImplementedError, ValueError, TypeError) as error:
        if files.exists(path):
            raise Exists(first_line(error)) from error
        yield files.pipe_file(path, content)


def _remove(url: str, remote: Remote) -> Iterator[None]:
    if uses_obstore(url):
        folder, name = split_url(url)
        yield _obstore(url).delete(_store(folder, remote), name)
    else:
        files, path = _file_system(url, remote)
        yield files.rm_file(path)


def _put_by_obstore(file: Path, url: str, remote: Remote) -> Iterator[None]:
    folder, name = split_url(url)
    obstore = _obstore(url)
    yield obstore.put(_store(folder, remote), name, file)  # a large one in parts, which become one at the end


def _put_by_fsspec(file: Path, url: str, remote: Remote) -> Iterator[None]:
    """Under another name first, for file systems where a file grows while it is written."""
    files, path = _file_system(url, remote)
    files.makedirs(files._parent(path), exist_ok=True)
    files.put_file(str(file), path + PARTIAL_SUFFIX)
    yield files.mv(path + PARTIAL_SUFFIX, path)


def forked() -> bool:
    """Whether this process was forked from one that had sent requests: the threads that both libraries run on are
    missing here, and a request would hang."""
    return bool(_used_by) and _used_by[0] != os.getpid()


def uses_obstore(url: str) -> bool:
    """Whether obstore reads this URL; of its schemes all but a signed http URL, whose query it would lose."""
    return scheme(url) in _OBSTORE and not ("?" in url and _is_http(url))


def _is_http(url: str) -> bool:
    return scheme(url) in ("http", "https")


def _translated(stream: Iterator[Any], url: str, remote: Remote) -> Iterator[Any]:
    """What a request gives, and its errors as ours. A store that refused is let go: another reads the credentials of
    the environment again, which may be new by then."""
    try:
        yield from stream
    except (Transient, Missing, Exists, Refused, NoRange, ConfigError, MissingExtraError):
        raise
    except FileNotFoundError as error:
        raise Missing(first_line(error)) from error
    except Exception as error:
        kind = ours(error)
        if isinstance(kind, Refused):
            _stores.pop(_key(split_url(url)[0], remote), None)
        raise kind from error


def _by_obstore(url: str, offset: int | None, remote: Remote) -> Iterator[Any]:
    folder, name = split_url(url)
    obstore = _obstore(url)
    store = _store(folder, remote)
    found = None
    if offset is None:
        about = _head(store, name)
    else:
        found = obstore.get(store, name, options={"range": {"offset": offset}} if offset else None)
        about = found.meta
    changed = about["last_modified"]
    yield Head(size=about["size"], version=about["e_tag"] or (changed.isoformat() if changed else ""))
    for chunk in found.stream(min_chunk_size=CHUNK) if found is not None else ():
        yield bytes(chunk)


def _head(store: Any, name: str) -> Any:
    """By HEAD, or, from a server that has none, the head of a GET whose body is not read."""
    import obstore

    try:
        return obstore.head(store, name)
    except (FileNotFoundError, obstore.exceptions.BaseError):  # which of them 405 is depends on the store
        return obstore.get(store, name).meta


def _store(folder: str, remote: Remote) -> Any:
    """The store of a folder; its connections are kept for the next request."""
    import obstore.store

    key = _key(folder, remote)
    known = _stores.get(key)
    if known is not None:
        return known
    wait = timedelta(seconds=remote.stall_seconds)
    client: Any = {"allow_http": True, "connect_timeout": wait, "read_timeout": wait, "timeout": _DAY}
    retry: Any = {"max_retries": 0, "retry_timeout": wait}
    config: Any = dict(remote.options)
    if _is_http(folder) and not config:
        store: Any = obstore.store.HTTPStore.from_url(folder, client_options=client, retry_config=retry)
    else:
        store = obstore.store.from_url(folder, config=config or None, client_options=client, retry_config=retry)
    return _stores.setdefault(key, store)


def _key(folder: str, remote: Remote) -> tuple[str, float, str]:
    return folder, remote.stall_seconds, repr(sorted(remote.options.items()))


def _by_fsspec(url: str, offset: int | None, remote: Remote) -> Iterator[Any]:
    files, path = _file_system(url, remote)
    about = files.info(path)
    if about.get("type") == "directory" or about.get("size") is None:
        raise Missing("not a file")
    marks = [about[name] for name in ("ETag", "etag", "mtime", "LastModified", "created") if about.get(name)]
    yield Head(size=about["size"], version=str(marks[0]) if marks else "")
    if offset is None:
        return
    with files.open(path, "rb") as file:
        file.seek(offset)
        while chunk := file.read(CHUNK):
            yield chunk


def _by_http(url: str, offset: int | None, remote: Remote) -> Iterator[Any]:
    """One GET, streamed. fsspec's own look at a file finds none whatever is wrong, and its blocks are ranges, which not
    every server has; a signed URL often is signed for GET alone."""
    files, path = _file_system(url, remote)
    headers = {**files.kwargs.get("headers", {}), "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    try:
        file = files.open(path, "rb", block_size=0, size=1, headers=headers)  # without a size it would be looked for
    except FileNotFoundError as error:
        raise Missing("404") from error
    with file:
        status, about = file.r.status, file.r.headers
        if offset and status != 206:
            raise NoRange(f"status {status} to a request for a range")
        size = about.get("Content-Range", "").rpartition("/")[2] if status == 206 else about.get("Content-Length", "")
        if not size.isdecimal():
            raise Refused("the server does not say how many bytes it has")
        yield Head(size=int(size), version=about.get("ETag") or about.get("Last-Modified") or "")
        while offset is not None and (chunk := file.read(CHUNK)):
            yield chunk


def _obstore(url: str) -> Any:
    try:
        import obstore
    except ImportError:
        raise missing_extra("obstore", "remote", shown(url)) from None
    return obstore


def _file_system(url: str, remote: Remote) -> tuple[Any, str]:
    """That of fsspec for a URL, and the path in it."""
    options: dict[str, Any] = dict(remote.options)
    try:
        import fsspec

        if _is_http(url):
            options["client_kwargs"] = {"timeout": _timeout(remote), **options.get("client_kwargs", {})}
    except ImportError as error:
        raise missing_extra(error.name or "fsspec", "remote", shown(url)) from None
    try:
        files, path = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        raise ConfigError(f"{shown(url)}: {error}") from None
    except ValueError as error:
        raise ConfigError(f"{shown(url)} cannot be opened: {error}") from None
    return files, path


def _timeout(remote: Remote) -> Any:
    """aiohttp's bounds: of stalls, and not of a whole request."""
    import aiohttp

    return aiohttp.ClientTimeout(total=None, connect=remote.stall_seconds, sock_read=remote.stall_seconds)
