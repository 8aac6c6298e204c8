"""Packing into an object store: shards are made in a folder of this machine, and go to their URL one by one.

    scratch/train/shard-000000.tar, .idx --put--> URL/train/shard-000000.tar, .idx --> recorded in scratch's journal
    ... rejected.parquet, suspects.parquet, and index.json last: without it the URL has no data set

A shard is deleted here once it is there, so that `scratch` holds those that are being made. The journal stays here: a
run goes on on the same machine, or wherever the same `scratch` is.

URL/.fastload-packing says whose the URL is: host, process, time, and a number that is drawn once for a journal. It is
put where there is none, in one request that the store decides. Whoever has the journal with that number, which one
process at a time can hold, goes on at once, however the run before ended. It is deleted when the data set is
complete, and when a run ends before its first shard; a killed run, or one that stopped later, keeps the URL, like a
folder. No age makes it void: a run that only stalled would write on beside the one that took over. Where a run cannot
go on, its journal being lost, somebody who knows that deletes the object, as the error says.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import xxhash

from fastload.errors import ConfigError, FastloadError, PackError
from fastload.pack.journal import Journal
from fastload.remote.fetch import create, fetch_bytes, look, remove, store
from fastload.remote.settings import Remote
from fastload.remote.urls import is_url, join_url, scheme, shown
from fastload.shards.foreign import REJECTED_NAME, SUSPECTS_NAME
from fastload.shards.idx import idx_path
from fastload.shards.index import INDEX_NAME, ShardFile

CLAIM_NAME = ".fastload-packing"


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

    @contextmanager
    def held(self, journal: Journal) -> Iterator[None]:
        """Be the only run that packs to the URL; whoever comes later also finds what is complete by then.

        Raises: PackError for the URL of another run, or of a data set.
        """
        self._claim(journal.number)
        try:
            self.refuse_existing()
            yield
        except BaseException:
            if not journal.finished:
                self._let_go()
            raise
        self._let_go()

    def _let_go(self) -> None:
        with suppress(FastloadError):  # what ended the run is the error to tell; beside index.json it bars nobody
            remove(join_url(self.url, CLAIM_NAME), self.remote)

    def _claim(self, number: str) -> None:
        url = join_url(self.url, CLAIM_NAME)
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        claim = {"host": socket.gethostname(), "process": os.getpid(), "since": since, "run": number}
        create(json.dumps(claim).encode(), url, self.remote)
        # read back even if it was put: a store that does not know the condition takes both of two
        theirs = _parsed(fetch_bytes(url, self.remote))
        if theirs.get("run") == number:
            return
        who = f"on {theirs.get('host')}, process {theirs.get('process')}, since {theirs.get('since')}"
        raise PackError(
            f"{shown(self.url)} is that of another run ({who}); wait for it, or choose another URL. If it was stopped:"
            " start it again with the scratch folder that it had; or, if that is lost, make sure that the run is over,"
            f" delete {shown(url)}, and run this again"
        )

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


def _parsed(content: bytes | None) -> dict[str, object]:
    """What a claim says; nothing of one that is damaged."""
    with suppress(ValueError):
        claim = json.loads(content or b"")
        if isinstance(claim, dict):
            return claim
    return {}


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
