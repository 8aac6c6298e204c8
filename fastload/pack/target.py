"""Packing into an object store: shards are made in a folder of this machine, and go to their URL one by one.

    scratch/train/shard-000000.tar, .idx --put--> URL/train/shard-000000.tar, .idx --> recorded in scratch's journal
    ... rejected.parquet, suspects.parquet, and index.json last: without it the URL has no data set

A shard is deleted here once it is there, so that `scratch` holds those that are being made. The journal stays here: a
run goes on on the same machine, or wherever the same `scratch` is.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import xxhash

from fastload.errors import ConfigError, PackError
from fastload.remote.fetch import look, store
from fastload.remote.settings import Remote
from fastload.remote.urls import is_url, join_url, scheme, shown
from fastload.shards.foreign import REJECTED_NAME, SUSPECTS_NAME
from fastload.shards.idx import idx_path
from fastload.shards.index import INDEX_NAME, ShardFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a data set goes.

    Attributes:
        url: of its folder.
        scratch: the local folder.
        remote: credentials and the like, and how long to try.
    """

    url: str
    scratch: Path
    remote: Remote

    def refuse_existing(self) -> None:
        """Raise PackError where there is a data set."""
        if look(join_url(self.url, INDEX_NAME), self.remote) is not None:
            raise PackError(f"{shown(self.url)} holds a finished data set ({INDEX_NAME}); delete it, or choose another")

    def has(self, file: ShardFile) -> bool:
        """Whether a shard is there, by its size, with its .idx where it has one."""
        found = look(join_url(self.url, file.name), self.remote)
        if found is None or found.size != file.bytes:
            return False
        return file.index_xxh3 is None or look(join_url(self.url, idx_path(file.name)), self.remote) is not None

    def take(self, file: ShardFile) -> None:
        """Move a shard there."""
        names = [file.name] if file.index_xxh3 is None else [file.name, idx_path(file.name)]
        for name in names:
            store(self.scratch / name, join_url(self.url, name), self.remote)
        for name in names:
            (self.scratch / name).unlink()

    def finish(self) -> None:
        """Copy the lists and the index there, which is then complete."""
        for name in (REJECTED_NAME, SUSPECTS_NAME, INDEX_NAME):
            if (self.scratch / name).exists():
                store(self.scratch / name, join_url(self.url, name), self.remote)

    def clear(self) -> None:
        """Remove what is left here."""
        for name in (REJECTED_NAME, SUSPECTS_NAME, INDEX_NAME):
            (self.scratch / name).unlink(missing_ok=True)
        for folder in (*(path for path in self.scratch.iterdir() if path.is_dir()), self.scratch):
            folder.rmdir()


def target_of(out: str | Path, scratch: str | Path | None, remote: Remote | None, engine: str) -> Target | None:
    """Where the data set goes if `out` is a URL; None for a folder.

    Raises: ConfigError for a URL that nothing can be put to, arguments that a folder does not need, or Ray's machines
    without a folder that they share.
    """
    url = os.fspath(out)
    if not is_url(url):
        if scratch is not None or remote is not None:
            raise ConfigError(
                f"scratch and remote are for an output behind a URL, such as s3://bucket/data; it is {url}"
            )
        return None
    if scheme(url) in ("http", "https"):
        raise ConfigError(
            f"{shown(url)}: packing writes to object stores (s3://, gs://, az://) and what fsspec writes; pack into a"
            " folder, and copy it to the server"
        )
    if engine == "ray" and scratch is None:
        raise ConfigError(
            f"{shown(url)} with engine='ray': also pass scratch, a new folder that all machines share, in which shards"
            " are made before they go there"
        )
    remote = remote or Remote()
    if scratch is None:
        scratch = remote.folder / "packing" / xxhash.xxh3_64_hexdigest(url.encode())
    return Target(url=url.rstrip("/"), scratch=Path(scratch), remote=remote)
