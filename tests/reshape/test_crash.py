"""kill -9 between any two steps: what was there stays readable, and the next run ends with the same bytes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from pack_sources import tree

from fastload.pack import pack
from fastload.pack.convert import convert
from fastload.shards.foreign import JOURNAL_NAME
from fastload.shards.tar import scan_tar

FORK = multiprocessing.get_context("fork")
STEPS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link")


def die_at(step: int, out: Path, work: Callable[[], object]) -> None:
    """Do something, and be killed at the step-th call that opens, renames, makes or removes something below `out`."""
    left = step

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event in STEPS and str(arguments[0]).startswith(str(out)):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    work()


def survives(step: int, out: Path, work: Callable[[], object]) -> bool:
    child = FORK.Process(target=die_at, args=(step, out, work))
    child.start()
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode == 0


def lines(path: Path, first: int, count: int) -> Path:
    path.write_text("".join(f"line {i}\n" for i in range(first, first + count)))
    return path


def test_convert(tmp_path: Path) -> None:
    source = tmp_path / "a"
    pack(lines(tmp_path / "t.txt", 0, 6), source, shard_size=4000, workers=1)
    convert(source, tmp_path / "clean", shard_size=6000)
    clean = tree(tmp_path / "clean")
    assert len(clean) == 5
    for step in range(1000):
        out = tmp_path / f"out{step}"

        def work(out: Path = out) -> None:
            convert(source, out, shard_size=6000)

        if survives(step, out, work):
            break
        for tar in out.rglob("*.tar"):
            scan_tar(tar, tmp_path / "scan.idx")
        if not (out / "index.json").exists():
            work()
        assert {name: digest for name, digest in tree(out).items() if JOURNAL_NAME not in name} == clean
    assert 20 < step < 999
    assert tree(out) == clean
