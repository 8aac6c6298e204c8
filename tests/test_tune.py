"""num_workers="auto": the search on machines that are made up, the tuner on meters, and the loader as a whole."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import samples
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import fastload
from fastload.errors import ConfigError
from fastload.loader import DataLoader
from fastload.machine import cores
from fastload.tune import MOST_AHEAD, MOST_THREADS, Measured, Setting, reason, search

Packed = Callable[..., Path]
IMAGE = {"image": fastload.Image(8, crop="random"), "label": fastload.Scalar()}
ROWS = 100


def machine(
    *, cores: int, busy_ms: float, step_ms: float, waits: float = 0.0, contention: float = 0.0, jitter: int = 0
) -> Callable[[Setting], Measured]:
    """What a loader would do: threads of which only so many run at a time as there are processors, apart from the
    share of their time that they wait; contention makes each thread slow the others down; with jitter, batches come
    late unless so many are ahead."""

    def measure(setting: Setting) -> Measured:
        n = setting.threads
        slowed = busy_ms * (1 + contention * (n - 1))
        running = min(n, cores / max(1e-9, 1 - waits))
        loader_ms = slowed / running
        late = 0.2 * step_ms if setting.ahead < jitter else 0.0
        batch_ms = max(loader_ms, step_ms + late)
        cpu_ms = min(cores * batch_ms, slowed * (1 - waits))
        return Measured(
            rate=1e3 * ROWS / batch_ms,
            waiting=(batch_ms - step_ms) / batch_ms,
            threads_ms=slowed * n / running,
            consumer_ms=step_ms,
            processors=cpu_ms / (cores * batch_ms),
        )

    return measure


def choose(measure: Callable[[Setting], Measured], cores: int, ahead: int = 2) -> tuple[Setting, list[Setting]]:
    """The choice of a search, and what it tried."""
    tries, tried = search(cores, ahead), []
    setting = next(tries)
    while True:
        tried.append(setting)
        try:
            setting = tries.send(measure(setting))
        except StopIteration as over:
            return over.value[0], tried


def test_where_the_step_limits_the_fewest_threads_that_keep_up_are_left() -> None:
    setting, tried = choose(machine(cores=16, busy_ms=40, step_ms=19), 16)
    assert setting == Setting(threads=3, ahead=2)
    assert tried[0] == Setting(threads=16, ahead=2)
    assert len(tried) <= 6


def test_where_decoding_takes_the_processors_all_are_used() -> None:
    setting, tried = choose(machine(cores=8, busy_ms=400, step_ms=10), 8)
    assert setting == Setting(threads=8, ahead=2)
    assert len(tried) == 2, "half as many were slower"


def test_where_threads_wait_for_storage_there_are_more_than_cores() -> None:
    setting, _ = choose(machine(cores=4, busy_ms=200, step_ms=1, waits=0.95), 4)
    assert setting.threads == MOST_THREADS * 4
    setting, _ = choose(machine(cores=4, busy_ms=60, step_ms=10, waits=0.95), 4)
    assert 6 <= setting.threads <= 8


def test_where_threads_get_into_each_others_way_there_are_fewer() -> None:
    slowed = machine(cores=8, busy_ms=100, step_ms=1, contention=0.3)  # 1 to 8 threads: 1 times to 2.6 times as fast
    setting, _ = choose(slowed, 8)
    assert slowed(setting).rate >= 0.9 * max(slowed(Setting(threads=n, ahead=2)).rate for n in range(1, 9))
    setting, _ = choose(machine(cores=8, busy_ms=100, step_ms=1, contention=1.5), 8)
    assert setting.threads < 8


def test_batches_that_come_late_though_threads_are_fast_are_begun_earlier_and_no_earlier_than_needed() -> None:
    setting, _ = choose(machine(cores=4, busy_ms=20, step_ms=20, jitter=4), 4)
    assert setting.ahead == 4
    setting, _ = choose(machine(cores=4, busy_ms=20, step_ms=20), 4, ahead=8)
    assert setting.ahead == 2


def test_a_pause_in_what_was_measured_first_does_not_leave_too_few_threads() -> None:
    steady = machine(cores=8, busy_ms=40, step_ms=8)
    calls = 0

    def paused(setting: Setting) -> Measured:
        nonlocal calls
        found, calls = steady(setting), calls + 1
        if calls > 1:
            return found
        batches, pause_ms = 4, 250.0  # a checkpoint, say, in as few batches as are measured
        batch_ms = 1e3 * ROWS / found.rate
        return replace(
            found,
            rate=1e3 * ROWS / (batch_ms + pause_ms / batches),
            waiting=found.waiting * batch_ms / (batch_ms + pause_ms / batches),
            consumer_ms=found.consumer_ms + pause_ms / batches,
        )

    setting, tried = choose(paused, 8)
    assert Setting(threads=1, ahead=2) in tried, "as many as the mean seems to need"
    assert steady(setting).rate >= 0.9 * steady(Setting(threads=8, ahead=2)).rate


@example(cores=30, busy=115, step=33, waits=0, contention=0.1875, jitter=1, ahead=3)  # once took 25 tries
@given(
    st.integers(1, 64),
    st.floats(0.1, 1000),
    st.floats(0.1, 1000),
    st.floats(0, 0.95),
    st.floats(0, 0.2),
    st.integers(1, 16),
    st.integers(1, 16),
)
def test_a_search_ends_within_bounds_and_never_far_below_where_it_began(
    cores: int, busy: float, step: float, waits: float, contention: float, jitter: int, ahead: int
) -> None:
    measure = machine(cores=cores, busy_ms=busy, step_ms=step, waits=waits, contention=contention, jitter=jitter)
    setting, tried = choose(measure, cores, ahead)
    assert len(tried) <= 16
    assert all(1 <= each.threads <= MOST_THREADS * cores and 1 <= each.ahead <= MOST_AHEAD for each in tried)
    assert setting in tried
    assert measure(setting).rate >= 0.9 * measure(tried[0]).rate


@pytest.mark.parametrize(
    ("threads", "waiting", "processors", "said"),
    [
        (2, 0.01, 0.2, "5.0 ms a batch from the threads, 8.0 ms of yours; the loader keeps up"),
        (2, 0.4, 0.9, "40% of the time goes to waiting, and processors are busy"),
        (2, 0.4, 0.3, "40% of the time goes to waiting, and more threads bring nothing"),
        (8, 0.4, 0.3, "40% of the time goes to waiting, and no more than 4 threads a core are tried"),
    ],
)
def test_a_choice_says_why(threads: int, waiting: float, processors: float, said: str) -> None:
    found = Measured(rate=1.0, waiting=waiting, threads_ms=10.0, consumer_ms=8.0, processors=processors)
    assert said in reason(Setting(threads=threads, ahead=2), found, cores=2)


def threads_now() -> int:
    return sum(thread.name.startswith("fastload-") for thread in threading.enumerate())


def until_tuned(loader: DataLoader, step: Callable[[], object] = lambda: None) -> Iterator[Any]:
    """Batches, epoch after epoch, until a choice was made."""
    deadline = time.monotonic() + 60
    while loader.tuned is None:
        assert time.monotonic() < deadline, "the search does not end"
        for batch in loader:
            yield batch
            step()


def test_batches_and_states_are_those_of_any_other_number_of_threads(packed: Packed) -> None:
    data = packed("tar", [40, 40, 17])
    auto, plain = (DataLoader(data, 8, fields=IMAGE, num_workers=n, seed=3) for n in ("auto", 0))  # type: ignore[arg-type]
    seen = set()
    for _ in range(12):
        for batch, other in zip(auto, plain, strict=True):
            assert samples.content(batch) == samples.content(other)
            assert auto.state_dict() == plain.state_dict()
            seen.add((auto.num_workers, auto.prefetch_factor))
            time.sleep(0.004)
        assert threads_now() == 0
    assert len(seen) > 1 or cores() == 1, "nothing was ever tried"


@pytest.mark.parametrize("begin", [1, 3])
def test_what_was_chosen_is_in_force_logged_and_kept(
    packed: Packed, caplog: pytest.LogCaptureFixture, begin: int
) -> None:
    loader = DataLoader(packed("tar", [200]), 8, fields=IMAGE, num_workers="auto", prefetch_factor=begin)
    assert (loader.num_workers, loader.prefetch_factor, loader.tuned) == (cores(), begin, None)
    with caplog.at_level(logging.INFO, logger="fastload.tune"):
        for _ in until_tuned(loader, lambda: time.sleep(0.01)):
            pass
    chosen = loader.tuned
    assert chosen is not None
    assert (loader.num_workers, loader.prefetch_factor) == (chosen.setting.threads, chosen.setting.ahead)
    assert chosen.tried[0][0] == Setting(threads=cores(), ahead=begin)
    (record,) = caplog.records
    assert record.getMessage() == f"num_workers='auto': {chosen}"
    assert "ms a batch from the threads" in chosen.why
    assert f"{cores()} and {begin}: " in str(chosen)
    next(batches := iter(loader))
    assert threads_now() == chosen.setting.threads
    batches.close()  # type: ignore[attr-defined]
    assert threads_now() == 0


def test_an_epoch_that_is_left_early_leaves_no_thread_and_the_search_goes_on(packed: Packed) -> None:
    loader = DataLoader(packed("tar", [200]), 8, fields=IMAGE, num_workers="auto")
    for _ in range(40):
        for number, _ in enumerate(loader):
            time.sleep(0.005)
            if number == 7:
                break
        assert threads_now() == 0
    assert loader.tuned is not None


def test_a_resume_while_it_searches_goes_on_exactly(packed: Packed) -> None:
    data = packed("tar", [200])
    loader = DataLoader(data, 8, fields=IMAGE, num_workers="auto")
    batches = iter(loader)
    for _ in range(5):
        next(batches)
    state, rest = loader.state_dict(), [samples.content(batch) for batch in batches]
    other = DataLoader(data, 8, fields=IMAGE, num_workers="auto")
    other.load_state_dict(state)
    assert [samples.content(batch) for batch in other] == rest


def test_where_threads_do_not_help_there_is_nothing_to_find(packed: Packed) -> None:
    label = DataLoader(packed("tar", [20]), 8, fields={"label": fastload.Scalar()}, num_workers="auto")
    assert (label.num_workers, len(list(label)), label.tuned) == (0, 3, None)

    class Numbers(torch.utils.data.IterableDataset[int]):
        def __iter__(self) -> Iterator[int]:
            return iter(range(10))

    stream = DataLoader(Numbers(), 4, num_workers="auto")
    assert (stream.num_workers, len(list(stream)), stream.tuned) == (1, 3, None)


def test_other_words_are_refused(packed: Packed) -> None:
    with pytest.raises(ConfigError, match="num_workers='all': pass a number of threads, or 'auto'"):
        DataLoader(packed("tar", [20]), 8, num_workers="all")  # type: ignore[arg-type]
