"""Follows what a process does to files, and fails where a machine that lost its power then would have kept a name, and
not what it stands for."""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from pathlib import Path

import pytest

from fastload.pack.journal import RECORDS_NAME
from fastload.shards.index import INDEX_NAME

_fsync, _replace, _mkdir = os.fsync, os.replace, os.mkdir


class Disk:
    """What has reached it, of what this process writes below a folder; processes that it forks are not followed.

    A file has to be synced, after it was written last, before it gets another name; and all names of a data set, before
    its index.json gets its own or its journal has another record.

    Attributes:
        unsynced: folders with names that a loss of power would take back.
        named: how many files got each name.
        records: how often a journal was synced.
    """

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self.unsynced: set[Path] = set()
        self.named: Counter[str] = Counter()
        self.records = 0
        self._folder = folder
        self._synced: dict[int, tuple[int, int]] = {}
        patch.setattr(os, "fsync", self._sync)
        patch.setattr(os, "mkdir", self._make)
        for name in ("replace", "rename"):
            patch.setattr(os, name, self._rename)

    def _sync(self, descriptor: int) -> None:
        _fsync(descriptor)
        about, path = os.fstat(descriptor), Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if stat.S_ISDIR(about.st_mode):
            self.unsynced.discard(path)
            return
        self._synced[about.st_ino] = _state(about)
        if path.name == RECORDS_NAME:
            assert not self._unsynced_in(path.parent.parent), "recorded before its name is on the disk"
            recorded = json.loads(path.read_bytes().splitlines()[-1])["shard"]
            assert (path.parent.parent / recorded).exists(), f"{recorded} is recorded before it has its name"
            self.records += 1

    def _make(self, path: str | Path, mode: int = 0o777) -> None:
        _mkdir(path, mode)
        self._changed(Path(os.path.abspath(path)))

    def _rename(self, source: str | Path, target: str | Path) -> None:
        about, target = os.stat(source), Path(os.path.abspath(target))
        if stat.S_ISREG(about.st_mode):
            assert self._synced.get(about.st_ino) == _state(about), f"{target} is named before it is on the disk"
            self.named[target.name] += 1
        if target.name == INDEX_NAME:
            assert not self._unsynced_in(target.parent), "index.json has its name before others are on the disk"
        _replace(source, target)
        self._changed(target)

    def _unsynced_in(self, folder: Path) -> list[Path]:
        return [one for one in self.unsynced if folder in (one, *one.parents)]

    def _changed(self, path: Path) -> None:
        if self._folder in path.parents:
            self.unsynced.add(path.parent)


def _state(about: os.stat_result) -> tuple[int, int]:
    return about.st_size, about.st_mtime_ns
