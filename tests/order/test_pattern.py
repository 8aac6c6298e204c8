"""Which source comes when: shares of every prefix, the arithmetic of positions, and what each rank is dealt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pytest
from conformance import PROPERTY, assert_exactly_once
from hypothesis import given
from hypothesis import strategies as st

from fastload.errors import ConfigError
from fastload.order.pattern import Composed, Pattern, counts_of, even_pattern

COUNTS = st.lists(st.integers(1, 40), min_size=1, max_size=9)


class Mixed(Composed):
    def __init__(self, counts: list[int], parts: Mapping[int, Composed] | None = None) -> None:
        self.pattern, self.parts = Pattern(counts), parts or {}


def shares(pattern: np.ndarray, sources: int) -> np.ndarray:
    """How many of each source come before each place, [L + 1, sources]."""
    hot = np.arange(sources) == pattern[:, None]
    return np.concatenate([np.zeros((1, sources), np.int64), np.cumsum(hot, 0)])


@PROPERTY
@given(st.lists(st.integers(0, 40), min_size=1, max_size=9).filter(any))
def test_every_prefix_has_each_share_within_one_and_any_run_within_two(counts: list[int]) -> None:
    pattern, total = even_pattern(counts), sum(counts)
    assert np.bincount(pattern, minlength=len(counts)).tolist() == counts
    before = shares(pattern, len(counts)) * total  # times L, to stay in whole numbers
    off = before - np.arange(total + 1)[:, None] * np.array(counts)
    assert abs(off).max() < total
    worst = (off.max(0) - off.min(0)).max()  # of any run, as the difference of two prefixes
    assert worst < (2 * total if sum(map(bool, counts)) > 2 else total)


def test_a_thousand_small_sources_do_not_wait_for_a_large_one() -> None:
    pattern = even_pattern([1000] + [1] * 1000)
    for i in range(0, 2001, 50):
        assert abs(int((pattern[:i] == 0).sum()) - i / 2) < 1


def test_golden_patterns() -> None:
    assert even_pattern([1, 1]).tolist() == [0, 1]
    assert even_pattern([3, 1]).tolist() == [0, 0, 1, 0]
    assert even_pattern([5, 3, 2]).tolist() == [0, 1, 0, 2, 0, 1, 0, 2, 0, 1]


@PROPERTY
@given(COUNTS, st.integers(0, 10**12))
def test_positions_numbers_and_counts_agree(counts: list[int], start: int) -> None:
    pattern, length = Pattern(counts), sum(counts)
    g = np.arange(start, start + 2 * length + 3)
    sources, numbers = pattern.locate(g)
    assert pattern.position(sources, numbers).tolist() == g.tolist()
    for at in (0, 1, length // 2, length, 2 * length + 2):
        seen = pattern.before(start + at) - pattern.before(start)
        assert seen.tolist() == np.bincount(sources[:at], minlength=len(counts)).tolist()
    for source in range(len(counts)):  # numbers count on without a gap
        own = numbers[sources == source]
        assert own.tolist() == list(range(int(own[0]), int(own[0]) + len(own)))
        assert own[0] == pattern.before(start)[source]


@PROPERTY
@given(COUNTS, st.integers(0, 1000), st.integers(0, 200), st.sampled_from([1, 2, 3, 8, 64]))
def test_a_deal_is_exact_and_gives_each_rank_its_share_of_each_source(
    counts: list[int], start: int, size: int, world_size: int
) -> None:
    mixed = Mixed(counts)
    dealt = [mixed.deal(start, start + size, rank, world_size) for rank in range(world_size)]
    assert_exactly_once((one for part in dealt for one in part.tolist()), range(start, start + size))
    sizes = [len(part) for part in dealt]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[-1] <= 1
    there = Counter(mixed.pattern.locate(np.arange(start, start + size))[0].tolist())
    for part in dealt:
        assert part.tolist() == sorted(part.tolist())
        got = Counter(mixed.pattern.locate(part)[0].tolist())
        for source in range(len(counts)):
            assert there[source] // world_size <= got[source] <= -(-there[source] // world_size)


@PROPERTY
@given(COUNTS, COUNTS, st.integers(0, 500), st.integers(1, 20), st.sampled_from([2, 3, 8]))
def test_a_deal_reaches_into_sources_that_are_mixed_themselves(
    outer: list[int], inner: list[int], start: int, batch: int, world_size: int
) -> None:
    inside = Mixed(inner)
    mixed = Mixed(outer, {0: inside})
    stop = start + batch * world_size

    def leaves(positions: np.ndarray) -> Counter[tuple[int, int]]:
        sources, numbers = mixed.pattern.locate(positions)
        own = inside.pattern.locate(numbers)[0]
        return Counter(
            (source, leaf if source == 0 else -1) for source, leaf in zip(sources.tolist(), own.tolist(), strict=True)
        )

    dealt = [mixed.deal(start, stop, rank, world_size) for rank in range(world_size)]
    assert_exactly_once((one for part in dealt for one in part.tolist()), range(start, stop))
    there = leaves(np.arange(start, stop))
    for part in dealt:
        got = leaves(part)
        for leaf, count in there.items():
            assert count // world_size <= got[leaf] <= -(-count // world_size)


@pytest.mark.parametrize(
    ("counts", "world_size", "batch"),
    [
        ([1, 1], 2, 1),
        ([1, 1, 1], 3, 2),
        ([2, 1, 1], 2, 1),
        ([1, 1, 1, 1], 4, 3),
        ([3, 1], 4, 1),
        ([5001, 2499, 2500], 2, 1),
    ],
)
def test_no_rank_is_left_without_a_source(counts: list[int], world_size: int, batch: int) -> None:
    """Every world_size-th position would give a rank of these one source only, or never some."""
    mixed, batches = Mixed(counts), 2000
    for rank in range(world_size):
        got = np.zeros(len(counts))
        for k in range(batches):
            start = k * world_size * batch
            positions = mixed.deal(start, start + world_size * batch, rank, world_size)
            got += np.bincount(mixed.pattern.locate(positions)[0], minlength=len(counts))
        share = np.array(counts) / sum(counts)
        deviation = np.sqrt(batches * batch * share * (1 - share))  # of independent draws; these vary less
        assert (abs(got - batches * batch * share) < 4 * deviation).all(), got


@pytest.mark.parametrize(
    ("weights", "counts"),
    [
        ([0.7, 0.3], [7, 3]),
        ([24, 8], [3, 1]),
        ([1, 1, 1], [1, 1, 1]),
        ([1 / 3, 2 / 3], [1, 2]),
        ([np.float32(0.5), np.int64(1)], [1, 2]),
        ([1e9, 1e9], [1, 1]),
        ([2**0.5, 3**0.5], [4495, 5505]),
        ([9999, 1], [9999, 1]),
        ([1 / 15000, 1 / 5000], [2500, 7500]),  # the first is nearest to 1 / 10,000, of small fractions
        ([0.000145, 0.999855], [1, 6896]),
        ([1e308, 1e308], [1, 1]),
    ],
)
def test_weights_as_whole_numbers(weights: list[float], counts: list[int]) -> None:
    assert counts_of(weights, most=10_000) == counts


def test_many_odd_weights_are_met_to_one_in_ten_thousand() -> None:
    weights = np.random.default_rng(0).uniform(0.1, 1, 30)
    counts = np.array(counts_of(weights.tolist(), most=10_000))
    assert abs(counts / counts.sum() - weights / weights.sum()).max() < 1e-4


@pytest.mark.parametrize("weights", [[], [1, 0], [1, -1], [1, float("nan")], [1, float("inf")], [1, "2"], [True, True]])
def test_weights_that_are_none_are_refused(weights: list[float]) -> None:
    with pytest.raises(ConfigError, match=r"Mix: weights \[.*\]; pass a positive number for each source"):
        counts_of(weights, most=10_000)


def test_a_weight_too_small_for_the_pattern_is_refused() -> None:
    with pytest.raises(ConfigError, match="weight 1e-06 is less than 1 in 20,000 of the sum"):
        counts_of([1, 1e-6], most=10_000)
