from __future__ import annotations

import math

import numpy as np
import pytest
from conformance import PROPERTY, chi_squared_z, correlation_z, placement_z, stream_hash
from hypothesis import given
from hypothesis import strategies as st

from fastload.order.hashing import MASK64, combine_array
from fastload.order.permute import MAX_DOMAIN, permute

KEYS = (0, 1, 2**63, MASK64)


def test_golden_values() -> None:
    assert permute(np.arange(10), 10, 0).tolist() == [5, 2, 1, 7, 3, 4, 0, 9, 8, 6]
    assert permute(np.arange(10), 10, 12345).tolist() == [8, 5, 2, 9, 0, 1, 3, 7, 6, 4]
    assert permute([0, 1, 2], 10**9, 7).tolist() == [937616360, 167513312, 429002042]
    assert permute([0, 2**52 - 1], 2**52, 7).tolist() == [1673347476551727, 1944328421849300]
    assert stream_hash(permute(np.arange(1003), 1003, 99)) == "e7dacdab4f083ede"
    assert stream_hash(permute(np.arange(4097), 4097, 99)) == "b1f1b9f422aa2720"


def test_every_n_up_to_200_is_permuted() -> None:
    for n in range(1, 201):
        for key in KEYS:
            assert sorted(permute(np.arange(n), n, key).tolist()) == list(range(n)), (n, key)


@pytest.mark.parametrize("n", [255, 256, 257, 1023, 1024, 1025, 4095, 4096, 4097, 65537, 100_003])
def test_every_n_around_a_power_of_two_is_permuted(n: int) -> None:
    assert np.array_equal(np.sort(permute(np.arange(n), n, 5)), np.arange(n))


@PROPERTY
@given(st.integers(1, MAX_DOMAIN), st.integers(0, MASK64), st.integers(0, MASK64))
def test_large_domains_are_permuted_as_far_as_a_sample_shows(n: int, key: int, offset: int) -> None:
    start = offset % n
    x = np.unique(np.concatenate([np.arange(start, min(n, start + 500)), np.arange(min(n, 500)), [n - 1]]))
    y = permute(x, n, key)
    assert y.dtype == np.int64
    assert y.min() >= 0
    assert y.max() < n
    assert len(np.unique(y)) == len(x)


@PROPERTY
@given(st.lists(st.tuples(st.integers(1, 2**40), st.integers(0, MASK64), st.integers(0, 2**40)), max_size=30))
def test_each_element_in_its_own_domain_goes_where_it_goes_alone(cases: list[tuple[int, int, int]]) -> None:
    x = [position % n for n, _, position in cases]
    together = permute(
        np.array(x, np.int64),
        np.array([n for n, _, _ in cases], np.int64),
        np.array([k for _, k, _ in cases], np.uint64),
    )
    alone = [int(permute([at], n, key)[0]) for at, (n, key, _) in zip(x, cases, strict=True)]
    assert together.tolist() == alone


def test_rows_of_many_domains_are_permutations_each() -> None:
    sizes = np.arange(1, 120)
    n = np.repeat(sizes, sizes)
    x = np.concatenate([np.arange(size) for size in sizes])
    y = permute(x, n, combine_array(3, n))
    for part, size in zip(np.split(y, np.cumsum(sizes)[:-1]), sizes, strict=True):
        assert sorted(part.tolist()) == list(range(size))


def test_arguments_are_not_written_to() -> None:
    x = np.arange(50, dtype=np.uint64)
    permute(x, 50, 1)
    assert np.array_equal(x, np.arange(50))


@pytest.mark.parametrize("source", ["consecutive", "hashed"])
@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_all_permutations_of_a_few_elements_are_equally_frequent(n: int, source: str) -> None:
    count = 300 * math.factorial(n)
    keys = np.arange(count, dtype=np.uint64) if source == "consecutive" else combine_array(1, np.arange(count))
    images = permute(np.tile(np.arange(n), count), n, np.repeat(keys, n)).reshape(count, n)
    codes = images @ (n ** np.arange(n))
    found, counts = np.unique(codes, return_counts=True)
    assert len(found) == math.factorial(n)
    assert abs(chi_squared_z(counts, 300)) < 4


@pytest.mark.parametrize("n", [6, 40, 64, 65, 100, 128, 200])
def test_each_element_goes_everywhere_equally_often(n: int) -> None:
    keys = 100 * n
    images = permute(np.tile(np.arange(n), keys), n, np.repeat(combine_array(2, np.arange(keys)), n)).reshape(keys, n)
    counts = np.array([np.bincount(images[:, x], minlength=n) for x in range(n)])
    assert abs(placement_z(counts, keys)) < 4


@pytest.mark.parametrize("n", [10**5, 2**17, 2**17 + 1])
def test_images_and_their_inverse_show_no_trend(n: int) -> None:
    y = permute(np.arange(n), n, 11)
    inverse = np.argsort(y)
    for row in (y, inverse):
        assert abs(correlation_z(row, np.arange(n))) < 4
        for lag in (1, 2, 3, 64, 1000):
            assert abs(correlation_z(row[:-lag], row[lag:])) < 4
    fixed = int((y == np.arange(n)).sum())
    assert fixed <= 8  # Poisson with mean 1: more has p = 1e-6


@pytest.mark.parametrize("n", [10**9, 2**40, 2**40 + 1, 2**52])
def test_images_of_neighbours_in_a_large_domain_are_uniform(n: int) -> None:
    y = permute(np.arange(20_000), n, 3)
    assert abs(chi_squared_z(np.histogram(y, 100, (0, n))[0], 200)) < 4
    assert abs(chi_squared_z(np.bincount(y % 97, minlength=97), 20_000 / 97)) < 4
    assert abs(correlation_z(y[:-1], y[1:])) < 4


def test_neighbouring_keys_give_independent_permutations() -> None:
    n = 10_000
    images = [permute(np.arange(n), n, key) for key in range(6)]
    for one in range(6):
        for another in range(one):
            assert abs(correlation_z(images[one], images[another])) < 4
            assert int((images[one] == images[another]).sum()) <= 8  # Poisson with mean 1


@pytest.mark.parametrize(("x", "n"), [([0], 0), ([5], 5), ([1, 7], 5), ([-1], 5), ([2**60], 3)])
def test_an_element_outside_the_domain_is_refused(x: list[int], n: int) -> None:
    with pytest.raises(ValueError, match=rf"permute of {max(x, key=abs)}: must be in \[0, n\)"):
        permute(np.array(x, np.int64), n, 1)


def test_a_domain_above_the_largest_is_refused() -> None:
    with pytest.raises(ValueError, match="permute over 4503599627370497 elements: at most 4503599627370496"):
        permute([0], 2**52 + 1, 1)


def test_rows_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="broadcast"):
        permute([0], 5, np.arange(3, dtype=np.uint64))


def test_nothing_is_permuted_to_nothing() -> None:
    assert permute([], 0, 1).tolist() == []
    assert permute([], 10, 1).dtype == np.int64


@pytest.mark.parametrize("n", [1, 2, 3, 5, 31, 32, 33, 63, 64, 65])
def test_few_elements_of_one_domain_go_where_they_go_among_others(n: int) -> None:
    for key in (0, 1, 0x1234_5678_9ABC_DEF0):
        together = permute(np.arange(n), np.full(n, n), np.full(n, key, np.uint64))
        assert permute(np.arange(n), n, np.uint64(key)).tolist() == together.tolist()
