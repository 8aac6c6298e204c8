"""What a URL consists of, and how it is shown."""

from __future__ import annotations

import re
from urllib.parse import unquote

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SECRET = re.compile(r"(?<=//)[^/@]*@")


def is_url(name: str) -> bool:
    """Whether a name is a URL and not a path."""
    return _URL.match(name) is not None


def scheme(url: str) -> str:
    """`S3://bucket/a` -> `s3`"""
    return url.partition("://")[0].lower()


def split_url(url: str) -> tuple[str, str]:
    """The folder of a URL, and the plain name of what lies in it: `http://h/a/b%20c.tar` -> `http://h/a`, `b c.tar`"""
    folder, _, name = url.rpartition("/")
    return folder, unquote(name) if scheme(url) in ("http", "https") else name


def join_url(folder: str, name: str) -> str:
    """`http://h/a?token=1`, `b/c.tar` -> `http://h/a/b/c.tar?token=1`"""
    plain, mark, query = folder.partition("?")
    return f"{plain.rstrip('/')}/{name}{mark}{query}"


def parent_url(url: str) -> str:
    """`http://h/a/b/?x=1` -> `http://h/a?x=1`; a host or bucket is its own."""
    plain, mark, query = url.partition("?")
    above = plain.rstrip("/").rpartition("/")[0]
    return url if above.endswith("/") else above + mark + query


def path_of(url: str) -> str:
    """A URL without its query."""
    return url.partition("?")[0]


def shown(url: str) -> str:
    """A URL as errors name it: without user, password and query, which may be secrets."""
    return _SECRET.sub("", path_of(url))
