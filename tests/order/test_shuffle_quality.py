"""How well the order mixes: statistics on fixed seeds, each against what ideal draws would give.

Thresholds are in standard deviations of a normal variable: 4 has p = 6e-5.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from conformance import chi_squared_z, correlation_z, placement_z

from fastload.order.quality import expected_distinct
from fastload.order.shuffle import Order


@pytest.mark.parametrize("window", [1, 4, 16, 64, 256])
@pytest.mark.parametrize("lanes", [1, 2, 4])
@pytest.mark.parametrize("global_batch", [32, 256])
def test_a_batch_draws_from_as_many_shards_as_its_window_allows(window: int, lanes: int, global_batch: int) -> None:
    shards, rows = 1024, 256  # so that each lane's batches lie in one block each
    order = Order([rows] * shards, seed=5, window=window, lanes=lanes)
    drawn = order.locate(0, np.arange(order.samples))[0].reshape(-1, global_batch)
    distinct = np.array([len(np.unique(batch)) for batch in drawn])
    allowed = lanes * expected_distinct([rows] * window, global_batch // lanes)
    assert distinct.mean() >= 0.99 * allowed  # the promise is 0.95; ideal draws stay within 0.99 of their own mean here
    assert distinct.mean() <= 1.01 * allowed
    assert distinct.min() >= 0.5 * allowed  # ideal draws fall below once in a thousand such tests, at most


@pytest.mark.parametrize("global_batch", [32, 256])
def test_uneven_shards_are_mixed_as_well(global_batch: int) -> None:
    sizes = (np.arange(100) % 10 * 50 + 1).tolist() + [0] * 20  # 1 to 451 rows, and empty ones
    order = Order(sizes, seed=5, window=120)
    drawn = order.locate(0, np.arange(order.samples // global_batch * global_batch))[0].reshape(-1, global_batch)
    distinct = np.array([len(np.unique(batch)) for batch in drawn])
    assert abs(distinct.mean() / expected_distinct(sizes, global_batch) - 1) < 0.01


def places(order: Order, epochs: int) -> np.ndarray:
    """int64 [n, n]: how often each sample stood at each position."""
    n = order.samples
    starts = np.cumsum(order.sizes) - order.sizes
    counts = np.zeros((n, n), np.int64)
    for epoch in range(epochs):
        shards, rows = order.locate(epoch, np.arange(n))
        counts[starts[shards] + rows, np.arange(n)] += 1
    return counts


@pytest.mark.parametrize(("window", "lanes"), [(1, 1), (2, 1), (4, 1), (1, 2), (4, 2)])
def test_every_sample_comes_to_every_position_equally_often(window: int, lanes: int) -> None:
    epochs = 1280
    counts = places(Order([16] * 4, seed=1, window=window, lanes=lanes), epochs)
    # Chi-squared of each sample alone; of all together only where an epoch is one permutation without structure.
    assert max(abs(chi_squared_z(row, epochs / 64)) for row in counts) < 4.5
    if (window, lanes) == (4, 1):
        assert abs(placement_z(counts, epochs)) < 4


def test_shards_come_to_every_place_equally_often() -> None:
    epochs = 2000
    counts = places(Order([1] * 20, seed=-8, window=1), epochs)
    assert abs(placement_z(counts, epochs)) < 4


@pytest.mark.parametrize("lanes", [1, 4])
def test_a_global_shuffle_has_no_serial_correlation(lanes: int) -> None:
    order = Order([500] * 200, seed=2, window=200, lanes=lanes)
    for epoch in range(3):
        shards, rows = order.locate(epoch, np.arange(order.samples))
        ids = shards * 500 + rows
        for lag in (1, 2, 3, 4, 32, 256):
            limit = 4 if lanes == 1 else 4 * math.sqrt(2)  # samples of one lane share its shards, by chance near ones
            assert abs(correlation_z(ids[:-lag], ids[lag:])) < limit
            assert abs(correlation_z(rows[:-lag], rows[lag:])) < 4


@pytest.mark.parametrize("window", [1, 4, 64])
def test_rows_inside_a_window_have_no_serial_correlation(window: int) -> None:
    order = Order([500] * 200, seed=2, window=window)
    for epoch in range(3):
        rows = order.locate(epoch, np.arange(order.samples))[1]
        for lag in (1, 2, 3, 32, 256):
            assert abs(correlation_z(rows[:-lag], rows[lag:])) < 4


def test_neighbours_share_a_shard_as_often_as_in_ideal_draws() -> None:
    order = Order([250] * 256, seed=2, window=64)
    same = chance = 0.0
    for epoch in range(4):
        blocks = order.locate(epoch, np.arange(order.samples))[0].reshape(4, -1)  # [block, sample]
        same += float((blocks[:, 1:] == blocks[:, :-1]).sum())
        chance += (blocks.size - 4) * (250 - 1) / (64 * 250 - 1)
    assert abs(same - chance) / math.sqrt(chance) < 4


@pytest.mark.parametrize("window", [4, 64, 200])
def test_epochs_and_seeds_are_independent_of_each_other(window: int) -> None:
    positions = []
    for seed, epoch in [(0, 0), (0, 1), (0, 2), (1, 0), (-1, 0), (0, 2**32)]:
        order = Order([1] * 20_000, seed=seed, window=window)
        positions.append(order.locate(epoch, np.arange(20_000))[0])
    for one in range(len(positions)):
        for another in range(one):
            assert abs(correlation_z(positions[one], positions[another])) < 4
            assert int((positions[one] == positions[another]).sum()) <= 8  # Poisson with mean 1: more has p = 1e-6


def test_each_epoch_has_another_order_and_other_companions() -> None:
    order = Order([100] * 64, seed=0, window=64)
    batches = []
    for epoch in range(8):
        shards, rows = order.locate(epoch, np.arange(6400))
        batches.append((shards * 100 + rows).reshape(-1, 64))
    shared = [
        len(np.intersect1d(one, other)) for one in batches[0] for epoch in range(1, 8) for other in batches[epoch][:20]
    ]
    # Two batches of 64 out of 6,400 have 0.64 samples in common in the mean.
    assert abs(float(np.mean(shared)) - 0.64) < 0.03
    assert max(shared) <= 8
