from __future__ import annotations

import numpy as np
import pytest
from conformance import PROPERTY, chi_squared_z, correlation_z
from hypothesis import given
from hypothesis import strategies as st

from fastload.order.hashing import (
    GOLDEN,
    MASK64,
    combine,
    combine_array,
    combine_word,
    draw,
    mix64,
    mix64_array,
    sample_keys,
)

U64 = st.integers(0, MASK64)
I64 = st.integers(-(2**63), 2**63 - 1)
ANY = st.integers(-(2**200), 2**200)


def test_mix64_gives_the_published_stream_of_splitmix64() -> None:
    stream = [mix64((1234567 + GOLDEN * i) & MASK64) for i in range(1, 6)]
    assert stream == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert mix64(GOLDEN) == 0xE220A8397B1DCDAF


def test_golden_values() -> None:
    assert combine() == 0
    assert combine(0) == 16294208416658607535
    assert combine(1, 2, 3) == 15020427595393229491
    assert combine(-1) == combine(MASK64) == 16490336266968443936
    assert sample_keys(42, [0, 0, 1], [0, 1, 0]).tolist() == [
        7138415436909018950,
        13151335708014940318,
        10646091845267208524,
    ]
    assert draw(combine(42, 0, 7), 1, 0) == 0.2630340912903869


@PROPERTY
@given(U64)
def test_mix64_of_an_array_is_mix64_of_each(x: int) -> None:
    assert mix64_array(np.array([[x, 0]], np.uint64)).tolist() == [[mix64(x), 0]]
    assert int(mix64_array(np.array(x, np.uint64))) == mix64(x)


@PROPERTY
@given(ANY, st.lists(I64, max_size=5))
def test_combine_array_continues_combine(first: int, words: list[int]) -> None:
    keys = combine_array(combine(first), np.array(words, np.int64))
    assert keys.dtype == np.uint64
    assert keys.tolist() == [combine(first, word) for word in words]


@PROPERTY
@given(ANY, I64, I64)
def test_one_number_hashes_like_an_array_of_one(seed: int, epoch: int, sample: int) -> None:
    key = combine(seed, epoch, sample)
    assert int(combine_array(combine(seed, epoch), sample)) == key
    assert sample_keys(seed, epoch, [sample]).tolist() == [key]
    assert sample_keys(seed, [epoch], [sample]).tolist() == [key]
    assert combine_word(combine(seed, epoch), sample) == key


@PROPERTY
@given(U64, I64, st.integers(0, 2**31))
def test_numpy_integers_hash_like_pythons(key: int, word: int, number: int) -> None:
    assert combine(np.uint64(key), np.int64(word)) == combine(key, word)
    assert draw(np.uint64(key), np.int64(5), np.int32(number % 2**31)) == draw(key, 5, number % 2**31)


def test_seeds_count_modulo_two_to_the_64th() -> None:
    assert combine(2**64 + 5) == combine(5)
    assert combine(-(2**64)) == combine(0)


def test_the_order_and_number_of_words_matter() -> None:
    words = [(), (0,), (0, 0), (0, 1), (1, 0), (1,), (2,), (0, 0, 1), (0, 1, 0), (1, 0, 0)]
    assert len({combine(*each) for each in words}) == len(words)


@pytest.mark.parametrize("words", [[1.5], [-1, 2**63], ["a"], [2**64]])
def test_what_would_be_rounded_is_refused(words: list[object]) -> None:
    with pytest.raises(TypeError, match=r"words to hash have dtype .*: pass integers"):
        combine_array(1, words)


def test_no_two_of_300_000_samples_share_a_key() -> None:
    epochs, samples = np.divmod(np.arange(300_000), 1000)
    assert len(np.unique(sample_keys(0, epochs, samples))) == 300_000


def test_every_input_bit_flips_every_output_bit_half_of_the_time() -> None:
    x = mix64_array(np.arange(2000, dtype=np.uint64))
    for bit in range(64):
        flipped = mix64_array(x) ^ mix64_array(x ^ np.uint64(1 << bit))
        shares = [((flipped >> np.uint64(out)) & np.uint64(1)).mean() for out in range(64)]
        assert max(abs(share - 0.5) for share in shares) < 0.06  # 5.4 standard deviations of 2000 tosses


# Draws: 20 samples x 8 operations x 16 numbers x 10 epochs = 25,600 of them.
EPOCHS, SAMPLES, OPERATIONS, NUMBERS = 10, 20, 8, 16


@pytest.fixture(scope="module")
def draws() -> np.ndarray:
    """float64 [EPOCHS, SAMPLES, OPERATIONS, NUMBERS]"""
    keys = [sample_keys(3, epoch, range(SAMPLES)).tolist() for epoch in range(EPOCHS)]
    return np.array(
        [[[[draw(key, op, i) for i in range(NUMBERS)] for op in range(OPERATIONS)] for key in row] for row in keys]
    )


def test_draws_are_uniform(draws: np.ndarray) -> None:
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = np.histogram(draws, 100, (0, 1))[0]
    assert abs(chi_squared_z(counts, draws.size / 100)) < 4


@pytest.mark.parametrize("axis", range(4), ids=["epoch", "sample", "operation", "number"])
def test_draws_are_uniform_for_each_epoch_sample_operation_and_number(draws: np.ndarray, axis: int) -> None:
    rows = np.moveaxis(draws, axis, 0).reshape(draws.shape[axis], -1)
    for row in rows:
        assert abs(chi_squared_z(np.histogram(row, 16, (0, 1))[0], row.size / 16)) < 4.5


@pytest.mark.parametrize("axis", range(4), ids=["epoch", "sample", "operation", "number"])
def test_neighbouring_draws_are_independent(draws: np.ndarray, axis: int) -> None:
    first = np.moveaxis(draws, axis, 0)[:-1].ravel()
    second = np.moveaxis(draws, axis, 0)[1:].ravel()
    assert abs(correlation_z(first, second)) < 4
    pairs = np.histogram2d(first, second, 10, ((0, 1), (0, 1)))[0]
    assert abs(chi_squared_z(pairs, first.size / 100)) < 4


def test_a_draw_has_53_bits() -> None:
    scaled = [draw(combine(i), 0, 0) * 2**53 for i in range(200)]
    assert all(value == int(value) for value in scaled)
    assert any(int(value) % 2 for value in scaled)
