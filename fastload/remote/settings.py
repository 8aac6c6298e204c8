"""How data behind URLs is fetched and kept."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fastload.errors import ConfigError
from fastload.sizes import parse_size


def default_cache_dir() -> str:
    """$XDG_CACHE_HOME/fastload, or ~/.cache/fastload."""
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "fastload")


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """How data behind URLs is fetched and kept; for StreamingDataset(..., remote=).

    A transfer that fails (connection refused or reset, no byte for `stall_seconds`, cut short, status 408, 429 or 5xx)
    is tried again, where it stopped, after 0.2 s, 0.4 s, 0.8 s ... up to 10 s, less up to half of that by chance.
    If not one further byte has come for `give_up_seconds`, SourceError is raised: at the latest `give_up_seconds` +
    `stall_seconds` after the last byte, which is 150 s by default and less than the loader's `timeout`.

    Attributes:
        cache_dir: folder of the cache, on a local disk; all programs of a machine may share it. None:
            $XDG_CACHE_HOME/fastload.
        cache_size: the most bytes that fetched shards take there, such as "50GB", those on their way included. None:
            until the disk is full but for 5%.
        downloads: at a time, in each process. 8: one connection to a bucket gives about 100 MB/s, and a machine takes
            10 Gbit/s and more.
        stall_seconds: a connection that gives no byte for so long is given up and tried again.
        give_up_seconds: see above.
        options: for obstore's store (`region`, `endpoint`, `skip_signature`, ...; else the environment's, such as
            AWS_ACCESS_KEY_ID) or the file system of fsspec.

    Raises:
        ConfigError: a size, number or path that is none.
    """

    cache_dir: str | os.PathLike[str] | None = None
    cache_size: int | str | None = None
    downloads: int = 8
    stall_seconds: float = 30.0
    give_up_seconds: float = 120.0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.cache_size is not None:
            parse_size(self.cache_size, "cache_size")
        if self.cache_dir is not None and not os.fspath(self.cache_dir):
            raise ConfigError("cache_dir='': pass a folder")
        if isinstance(self.downloads, bool) or not isinstance(self.downloads, int) or self.downloads < 1:
            raise ConfigError(f"downloads={self.downloads!r}: must be at least 1")
        for name in ("stall_seconds", "give_up_seconds"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}={getattr(self, name)!r}: must be positive seconds")

    @property
    def folder(self) -> Path:
        """The folder of the cache."""
        return Path(os.path.abspath(default_cache_dir() if self.cache_dir is None else self.cache_dir))

    @property
    def limit(self) -> int | None:
        """`cache_size` in bytes."""
        return None if self.cache_size is None else parse_size(self.cache_size, "cache_size")


def gather(remote: Remote | None, cache_dir: str | os.PathLike[str] | None, cache_size: int | str | None) -> Remote:
    """The settings, where cache_dir and cache_size may be given by themselves.

    Raises:
        ConfigError: one is given twice.
    """
    if remote is None:
        return Remote(cache_dir=cache_dir, cache_size=cache_size)
    for name, value in (("cache_dir", cache_dir), ("cache_size", cache_size)):
        if value is not None and getattr(remote, name) not in (None, value):
            raise ConfigError(f"{name}={value!r} and remote={remote!r}: pass it once")
    return replace(
        remote,
        cache_dir=remote.cache_dir if cache_dir is None else cache_dir,
        cache_size=remote.cache_size if cache_size is None else cache_size,
    )
