"""What makes an interrupted run go on: a lock, the options, and one durable record per finished shard.

OUT/.fastload-pack/lock           held while a process packs into OUT, its workers included; says whose it is
OUT/.fastload-pack/journal.jsonl  the run's options, then {"shard", "digest", "file", "tally"} of each finished shard
OUT/.fastload-pack/number         of this journal alone; names the run where a URL is packed to (target.py)
OUT/.fastload-pack/survey-*.npz   what was found out about contents before packing (survey.py)
OUT/.fastload-pack/spool          contents of a source that had to be read to be planned (spool.py); made by each run
OUT/.fastload-pack/rows           rows of tokens, of documents that were joined (sequences.py); made by each run
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from fastload.errors import FastloadError, PackError
from fastload.pack.locking import LOCK_NAME, acquire, release, remove_if_empty
from fastload.pack.tally import Tally
from fastload.shards.files import PARTIAL_SUFFIX, fsync_directory, write_atomic
from fastload.shards.foreign import JOURNAL_NAME, refuse_url
from fastload.shards.index import INDEX_NAME, ShardFile

RECORDS_NAME, SPOOL_NAME, ROWS_NAME, NUMBER_NAME = "journal.jsonl", "spool", "rows", "number"
SURVEY_GLOB = "survey-*"
JOURNAL_VERSION = 3
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OURS = re.compile(
    r"(shard-\d{6,}\.(tar|idx)|part-\d{6,}\.parquet)(\.partial)?"
    r"|(shard-\d{6,}\.[0-9a-f]{16}\.tar|part-\d{6,}\.[0-9a-f]{16}\.parquet)\.partial"  # one attempt of several
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """One shard as it is recorded.

    Attributes:
        digest: the plan's of its samples.
        file: what index.json says of it.
        tally: what was counted in it.
    """

    digest: str
    file: ShardFile
    tally: Tally = field(default_factory=Tally)

    def to_json(self) -> dict[str, Any]:
        return {"digest": self.digest, "file": self.file.to_json(), "tally": self.tally.to_json()}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Finished:
        return Finished(
            digest=data["digest"], file=ShardFile.from_json(data["file"]), tally=Tally.from_json(data["tally"])
        )


class Journal:
    """The record of one run into one folder, from opening it to `close` or `remove`.

    Args:
        out: the output folder; made if missing.
        identity: source and options; a run with others cannot go on with this folder.

    Raises:
        PackError: another process packs into the folder, it holds something else, or nothing can be written there.
    """

    def __init__(self, out: Path, identity: Mapping[str, Any]) -> None:
        try:
            self._open(out, identity)
        except FastloadError:
            raise
        except OSError as error:
            kept = "what is finished is kept" if (out / JOURNAL_NAME).exists() else "nothing was written"
            raise unwritable(error, out, kept) from error

    def _open(self, out: Path, identity: Mapping[str, Any]) -> None:
        self._out = out
        self._folder = out / JOURNAL_NAME
        self._identity = json.loads(json.dumps(identity))
        self._made = [p for p in (out, *out.parents) if not p.exists()]
        refuse_foreign(out)
        self._lock = acquire(self._folder, out, "packing into")
        try:
            self.finished = self._read()
            self._rewrite()
            # Not buffered: what a full disk refused must not be written again by closing the file.
            self._records = open(self._folder / RECORDS_NAME, "ab", buffering=0)  # noqa: SIM115 - closed by close
        except BaseException:
            if not (self._folder / RECORDS_NAME).exists():
                self._remove_folder()
            release(self._lock)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def lock_descriptor(self) -> int:
        """Held by every process that writes into the folder."""
        return self._lock

    @property
    def folder(self) -> Path:
        """Where what a run that goes on needs is kept while the folder is held, and after a run that was stopped."""
        return self._folder

    @property
    def spool(self) -> Path:
        """Where contents may be kept while the folder is held."""
        return self._folder / SPOOL_NAME

    @property
    def rows(self) -> Path:
        """Where rows of tokens may be kept while the folder is held."""
        return self._folder / ROWS_NAME

    @property
    def owner(self) -> bytes:
        """What the lock says of this run; synced, so that other machines can read it."""
        os.fsync(self._lock)
        return os.pread(self._lock, 256, 0)

    @property
    def number(self) -> str:
        """What no other journal has; stays the same when a run goes on."""
        path = self._folder / NUMBER_NAME
        if not path.exists():
            write_atomic(path, secrets.token_hex(16).encode())
        return path.read_text()

    def forget(self, shard: str) -> None:
        """A recorded shard is not what it was."""
        del self.finished[shard]

    def record(self, shard: str, finished: Finished) -> None:
        """Note durably that a shard is finished; its files must be durable already."""
        left = memoryview(_record(shard, finished))
        while left:
            left = left[self._records.write(left) :]
        os.fsync(self._records.fileno())
        self.finished[shard] = finished

    def remove_leftovers(self) -> None:
        """Delete files of shards that are not recorded: unfinished ones, and those of a plan that has changed."""
        kept = {name for shard in self.finished for name in (shard, shard.removesuffix(".tar") + ".idx")}
        for folder in self._split_folders():
            for path in folder.iterdir():
                if f"{folder.name}/{path.name}" not in kept and _OURS.fullmatch(path.name):
                    path.unlink(missing_ok=True)  # an attempt on another machine may remove its own

    def close(self) -> None:
        """Let the folder go; without a finished shard or anything found out, leave it as it was found."""
        if self._lock < 0:
            return
        self._records.close()
        self.spool.unlink(missing_ok=True)
        self.rows.unlink(missing_ok=True)
        if not self.finished and not (self._out / INDEX_NAME).exists() and not self._surveyed():
            self.remove_leftovers()
            self._remove_folder()
            for folder in (*self._split_folders(), *self._made):
                try:
                    folder.rmdir()
                except OSError:
                    break  # something is in it
        release(self._lock)
        self._lock = -1

    def remove(self) -> None:
        """The data set is complete: no trace of the run stays."""
        self._records.close()
        self._remove_folder()
        release(self._lock)
        self._lock = -1

    def _surveyed(self) -> bool:
        return any(True for _ in self._folder.glob(SURVEY_GLOB))

    def _remove_folder(self) -> None:
        for path in self._folder.glob(SURVEY_GLOB):
            path.unlink()
        names = (SPOOL_NAME, ROWS_NAME, NUMBER_NAME, NUMBER_NAME + PARTIAL_SUFFIX)
        # The lock last: whoever waits for it has the folder from then on.
        for name in (*names, RECORDS_NAME + PARTIAL_SUFFIX, RECORDS_NAME, LOCK_NAME):
            (self._folder / name).unlink(missing_ok=True)
        remove_if_empty(self._folder)
        fsync_directory(self._out)

    def _split_folders(self) -> list[Path]:
        return sorted(p for p in self._out.iterdir() if p.is_dir() and not p.is_symlink() and p != self._folder)

    def _read(self) -> dict[str, Finished]:
        try:
            lines = (self._folder / RECORDS_NAME).read_bytes().split(b"\n")
        except FileNotFoundError:
            lines = []
        records = [record for line in lines if (record := _parse(line)) is not None]
        if not records:
            refuse_foreign(self._out, journal=False)
            return {}
        if records[0].get("version") != JOURNAL_VERSION:
            raise PackError(f"{self._out} was begun by another version of fastload; delete it and pack again")
        if records[0]["identity"] != self._identity and len(records) > 1:  # else nothing of that run is left to keep
            raise PackError(
                f"{self._out} holds an unfinished pack with {_difference(records[0]['identity'], self._identity)};"
                " run that command again, delete the folder, or choose another"
            )
        return {record["shard"]: Finished.from_json(record) for record in records[1:]}

    def _rewrite(self) -> None:
        """Start the file anew with what is valid: the last record of a killed run may be half written."""
        first = json.dumps({"version": JOURNAL_VERSION, "identity": self._identity}).encode() + b"\n"
        records = [_record(shard, known) for shard, known in self.finished.items()]
        write_atomic(self._folder / RECORDS_NAME, first + b"".join(records))


def unwritable(error: OSError, out: Path, kept: str, need: str = "") -> PackError:
    """The error for an output folder that refuses to be written; `kept` and `need` are parts of the sentence."""
    if error.errno in NO_SPACE:
        return PackError(
            f"no space in {out} ({error.strerror}){need}; {kept}; make space and run the same command again,"
            " and it goes on"
        )
    return PackError(f"{out} cannot be written ({error.strerror or error}); {kept}; run the same command again")


def refuse_foreign(out: Path, journal: bool = True) -> None:
    """Raise PackError if a folder holds anything; `journal`: but for an unfinished run. ConfigError for a URL."""
    refuse_url(out, "`fastload pack` alone writes to URLs, given as text; make it in a folder, and copy it there")
    if not out.exists():
        return
    if not out.is_dir():
        raise PackError(f"{out} is a file; pass a folder")
    names = sorted(os.listdir(out))
    if JOURNAL_NAME in names and (journal or len(names) == 1):
        return
    if INDEX_NAME in names:
        raise PackError(f"{out} holds a finished data set ({INDEX_NAME}); delete it, or choose another folder")
    if names:
        raise PackError(f"{out} is not empty ({names[0]!r} is in it); choose an empty or new folder")


def _record(shard: str, finished: Finished) -> bytes:
    return json.dumps({"shard": shard, **finished.to_json()}).encode() + b"\n"


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """The first option that differs, as in: seed 1 instead of 0."""
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            return f"{name} {theirs.get(name)!r} instead of {ours.get(name)!r}"
    return "other options"
