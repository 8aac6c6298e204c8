"""kill -9 while contents are looked at, or lists are written: the next run goes on, and ends with the same bytes."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import signal
import time
from functools import partial
from pathlib import Path

import pytest
from killing import killed_before
from pack_sources import tree
from test_crash import check_what_is_there

from fastload import Cleaning, Splitting
from fastload.errors import PackError
from fastload.pack import pack, survey
from fastload.pack.journal import RECORDS_NAME
from fastload.shards.foreign import JOURNAL_NAME

FORK = multiprocessing.get_context("fork")
KILLS = 24
PICTURES = Cleaning(on_error="skip", duplicates="drop", near_duplicates="report", ranges="width=26..150")
TEXTS = Cleaning(duplicates="drop", near_duplicates="report", ranges="characters=3..")


@pytest.fixture(autouse=True)
def _chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones, so that a run is killed between some."""
    monkeypatch.setattr(survey, "CHUNK_SAMPLES", 6)


def run(source: Path, out: Path, workers: int) -> None:
    pack(source, out, shard_size="40KiB", clean=PICTURES, split=Splitting(folds=2), workers=workers)


def test_killed_at_random_moments(images: Path, tmp_path: Path) -> None:
    for number in range(6):
        (images / f"class{number % 3}/copy{number}.jpg").write_bytes((images / "class0/019.jpg").read_bytes())
    (images / "class1/cut.jpg").write_bytes(b"no picture")
    started = time.perf_counter()
    run(images, tmp_path / "clean", 1)
    whole_seconds = time.perf_counter() - started
    clean = tree(tmp_path / "clean")
    choose, kills, rounds = random.Random(3), 0, 0
    while kills < KILLS:
        out, rounds = tmp_path / f"out{rounds}", rounds + 1
        for _ in range(3):
            child = FORK.Process(target=run, args=(images, out, choose.choice([1, 2, 3])))
            child.start()
            assert child.pid is not None
            time.sleep(choose.uniform(0, 1.5 * whole_seconds))
            os.kill(child.pid, signal.SIGKILL)
            child.join()
            kills += 1
            check_what_is_there(out, tmp_path / "scan.idx")
            if (out / "index.json").exists() and not (out / JOURNAL_NAME / RECORDS_NAME).exists():
                break
        else:
            run(images, out, choose.choice([1, 3]))
        assert tree(out) == clean


def pack_into_little_room(source: Path, out: Path, said: Path) -> None:
    """Pack where no file may be larger than 2,000 bytes, and leave what was said against it."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
    try:
        run(source, out, 1)
    except PackError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        said.write_text(str(error))


def test_a_disk_that_is_full_is_said_and_the_next_run_goes_on(images: Path, tmp_path: Path) -> None:
    out, said = tmp_path / "out", tmp_path / "said"
    child = FORK.Process(target=pack_into_little_room, args=(images, out, said))
    child.start()
    child.join()
    assert said.read_text() == (
        f"no space in {out} (File too large); what was found out is kept; make space and run the same command again,"
        " and it goes on"
    )
    assert not list(out.rglob("*.partial"))
    run(images, out, 2)
    run(images, tmp_path / "clean", 1)
    assert tree(out) == tree(tmp_path / "clean")


def test_killed_between_any_two_system_calls_that_change_files(tmp_path: Path) -> None:
    source = tmp_path / "t.txt"
    source.write_text("one line\none line\nno\none line!\n" + "".join(f"no {i * 7919}\n" for i in range(9)))

    def run_into(out: Path) -> None:
        pack(source, out, clean=TEXTS, workers=1)

    run_into(tmp_path / "clean")
    clean = tree(tmp_path / "clean")
    assert {"rejected.parquet", "suspects.parquet", "index.json"} <= clean.keys()
    surveyed = 0
    for step in range(1000):
        out = tmp_path / f"out{step}"
        if not killed_before(step, partial(run_into, out)):
            break
        check_what_is_there(out, tmp_path / "scan.idx")
        if (out / "index.json").exists():
            assert {"rejected.parquet", "suspects.parquet"} <= tree(out).keys(), "who sees the index, sees the lists"
        surveyed += bool(list(out.glob(f"{JOURNAL_NAME}/survey-*.npz")))
        if (out / "index.json").exists() and not (out / JOURNAL_NAME / RECORDS_NAME).exists():
            with pytest.raises(PackError, match="holds a finished data set"):
                run_into(out)
        else:
            run_into(out)
        assert tree(out) == clean
        assert not (out / JOURNAL_NAME).exists()
    assert 40 < step < 999
    assert surveyed > 20
    assert tree(out) == clean
