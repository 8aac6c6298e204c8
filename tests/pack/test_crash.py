"""kill -9 at any moment: nothing half finished can be taken for a shard, and the next run ends with the same bytes."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
from pack_sources import photo, tree

from fastload.errors import PackError
from fastload.pack import pack
from fastload.pack.journal import RECORDS_NAME
from fastload.pack.jpeg import JpegMode
from fastload.shards.foreign import JOURNAL_NAME
from fastload.shards.idx import Idx
from fastload.shards.tar import scan_tar

FORK = multiprocessing.get_context("fork")
KILLS = 15
SPLIT = {"train": 0.6, "val": 0.4}


def run(source: Path, out: Path, workers: int, jpeg: JpegMode = "seekable") -> None:
    pack(source, out, shard_size="40KiB", split=SPLIT, workers=workers, jpeg=jpeg)


def run_and_kill(source: Path, out: Path, workers: int, jpeg: JpegMode, seconds: float) -> None:
    """Start a packing process and kill it after a while; its workers are left to find that out."""
    child = FORK.Process(target=run, args=(source, out, workers, jpeg))
    child.start()
    assert child.pid is not None
    time.sleep(seconds)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    child.close()


def check_what_is_there(out: Path, scratch: Path) -> None:
    """Every file with a final name is whole, and without the index there is no sign of a finished data set."""
    for tar in out.rglob("*.tar"):
        shard, _ = scan_tar(tar, scratch)
        assert Idx(str(tar.with_suffix(".idx"))).tar_xxh3 == shard.xxh3
    if (out / "index.json").exists():
        assert not list(out.rglob("*.partial"))
    elif out.exists() and list(out.iterdir()):
        assert (out / JOURNAL_NAME).exists()


@pytest.mark.parametrize("jpeg", ["seekable", "keep"])
def test_killed_at_random_moments(images: Path, tmp_path: Path, jpeg: JpegMode) -> None:
    for number in range(12):  # some that take their time
        (images / f"class{number % 3}" / f"large{number}.jpg").write_bytes(photo(number))
    started = time.perf_counter()
    run(images, tmp_path / "clean", 1, jpeg)
    whole_seconds = time.perf_counter() - started
    clean = tree(tmp_path / "clean")
    choose = random.Random(5)
    kills = rounds = 0
    while kills < KILLS:
        out, rounds = tmp_path / f"out{rounds}", rounds + 1
        for _ in range(4):
            run_and_kill(images, out, choose.choice([1, 2, 3]), jpeg, choose.uniform(0, 1.5 * whole_seconds))
            kills += 1
            check_what_is_there(out, tmp_path / "scan.idx")
            if (out / "index.json").exists() and not (out / JOURNAL_NAME).exists():
                break
        else:
            run(images, out, choose.choice([1, 2, 3]), jpeg)
        assert tree(out) == clean


class _Stop(Exception):
    pass


def die_at(step: int, source: Path, out: Path) -> None:
    """Pack, and be killed at the step-th call that opens, renames, makes or removes something below `out`."""
    left = step

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event in STEPS and str(arguments[0]).startswith(str(out)):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    pack(source, out, shard_size=6000, workers=1)


STEPS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.listdir", "os.scandir")


def test_killed_at_every_step(tmp_path: Path) -> None:
    source = tmp_path / "t.txt"
    source.write_text("".join(f"line {i}\n" for i in range(5)))
    pack(source, tmp_path / "clean", shard_size=6000, workers=1)
    clean = tree(tmp_path / "clean")
    assert len(clean) == 5
    for step in range(1000):
        out = tmp_path / f"out{step}"
        child = FORK.Process(target=die_at, args=(step, source, out))
        child.start()
        child.join()
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
        check_what_is_there(out, tmp_path / "scan.idx")
        if (out / "index.json").exists() and not (out / JOURNAL_NAME / RECORDS_NAME).exists():
            with pytest.raises(PackError, match="holds a finished data set"):
                pack(source, out, shard_size=6000, workers=1)
        else:
            pack(source, out, shard_size=6000, workers=1)
        assert tree(out) == clean
        assert not (out / JOURNAL_NAME).exists()
    assert 20 < step < 999
    assert tree(out) == clean


def test_a_record_that_was_half_written_is_passed_over(images: Path, tmp_path: Path) -> None:
    run(images, tmp_path / "clean", 1)
    out = tmp_path / "out"

    def stop(done: int, total: int, written: int) -> None:
        if len(list(out.rglob("*.tar"))) >= 3:
            raise _Stop

    with pytest.raises(_Stop):
        pack(images, out, shard_size="40KiB", split=SPLIT, workers=1, progress=stop)
    journal = out / JOURNAL_NAME / RECORDS_NAME
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) >= 3
    journal.write_bytes(b"".join(lines[:-1]) + lines[-1][:40])
    run(images, out, 2)
    assert tree(out) == tree(tmp_path / "clean")
