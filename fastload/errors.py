"""What fastload raises: one base class, one kind per cause, each naming shard, row and key where it knows them.

FastloadError
  ConfigError        an argument is out of range or does not fit another      (also a ValueError)
  ShardIndexError    the index is missing, incomplete, newer or does not fit its shards
  SourceError        bytes cannot be had: a file is missing, shorter than indexed, or unreadable   (also an OSError)
  CorruptError       bytes are there, and are not the ones that were written: checksum or container
  DecodeError        the bytes of one field do not decode
  StateError         a state belongs to another data set, seed, sampler or version   (also a ValueError)
  PackError          the sharding tool cannot go on
  EngineError        the engine was closed, forked, or made no progress   (also a RuntimeError)
  MissingExtraError  an optional dependency is not installed   (also an ImportError)
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]  # the checkout, or where packages are installed


class FastloadError(Exception):
    """Base of all errors of fastload.

    Args:
        message: what is wrong, the value, and what to do.
        shard: name of the shard concerned.
        row: row inside the shard, from 0.
        key: key of the sample.
    """

    def __init__(
        self, message: str, *, shard: str | None = None, row: int | None = None, key: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.shard = shard
        self.row = row
        self.key = key

    def at(self, *, shard: str | None = None, row: int | None = None, key: str | None = None) -> FastloadError:
        """Fill in the places that are not known yet, and return self: the outer layers know more of where."""
        self.shard = self.shard if self.shard is not None else shard
        self.row = self.row if self.row is not None else row
        self.key = self.key if self.key is not None else key
        return self

    def __str__(self) -> str:
        place = []
        if self.shard is not None:
            place.append(f"shard {self.shard!r}")
        if self.row is not None:
            place.append(f"row {self.row}" + (f" ({self.key!r})" if self.key is not None else ""))
        elif self.key is not None:
            place.append(f"sample {self.key!r}")
        return f"{', '.join(place)}: {self.message}" if place else self.message

    def __reduce__(self) -> tuple[object, ...]:  # keyword-only attributes survive a process border
        return (_rebuild, (type(self), self.message, self.shard, self.row, self.key))


def _rebuild(
    kind: type[FastloadError], message: str, shard: str | None, row: int | None, key: str | None
) -> FastloadError:
    return kind(message, shard=shard, row=row, key=key)


class ConfigError(FastloadError, ValueError):
    """An argument is out of range or does not fit another."""


class ShardIndexError(FastloadError):
    """The index is missing, incomplete, of a newer version, or does not fit its shards."""


class SourceError(FastloadError, OSError):
    """Bytes cannot be had: a file is missing, shorter than its index says, or unreadable."""

    __str__ = FastloadError.__str__  # OSError's would print its own arguments


class CorruptError(FastloadError):
    """Bytes are there, and are not the ones that were written."""


class DecodeError(FastloadError):
    """The bytes of one field do not decode into what was declared."""


class StateError(FastloadError, ValueError):
    """A saved state does not belong to this loader, or comes at the wrong time."""


class PackError(FastloadError):
    """The sharding tool cannot go on."""


class EngineError(FastloadError, RuntimeError):
    """The engine was closed, forked, or made no progress."""


class MissingExtraError(FastloadError, ImportError):
    """An optional dependency is not installed; the message names the extra."""


def missing_extra(package: str, extra: str, purpose: str) -> MissingExtraError:
    """The error for an optional dependency that cannot be imported, with the command that gets it.

    The name alone would do only where fastload is installed: in a package index it is another's.
    """
    checkout = (ROOT / "pyproject.toml").is_file()
    what = f"-e '{ROOT}[{extra}]'" if checkout else f"'fastload[{extra}]'"
    return MissingExtraError(f"{purpose} needs {package}, which is not installed; pip install {what}")
