"""Samples that could not be read, under on_error="mask": counted over all processes of a run's rank, listed in a file.

thread -> FaultLog.add -> seen here? -> counted by another worker? -> a line in errors_file -> too many?
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from dataclasses import dataclass, field
from typing import Any

import torch

from fastload.errors import ConfigError, DecodeError, SourceError

_MOST_COUNTED = 1 << 16  # samples, in 512 kB; beyond, each process counts for itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One sample that could not be read or decoded.

    Attributes:
        field: name of the field that failed.
        error: what was wrong with it.
    """

    epoch: int
    shard: str
    row: int
    key: str | None
    field: str
    error: str

    @property
    def reason(self) -> str:
        return f"field {self.field!r}: {self.error}"


class Counted:
    """A set of samples that the worker processes of a stock DataLoader share with the process that made it.

    A table of their hashes, without a lock: of two processes that add at the same moment at the same place, one may be
    lost, and counts when its sample is read again. A copy through plain pickle begins anew.

    Args:
        most: samples that are told apart.
    """

    def __init__(self, most: int) -> None:
        size = min(most, _MOST_COUNTED)
        # zeros, straight from the file system: torch.zeros would take threads to make many
        storage = torch.UntypedStorage._new_shared(8 * size)
        self._table = torch.empty(0, dtype=torch.int64, device="cpu").set_(storage)

    def add(self, shard: str, row: int) -> tuple[bool, int]:
        """Whether a sample is new here, and how many there are now."""
        digest = hashlib.blake2b(f"{shard}\0{row}".encode(), digest_size=8).digest()
        number, table = int.from_bytes(digest, signed=True) or 1, self._table.numpy()
        for place in range(number % len(table), number % len(table) + len(table)):
            slot = place % len(table)
            if table[slot] == number:
                return False, int((table != 0).sum())
            if table[slot] == 0:
                table[slot] = number
                break
        return True, int((table != 0).sum())

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["_table"].is_shared():
            self.__dict__.update(state)
        else:
            Counted.__init__(self, len(state["_table"]))


@dataclass(slots=True)
class FaultLog:
    """Counts masked samples, and stops the run above a bound. A sample that is masked again in a later epoch counts
    once, so that the bound means the same however long the run.

    Attributes:
        max_errors: how many are put up with.
        path: of a file that gets a line of JSON for each.
        counted: those of all processes; None: of this one alone.
        faults: what was masked so far in this process, in the order of finding.
    """

    max_errors: int
    path: str | None = None
    counted: Counted | None = None
    faults: list[Fault] = field(default_factory=list)
    _seen: set[tuple[str, int]] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, fault: Fault) -> None:
        """Record one.

        Raises:
            DecodeError: more than max_errors samples were masked.
            SourceError: the file cannot be written.
        """
        with self._lock:
            if (fault.shard, fault.row) in self._seen:
                return
            self._seen.add((fault.shard, fault.row))
            self.faults.append(fault)
            new, count = (True, 0) if self.counted is None else self.counted.add(fault.shard, fault.row)
            count = max(count, len(self.faults))
        if not new:
            return
        if self.path is not None:
            _append(self.path, fault)
        if count > self.max_errors:
            raise DecodeError(
                f"{count} samples could not be read, more than max_errors={self.max_errors}; "
                f"the last one: {fault.reason}",
                shard=fault.shard,
                row=fault.row,
                key=fault.key,
            )


def errors_path(errors_file: str | os.PathLike[str] | None, masks: bool) -> str | None:
    """The file as an absolute path, there and open to writing.

    Raises:
        ConfigError: it cannot be written, or nothing would be.
    """
    if errors_file is None:
        return None
    if not masks:
        raise ConfigError(f"errors_file={os.fspath(errors_file)!r} with on_error='raise': pass on_error='mask'")
    path = os.path.abspath(errors_file)
    try:
        os.close(_open(path))
    except OSError as error:
        raise ConfigError(f"errors_file={path!r} cannot be written: {error.strerror or error}") from None
    return path


def _open(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)


def _append(path: str, fault: Fault) -> None:
    """Add a line, by one write: lines of several processes do not mix."""
    where = {"shard": fault.shard, "row": fault.row, "key": fault.key, "epoch": fault.epoch}
    line = json.dumps({**where, "field": fault.field, "error": fault.error}) + "\n"
    try:
        file = _open(path)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)
    except OSError as error:
        raise SourceError(f"errors_file={path!r} cannot be written: {error.strerror or error}") from error
