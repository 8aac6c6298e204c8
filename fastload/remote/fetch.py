"""An object behind a URL, whole or a part: tried again where it stopped, and checked against what is known of it."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import xxhash

from fastload.errors import CorruptError, SourceError
from fastload.remote import forked, transfer
from fastload.remote.answers import Exists, Head, Missing, NoRange, Opened, Refused, Transient
from fastload.remote.settings import Remote
from fastload.remote.urls import shown
from fastload.stopping import pause, stop_here

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 10.0
WHOLE_TRIES = 2  # of an object that came whole and was not what it should be

_chance = random.Random()  # not Python's own: a program's random numbers are its own affair

Write = Callable[[int, bytes], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """An object behind a URL, and what is known of it.

    Attributes:
        url: where it is.
        size: bytes, from an index or from the server when the data was opened.
        xxh3: XXH3-64, 16 hex digits, from an index.
        version: what the server said when the data was opened (an ETag, or a date); None if an index has `xxh3`.
    """

    url: str
    size: int | None = None
    xxh3: str | None = None
    version: str | None = None


def send(url: str, offset: int | None, remote: Remote) -> Opened:
    """One request, in this process or, where it was forked, in another."""
    return (forked.request if transfer.forked() else transfer.request)(url, offset, remote)


def is_refusal(error: SourceError) -> bool:
    """Whether a server refused: buckets that may not be listed do that too where there is nothing."""
    return isinstance(error.__cause__, Refused)


def missing(url: str, what: str) -> SourceError:
    """The error for a URL that has nothing."""
    return SourceError(f"{shown(url)} does not exist ({what}); check the URL")


def look(url: str, remote: Remote) -> Head | None:
    """What the server says of an object; None if there is none. Tried again as `Remote` says; raises as `fetch`."""
    found: list[Head] = []

    def once(offset: int) -> None:
        head, chunks = send(url, None, remote)
        getattr(chunks, "close", lambda: None)()
        found.append(head)

    try:
        _Tries(url, remote).run(once, lambda: 0)
    except Missing:
        return None
    return found[0]


def store(file: Path, url: str, remote: Remote) -> None:
    """Put a file at a URL, whole or not at all. Tried again as `Remote` says.

    Raises:
        SourceError: the server refuses, or it was tried for `give_up_seconds`.
    """
    try:
        _Tries(url, remote, "written").run(lambda offset: transfer.send_file(file, url, remote), lambda: 0)
    except Missing as error:
        raise SourceError(f"{shown(url)} cannot be written: {error}; check the bucket and the URL") from error


def create(content: bytes, url: str, remote: Remote) -> bool:
    """Put a small object at a URL where there is none; whether it was put. Tried again as `Remote` says: where the
    answer to a try is lost, the next one finds what it put, and gives False.

    Raises: as `store`.
    """
    try:
        _Tries(url, remote, "written").run(lambda offset: transfer.create(content, url, remote), lambda: 0)
    except Exists:
        return False
    except Missing as error:
        raise SourceError(f"{shown(url)} cannot be written: {error}; check the bucket and the URL") from error
    return True


def remove(url: str, remote: Remote) -> None:
    """Delete an object, or find that there is none. Tried again as `Remote` says; raises as `store`."""
    with contextlib.suppress(Missing):
        _Tries(url, remote, "deleted").run(lambda offset: transfer.remove(url, remote), lambda: 0)


def fetch_bytes(url: str, remote: Remote) -> bytes | None:
    """A small object whole; None if there is none. Raises as `fetch`."""
    content = bytearray()

    def write(offset: int, chunk: bytes) -> None:
        content[offset:] = chunk

    try:
        _Fetch(Blob(url=url), write, lambda size: None, remote).run()
    except Missing:
        return None
    return bytes(content)


def fetch(
    blob: Blob, write: Write, reserve: Callable[[int], None], remote: Remote, *, keep_damaged: bool = False
) -> None:
    """Get an object whole.

    Args:
        blob: what it is, and should be.
        write: is given (offset, chunk), in order; from 0 again if the object had to be begun anew.
        reserve: is given its size before the first chunk is written.
        remote: how long to try.
        keep_damaged: if its checksum is wrong twice, and nothing else, take it as it is.

    Raises:
        SourceError: there is nothing at the URL, the server refuses, or no byte came for `give_up_seconds`.
        CorruptError: what came, whole, twice, is not what the index says.
        EngineError: what it was fetched for was closed.
    """
    try:
        _Fetch(blob, write, reserve, remote, keep_damaged).run()
    except Missing as error:
        raise missing(blob.url, str(error)) from error


def fetch_part(blob: Blob, start: int, stop: int, remote: Remote) -> bytes | None:
    """Bytes [start, stop) of an object, tried again as `Remote` says, and held against no checksum. None where only the
    whole object can be had, or tells what is wrong with it: the server gives no ranges or refuses, the object is not
    there or shorter, or this process was forked.

    Raises:
        SourceError: no byte came for `give_up_seconds`.
        EngineError: what it was fetched for was closed.
    """
    found = [b""]

    def once(offset: int) -> None:
        found[0] = transfer.part(blob.url, start, stop, remote)

    if transfer.forked():
        return None
    try:
        _Tries(blob.url, remote).run(once, lambda: 0)
    except (Missing, NoRange):
        return None
    except SourceError as error:
        if not is_refusal(error):
            raise
        return None
    return found[0] if len(found[0]) == stop - start else None


class _Tries:
    """Tries something until it succeeds or nothing has come for too long."""

    def __init__(self, url: str, remote: Remote, what: str = "fetched") -> None:
        self._url, self._remote, self._what = url, remote, what
        self.count = 0

    def run(self, once: Callable[[int], None], received: Callable[[], int]) -> None:
        """Call `once(received())` until it returns."""
        best, since, failures = received(), time.monotonic(), 0
        while True:
            self.count += 1
            try:
                return once(received())
            except Refused as error:
                raise SourceError(
                    f"{shown(self._url)} is refused: {error}; check the URL and the credentials (remote= has options)"
                ) from error
            except Transient as error:
                if received() > best:
                    best, since, failures = received(), time.monotonic(), 0
                left = since + self._remote.give_up_seconds - time.monotonic()
                if left <= 0:
                    raise SourceError(
                        f"{shown(self._url)} cannot be {self._what}: {error}; {self.count} tries, the last "
                        f"{self._remote.give_up_seconds:g} s without a byte; check the network and the server, or "
                        "raise give_up_seconds"
                    ) from error
                longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(failures, 10))
                pause(min(left, longest * _chance.uniform(0.5, 1)))
                failures += 1


class _Damaged(Exception):
    """An object came whole and is not what it should be."""

    def __init__(self, what: str, size_is_right: bool = False) -> None:
        super().__init__(what)
        self.size_is_right = size_is_right


class _Fetch:
    """One object on its way."""

    def __init__(
        self, blob: Blob, write: Write, reserve: Callable[[int], None], remote: Remote, keep_damaged: bool = False
    ) -> None:
        self._blob, self._write, self._reserve, self._remote = blob, write, reserve, remote
        self._keep_damaged = keep_damaged
        self._begin()

    def _begin(self) -> None:
        self._received, self._head, self._digest = 0, None, xxhash.xxh3_64()

    _head: Head | None

    def run(self) -> None:
        tries, whole = _Tries(self._blob.url, self._remote), 0
        while True:
            try:
                return tries.run(self._once, lambda: self._received)
            except _Damaged as error:
                whole += 1
                if whole == WHOLE_TRIES:
                    if self._keep_damaged and error.size_is_right:
                        return None
                    raise CorruptError(
                        f"{shown(self._blob.url)} {error}, in {whole} downloads; it was changed or damaged: upload it "
                        "again, or make its index again with `fastload index` and upload that"
                    ) from error
                self._begin()

    def _once(self, offset: int) -> None:
        try:
            head, chunks = send(self._blob.url, offset, self._remote)
        except NoRange:
            self._begin()
            head, chunks = send(self._blob.url, 0, self._remote)
        try:
            if self._head is not None and head != self._head:
                self._begin()
                raise Transient("it was changed while it was fetched")
            if self._head is None:
                self._check_head(head)
                self._reserve(head.size)
                self._head = head
            for chunk in chunks:
                if stop_here().is_set():
                    pause(0)
                self._write(self._received, chunk)
                self._digest.update(chunk)
                self._received += len(chunk)
        finally:
            getattr(chunks, "close", lambda: None)()
        if self._received < head.size:
            raise Transient(f"it ends after {self._received} of {head.size} bytes")
        expected, found = self._blob.xxh3, self._digest.hexdigest()
        if self._received > head.size or (expected is not None and found != expected):
            raise _Damaged(
                f"is not the file that its index describes (xxh3 {found}, {expected} expected)",
                size_is_right=self._received == head.size,
            )

    def _check_head(self, head: Head) -> None:
        if self._blob.size is not None and head.size != self._blob.size:
            raise _Damaged(f"has {head.size} bytes, and its index says {self._blob.size}")
        if self._blob.version is not None and head.version != self._blob.version:
            raise _Damaged(f"is version {head.version!r}, and was {self._blob.version!r} when it was opened")
