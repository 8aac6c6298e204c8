"""The order as arithmetic: a bijection in every epoch, its windows and lanes, and the values that must never change."""

from __future__ import annotations

import copy
import pickle
from itertools import pairwise

import numpy as np
import pytest
from conformance import LANES, PROPERTY, SHARDS, WINDOWS, assert_exactly_once, stream_hash
from hypothesis import given
from hypothesis import strategies as st

from fastload.errors import ConfigError
from fastload.order.hashing import combine
from fastload.order.shuffle import DEFAULT_WINDOW, ORDER_VERSION, Order, interleave

SIZES = st.lists(st.integers(0, 12) | st.sampled_from([0, 1, 300]), max_size=40)
SEEDS = st.integers(-(2**70), 2**70)
EPOCHS = st.integers(0, 2**40)


def ids(order: Order, epoch: int = 0) -> list[int]:
    """The sample index at each position of an epoch."""
    shards, rows = order.locate(epoch, np.arange(order.samples))
    return ((np.cumsum(order.sizes) - order.sizes)[shards] + rows).tolist()


def split(samples: int, shards: int) -> list[int]:
    """`samples` over `shards`, as uneven as i and i + 1 in turn, some of them empty where there are few samples."""
    edges = np.arange(shards + 1) ** 2 * samples // shards**2
    return np.diff(edges).tolist()


# Version 1 of the order. A change here changes what saved states resume to: raise ORDER_VERSION with it.
GOLDEN = {
    # samples, shards, seed, window, lanes
    (1003, 1, 0, 0, 1): "daba9484e1c44b8b",
    (1003, 1, 0, 1, 1): "d88786d4e3d7052c",
    (1003, 3, 0, 1, 1): "699c8d9aefba3465",
    (1003, 3, 0, 3, 1): "7431496cf5e3f6c8",
    (1003, 100, 0, 64, 1): "7aec8a9f40bfbf1b",
    (1003, 100, 1, 64, 1): "61e7430e1dedadac",
    (1003, 100, -1, 64, 1): "b31ab3a340836e23",
    (1003, 100, 0, 100, 1): "7faba3e1f0381533",
    (1003, 100, 0, 64, 4): "e57f0cf98a4eb226",
    (1003, 100, 0, 7, 3): "575d70f4377874d4",
    (10, 100, 5, 4, 2): "b860890383e06c2f",
    (10000, 100, 9223372036854775808, 64, 1): "81ed8f47a1989f4b",
    (10000, 1000, 0, 64, 8): "6ab5f4eff77207ef",
}


def test_the_order_of_version_1_never_changes() -> None:
    assert ORDER_VERSION == 1
    now = {}
    for samples, shards, seed, window, lanes in GOLDEN:
        order = Order(split(samples, shards), seed=seed, window=window, lanes=lanes)
        now[samples, shards, seed, window, lanes] = stream_hash(ids(order, 0) + ids(order, 1) + ids(order, 2**33))
    assert now == GOLDEN


def test_a_small_order_written_out() -> None:
    order = Order([3, 1, 0, 4], seed=7, window=2)
    assert [ids(order, epoch) for epoch in range(3)] == [
        [2, 0, 1, 5, 3, 7, 4, 6],
        [0, 1, 3, 2, 7, 4, 6, 5],
        [1, 0, 2, 6, 3, 5, 4, 7],
    ]
    assert ids(Order([3, 1, 0, 4], seed=7, window=0)) == list(range(8))


def test_the_default_window_is_part_of_the_interface() -> None:
    assert DEFAULT_WINDOW == 64


@PROPERTY
@given(SIZES, SEEDS, EPOCHS, st.integers(0, 45), st.integers(1, 40))
def test_every_epoch_has_every_sample_once(sizes: list[int], seed: int, epoch: int, window: int, lanes: int) -> None:
    order = Order(sizes, seed=seed, window=window, lanes=lanes)
    assert order.samples == sum(sizes)
    shards, rows = order.locate(epoch, np.arange(order.samples))
    assert (rows >= 0).all()
    assert (rows < order.sizes[shards]).all()
    assert_exactly_once(ids(order, epoch), order.samples)


@pytest.mark.parametrize("samples", [0, 1, 2, 63, 1003, 10_000])
@pytest.mark.parametrize("shards", SHARDS)
def test_every_epoch_has_every_sample_once_on_the_grid(samples: int, shards: int) -> None:
    for window in WINDOWS:
        for lanes in LANES:
            assert_exactly_once(ids(Order(split(samples, shards), seed=1, window=window, lanes=lanes), 3), samples)


@PROPERTY
@given(SIZES, st.integers(0, 45), st.integers(1, 9), st.data())
def test_positions_in_any_company_are_located_the_same(
    sizes: list[int], window: int, lanes: int, data: st.DataObject
) -> None:
    order = Order(sizes, seed=4, window=window, lanes=lanes)
    pairs = st.tuples(st.integers(0, 3), st.integers(0, max(0, order.samples - 1)))
    asked = data.draw(st.lists(pairs, max_size=20 if order.samples else 0))
    shards, rows = order.locate([epoch for epoch, _ in asked], [position for _, position in asked])
    alone = [order.locate(epoch, [position]) for epoch, position in asked]
    assert shards.tolist() == [int(shard[0]) for shard, _ in alone]
    assert rows.tolist() == [int(row[0]) for _, row in alone]


def open_shards(sequence: np.ndarray) -> int:
    """The most shards at hand at a time, if each is kept from its first sample to its last."""
    first = {shard: at for at, shard in reversed(list(enumerate(sequence)))}
    last = {shard: at for at, shard in enumerate(sequence)}
    change = np.zeros(len(sequence) + 1, np.int64)
    np.add.at(change, list(first.values()), 1)
    np.add.at(change, np.array(list(last.values()), np.int64) + 1, -1)
    return int(np.cumsum(change).max(initial=0))


@PROPERTY
@given(SIZES, SEEDS, st.integers(1, 45))
def test_no_more_than_window_shards_are_at_hand(sizes: list[int], seed: int, window: int) -> None:
    order = Order(sizes, seed=seed, window=window)
    assert open_shards(order.locate(2, np.arange(order.samples))[0]) <= window


@PROPERTY
@given(SIZES, SEEDS, st.integers(1, 45), st.integers(1, 9))
def test_lanes_read_their_own_shards_whatever_the_window(sizes: list[int], seed: int, window: int, lanes: int) -> None:
    order = Order(sizes, seed=seed, window=window, lanes=lanes)
    sequence = order.locate(0, np.arange(order.samples))[0]
    parts = [sequence[lane::lanes] for lane in range(lanes)]
    read = sum(len(np.unique(part)) for part in parts)
    assert read <= len(np.unique(sequence)) + lanes - 1  # at each border one shard may belong to both sides
    assert max(map(open_shards, parts)) <= window + 1  # the window's, and the end of one that the neighbour began


def test_equal_shards_divide_evenly_among_lanes() -> None:
    for window in (1, 10, 16, 64, 100):
        order = Order([50] * 100, seed=0, window=window, lanes=4)
        sequence = order.locate(0, np.arange(5000))[0]
        parts = [set(sequence[lane::4].tolist()) for lane in range(4)]
        assert [len(part) for part in parts] == [25, 25, 25, 25]
        assert len(set.union(*parts)) == 100


def test_blocks_are_evened_out() -> None:
    sequence = Order([10] * 65, seed=0, window=64).locate(0, np.arange(650))[0]
    sizes = [len(np.unique(part)) for part in (sequence[:320], sequence[330:])]
    assert sizes == [32, 33] or sizes == [33, 32]


def test_window_0_reads_as_stored_and_window_1_shard_by_shard() -> None:
    sizes = [5, 0, 1, 7, 2]
    assert ids(Order(sizes, seed=3, window=0), 9) == list(range(15))
    shards, rows = Order(sizes, seed=3, window=1).locate(0, np.arange(15))
    starts = np.flatnonzero(np.diff(shards, prepend=-1))
    assert sorted(shards[starts].tolist()) == [0, 2, 3, 4]
    assert shards[starts].tolist() != [0, 2, 3, 4]
    assert rows.tolist() != sorted(rows.tolist())


def test_a_window_of_all_shards_or_more_is_the_same() -> None:
    sizes = [7] * 9
    orders = [ids(Order(sizes, seed=3, window=window)) for window in (9, 10, 1000, 10**30)]
    assert all(one == other for one, other in pairwise(orders))


def test_another_seed_or_epoch_is_another_order() -> None:
    sizes = [10] * 10
    streams = {tuple(ids(Order(sizes, seed=seed, window=4), epoch)) for seed in range(-3, 4) for epoch in range(20)}
    assert len(streams) == 7 * 20


def test_seeds_of_any_size_and_type() -> None:
    sizes = [10] * 10
    assert ids(Order(sizes, seed=np.int64(-1), window=4)) == ids(Order(sizes, seed=2**64 - 1, window=4))
    assert ids(Order(sizes, seed=-(2**100) - 1, window=4)) == ids(Order(sizes, seed=-1, window=4))
    assert ids(Order(sizes, seed=-1, window=4)) != ids(Order(sizes, seed=1, window=4))


@pytest.mark.parametrize("n", [0, 1, 2, 10, 11, 97])
def test_interleave_goes_round_contiguous_lanes(n: int) -> None:
    for lanes in (1, 2, 3, 4, 7, 10, 97, 98, 10**6):
        p = interleave(np.arange(n), n, lanes)
        assert sorted(p.tolist()) == list(range(n))
        runs = [p[lane::lanes].tolist() for lane in range(min(lanes, n))]
        assert [one for run in runs for one in run] == list(range(n))
        assert max(map(len, runs), default=0) - min(map(len, runs), default=0) <= 1


def test_golden_values_of_interleave() -> None:
    assert interleave(np.arange(10), 10, 4).tolist() == [0, 3, 6, 8, 1, 4, 7, 9, 2, 5]
    assert interleave(np.arange(10), 10, 1).tolist() == list(range(10))
    assert interleave(np.array([10**18 - 1]), 10**18, 7).tolist() == [142857142857142857]


def test_a_thousand_million_samples_are_located_exactly() -> None:
    order = Order([10**6] * 1000, seed=1, window=1000, lanes=3)
    positions = np.unique(np.concatenate([np.arange(5000), 10**9 - 1 - np.arange(5000), np.arange(10**4) * 99_991]))
    shards, rows = order.locate(2**31 + 5, positions)
    assert len(np.unique(shards * 10**6 + rows)) == len(positions)
    assert rows.min() >= 0
    assert rows.max() < 10**6


def test_the_most_samples_there_may_be() -> None:
    order = Order([2**51, 2**51], seed=1, window=2)
    shards, rows = order.locate(0, [0, 1, 2**52 - 1])
    assert len({*zip(shards.tolist(), rows.tolist(), strict=True)}) == 3


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda order: pickle.loads(pickle.dumps(order))])
def test_a_copy_gives_the_same_order(clone: object) -> None:
    order = Order([3, 4, 5], seed=9, window=2, lanes=2)
    ids(order)
    other = clone(order)  # type: ignore[operator]
    assert isinstance(other, Order)
    assert (other.seed, other.window, other.lanes, other.samples) == (9, 2, 2, 12)
    assert ids(other, 5) == ids(order, 5)


def test_an_order_keeps_its_sizes_when_the_callers_array_changes() -> None:
    sizes = np.array([3, 4, 5])
    order = Order(sizes, seed=9, window=2)
    sizes[0] = 1000
    assert_exactly_once(ids(order), 12)


@pytest.mark.parametrize("sizes", [[], [0], [0, 0, 0]])
@pytest.mark.parametrize("window", [0, 1, 64])
def test_nothing_to_read(sizes: list[int], window: int) -> None:
    order = Order(sizes, seed=0, window=window, lanes=3)
    assert order.samples == 0
    assert [part.tolist() for part in order.locate(0, [])] == [[], []]
    with pytest.raises(IndexError, match=r"positions 0 to 0: an epoch has positions in \[0, 0\)"):
        order.locate(0, [0])


@pytest.mark.parametrize("positions", [[-1], [12], [0, 5, 12], [2**62]])
@pytest.mark.parametrize("window", [0, 2])
def test_a_position_outside_the_epoch_is_refused(positions: list[int], window: int) -> None:
    with pytest.raises(IndexError, match=r"positions -?\d+ to -?\d+: an epoch has positions in \[0, 12\)"):
        Order([3, 4, 5], seed=9, window=window).locate(0, positions)


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ([1], {"window": -1}, r"window=-1: pass 0 \(no shuffle\), a number of shards, or 'all'"),
        ([1], {"window": 1.5}, r"window=1\.5: must be an integer, not float"),
        ([1], {"lanes": 0}, "lanes=0: must be at least 1"),
        ([1], {"seed": None}, "seed=None: must be an integer, not NoneType"),
        ([1, -2], {}, r"sizes\[1\]=-2: a shard cannot have fewer than 0 samples"),
        ([1.5, 2], {}, "dtype float64: pass one number of samples per shard"),
        ([[1, 2], [3, 4]], {}, r"sizes of shape \(2, 2\)"),
        (3, {}, r"sizes of shape \(\)"),
        ([2**52, 1], {}, r"the shards hold 4\.504e\+15 samples: at most 2\*\*52"),
        ([2**62] * 4, {}, r"the shards hold 1\.845e\+19 samples: at most 2\*\*52"),
    ],
)
def test_what_cannot_be_ordered_is_refused(sizes: object, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Order(sizes, **{"seed": 0, "window": 1, **options})  # type: ignore[arg-type]


def test_the_key_of_an_epoch_is_not_that_of_its_neighbour_seed() -> None:
    sizes = [1] * 500
    assert ids(Order(sizes, seed=0, window=500), 1) != ids(Order(sizes, seed=1, window=500), 0)
    assert combine(0, 1) != combine(1, 0)
