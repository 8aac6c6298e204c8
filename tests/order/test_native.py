"""The order's arithmetic in C against the same in numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conformance import PROPERTY
from hypothesis import given
from hypothesis import strategies as st

from fastload.order import hashing, shuffle
from fastload.order.hashing import MASK64, sample_keys
from fastload.order.shuffle import Order


def in_numpy(work: Callable[[], Any]) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        for module in (shuffle, hashing):
            patch.setattr(module, "_order", None)
        return work()


def test_it_is_built() -> None:
    assert shuffle._order is not None, "fastload.order._order is not built: see setup.py"
    assert hashing._order is shuffle._order


@PROPERTY
@given(
    sizes=st.lists(st.one_of(st.integers(0, 70), st.integers(0, 5000)), min_size=1, max_size=30),
    seed=st.integers(-(2**70), 2**70),
    window=st.one_of(st.integers(0, 3), st.integers(0, 40)),
    lanes=st.one_of(st.just(1), st.integers(1, 12)),
    epoch=st.integers(0, 2**40),
)
def test_every_position_lies_where_numpy_finds_it(
    sizes: list[int], seed: int, window: int, lanes: int, epoch: int
) -> None:
    order = Order(sizes, seed=seed, window=window, lanes=lanes)
    positions = np.arange(order.samples)
    if len(positions) > 3000:
        positions = np.random.default_rng(0).integers(0, order.samples, 3000)
    found, expected = order.locate(epoch, positions), in_numpy(lambda: order.locate(epoch, positions))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype == np.int64
        assert ours.tolist() == theirs.tolist()


@PROPERTY
@given(st.integers(1, 2**52), st.integers(0, MASK64), st.integers(1, 7))
def test_domains_of_any_size(samples: int, seed: int, parts: int) -> None:
    rest = samples // parts
    order = Order([samples - rest * (parts - 1), *[rest] * (parts - 1)], seed=seed, window=parts // 2)
    positions = np.unique(np.random.default_rng(seed).integers(0, samples, 100))
    found, expected = order.locate(3, positions[::2]), in_numpy(lambda: order.locate(3, positions[::2]))
    assert [each.tolist() for each in found] == [each.tolist() for each in expected]


@PROPERTY
@given(
    seed=st.integers(-(2**70), 2**70),
    pairs=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**63 - 1)), max_size=30),
    one_epoch=st.booleans(),
)
def test_keys(seed: int, pairs: list[tuple[int, int]], one_epoch: bool) -> None:
    epochs, numbers = np.array([e for e, _ in pairs], np.int64), np.array([n for _, n in pairs], np.int64)
    given_epochs: Any = 5 if one_epoch else epochs
    found = sample_keys(seed, given_epochs, numbers)
    assert found.dtype == np.uint64
    assert found.tolist() == in_numpy(lambda: sample_keys(seed, given_epochs, numbers)).tolist()


def test_numbers_that_no_order_has_give_some_place() -> None:
    assert shuffle._order is not None
    extremes = np.array([-(2**63), -1, 0, 1, 2**52 - 1, 2**52, 2**62, 2**63 - 1], np.int64)
    shards, count = np.arange(2), len(extremes)
    for size in (0, 2, 2**52 + 1, 2**53 + 1, 2**64 - 1):
        for samples, lanes in ((2**63 - 1, 3), (-(2**63), 2**63 - 1), (5, 1)):
            blocks = extremes[::-1].copy(), np.full(count, size, np.uint64), extremes.view(np.uint64)
            out = np.full((2, count), -1)
            ends = extremes[[-1, 0]]
            shuffle._order.locate(extremes, samples, lanes, *blocks, ends, ends, shards, *out)  # type: ignore[arg-type]
            assert set(out[0].tolist()) <= {0, 1}


def test_a_domain_above_the_largest_is_not_walked() -> None:
    """It would be no bijection: some walks would never end."""
    assert shuffle._order is not None
    positions = np.arange(2**52, 2**52 + 100)
    size, zero, out = np.full(1, 2**52 + 100, np.uint64), np.zeros(1, np.int64), np.full((2, 100), -1)
    for key in range(50):
        keys = np.full(1, key, np.uint64)
        shuffle._order.locate(positions, 2**53, 1, zero, size, keys, zero + 2**53, zero, zero, *out)  # type: ignore[arg-type]
        assert not out.any()


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    assert shuffle._order is not None
    one, two = np.zeros(1, np.int64), np.zeros(2, np.int64)
    key = one.view(np.uint64)
    right: list[Any] = [one, 1, 1, one, one, key, one, one, one, one, one]
    for place in (3, 4, 6, 7, 9, 10):
        with pytest.raises(ValueError, match="locate: arrays of other lengths expected"):
            shuffle._order.locate(*[two if at == place else value for at, value in enumerate(right)])
    with pytest.raises(ValueError, match="arrays of 64-bit integers expected"):
        shuffle._order.locate(np.zeros(1, np.int32), *right[1:])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="as many epochs and keys as samples"):
        shuffle._order.sample_keys(0, two, np.zeros(3, np.int64), np.zeros(3, np.uint64))
    with pytest.raises(ValueError, match="as many epochs and keys as samples"):
        shuffle._order.sample_keys(0, two, two, key)
