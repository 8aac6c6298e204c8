"""The arithmetic of mixing, against counting and drawing."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastload.order.quality import Mixing, blocks_of, expected_distinct, mixing
from fastload.order.sampler import Base, Subset
from fastload.order.shuffle import Order

Sizes = st.lists(st.integers(0, 12), min_size=1, max_size=8).filter(any)


@given(Sizes, st.integers(1, 40))
def test_expected_distinct_is_the_mean_over_all_draws(sizes: list[int], draws: int) -> None:
    total = sum(sizes)
    k = min(draws, total)
    exact = sum(1 - Fraction(math.comb(total - size, k), math.comb(total, k)) for size in sizes)
    assert expected_distinct(sizes, draws) == pytest.approx(float(exact), rel=1e-9)


@given(Sizes, st.integers(1, 9), st.integers(1, 4), st.integers(0, 3))
def test_blocks_hold_every_sample_of_every_shard_once(sizes: list[int], window: int, lanes: int, epoch: int) -> None:
    order = Order(sizes, seed=3, window=window, lanes=lanes)
    blocks = blocks_of(order, epoch)
    found = np.zeros(len(sizes), np.int64)
    for samples, (shards, inside) in zip(blocks.samples.tolist(), blocks.shards, strict=True):
        assert inside.sum() == samples
        found[shards] += inside
    assert found.tolist() == sizes
    assert blocks.lane.tolist() == sorted(blocks.lane.tolist())


def test_a_blocks_shards_are_those_that_its_positions_come_from() -> None:
    order = Order([7, 3, 9, 5, 6, 4], seed=1, window=2)
    shards, _ = order.locate(0, np.arange(order.samples))
    at = 0
    for samples, (inside, _) in zip(blocks_of(order).samples.tolist(), blocks_of(order).shards, strict=True):
        assert set(shards[at : at + samples].tolist()) == set(inside.tolist())
        at += samples


@pytest.mark.parametrize(("window", "lanes"), [(4, 1), (16, 1), (8, 2), (64, 1)])
def test_what_is_found_is_what_the_window_allows(window: int, lanes: int) -> None:
    sizes = [256] * 128
    found = mixing(Order(sizes, seed=5, window=window, lanes=lanes), sizes, 64)
    assert found is not None
    assert found.window_allows is not None
    assert found.found == pytest.approx(found.window_allows, rel=0.04)
    assert found.window_allows <= min(window * lanes, found.most)
    assert found.most == pytest.approx(expected_distinct(sizes, 64))


def test_without_a_shuffle_nothing_is_allowed_and_little_found() -> None:
    found = mixing(Order([100] * 10, seed=0, window=0), [100] * 10, 50)
    assert found == Mixing(found=1.0, window_allows=None, most=expected_distinct([100] * 10, 50))


def test_of_a_sampler_only_what_it_does_is_known() -> None:
    base = Base(sizes=np.full(10, 20, np.int64), seed=0, window=10, lanes=1)
    found = mixing(Subset(range(0, 200, 2)).bind(base, {}), base.sizes, 10)
    assert found is not None
    assert found.window_allows is None
    assert 4 < found.found <= 10


def test_where_there_is_no_whole_batch_there_is_no_figure() -> None:
    assert mixing(Order([5, 5], seed=0, window=2), [5, 5], 11) is None
