"""How long a measurement goes on, and what it leaves as it was."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.utils.data

from fastload.loader import DataLoader
from fastload.order.cursor import steps
from fastload.profile import measuring, pagecache
from fastload.profile.measuring import another_round, drive, enough
from fastload.profile.rig import Rig

Packed = Callable[..., Path]


class Dated(torch.utils.data.Dataset[int]):
    """Every sample is the epoch."""

    epoch = -1

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return 8

    def __getitem__(self, number: int) -> int:
        return self.epoch


def test_the_loaders_own_epoch_goes_on_after_others_were_run() -> None:
    loader = DataLoader(Dated(), 2)
    loader.set_epoch(5)
    batches = iter(loader)
    assert next(batches).tolist() == [5, 5]
    taken = Rig(loader)
    taken.run(taken.jobs(taken.endless()), 0.01)
    assert [batch.tolist() for batch in batches] == [[5, 5]] * 3


@pytest.mark.parametrize(
    ("batches", "took", "seconds", "done"),
    [
        (3, 0.5, 0.5, True),
        (300, 0.4, 0.5, False),
        (2, 0.9, 0.2, False),
        (1, 1.1, 0.2, True),
        (1, 1.1, 0.6, False),
        (1, 1.3, 0.6, True),
        (0, 60.0, 0.6, False),
    ],
)
def test_three_batches_are_a_measurement_and_so_is_one_that_is_slow(
    batches: int, took: float, seconds: float, done: bool
) -> None:
    assert enough(batches, took, seconds) is done


@pytest.mark.parametrize(
    ("done", "took", "seconds", "more"),
    [(0, 9.0, 1.0, True), (1, 0.4, 1.0, True), (1, 0.6, 1.0, False), (4, 0.7, 1.0, True), (5, 0.1, 1.0, False)],
)
def test_rounds_go_on_while_there_is_time_for_one_more(done: int, took: float, seconds: float, more: bool) -> None:
    assert another_round(done, time.perf_counter() - took, seconds) is more


def test_a_plan_that_ends_while_warming_up_is_measured_as_a_whole(packed: Packed) -> None:
    taken = Rig(DataLoader(packed("tar", [8]), 4, num_workers=1, prefetch_factor=2))
    epoch = steps(taken.order, taken.share, 0)
    run = drive(taken.running(taken.jobs(epoch), 0.01), lambda _: time.sleep(0.02))
    assert run.stats.batches == 2
    assert run.batch_ms >= 20


def test_the_first_file_that_stays_in_memory_is_the_last_that_is_to_be_forgotten(
    packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def forgotten(path: str) -> bool:
        asked.append(path)
        return len(asked) < 2

    monkeypatch.setattr(pagecache, "forgotten", forgotten)
    taken = Rig(DataLoader(packed("tar", [3, 3, 3]), 4))
    assert not taken.drop_page_cache()
    assert asked == list(taken.files[:2])


def test_files_that_were_in_memory_before_they_were_dropped_are_brought_back_as_far_as_there_is_time(
    packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, read = Rig(DataLoader(packed("tar", [3, 3, 3]), 4)), []
    first, _, last = taken.files

    def bring(path: str, deadline: float) -> bool:
        read.append(path)
        return time.perf_counter() < deadline

    monkeypatch.setattr(pagecache, "in_memory", lambda path: path in (first, last))
    monkeypatch.setattr(pagecache, "forgotten", lambda path: True)
    monkeypatch.setattr(pagecache, "read", bring)
    assert taken.drop_page_cache()
    taken.read_back(0.0)
    assert read == [first]
    taken.read_back(60.0)
    taken.read_back(60.0)
    assert read == [first, first, last]


def test_slow_batches_are_few_when_warming_up_and_when_measured(
    packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = DataLoader(packed("tar", [40]), 4, num_workers=1, prefetch_factor=8)
    monkeypatch.setattr(measuring, "_SLOW_SECONDS", 0.05)
    taken = Rig(loader)
    run = drive(taken.running(taken.jobs(taken.endless()), 0.01), lambda _: time.sleep(0.06))
    assert run.stats.batches == 1
    assert run.batch_ms >= 60
