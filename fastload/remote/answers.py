"""What a store answers: the head of an object, or why it gives nothing.

Errors are told apart by whether trying again may help:

    Transient   refused, reset, timed out, cut short, 408, 425, 429, 5xx, and whatever is not known
    Missing     404
    Refused     401, 403 and other 4xx, credentials or settings that are wrong
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_WORTH_ANOTHER = {408, 425, 429}
_STATUS = re.compile(r"status code: (\d{3})")


class Transient(Exception):
    """Trying again may help."""


class Missing(Exception):
    """There is nothing at that URL."""


class Refused(Exception):
    """Trying again would not help."""


class Exists(Exception):
    """There is something at that URL already."""


class NoRange(Exception):
    """The server gives whole objects only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What a server says of an object: its size in bytes, and what changes when the object does."""

    size: int
    version: str


Opened = tuple[Head, Iterator[bytes]]


def ours(error: Exception) -> Exception:
    """The error of obstore or fsspec as one of ours."""
    name, text = type(error).__name__, first_line(error)
    if name == "NotSupportedError" and "Range" in str(error):
        return NoRange(text)
    if name in ("PermissionDeniedError", "UnauthenticatedError", "InvalidPathError", "UnknownConfigurationKeyError"):
        return Refused(text)
    if isinstance(error, PermissionError | ValueError | TypeError | IsADirectoryError):
        return Refused(text)
    status = _STATUS.search(str(error)) or re.match(r"(\d{3})\b", str(getattr(error, "status", "")))
    if status and 400 <= int(status[1]) < 500 and int(status[1]) not in _WORTH_ANOTHER:
        return Missing(text) if int(status[1]) in (404, 410) else Refused(text)
    return Transient(text)


def first_line(error: BaseException) -> str:
    """What an error says, without obstore's dump of its insides, and without what a server sent as a page."""
    if getattr(error, "status", None) and getattr(error, "message", None):  # aiohttp's, which else tells the query too
        return f"{error.status} {error.message}"[:300]  # type: ignore[attr-defined]
    text = str(error).strip().partition("\n")[0].partition(": <")[0]
    text = re.sub(r"Error performing \w+ \S+ in \S+ - ", "", text)
    return text[:300] or type(error).__name__
