"""kill -9 between any two steps: what was there stays readable, and the next run ends with the same bytes. Names come
after what they stand for is on the disk."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pack_sources import tree
from syncing import Disk

from fastload.pack import pack
from fastload.pack.cleaning import Cleaning
from fastload.pack.convert import convert
from fastload.reshape import append, merge, repair
from fastload.reshape.append import PLAN_NAME, STAGING_NAME
from fastload.reshape.records import read_records
from fastload.reshape.repair import ORIGINALS_NAME, REPAIR_NAME
from fastload.shards.foreign import JOURNAL_NAME
from fastload.shards.open import open_index
from fastload.shards.tar import scan_tar
from fastload.verify import verify

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


def test_merge(tmp_path: Path) -> None:
    """Of sets with lists of what was left out, so that these are written too."""
    clean = Cleaning(duplicates="drop")
    for name in ("a", "b"):
        pack(["x", name, "x"], tmp_path / name, columns=["text"], workers=1, clean=clean)
    sources = [tmp_path / "a", tmp_path / "b"]
    merge(sources, tmp_path / "clean", prefix=True)
    clean_files = tree(tmp_path / "clean")
    assert "rejected.parquet" in clean_files
    for step in range(0, 1000, 3):  # convert is killed at each: the writer is the same
        out = tmp_path / f"out{step}"

        def work(out: Path = out) -> None:
            merge(sources, out, prefix=True)

        if survives(step, out, work):
            break
        if not (out / "index.json").exists():
            work()
        assert {name: digest for name, digest in tree(out).items() if JOURNAL_NAME not in name} == clean_files
    assert 20 < step < 999
    assert tree(out) == clean_files


def test_append(tmp_path: Path) -> None:
    """After each kill readers see one of the two versions, whole; a new prefix makes the new shards be rewritten."""
    first, more = lines(tmp_path / "a.txt", 0, 4), lines(tmp_path / "b.txt", 4, 4)
    pack(first, tmp_path / "before", workers=1)
    shutil.copytree(tmp_path / "before", tmp_path / "clean")
    append(more, tmp_path / "clean", prefix="b/", workers=1, shard_size=4000)
    versions = {(tmp_path / name / "index.json").read_bytes() for name in ("before", "clean")}
    for step in range(1000):
        out = tmp_path / f"out{step}"
        shutil.copytree(tmp_path / "before", out)

        def work(out: Path = out) -> None:
            append(more, out, prefix="b/", workers=1, shard_size=4000)

        finished = survives(step, out, work)
        assert (out / "index.json").read_bytes() in versions
        index = open_index(out)
        found = [record.key for file in range(len(index.files)) for record in read_records(index, file)]
        assert len(found) in (4, 8)
        if finished:
            break
        if len(found) == 8 and not (out / STAGING_NAME / PLAN_NAME).exists():
            continue  # all is done but for removing an empty folder, which the next append does
        work()
        assert tree(out) == tree(tmp_path / "clean")
    assert 30 < step < 999
    assert tree(out) == tree(tmp_path / "clean")


def test_repair(tmp_path: Path) -> None:
    """After each kill the next repair puts the originals back and ends as one that was never interrupted."""
    torn = tmp_path / "torn"
    pack(lines(tmp_path / "a.txt", 0, 9), torn, workers=1, shard_size=5000)
    for name, size in (("shard-000000.tar", 1500), ("shard-000001.tar", 2600)):
        os.truncate(torn / "train" / name, size)
    shutil.copytree(torn, tmp_path / "clean")
    assert repair(tmp_path / "clean").lost_samples > 0
    clean = shown(tmp_path / "clean")
    assert verify(tmp_path / "clean").ok
    for step in range(1000):
        out = tmp_path / f"out{step}"
        shutil.copytree(torn, out)

        def work(out: Path = out) -> None:
            repair(out)

        if survives(step, out, work):
            break
        assert set(shown(torn)) - {"index.json"} <= set(shown(out)), "no file is ever missing"
        repair(out)
        assert shown(out) == clean
        for name in ("shard-000000.tar", "shard-000001.tar"):
            original = out / REPAIR_NAME / "001" / ORIGINALS_NAME / "train" / name
            assert original.read_bytes() == (torn / "train" / name).read_bytes()
    assert 20 < step < 999
    assert shown(out) == clean


@pytest.mark.parametrize("shard_format", ["tar", "parquet"])
def test_names_are_of_what_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_format: Any) -> None:
    """What killing a process does not show: a machine that loses its power keeps only what was synced."""
    first, more = lines(tmp_path / "a.txt", 0, 6), lines(tmp_path / "b.txt", 6, 6)
    pack(first, tmp_path / "a", shard_size=4000 if shard_format == "tar" else 20, workers=1, format=shard_format)
    pack(more, tmp_path / "b", workers=1, format=shard_format)
    out = {name: tmp_path / name for name in ("other", "merged", "a")}
    shards = {}
    for name, work in {
        "other": lambda: convert(tmp_path / "a", out["other"], format="parquet" if shard_format == "tar" else "tar"),
        "merged": lambda: merge([tmp_path / "a", tmp_path / "b"], out["merged"], prefix=True),
        "a": lambda: append(more, out["a"], prefix="b/", workers=1, shard_size=4000),
    }.items():
        with monkeypatch.context() as patch:
            disk = Disk(patch, out[name])
            work()
            shards[name] = [file for file in disk.named if file.endswith((".tar", ".parquet"))]
            assert not {folder for folder in disk.unsynced if folder.exists()} - {out[name]}
            assert disk.named["index.json"]
    assert len(shards["other"]) > 1
    assert len(shards["merged"]) > len(shards["other"])
    assert shards["a"]
    if shard_format == "tar":
        tar = sorted(tmp_path.glob("a/train/*.tar"))[0]
        os.truncate(tar, 1500)
        disk = Disk(monkeypatch, tmp_path / "a")
        assert repair(tmp_path / "a").lost_samples > 0
        assert disk.named[tar.name] == disk.named["index.json"] == disk.named["report.json"] == 1


def shown(folder: Path) -> dict[str, str]:
    return {name: digest for name, digest in tree(folder).items() if REPAIR_NAME not in name}
