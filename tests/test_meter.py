"""The sums of the meter: every second of every thread is in one stage, and the consumer's add up to its wall time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import samples
import torch.utils.data
from samples import FORMATS

import fastload
from fastload.batch import Batch
from fastload.engine import Engine
from fastload.loader import DataLoader
from fastload.meter import ASSEMBLE, DECODE, IDLE, READ, Clock, Meter, Stats
from fastload.samplers import PackSequences
from fastload.shards.index import FieldInfo, IndexFile
from fastload.shards.tar import TarShardWriter

Packed = Callable[..., Path]

FIELDS = {"image": fastload.Image(8, crop="random"), "label": fastload.Scalar()}


def slow(seconds: float) -> Callable[[Batch], Batch]:
    def operation(batch: Batch) -> Batch:
        time.sleep(seconds)
        return batch

    return operation


def test_settled_stats_have_the_samples_that_the_seconds_went_to() -> None:
    meter = Meter()
    clock = meter.start(consumer=False)
    clock.enter(READ)
    clock.read(5, 50)
    time.sleep(0.01)
    running, settled = meter.stats().decode, meter.stats(settled=True).decode
    assert running.busy_seconds >= 0.01
    assert (running.items, settled.items, settled.busy_seconds) == (0, 0, 0)
    clock.enter(IDLE)
    settled = meter.stats(settled=True).decode
    assert settled.items == 5
    assert settled.busy_seconds == clock.seconds[DECODE] >= 0.01


def test_a_clock_that_was_stopped_counts_once_and_no_more() -> None:
    meter = Meter()
    clock = meter.start(consumer=False)
    clock.enter(ASSEMBLE)
    meter.stop(clock)
    first = meter.stats()
    clock.enter(READ)
    meter.stop(clock)
    assert meter.stats() == first
    assert first.thread_seconds > 0


def test_an_iteration_that_is_collected_while_stats_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector of cycles runs at any allocation, and what it collects stops its clock."""
    meter, running, dropped = Meter(), Clock.running, []
    kept, clock = meter.start(consumer=True), meter.start(consumer=True)
    kept.batches, clock.batches = 4, 3

    def collecting(self: Clock) -> list[int]:
        if not dropped:
            dropped.append(clock)
            meter.stop(clock)
        return running(self)

    monkeypatch.setattr(Clock, "running", collecting)
    found: list[int] = []
    reading = threading.Thread(target=lambda: found.append(meter.stats().batches), daemon=True)
    reading.start()
    reading.join(20)
    assert found == [7]


@pytest.mark.parametrize("threads", [0, 1])
def test_planning_is_a_stage_of_its_own(threads: int) -> None:
    class Nothing:
        parts = 1

        def run(self, part: int, clock: Clock) -> None: ...

        def result(self) -> Batch:
            return Batch()

    def planned() -> Iterator[Nothing]:
        for _ in range(5):
            time.sleep(0.01)
            yield Nothing()

    meter = Meter()
    with Engine(planned(), threads=threads, ahead=2, meter=meter) as engine:
        assert len(list(engine)) == 5
    stats = meter.stats()
    assert stats.plan.busy_seconds >= 0.05
    assert stats.assemble.busy_seconds < 0.01
    assert stats.waiting_seconds >= 0.05


@pytest.mark.parametrize("threads", [0, 2])
def test_a_part_begins_reading_under_the_clock_of_its_thread(threads: int) -> None:
    seen: list[tuple[int, Clock, int]] = []

    class Parts:
        parts = 3

        def run(self, part: int, clock: Clock) -> None:
            seen.append((threading.get_ident(), clock, clock.now))
            clock.enter(DECODE)
            time.sleep(0.001)

        def result(self) -> Batch:
            return Batch()

    with Engine((Parts() for _ in range(4)), threads=threads, ahead=2) as engine:
        list(engine)
        assert {stage for _, _, stage in seen} == {READ}
        assert len(seen) == 12
        of_thread = {(thread, id(clock)) for thread, clock, _ in seen}
        assert len(of_thread) == len({thread for thread, _ in of_thread}) == len({clock for _, clock in of_thread})
        assert {clock is engine.clock for _, clock, _ in seen} == {not threads}


def test_batches_that_are_ready_are_counted_where_threads_make_them() -> None:
    class Nothing:
        parts = 2

        def run(self, part: int, clock: Clock) -> None: ...

        def result(self) -> Batch:
            return Batch()

    meter = Meter()
    with Engine((Nothing() for _ in range(6)), threads=1, ahead=3, meter=meter) as engine:
        for _ in engine:
            while any(ticket.left for ticket in engine._line):
                time.sleep(0.001)
    assert meter.stats().ready == (1, 1, 1, 3), "none at the start; three as long as there are; and the rest"


@pytest.mark.parametrize("threads", [0, 2])
def test_the_consumers_wall_time_is_waiting_copy_augment_and_step(packed: Packed, threads: int) -> None:
    loader = DataLoader(packed("tar", [40, 40]), 8, fields=FIELDS, num_workers=threads, augment=[slow(0.005)])
    started = time.perf_counter()
    for _ in loader:
        time.sleep(0.02)
    wall, stats = time.perf_counter() - started, loader.stats()
    parts = stats.waiting_seconds + stats.copy.busy_seconds + stats.augment.busy_seconds + stats.step.busy_seconds
    assert 0.25 <= parts <= wall, "ten batches of 5 ms and 20 ms, nothing counted twice"
    assert parts == pytest.approx(wall, rel=0.1), "and nothing left out"
    assert stats.step.busy_seconds >= 0.2
    assert stats.augment.busy_seconds >= 0.05


@pytest.mark.parametrize("shard_format", FORMATS)
@pytest.mark.parametrize("threads", [0, 1, 3])
def test_items_and_batches_are_counted_in_every_stage(packed: Packed, shard_format: str, threads: int) -> None:
    loader = DataLoader(packed(shard_format, [5, 1, 9, 8]), 4, fields=FIELDS, num_workers=threads)
    for _ in loader:
        pass
    stats = loader.stats()
    assert (stats.batches, stats.samples) == (6, 23)
    assert {name: stage.items for name, stage in stats.stages.items()} == {
        "plan": 23,
        "read": 23,
        "decode": 23,
        "assemble": 23,
        "copy": 23,
        "augment": 23,
        "step": 23,
    }
    assert stats.read.bytes > 23 * 300
    assert (
        min(stats.read.busy_seconds, stats.decode.busy_seconds, stats.assemble.busy_seconds, stats.plan.busy_seconds)
        > 0
    )
    assert sum(stats.ready) == (6 if threads else 0)
    assert bool(stats.thread_seconds) == bool(threads)


def test_the_time_of_threads_is_busy_and_idle(packed: Packed) -> None:
    loader = DataLoader(packed("tar", [40, 40]), 8, fields=FIELDS, num_workers=2)
    started = time.perf_counter()
    for _ in loader:
        time.sleep(0.02)
    wall, stats = time.perf_counter() - started, loader.stats()
    assert 1 < stats.thread_seconds / wall <= 2, "two threads, one of which may have been slow to start"
    busy = stats.thread_seconds - stats.idle_seconds
    assert 0 < busy <= stats.read.busy_seconds + stats.decode.busy_seconds + stats.assemble.busy_seconds
    assert stats.idle_seconds > busy, "two threads had next to nothing to do"
    assert stats.ready[-1] > 0, "batches were ready when they were asked for"


def test_stats_may_be_read_while_running_and_subtracted(packed: Packed) -> None:
    loader = DataLoader(packed("tar", [40]), 8, fields=FIELDS, num_workers=2)
    batches = iter(loader)
    next(batches)
    before = loader.stats()
    assert (before.batches, before.samples) == (1, 8)
    list(batches)
    assert (loader.stats() - before).batches == 4
    assert (loader.stats() - before).samples == 32
    for _ in loader:
        pass
    assert loader.stats().batches == 10


@pytest.mark.parametrize("threads", [0, 2])
def test_stats_may_be_read_before_the_first_batch_and_by_another_thread(packed: Packed, threads: int) -> None:
    loader = DataLoader(packed("tar", [40]), 8, fields=FIELDS, num_workers=threads, augment=[slow(0.002)])
    none = loader.stats()
    assert (none.batches, none.consumer_seconds, none.thread_seconds, none.ready) == (0, 0.0, 0.0, ())
    assert set(none.stages) == {"plan", "read", "decode", "assemble", "copy", "augment", "step"}
    batches, over = iter(loader), threading.Event()
    seen: list[Stats] = []
    assert loader.stats().batches == 0, "an iterator that nobody has asked"

    def watch() -> None:
        while not over.wait(0.0005):
            seen.append(loader.stats())

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        while not seen:
            time.sleep(0.001)
        for batch in batches:
            assert len(batch["label"]) == 8
    finally:
        over.set()
        watching.join(20)
    counts = [each.batches for each in seen]
    assert counts[0] == 0
    assert counts == sorted(counts)
    assert loader.stats().batches == 5
    assert sum(loader.stats().ready) == (5 if threads else 0)
    assert all(later.consumer_seconds >= earlier.consumer_seconds - 1e-6 for earlier, later in pairwise(seen))


def test_an_iteration_that_was_dropped_counts_no_further(packed: Packed) -> None:
    loader = DataLoader(packed("tar", [40]), 8, fields=FIELDS, num_workers=2)
    for _ in loader:
        break
    stats: Any = loader.stats()
    time.sleep(0.01)
    assert loader.stats() == stats
    assert stats.batches == 1


class Numbers(torch.utils.data.IterableDataset[torch.Tensor]):
    """0 ... 99."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(torch.arange(100))


class Batches(torch.utils.data.IterableDataset[torch.Tensor]):
    """The same in batches of 32."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(torch.arange(100).split(32))


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize(
    ("data", "batch_size"),
    [(torch.utils.data.TensorDataset(torch.arange(100)), 32), (Numbers(), 32), (Batches(), None)],
)
def test_samples_of_datasets_of_others_are_counted_too(data: Any, batch_size: int | None, threads: int) -> None:
    loader = DataLoader(data, batch_size, num_workers=threads)
    assert sum(len(batch[0] if isinstance(batch, tuple) else batch) for batch in loader) == 100
    stats = loader.stats()
    assert (stats.read.items, stats.decode.items, stats.samples) == (100, 100, 100)
    assert stats.read.bytes == 0


def test_packed_rows_and_mixtures_are_read_and_decoded_too(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    infos = {"tokens": FieldInfo(kind="tokens", dtype="int32")}
    writer = TarShardWriter(tmp_path / "train/shard-000000.tar", infos)
    for i in range(20):
        writer.add(samples.key(i), {"tokens": ("npy", samples.npy(samples.tokens(i)))}, {}, {"tokens.count": 1 + i % 5})
    files = (writer.finish()._replace(name="train/shard-000000.tar"),)
    IndexFile(shard_format="tar", fields=infos, shards=files, splits={"train": (0, 1)}).save(tmp_path)
    fields = {"tokens": fastload.Tokens(8)}
    sources = {
        "packed": fastload.StreamingDataset(tmp_path, fields=fields, sampler=PackSequences("tokens", 8)),
        "plain": fastload.StreamingDataset(tmp_path, fields=fields),
    }
    loader = DataLoader(fastload.Mix(sources, fields="separate"), 4)
    for _ in loader:
        pass
    stats = loader.stats()
    assert stats.read.items == stats.decode.items > stats.samples > 0
    assert stats.read.busy_seconds > 0


@pytest.mark.parametrize(("threads", "most"), [(0, 5), (1, 8)])
def test_a_batch_costs_few_calls_of_the_meter(packed: Packed, threads: int, most: int) -> None:
    calls = 0

    class Counting(Clock):
        __slots__ = ()

        def __getattribute__(self, name: str) -> Any:
            nonlocal calls
            calls += name in ("enter", "read", "asked", "handed_over")
            return super().__getattribute__(name)

    loader = DataLoader(packed("tar", [40, 40]), 4, fields=FIELDS, num_workers=threads)
    loader._meter = Meter(Counting)
    batches = len(list(loader))
    assert (most - 1) * batches < calls <= (most + 0.5) * batches, "and a batch of a few labels takes tens of us"
