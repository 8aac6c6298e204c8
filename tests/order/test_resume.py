"""A run resumed from any state: the equal rest, or at another world size the exact union, at the same cost anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from conformance import (
    PROPERTY,
    assert_exactly_once,
    assert_loses_less_than,
    assert_resumes,
    global_batches,
    sample_ids,
    walk,
)
from hypothesis import given
from hypothesis import strategies as st

from fastload.order.buckets import BoundBuckets, LengthBuckets
from fastload.order.cursor import PLAN_ROWS, State, Step, steps
from fastload.order.distribute import LastBatch, Share
from fastload.order.mix import Mixture
from fastload.order.packing import PackSequences
from fastload.order.sampler import Base, Subset
from fastload.order.shuffle import Ints, Order
from fastload.order.stratified import BoundStratified, Stratified
from fastload.order.weighted import ClassBalanced, Weighted, _BoundWeighted

SIZES = [5, 0, 17, 1, 30, 8, 0, 22, 20]  # 103 samples
FINGERPRINT = {"order": 1, "data": "0f" * 8, "seed": 3, "window": 2, "lanes": 2}


def run(order: Order, share: Share, saved: str | None) -> Iterator[tuple[Step, str]]:
    """Batches without end, each with the state after it as JSON."""
    consumed = 0
    if saved is not None:
        consumed = share.settle(order.samples, State.from_dict(json.loads(saved), FINGERPRINT).consumed)
    while True:
        for step in steps(order, share, consumed):
            consumed = step.consumed
            yield step, json.dumps(State(consumed=consumed, fingerprint=FINGERPRINT).to_dict())


def whole(step: Step) -> tuple[Any, ...]:
    return step.size, step.epochs.tolist(), step.shards.tolist(), step.rows.tolist(), step.consumed


@pytest.mark.parametrize("last_batch", ["partial", "pad", "drop", "wrap"])
@pytest.mark.parametrize(
    ("rank", "world_size", "batch_size"), [(0, 1, 1), (0, 1, 7), (2, 3, 4), (7, 8, 12), (1, 2, 80)]
)
def test_a_resumed_run_gives_the_equal_rest(last_batch: LastBatch, rank: int, world_size: int, batch_size: int) -> None:
    if (last_batch == "partial" and world_size > 1) or (last_batch == "drop" and batch_size == 80):
        last_batch = "pad"
    order = Order(SIZES, seed=3, window=2, lanes=2)
    share = Share(rank=rank, world_size=world_size, batch_size=batch_size, last_batch=last_batch)

    def start(saved: str | None) -> Iterator[tuple[Any, str]]:
        return ((whole(step), state) for step, state in run(order, share, saved))

    per_epoch = share.batches_left(order.samples, 0)
    assert_resumes(start, 2 * per_epoch + 2, stride=5 if batch_size == 1 else 1)


# A part of a run: world size, batch size, and how many batches until it stops.
PART = st.tuples(st.sampled_from([1, 2, 3, 4, 8]), st.integers(1, 32), st.integers(0, 8))


def global_step(order: Order, last_batch: LastBatch, world: int, batch: int, at: int) -> tuple[list[int], int] | None:
    """What all ranks together read next, as ids that count on over the epochs, and `consumed` after it."""
    found = []
    for rank in range(world):
        share = Share(rank=rank, world_size=world, batch_size=batch, last_batch=last_batch)
        found.append(next(steps(order, share, share.settle(order.samples, at)), None))
    if found[0] is None:
        assert found == [None] * world
        return None
    assert {step.consumed for step in found if step} == {found[0].consumed}
    return [one for step in found if step for one in sample_ids(SIZES, step, with_epoch=True)], found[0].consumed


@PROPERTY
@given(st.sampled_from(["pad", "wrap"]), st.lists(PART, min_size=1, max_size=6), st.integers(0, 9))
def test_resumed_with_other_world_and_batch_sizes_the_union_is_exact(
    last_batch: LastBatch, parts: list[tuple[int, int, int]], window: int
) -> None:
    order = Order(SIZES, seed=1, window=window, lanes=2)
    read: list[int] = []
    consumed = 0
    for world, batch, batches in parts:
        for _ in range(batches):
            step = global_step(order, last_batch, world, batch, consumed)
            assert step is not None
            read += step[0]
            consumed = step[1]
    assert len(read) == consumed
    epochs = consumed // 103 * 103
    assert_exactly_once([one for one in read if one < epochs], epochs)
    assert_exactly_once(read, set(read))


@PROPERTY
@given(st.lists(PART, min_size=1, max_size=6))
def test_drop_resumed_with_other_sizes_repeats_nothing_and_loses_less_than_a_global_batch(
    parts: list[tuple[int, int, int]],
) -> None:
    order = Order(SIZES, seed=1, window=2)
    read: list[list[int]] = []
    consumed = largest = 0
    for world, batch, batches in parts:
        for _ in range(batches):
            step = global_step(order, "drop", world, batch, consumed)
            largest = max(largest, world * batch)  # the part that finds too little left in an epoch goes on to the next
            if step is None:
                break  # fewer samples in an epoch than one global batch: this part reads nothing
            read.append(step[0])
            consumed = step[1]
    ids = [one for batch in read for one in batch]
    assert_exactly_once(ids, set(ids))
    for epoch in range(consumed // 103):
        assert_loses_less_than([one % 103 for one in ids if one // 103 == epoch], 103, largest)


def test_drops_remainder_under_one_batch_size_can_be_read_under_a_smaller_one() -> None:
    order = Order([103], seed=0, window=1)
    large = Share(rank=0, world_size=1, batch_size=50, last_batch="drop")
    small = Share(rank=0, world_size=1, batch_size=2, last_batch="drop")
    first = next(steps(order, large, 0))
    assert [step.consumed for step in steps(order, small, first.consumed)] == [*range(52, 102, 2), 103]
    assert large.settle(103, 60) == 103  # resumed the other way round: no batch of 50 is left, the next epoch begins
    assert [step.consumed for step in steps(order, large, 103)] == [153, 206]


def test_a_state_of_a_smaller_world_gives_the_same_global_batches_in_a_larger_one() -> None:
    order = Order(SIZES, seed=1, window=3)
    alone = walk(order, SIZES, world_size=1, batch_size=24, last_batch="pad", epochs=2)
    first = walk(order, SIZES, world_size=2, batch_size=12, last_batch="pad")
    for after in range(1, 5):
        rest = walk(order, SIZES, world_size=8, batch_size=3, last_batch="pad", consumed=24 * after)
        assert global_batches(first)[:after] + global_batches(rest) == global_batches(alone)[:5]


class Counted:
    """An order that counts what it is asked."""

    def __init__(self, order: Order) -> None:
        self.order, self.calls, self.rows, self.most = order, 0, 0, 0

    @property
    def samples(self) -> int:
        return self.order.samples

    def locate(self, epochs: npt.ArrayLike, positions: npt.ArrayLike) -> tuple[Ints, Ints]:
        self.calls += 1
        self.rows += np.size(positions)
        self.most = max(self.most, np.size(positions))
        return self.order.locate(epochs, positions)


def test_resuming_asks_the_order_as_much_at_any_position() -> None:
    order = Order([10**6] * 1000, seed=0, window=64)
    share = Share(rank=3, world_size=4, batch_size=250, last_batch="pad")
    asked = set()
    for consumed in (0, 10**7, 5 * 10**8, 99 * 10**7, 10**12 + 5 * 10**8):
        counted = Counted(order)
        assert len(list(islice(steps(counted, share, consumed), 10))) == 10
        asked.add((counted.calls, counted.rows))
    assert asked == {(3, 21 * 250)}  # runs of 1, 4 and 16 batches


def test_the_first_batch_is_planned_alone() -> None:
    counted = Counted(Order([1000] * 10, seed=0, window=2))
    next(steps(counted, Share(rank=0, world_size=1, batch_size=64, last_batch="pad"), 0))
    assert (counted.calls, counted.rows) == (1, 64)


@pytest.mark.parametrize(("batch_size", "most"), [(1, PLAN_ROWS), (1000, 8000), (20_000, 20_000)])
def test_what_is_planned_ahead_stays_bounded(batch_size: int, most: int) -> None:
    counted = Counted(Order([1000] * 40, seed=0, window=2))
    share = Share(rank=0, world_size=1, batch_size=batch_size, last_batch="partial")
    assert sum(step.size for step in steps(counted, share, 0)) == counted.rows == 40_000
    assert counted.most == most


def test_nothing_is_asked_before_the_first_batch_is_taken() -> None:
    counted = Counted(Order([1000] * 10, seed=0, window=2))
    steps(counted, Share(rank=0, world_size=1, batch_size=64, last_batch="pad"), 0)
    assert counted.calls == 0


SAMPLES = 20_000  # in 100 shards
LENGTHS = np.arange(SAMPLES) % 97 + 1
ORDERS: dict[str, Callable[[Base], Any]] = {
    "none": Base.order,
    "subset": lambda base: Subset(np.arange(SAMPLES) % 3 > 0).bind(base, {}),
    "weighted": lambda base: Weighted(LENGTHS).bind(base, {}),
    "balanced": lambda base: ClassBalanced().bind(base, {"label": LENGTHS % 7}),
    "stratified": lambda base: Stratified().bind(base, {"label": LENGTHS % 7}),
    "buckets": lambda base: LengthBuckets("t", max_tokens=400).bind(base, {"t.count": LENGTHS}),
    "packed": lambda base: PackSequences("t", 64).bind(base, {"t.count": LENGTHS}),
    "mixed": lambda base: Mixture(
        [base.order(), Weighted(LENGTHS).bind(base, {}), Subset(np.arange(SAMPLES - 1000)).bind(base, {})],
        [100, 100, 100],
        [3, 2, 1],
        "first",
    ),
}
DRAWN = ("weighted", "balanced", "mixed")  # draw an epoch when they come to it
PREPARED = {"stratified": (1, SAMPLES), "buckets": (1, SAMPLES)}  # sort or plan it, from all positions


@pytest.mark.parametrize("schedule", [(), ((0, 1), (5000, 2))])
@pytest.mark.parametrize("name", [name for name in ORDERS if name != "buckets"])
def test_no_sampler_works_out_what_came_before(
    name: str, schedule: tuple[tuple[int, int], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_works_out_as_much_anywhere(name, schedule, monkeypatch)


def test_length_buckets_plans_the_epoch_it_is_in_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_works_out_as_much_anywhere("buckets", (), monkeypatch)


def assert_works_out_as_much_anywhere(
    name: str, schedule: tuple[tuple[int, int], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten batches from several places: positions that the shuffled order works out, and epochs that are prepared."""
    located, prepared = [0], [0]

    def locate(order: Order, epoch: int, positions: Ints) -> tuple[Ints, Ints]:
        located[0] += len(positions)
        return whole_locate(order, epoch, positions)

    def counted(build: Callable[..., Any]) -> Callable[..., Any]:
        def prepare(*arguments: Any) -> Any:
            prepared[0] += 1
            return build(*arguments)

        return prepare

    whole_locate = Order._locate
    monkeypatch.setattr(Order, "_locate", locate)
    for kind in (_BoundWeighted, BoundStratified, BoundBuckets):
        monkeypatch.setattr(kind, "_build_epoch", counted(kind._build_epoch))
    share = Share(rank=1, world_size=2, batch_size=2, last_batch="pad", schedule=schedule)
    for epochs, place in ((0, 0), (0, 0.5), (0, 0.99), (7, 0.99)):
        order = ORDERS[name](Base(sizes=np.full(100, SAMPLES // 100), seed=3, window=4, lanes=1))
        start = epochs * order.samples + int(place * order.samples)
        located[0] = prepared[0] = 0
        rows = [share.rows_at(step.consumed - 1) for step in islice(steps(order, share, start), 10)]
        handed_out = sum(rows) + 11 * rows[-1]  # in runs of 1, 4 and 16 batches
        assert (prepared[0], located[0]) == PREPARED.get(name, (name in DRAWN, handed_out))
