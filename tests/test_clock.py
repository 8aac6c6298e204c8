"""The clock of one thread, in C and in Python: what lies between changes of stage, and what is counted."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conformance import PROPERTY
from hypothesis import given
from hypothesis import strategies as st

import fastload
from fastload import clock as in_python
from fastload import meter
from fastload.clock import DECODE, IDLE, READ, STAGES, STEP, WAITING
from fastload.loader import DataLoader
from fastload.meter import Meter

Packed = Callable[..., Path]
CLOCKS: list[Any] = [in_python.Clock, meter.Clock]

some_contents = st.lists(
    st.one_of(st.binary(max_size=40), st.binary(max_size=40).map(memoryview), st.just(ValueError("no bytes"))),
    max_size=40,
)
calls = st.one_of(
    st.tuples(st.just("enter"), st.tuples(st.integers(0, IDLE))),
    st.tuples(st.just("read"), st.tuples(st.integers(0, 1000), st.integers(0, 2**40))),
    st.tuples(st.just("read"), st.tuples(st.integers(0, 1000), st.lists(some_contents, max_size=3))),
    st.tuples(st.just("handed_over"), st.tuples(st.integers(0, 1000))),
    st.tuples(st.just("asked"), st.tuples(st.integers(0, 20))),
)


def counted(clock: Any) -> tuple[Any, ...]:
    return (
        clock.now,
        clock.rows,
        clock.decoded,
        clock.read_bytes,
        clock.batches,
        clock.samples,
        clock.copied_bytes,
        clock.ready,
        [bool(seconds) for seconds in clock.seconds],
    )


def test_it_is_built() -> None:
    assert meter.Clock.__module__ == "fastload._clock", "fastload._clock is not built: see setup.py"


@PROPERTY
@given(st.integers(0, IDLE), st.lists(calls, max_size=30))
def test_both_count_the_same(stage: int, made: list[tuple[str, tuple[Any, ...]]]) -> None:
    ours, theirs = (kind(stage) for kind in CLOCKS)
    for name, arguments in made:
        getattr(ours, name)(*arguments)
        getattr(theirs, name)(*arguments)
    assert counted(ours) == counted(theirs)


@pytest.mark.parametrize("kind", CLOCKS)
def test_a_clock_sums_what_lies_between_changes_of_stage(kind: Any) -> None:
    before = time.perf_counter()
    clock = kind(IDLE)
    assert before <= clock.started == clock.since <= time.perf_counter(), "it is perf_counter's time"
    for stage, seconds in ((READ, 0.02), (DECODE, 0.01), (READ, 0.02), (IDLE, 0.0)):
        clock.enter(stage)
        time.sleep(seconds)
    total = clock.running()
    assert total[READ] == clock.seconds[READ] >= 0.04
    assert total[DECODE] >= 0.01
    assert total[STEP] == total[WAITING] == 0
    assert total[IDLE] > clock.seconds[IDLE], "the running one is counted up to now"
    assert sum(total) <= time.perf_counter() - clock.started


@pytest.mark.parametrize("kind", CLOCKS)
def test_bytes_are_estimated_from_some_of_the_contents(kind: Any) -> None:
    clock = kind(IDLE)
    clock.read(3, [[b"abc", memoryview(b"abcde"), ValueError("no bytes")], []])
    assert (clock.rows, clock.read_bytes) == (3, 8)
    clock.read(1000, {"image": [b"x" * 7] * 1000}.values())
    clock.read(7, 70)
    assert (clock.rows, clock.read_bytes) == (1010, 7078)


@pytest.mark.parametrize("kind", CLOCKS)
def test_what_was_read_is_decoded_and_what_was_handed_over_is_in_its_step(kind: Any) -> None:
    clock = kind(READ)
    clock.read(3, 100)
    assert (clock.now, clock.seconds[READ] > 0) == (DECODE, True)
    assert (clock.rows, clock.decoded) == (3, 0)
    clock.handed_over(3)
    assert (clock.now, clock.seconds[DECODE] > 0, clock.seconds[STEP]) == (STEP, True, 0)
    assert (clock.rows, clock.decoded) == (3, 3)


@pytest.mark.parametrize("kind", CLOCKS)
def test_what_was_ready_is_counted_by_number(kind: Any) -> None:
    clock = kind(IDLE)
    assert clock.ready == []
    for ready in (2, 0, 2):
        clock.asked(ready)
    assert clock.ready == [1, 0, 2]


@pytest.mark.parametrize("kind", CLOCKS)
def test_a_clock_may_be_derived_from_and_holds_nothing(kind: Any) -> None:
    class Derived(kind):  # type: ignore[misc]
        __slots__ = ("events",)

        def __init__(self, now: int) -> None:
            super().__init__(now)
            self.events = [now]

        def enter(self, stage: int) -> None:
            super().enter(stage)
            self.events.append(self.now)

    clock = Derived(IDLE)
    clock.enter(READ)
    assert clock.events == [IDLE, READ]
    gc.collect()  # classes derived before
    contents, size = [b"x" * 9] * 8, sys.getrefcount(kind)
    held = sys.getrefcount(contents), sys.getrefcount(contents[0])
    for _ in range(50):
        one = kind(READ)
        one.read(8, [contents])
        one.asked(3)
        one.running(), one.seconds, one.ready
    del one
    gc.collect()
    assert (sys.getrefcount(contents), sys.getrefcount(contents[0])) == held
    assert sys.getrefcount(kind) == size


def test_what_is_no_stage_or_number_is_refused() -> None:
    clock = meter.Clock(READ)
    wrong: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (lambda: meter.Clock(9), IndexError, "stage 9"),
        (lambda: clock.enter(-1), IndexError, "stage -1: pass one from 0 to 8"),
        (lambda: clock.enter("read"), TypeError, "int"),  # type: ignore[arg-type]
        (lambda: clock.read(1), TypeError, "2 arguments"),  # type: ignore[call-arg]
        (lambda: clock.read(1, None), TypeError, "not iterable"),  # type: ignore[arg-type]
        (lambda: clock.read(1, [7]), TypeError, "a list for each field"),  # type: ignore[list-item]
        (lambda: clock.handed_over("x"), TypeError, "int"),  # type: ignore[arg-type]
        (lambda: clock.asked(-1), ValueError, r"asked\(-1\)"),
        (lambda: clock.asked(2**62), ValueError, "how many batches"),
    ]
    for call, kind, words in wrong:
        with pytest.raises(kind, match=words):
            call()
    assert counted(clock)[1:] == (0, 0, 0, 0, 0, 0, [], [False] * 9)


def test_a_loader_measures_the_same_where_the_clock_in_c_is_not_built(packed: Packed) -> None:
    found = []
    for kind in CLOCKS:
        loader = DataLoader(packed("tar", [5, 1, 9, 8]), 4, fields={"image": fastload.Image(8)}, num_workers=2)
        loader._meter = Meter(kind)
        for _ in loader:
            pass
        stats = loader.stats()
        found.append(
            (
                stats.batches,
                stats.samples,
                sum(stats.ready),
                [(stage.items, stage.bytes, stage.busy_seconds > 0) for stage in stats.stages.values()],
            )
        )
    assert found[0] == found[1]
    assert [name for name, stage in zip(STAGES, found[0][3], strict=True) if stage[2]] == [
        "plan",
        "read",
        "decode",
        "assemble",
        "step",
    ]
