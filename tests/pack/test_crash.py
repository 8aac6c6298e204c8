"""kill -9 at any moment: nothing half finished can be taken for a shard, and the next run ends with the same bytes."""

from __future__ import annotations

import gzip
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from killing import killed_before
from pack_sources import photo, tree
from syncing import Disk

from fastload.errors import PackError
from fastload.pack import pack
from fastload.pack.cleaning import Cleaning
from fastload.pack.journal import RECORDS_NAME
from fastload.pack.jpeg import JpegMode
from fastload.shards.foreign import JOURNAL_NAME
from fastload.shards.idx import Idx
from fastload.shards.index import ShardFormat
from fastload.shards.tar import scan_tar

FORK = multiprocessing.get_context("fork")
KILLS = 34  # of each of three ways of packing: 102 in all
SPLIT = {"train": 0.6, "val": 0.4}


def run(source: Path, out: Path, workers: int, way: str = "seekable") -> None:
    shard_format: ShardFormat = "parquet" if way == "parquet" else "tar"
    jpeg: JpegMode = "keep" if way == "keep" else "seekable"
    pack(source, out, shard_size="40KiB", split=SPLIT, workers=workers, jpeg=jpeg, format=shard_format)


def run_and_kill(source: Path, out: Path, workers: int, way: str, seconds: float) -> bool:
    """Start a packing process and kill it after a while; its workers are left to find that out. Whether it was running
    still."""
    child = FORK.Process(target=run, args=(source, out, workers, way))
    child.start()
    assert child.pid is not None
    time.sleep(seconds)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    code = child.exitcode
    child.close()
    assert code in (0, -signal.SIGKILL)
    return code != 0


def seconds_of(source: Path, out: Path, workers: int, way: str) -> float:
    """How long a packing process takes whose source and code are in memory."""
    started = time.perf_counter()
    child = FORK.Process(target=run, args=(source, out, workers, way))
    child.start()
    child.join()
    assert child.exitcode == 0
    return time.perf_counter() - started


def check_what_is_there(out: Path, scratch: Path) -> None:
    """Every file with a final name is whole, and without the index there is no sign of a finished data set."""
    for tar in out.rglob("*.tar"):
        shard, _ = scan_tar(tar, scratch)
        assert Idx(str(tar.with_suffix(".idx"))).tar_xxh3 == shard.xxh3
    for part in out.rglob("*.parquet"):
        pq.read_table(part, page_checksum_verification=True)
    if (out / "index.json").exists():
        # A run that found it whole may have been killed at its own journal or index, no more.
        assert not [path for path in out.rglob("*.partial") if path.name.startswith(("shard-", "part-"))]
    elif out.exists() and list(out.iterdir()):
        assert (out / JOURNAL_NAME).exists()


@pytest.mark.parametrize("way", ["seekable", "keep", "parquet"])
def test_killed_at_random_moments(images: Path, tmp_path: Path, disk_path: Path, way: str) -> None:
    tmp_path = disk_path if way == "keep" else tmp_path  # one of them waits for a disk, and is killed while it waits
    for number in range(12):  # some that take their time
        (images / f"class{number % 3}" / f"large{number}.jpg").write_bytes(photo(number))
    run(images, tmp_path / "clean", 1, way)
    clean = tree(tmp_path / "clean")
    whole = {workers: seconds_of(images, tmp_path / f"warm{workers}", workers, way) for workers in (1, 2, 3)}
    choose = random.Random(5)
    kills = rounds = 0
    while kills < KILLS:
        assert rounds < 3 * KILLS
        out, rounds = tmp_path / f"out{rounds}", rounds + 1
        for _ in range(4):
            workers = choose.choice([1, 2, 3])
            killed = run_and_kill(images, out, workers, way, choose.uniform(0, 0.7 * whole[workers]))
            kills += killed
            if not killed:  # the machine is faster than when it was timed
                whole[workers] *= 0.8
            check_what_is_there(out, tmp_path / "scan.idx")
            if (out / "index.json").exists() and not (out / JOURNAL_NAME / RECORDS_NAME).exists():
                break
        else:
            run(images, out, choose.choice([1, 2, 3]), way)
        assert tree(out) == clean


class _Stop(Exception):
    pass


def tiny_text(folder: Path) -> Path:
    source = folder / "t.txt"
    source.write_text("".join(f"line {i}\n" for i in range(5)))
    return source


def tiny_documents(folder: Path) -> Path:
    """A source that goes through a file of its contents."""
    source = folder / "t.txt.gz"
    source.write_bytes(gzip.compress("".join(f"line {i}\n" for i in range(5)).encode()))
    return source


def tiny_pictures(folder: Path) -> Path:
    for i in range(3):
        (folder / "photos").mkdir(exist_ok=True)
        (folder / "photos" / f"{i}.jpg").write_bytes(photo(i))
    return folder / "photos"


@pytest.mark.parametrize(
    ("make", "workers", "options"),
    [
        (tiny_text, 1, {"shard_size": 6000}),
        (tiny_pictures, 1, {"shard_size": 30_000}),
        (tiny_text, 1, {"shard_size": 20, "format": "parquet"}),
        (tiny_documents, 1, {"shard_size": 6000}),
        (tiny_pictures, 2, {"shard_size": 30_000}),
    ],
    ids=["in place", "placed later", "parquet", "read first", "processes"],
)
def test_killed_between_any_two_system_calls_that_change_files(
    tmp_path: Path, make: Callable[[Path], Path], workers: int, options: dict[str, Any]
) -> None:
    source = make(tmp_path)

    def run_into(out: Path) -> None:
        pack(source, out, workers=workers, **options)

    run_into(tmp_path / "clean")
    clean = tree(tmp_path / "clean")
    assert len(clean) >= 3
    for step in range(0, 1000, 1 if workers == 1 else 6):  # with processes their order is another each time
        out = tmp_path / f"out{step}"
        if not killed_before(step, partial(run_into, out)):
            break
        check_what_is_there(out, tmp_path / "scan.idx")
        if (out / "index.json").exists() and not (out / JOURNAL_NAME / RECORDS_NAME).exists():
            with pytest.raises(PackError, match="holds a finished data set"):
                run_into(out)
        else:
            run_into(out)
        assert tree(out) == clean
        assert not (out / JOURNAL_NAME).exists()
    assert 25 < step < 999
    assert tree(out) == clean


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (tiny_text, {"shard_size": 6000}),
        (tiny_pictures, {"shard_size": 30_000}),
        (tiny_text, {"shard_size": 20, "format": "parquet"}),
        (tiny_documents, {"shard_size": 6000}),
    ],
    ids=["in place", "placed later", "parquet", "read first"],
)
def test_names_and_records_are_of_what_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Path], options: dict[str, Any]
) -> None:
    """What killing a process does not show: a machine that loses its power keeps only what was synced."""
    source, out = make(tmp_path), tmp_path / "out"
    disk = Disk(monkeypatch, out)
    index = pack(source, out, workers=1, clean=Cleaning(duplicates="drop"), **options)
    assert disk.records == len(index.shards) > 1
    assert {*disk.named} >= {Path(shard.name).name for shard in index.shards} | {"index.json", "rejected.parquet"}
    assert not disk.unsynced


def test_calls_of_processes_that_are_forked_count(tmp_path: Path) -> None:
    def run_both() -> None:
        (tmp_path / "parent").mkdir()
        child = FORK.Process(target=(tmp_path / "child").mkdir)
        child.start()
        child.join()
        (tmp_path / "end").mkdir()

    seen = []
    for step in range(20):
        killed = killed_before(step, run_both)
        seen.append([folder.name for folder in tmp_path.iterdir()])
        for name in seen[-1]:
            (tmp_path / name).rmdir()
        if not killed:
            break
    assert sorted(seen[-1]) == ["child", "end", "parent"]
    assert [] in seen
    assert ["parent"] in seen  # killed before the child's call
    assert ["child", "parent"] in list(map(sorted, seen))


def compete(source: Path, out: Path, said: Path) -> None:
    """Pack, and leave what was said against it."""
    message = "packed"
    try:
        run(source, out, 2)
    except PackError as error:
        message = str(error)
    said.write_text(message)


def test_of_many_that_start_at_once_one_packs_and_the_others_say_why_not(images: Path, tmp_path: Path) -> None:
    run(images, tmp_path / "clean", 1)
    for turn in range(4):
        out = tmp_path / f"out{turn}"
        said = [tmp_path / f"said{turn}-{i}" for i in range(4)]
        children = [FORK.Process(target=compete, args=(images, out, one)) for one in said]
        for child in children:
            child.start()
        for child in children:
            child.join()
            assert child.exitcode == 0
        messages = sorted(one.read_text() for one in said)
        assert messages.count("packed") == 1
        for message in messages[:-1]:
            assert "is packing into" in message or "holds a finished data set" in message
        assert tree(out) == tree(tmp_path / "clean")


def test_a_source_that_cannot_be_read_leaves_what_is_finished(images: Path, tmp_path: Path) -> None:
    """/proc/self/mem gives a real input/output error at its first byte."""
    run(images, tmp_path / "clean", 2)
    out, last = tmp_path / "out", images / "class2" / "019.jpg"
    content, about = last.read_bytes(), last.stat()

    def break_last(done: int, total: int, written: int) -> None:
        last.unlink(missing_ok=True)
        last.symlink_to("/proc/self/mem")

    with pytest.raises(
        PackError, match=r"class2/019\.jpg cannot be read: Input/output error; run the command again once"
    ):
        pack(images, out, shard_size="40KiB", split=SPLIT, workers=1, progress=break_last)
    check_what_is_there(out, tmp_path / "scan.idx")
    kept = {path: path.stat().st_ino for path in out.rglob("*.tar")}
    assert kept
    last.unlink()
    last.write_bytes(content)
    os.utime(last, ns=(about.st_atime_ns, about.st_mtime_ns))
    run(images, out, 2)
    assert {path: path.stat().st_ino for path in kept} == kept
    assert tree(out) == tree(tmp_path / "clean")


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
