"""What measuring costs: passes of one loader with and without the meter, in turn, hundreds of times; and beside it a
count of the meter's calls of a batch, and what each takes.

Two passes with and two without are compared, in an order in which a drift of the machine falls to both alike: with,
without, without, with; and the other way round. Processor time of the process counts, for it leaves out what other
programs take; all threads are in it. `cost_share` is the difference as a share of the time from batch to batch, as if
no thread did it while another waits. One case is compared with itself: what that is off by, is chance. The meter's
calls are counted by clocks that count them, and timed one by one.
"""

from __future__ import annotations

import statistics
import time
import timeit
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from samples import image_folder, record_folder
from unmetered import run_metered

import fastload
from fastload.batch import Batch
from fastload.bench.compare import interval
from fastload.bench.rounds import Rounds
from fastload.meter import READ, Clock, Meter

LENGTH, BATCH = 2048, 32


def tokens(folder: Path) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return ({"tokens": rng.integers(0, 50_257, LENGTH, np.int32)} for _ in range(4_096))


class Case(NamedTuple):
    make: Callable[[Path], Any]
    batch_size: int
    fields: dict[str, Any]
    workers: int
    shard_format: str = "tar"
    itself: bool = False  # with the meter both times


def records(folder: Path) -> Path:
    return record_folder(folder, 8_192)


def images(folder: Path) -> Path:
    return image_folder(folder, None, 128)


TOKENS, CROPS = {"tokens": fastload.Tokens(LENGTH)}, {"image": fastload.Image(224, crop="random")}
CASES = {
    "tokens, 32, no worker": Case(tokens, 32, TOKENS, 0),
    "tokens, 32, 1 worker": Case(tokens, 32, TOKENS, 1),
    "tokens, 32, 1 worker, with itself": Case(tokens, 32, TOKENS, 1, itself=True),
    "tokens, 32, 2 workers": Case(tokens, 32, TOKENS, 2),
    "tokens of Parquet, 32, 2 workers": Case(tokens, 32, TOKENS, 2, "parquet"),
    "records, 32, 1 worker": Case(records, 32, {"image": fastload.Bytes()}, 1),
    "records, 256, 1 worker": Case(records, 256, {"image": fastload.Bytes()}, 1),
    "crops, 64, 1 worker": Case(images, 64, CROPS, 1),
}

# What is called, and with what; with `clock`, `batch` and `contents` at hand.
CALLS = {
    "enter": "clock.enter(1)",
    "read": "clock.read(32, 65536)",
    "read contents": "clock.read(32, contents.values())",
    "handed_over": "clock.handed_over(batch.rows)",
    "asked": "clock.asked(0)",
}


class Counting(Clock):
    __slots__ = ("calls",)

    def __init__(self, now: int) -> None:
        super().__init__(now)
        self.calls: Counter[str] = Counter()

    def enter(self, stage: int) -> None:
        self.calls["enter"] += 1
        super().enter(stage)

    def read(self, rows: int, contents: Any) -> None:
        self.calls["read" if type(contents) is int else "read contents"] += 1
        super().read(rows, contents)

    def handed_over(self, rows: int) -> None:
        self.calls["handed_over"] += 1
        super().handed_over(rows)

    def asked(self, ready: int) -> None:
        self.calls["asked"] += 1
        super().asked(ready)


def calls_per_batch(loader: fastload.DataLoader) -> dict[str, float]:
    """In all threads."""
    clocks: list[Counting] = []

    def make(now: int) -> Clock:
        clock = Counting(now)
        clocks.append(clock)  # threads start at the same time
        return clock

    usual, loader._meter = loader._meter, Meter(make)
    batches = len(list(loader))
    loader._meter = usual
    total = sum((clock.calls for clock in clocks), Counter[str]())
    return {name: round(count / batches, 2) for name, count in total.items()}


@cache
def call_ns() -> dict[str, float]:
    """Of each call, in a loop of nothing else: the least of many tries, less the loop."""
    names = {
        "clock": Clock(READ),
        "batch": Batch(valid=np.ones(BATCH, np.bool_)),
        "contents": {"tokens": [memoryview(bytes(64))] * 4},
    }

    def least(statement: str) -> float:
        return min(timeit.repeat(statement, globals=names, number=20_000, repeat=50)) / 20_000 * 1e9

    empty = least("pass")
    return {name: round(least(statement) - empty, 1) for name, statement in CALLS.items()}


class Pass(NamedTuple):
    cpu: float
    wall: float

    def __add__(self, other: Pass) -> Pass:  # type: ignore[override]
        return Pass(self.cpu + other.cpu, self.wall + other.wall)


def one_pass(loader: fastload.DataLoader, *, metered: bool) -> Pass:
    run_metered(metered)
    try:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in loader:
            pass
        return Pass(time.process_time() - cpu, time.perf_counter() - wall)
    finally:
        run_metered(True)


def in_turn(loader: fastload.DataLoader, seconds: float, itself: bool) -> tuple[list[Pass], list[Pass]]:
    """Two passes with and two without the meter, over and over: the sums of each."""
    both: dict[bool, list[Pass]] = {True: [], False: []}
    first, deadline = True, time.perf_counter() + seconds
    while time.perf_counter() < deadline or not both[True]:
        order = (first, not first, not first, first)
        passes = [(metered, one_pass(loader, metered=metered or itself)) for metered in order]
        for metered in (True, False):
            a, b = (found for what, found in passes if what is metered)
            both[metered].append(a + b)
        first = not first
    return both[True], both[False]


def middle(values: list[float], digits: int, name: str) -> dict[str, float]:
    """The median, and the interval that holds it with 95% confidence, by the bootstrap."""
    low, high = interval(values, [1.0])
    found = {name: statistics.median(values), f"{name}_low": low, f"{name}_high": high}
    return {key: round(value, digits) for key, value in found.items()}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], Path]:
    @cache
    def make(source: Callable[[Path], Any], shard_format: Any) -> Path:
        folder = tmp_path_factory.mktemp("meter")
        fastload.pack(source(folder / "raw"), folder / "packed", format=shard_format)
        return folder / "packed"

    return lambda case: make(case.make, case.shard_format)


@pytest.mark.parametrize("name", CASES)
def test_meter(packed: Callable[[Case], Path], benchmark: Any, capsys: Any, pytestconfig: Any, name: str) -> None:
    case = CASES[name]
    loader = fastload.DataLoader(packed(case), case.batch_size, fields=case.fields, num_workers=case.workers)
    for metered in (True, False, True, False):  # warm; and each does what it says
        before = loader.stats().batches
        one_pass(loader, metered=metered)
        assert loader.stats().batches - before == (len(loader) if metered else 0)
    calls, costs, batches = calls_per_batch(loader), call_ns(), 2 * len(loader)
    seconds = pytestconfig.getoption("--seconds")
    on, off = benchmark.pedantic(in_turn, args=(loader, seconds, case.itself), rounds=1)
    batch_ns = statistics.median(each.wall for each in on) / batches * 1e9
    differences = [(a.cpu - b.cpu) / batches * 1e9 for a, b in zip(on, off, strict=True)]
    counted = sum(count * costs[call] for call, count in calls.items())
    facts = Rounds(
        name=benchmark.name,
        unit="batches",
        items=batches,
        seconds=tuple(each.cpu for each in on),
        reference="the same, processor time" if case.itself else "without the meter, processor time",
        reference_seconds=tuple(each.cpu for each in off),
    ).facts()
    facts |= middle([b.cpu / a.cpu for a, b in zip(on, off, strict=True)], 5, "ratio")
    facts |= middle([b.wall / a.wall for a, b in zip(on, off, strict=True)], 5, "wall_ratio")
    facts |= middle(differences, 1, "cost_ns")
    facts |= middle([each / batch_ns for each in differences], 5, "cost_share")
    facts |= {
        "batch_ns": round(batch_ns),
        "calls": calls,
        "calls_per_batch": round(sum(calls.values()), 2),
        "call_ns": costs,
        "ns_per_call": round(counted / sum(calls.values()), 1),
        "counted_ns": round(counted, 1),
        "counted_share": round(counted / batch_ns, 5),
    }
    benchmark.extra_info.update(facts)
    with capsys.disabled():
        print(
            f"\n  {name}: {len(on)} times two passes; processor time {_told(facts, 'ratio')}, wall time "
            f"{_told(facts, 'wall_ratio')};\n    {facts['cost_ns']} ns of {batch_ns:,.0f} a batch: "
            f"{_told(facts, 'cost_share', '.2%')}; counted: {facts['calls_per_batch']} calls of "
            f"{facts['ns_per_call']} ns, {facts['counted_share']:.2%}"
        )


def _told(facts: dict[str, Any], name: str, form: str = ".4f") -> str:
    value, low, high = (format(facts[each], form) for each in (name, f"{name}_low", f"{name}_high"))
    return f"{value} ({low} to {high})"
