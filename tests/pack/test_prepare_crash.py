"""kill -9 while samples are prepared: the next run ends with the bytes of an undisturbed one, and leaves no more."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from pack_sources import photo, tree

from fastload.pack import Prepare, pack
from fastload.pack.journal import RECORDS_NAME
from fastload.shards.foreign import JOURNAL_NAME

FORK = multiprocessing.get_context("fork")
KILLS = 12
PICTURES = Prepare(resize_shorter=130)
ROWS = Prepare(tokenizer="bytes", sequence_length=64, last_row="pad")


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Path]:
    """Pictures and texts."""
    (tmp_path / "photos").mkdir()
    for number in range(24):
        (tmp_path / "photos" / f"{number:02d}.jpg").write_bytes(photo(number, width=240 + number, height=180))
    rng = np.random.default_rng(1)
    texts = ["word " * int(n) for n in rng.integers(1, 400, 60)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return {"pictures": tmp_path / "photos", "rows": tmp_path / "t.jsonl"}


def run(source: Path, out: Path, prepare: Prepare, workers: int) -> None:
    pack(source, out, shard_size="20KiB", split="train=0.7,val=0.3", workers=workers, prepare=prepare)


@pytest.mark.parametrize(("name", "prepare"), [("pictures", PICTURES), ("rows", ROWS)])
def test_killed_at_random_moments(
    sources: dict[str, Path], tmp_path: Path, name: str, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastload.pack.sequences.RUN_BYTES", 5000)
    started = time.perf_counter()
    run(sources[name], tmp_path / "clean", prepare, 1)
    whole_seconds = time.perf_counter() - started
    clean, choose, kills, rounds = tree(tmp_path / "clean"), random.Random(3), 0, 0
    while kills < KILLS:
        out, rounds = tmp_path / f"out{rounds}", rounds + 1
        for _ in range(3):
            child = FORK.Process(target=run, args=(sources[name], out, prepare, choose.choice([1, 2])))
            child.start()
            assert child.pid is not None
            time.sleep(choose.uniform(0, whole_seconds))
            os.kill(child.pid, signal.SIGKILL)
            child.join()
            kills += 1
            if (out / "index.json").exists() and not (out / JOURNAL_NAME / RECORDS_NAME).exists():
                break
        else:
            run(sources[name], out, prepare, choose.choice([1, 2]))
        assert tree(out) == clean
        assert not (out / JOURNAL_NAME / RECORDS_NAME).exists()
