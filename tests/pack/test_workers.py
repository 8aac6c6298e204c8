"""Packing processes: how they end is seen, whatever the system says of it."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from fastload.errors import PackError
from fastload.pack import workers
from fastload.pack.workers import ProcessPool


class Doubler:
    def carry_out(self, task: Any, tell: Any) -> Any:
        return 2 * task


def test_processes_that_the_system_keeps_no_status_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where SIGCHLD is ignored, which a program inherits from the one that started it, nothing can be waited for."""
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    found: list[int] = []
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with ProcessPool(Doubler(), 2) as pool:
            pool.run(iter([1, 2, 3]), lambda task, result: found.append(result) or (), lambda *_: None)  # type: ignore[func-returns-value,arg-type]
        with ProcessPool(Doubler(), 2) as pool:
            pool._send(next(iter(pool._workers)), 1)  # type: ignore[arg-type]  # it is killed with a task to do
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert sorted(found) == [2, 4, 6]


def test_a_process_that_ends_before_it_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = subprocess.Popen

    def ended(*args: Any, **options: Any) -> Any:
        process = begin(*args, **options)
        process.wait()
        return process

    monkeypatch.setattr(workers, "_START", "raise SystemExit(3)")
    monkeypatch.setattr(subprocess, "Popen", ended)
    monkeypatch.setattr(threading, "active_count", lambda: 2)
    with pytest.raises(PackError, match=r"a packing process ended with status 3; run the same command again"):
        ProcessPool(Doubler(), 1).__enter__()


@pytest.mark.parametrize("threads", [1, 2], ids=["forked", "started"])
def test_a_lock_is_held_until_the_last_process_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """Else the next run would write beside the workers of one that was killed."""
    monkeypatch.setattr(threading, "active_count", lambda: threads)
    ours, others = (os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT) for _ in range(2))
    try:
        fcntl.flock(ours, fcntl.LOCK_EX)
        with ProcessPool(Doubler(), 1, (ours,)):
            os.close(ours)  # as when the process that took it is killed
            with pytest.raises(BlockingIOError):
                fcntl.flock(others, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(others, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(others)
