"""The batches of all ranks: each sample once, as many on each, the same whatever the world size."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from conformance import (
    BATCH_SIZES,
    LANES,
    PROPERTY,
    SHARDS,
    WINDOWS,
    WORLDS,
    assert_equal_batches,
    assert_exactly_once,
    assert_loses_less_than,
    assert_same_global_batches,
    epoch_steps,
    flat,
    global_batches,
    stream_hash,
    walk,
)
from hypothesis import given
from hypothesis import strategies as st

from fastload.order.cursor import PLAN_ROWS, steps
from fastload.order.distribute import LastBatch, Share
from fastload.order.shuffle import Order


def split(samples: int, shards: int) -> list[int]:
    """`samples` over `shards`, larger and larger, the first ones empty where there are few samples."""
    return np.diff(np.arange(shards + 1) ** 2 * samples // shards**2).tolist()


def grid() -> list[tuple[int, int, int, int, int, int]]:
    """World, batch size, samples, shards: all of them; windows and lanes change from one to the next."""
    cases = [
        (world, batch, samples, shards)
        for world, batch, shards in product(WORLDS, BATCH_SIZES, SHARDS)
        for samples in sorted({0, 1, world - 1, 1003, 10_000})
        if samples < 10_000 or world * batch >= 21  # thousands of tiny batches show nothing that 1,003 do not
    ]
    return [(*case, WINDOWS[i % 5], LANES[i % 3]) for i, case in enumerate(cases)]


@pytest.mark.parametrize("last_batch", ["pad", "drop"])
def test_every_sample_once_and_as_many_batches_on_each_rank(last_batch: LastBatch) -> None:
    for world_size, batch_size, samples, shards, window, lanes in grid():
        sizes = split(samples, shards)
        order = Order(sizes, seed=samples, window=window, lanes=lanes)
        ranks = walk(order, sizes, world_size=world_size, batch_size=batch_size, last_batch=last_batch)
        assert_equal_batches(ranks)
        if last_batch == "pad":
            assert_exactly_once(flat(ranks), samples)
        else:
            assert_loses_less_than(flat(ranks), samples, world_size * batch_size)
            assert {len(batch) for batches in ranks for batch in batches} <= {batch_size}


@pytest.mark.parametrize("batch_size", BATCH_SIZES)
def test_partial_has_every_sample_once_and_no_padding(batch_size: int) -> None:
    for samples, shards in product((0, 1, 1003), SHARDS):
        order = Order(split(samples, shards), seed=0, window=4)
        share = Share(rank=0, world_size=1, batch_size=batch_size, last_batch="partial")
        found = list(steps(order, share, 0))
        assert [step.size for step in found] == [len(step.shards) for step in found]
        assert sum(step.size for step in found) == samples
        assert all(step.size == batch_size for step in found[:-1])


@PROPERTY
@given(
    st.sampled_from([1, 2, 3, 4, 8]),
    st.sampled_from(BATCH_SIZES),
    st.integers(20, 300),
    st.integers(0, 9),
    st.sampled_from(LANES),
)
def test_wrap_has_every_sample_once_in_each_epoch_and_only_full_batches(
    world_size: int, batch_size: int, samples: int, window: int, lanes: int
) -> None:
    check_wrap(world_size, batch_size, samples, window, lanes)


@pytest.mark.parametrize(("world_size", "batch_size", "samples"), [(64, 32, 1003), (64, 1, 63), (2, 8, 3), (1, 32, 1)])
def test_wrap_runs_over_several_epochs_where_a_global_batch_is_larger(
    world_size: int, batch_size: int, samples: int
) -> None:
    check_wrap(world_size, batch_size, samples, window=3, lanes=2)


def check_wrap(world_size: int, batch_size: int, samples: int, window: int, lanes: int) -> None:
    """Three runs under "wrap", each to the end of the epoch that it begins in, or past it."""
    sizes = split(samples, 7)
    order = Order(sizes, seed=1, window=window, lanes=lanes)
    ranks = walk(
        order, sizes, world_size=world_size, batch_size=batch_size, last_batch="wrap", epochs=3, with_epoch=True
    )
    assert_equal_batches(ranks)
    assert {len(batch) for batches in ranks for batch in batches} == {batch_size}
    read = flat(ranks)
    assert len(read) >= 3 * samples
    complete = len(read) // samples * samples
    assert_exactly_once([one for one in read if one < complete], complete)
    assert_exactly_once(read, set(read))


@pytest.mark.parametrize("last_batch", ["pad", "drop", "wrap"])
def test_a_thousand_samples_on_64_ranks_of_32(last_batch: LastBatch) -> None:
    sizes = split(1000, 10)
    order = Order(sizes, seed=0, window=64)
    ranks = walk(order, sizes, world_size=64, batch_size=32, last_batch=last_batch)
    assert [len(batches) for batches in ranks] == [0 if last_batch == "drop" else 1] * 64


def test_fewer_samples_than_ranks_still_give_every_rank_a_batch() -> None:
    order = Order([5], seed=0, window=1)
    found = [list(steps(order, Share(rank=rank, world_size=8, batch_size=2, last_batch="pad"), 0)) for rank in range(8)]
    assert [[(step.size, len(step.rows), step.consumed) for step in each] for each in found] == [
        [(2, 1, 5)] if rank < 5 else [(2, 0, 5)] for rank in range(8)
    ]


@pytest.mark.parametrize("last_batch", ["pad", "drop", "wrap"])
@pytest.mark.parametrize("global_batch", [24, 64])
@pytest.mark.parametrize("samples", [12, 23, 1003])
def test_the_same_global_batches_at_any_world_size(last_batch: LastBatch, global_batch: int, samples: int) -> None:
    for shards, window, lanes in [(1, 0, 1), (3, 1, 2), (100, 64, 4), (100, 100, 1)]:
        sizes = split(samples, shards)
        order = Order(sizes, seed=11, window=window, lanes=lanes)

        def run(world: int) -> list[list[list[int]]]:
            size = global_batch // world
            return walk(order, sizes, world_size=world, batch_size=size, last_batch=last_batch, epochs=3)  # noqa: B023

        alone = run(1)
        for world in (2, 3, 4, 8, global_batch):
            if global_batch % world == 0:
                assert_same_global_batches(run(world), alone)


# Version 1 of the order: hashes of what all ranks read in three runs from 0. Saved states rely on it.
STREAMS: dict[tuple[int, LastBatch], str] = {
    (8, "pad"): "e0efc6cceacbfc49",
    (8, "drop"): "0bb00529ca5316f7",
    (8, "wrap"): "de0f991e9a530e56",
    (64, "pad"): "e0efc6cceacbfc49",
    (64, "drop"): "08900f593cebab0c",
    (64, "wrap"): "8725ef2b73d4454b",
    (256, "pad"): "e0efc6cceacbfc49",
    (256, "drop"): "5991dad3d1685f3d",
    (256, "wrap"): "8725ef2b73d4454b",
}


@pytest.mark.parametrize(("global_batch", "last_batch"), STREAMS)
def test_the_stream_of_version_1_never_changes(global_batch: int, last_batch: LastBatch) -> None:
    sizes = split(1003, 20)
    order = Order(sizes, seed=42, window=5, lanes=2)
    for world_size in (1, 2, 8):
        ranks = walk(
            order,
            sizes,
            world_size=world_size,
            batch_size=global_batch // world_size,
            last_batch=last_batch,
            epochs=3,
            with_epoch=True,
        )
        read = [one for batch in global_batches(ranks) for one in batch]
        assert stream_hash(read) == STREAMS[global_batch, last_batch]


@PROPERTY
@given(
    st.sampled_from(["pad", "drop", "wrap"]),
    st.sampled_from(WORLDS),
    st.sampled_from(BATCH_SIZES),
    st.integers(0, 1100),
    st.integers(0, 5000),
)
def test_batches_left_is_the_number_of_batches_seen_from_anywhere(
    last_batch: LastBatch, world_size: int, batch_size: int, samples: int, consumed: int
) -> None:
    order = Order(split(samples, 7), seed=0, window=3)
    for rank in {0, world_size - 1}:
        share = Share(rank=rank, world_size=world_size, batch_size=batch_size, last_batch=last_batch)
        assert len(list(steps(order, share, consumed))) == share.batches_left(samples, consumed)


def test_steps_say_where_each_row_comes_from_and_what_is_consumed() -> None:
    order = Order([4, 6], seed=0, window=0)
    share = Share(rank=1, world_size=2, batch_size=2, last_batch="wrap")
    found = list(steps(order, share, 0))
    assert [(s.epochs.tolist(), s.shards.tolist(), s.rows.tolist(), s.size, s.consumed) for s in found] == [
        ([0, 0], [0, 0], [1, 3], 2, 4),
        ([0, 0], [1, 1], [1, 3], 2, 8),
        ([0, 1], [1, 0], [5, 1], 2, 12),
    ]


@pytest.mark.parametrize("batch_size", [1, 100, PLAN_ROWS, 3 * PLAN_ROWS])
def test_planning_in_runs_changes_nothing(batch_size: int) -> None:
    order = Order([1000] * 30, seed=0, window=4)
    share = Share(rank=0, world_size=1, batch_size=batch_size, last_batch="partial")
    planned = list(steps(order, share, 0))
    shards, rows = order.locate(0, np.arange(30_000))
    assert np.array_equal(np.concatenate([step.shards for step in planned]), shards)
    assert np.array_equal(np.concatenate([step.rows for step in planned]), rows)
    assert [step.consumed for step in planned] == [*range(batch_size, 30_000, batch_size), 30_000]


def test_4096_ranks_share_ten_million_samples() -> None:
    order = Order([10_000] * 1000, seed=0, window=64, lanes=512)
    seen = np.zeros(order.samples, np.int8)
    counts = set()
    for rank in range(0, 4096, 512):  # eight of them, all in lane 0
        share = Share(rank=rank, world_size=4096, batch_size=32, last_batch="pad")
        found = list(steps(order, share, 0))
        counts.add(len(found))
        for step in found:
            seen[step.shards * 10_000 + step.rows] += 1
    assert counts == {77}  # 10**7 / 131072, rounded up
    assert seen.max() == 1
    read = np.flatnonzero(seen)
    assert abs(len(read) - 8 * 10**7 // 4096) <= 8
    assert len(np.unique(read // 10_000)) <= 3  # of 1,000 shards: 1.95 a lane


def test_epochs_beyond_two_to_the_31st() -> None:
    order = Order([300] * 5, seed=0, window=2)
    share = Share(rank=0, world_size=1, batch_size=7, last_batch="wrap")
    start = 1500 * 2**33 - 3
    step = next(epoch_steps(order, share, 1, consumed=start))
    assert step.epochs.tolist() == [2**33 - 1] * 3 + [2**33] * 4
    assert step.consumed == start + 7
