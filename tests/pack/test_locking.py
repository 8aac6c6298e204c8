"""One process at a time: what another one does while a lock is taken or let go is no error of either."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fastload.errors import PackError
from fastload.pack import locking
from fastload.pack.journal import RECORDS_NAME, Journal
from fastload.pack.locking import LOCK_NAME, WRITING_NAME, acquire, held, release
from fastload.shards.foreign import JOURNAL_NAME

RMDIR, MKDIR = Path.rmdir, Path.mkdir


def taken_over(folder: Path) -> None:
    """The next one has its lock in the folder by now."""
    (folder / LOCK_NAME).write_text("next")
    RMDIR(folder)


def removed(folder: Path) -> None:
    """The next one had its lock in the folder, and is done."""
    RMDIR(folder)
    RMDIR(folder)


@pytest.mark.parametrize("meanwhile", [taken_over, removed])
@pytest.mark.parametrize("what", ["append", "pack"])
def test_who_lets_go_leaves_the_folder_to_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[Path], None], what: str
) -> None:
    monkeypatch.setattr(Path, "rmdir", meanwhile)
    if what == "append":
        folder = tmp_path / WRITING_NAME
        with held(tmp_path, "appending to"):
            assert (folder / LOCK_NAME).exists()
    else:
        folder = tmp_path / JOURNAL_NAME
        Journal(tmp_path, {}).remove()
        assert not (folder / RECORDS_NAME).exists()
    assert folder.exists() == (meanwhile is taken_over)
    if folder.exists():
        assert (folder / LOCK_NAME).read_text() == "next"


def test_the_lock_goes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for it has the folder from then on, so that nothing else in it may go after it."""
    unlink, gone = Path.unlink, []

    def noted(path: Path, missing_ok: bool = False) -> None:
        gone.append(path.name)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", noted)
    Journal(tmp_path, {}).remove()
    assert gone[-1] == LOCK_NAME


def test_a_folder_that_is_removed_while_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was there when it should be made, and is gone when it is looked at."""
    left = [1]

    def made(path: Path, *args: int, **options: bool) -> None:
        if path.name == WRITING_NAME and left:
            left.pop()
            raise FileExistsError(path)
        MKDIR(path, *args, **options)

    monkeypatch.setattr(Path, "mkdir", made)
    with held(tmp_path, "appending to"):
        assert (tmp_path / WRITING_NAME / LOCK_NAME).exists()


def test_a_folder_that_cannot_be_made_is_no_endless_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locking, "STRAGGLER_SECONDS", 0.05)
    (tmp_path / WRITING_NAME).symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=WRITING_NAME), held(tmp_path, "appending to"):
        pass


def test_a_fork_does_not_keep_what_is_let_go(tmp_path: Path) -> None:
    """A process that was forked by others meanwhile has a copy of the descriptor."""
    descriptor = acquire(tmp_path / "x", tmp_path, "packing into")
    copy = os.dup(descriptor)
    try:
        with pytest.raises(PackError, match="is packing into"):
            acquire(tmp_path / "x", tmp_path, "packing into")
        release(descriptor)
        release(acquire(tmp_path / "x", tmp_path, "packing into"))
    finally:
        os.close(copy)


def test_workers_of_one_who_died_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They hold the lock until they have noticed."""
    dead = subprocess.Popen(["true"])
    dead.wait()
    folder = tmp_path / "x"
    folder.mkdir()
    descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.pwrite(descriptor, f"{socket.gethostname()} {dead.pid}".encode(), 0)
    with monkeypatch.context() as patch:
        patch.setattr(locking, "STRAGGLER_SECONDS", 0.05)
        with pytest.raises(PackError, match=rf"\(.* {dead.pid}\) is packing into"):
            acquire(folder, tmp_path, "packing into")
    end = threading.Timer(0.2, os.close, [descriptor])
    end.start()
    release(acquire(folder, tmp_path, "packing into"))
    end.join()


def test_a_lock_whose_file_has_gone_meanwhile_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its holder was done between the moments in which it was opened and locked: others lock another file."""
    folder, left, lock = tmp_path / "x", [1], fcntl.flock

    def late(descriptor: int, operation: int) -> None:
        if left:
            left.pop()
            (folder / LOCK_NAME).unlink()
            folder.rmdir()
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    descriptor = acquire(folder, tmp_path, "packing into")
    assert os.path.samestat(os.fstat(descriptor), (folder / LOCK_NAME).stat())
    release(descriptor)


def test_leftovers_that_go_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt on another machine that was given up removes its own file."""
    with Journal(tmp_path, {}) as journal:
        (tmp_path / "train").mkdir()
        monkeypatch.setattr(
            Path,
            "iterdir",
            lambda folder: iter([folder / "shard-000000.tar.partial"] if folder.name == "train" else []),
        )
        monkeypatch.setattr(journal, "_split_folders", lambda: [tmp_path / "train"])
        journal.remove_leftovers()
        monkeypatch.undo()
