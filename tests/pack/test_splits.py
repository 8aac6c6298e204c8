"""Splits: parsed, exact in the long run, and stable when samples are added."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastload.errors import ConfigError
from fastload.pack.splits import assign, shuffled
from fastload.pack.splitting import parse_shares

keys = st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=200, unique=True)
ratios = st.lists(st.integers(1, 9), min_size=2, max_size=4).map(
    lambda parts: {f"s{i}": part / sum(parts) for i, part in enumerate(parts)}
)


@given(keys=keys, more=keys, ratios=ratios, seed=st.integers(-(2**63), 2**64))
def test_adding_samples_moves_none(keys: list[str], more: list[str], ratios: dict[str, float], seed: int) -> None:
    before = assign(keys, ratios, seed)
    both = sorted({*keys, *more})
    after = dict(zip(both, assign(both, ratios, seed).tolist(), strict=True))
    assert [after[key] for key in keys] == before.tolist()
    assert set(after.values()) <= set(range(len(ratios)))


@given(keys=keys, seed=st.integers(0, 2**64 - 1))
def test_the_order_of_two_samples_depends_on_them_alone(keys: list[str], seed: int) -> None:
    whole = [keys[i] for i in shuffled(keys, seed)]
    half = keys[::2]
    assert sorted(whole) == sorted(keys)
    assert [key for key in whole if key in half] == [half[i] for i in shuffled(half, seed)]


@pytest.mark.parametrize("seed", range(5))
def test_ratios_hold_within_four_standard_deviations(seed: int) -> None:
    count, shares = 20_000, {"train": 0.8, "val": 0.15, "test": 0.05}
    found = np.bincount(assign([f"sample/{i}" for i in range(count)], shares, seed), minlength=3)
    for got, share in zip(found, shares.values(), strict=True):
        assert abs(got - count * share) < 4 * (count * share * (1 - share)) ** 0.5


def test_seeds_differ_and_shuffle_and_split_are_independent() -> None:
    names = [f"sample/{i}" for i in range(4000)]
    halves = {"a": 0.5, "b": 0.5}
    one, other = assign(names, halves, 0), assign(names, halves, 1)
    assert 1800 < (one == other).sum() < 2200
    first_half_of_shuffle = np.zeros(4000, np.int64)
    first_half_of_shuffle[shuffled(names, 0)[2000:]] = 1
    assert 1800 < (one == first_half_of_shuffle).sum() < 2200


def test_golden_assignment() -> None:
    names = [f"sample/{i}" for i in range(16)]
    assert assign(names, {"train": 0.75, "val": 0.25}, 7).tolist() == GOLDEN_SPLIT
    assert shuffled(names, 7).tolist() == GOLDEN_ORDER


GOLDEN_SPLIT = [1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0]
GOLDEN_ORDER = [6, 0, 9, 4, 1, 7, 13, 12, 10, 15, 14, 2, 3, 11, 5, 8]


def test_text_and_mappings_are_the_same() -> None:
    assert parse_shares(None) == {"train": 1.0}
    for split in ("train=0.9, val=0.1", {"train": 0.9, "val": 0.1}, "train:0.9,val:0.1"):
        assert parse_shares(split) == {"train": 0.9, "val": 0.1}  # type: ignore[arg-type]
    assert parse_shares("a=0.333333,b=0.333333,c=0.333334").keys() == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("train=0.9,val=0.2", "the ratios sum to 1.1, not to 1"),
        ({"train": 0.5}, "the ratios sum to 0.5, not to 1"),
        ({}, "the ratios sum to 0, not to 1"),
        ({"train": 1.0, "val": 0.0}, "the ratio of 'val' must be above 0"),
        ({"train": 1.5, "val": -0.5}, "the ratio of 'train' must be above 0 and at most 1"),
        ({"a/b": 1.0}, "'a/b' cannot name a folder"),
        ({".hidden": 1.0}, "'.hidden' cannot name a folder"),
        ("train", "'train' is not name=ratio"),
        ("a=0.5,a=0.5", "'a' is named twice"),
        ({"train": True}, "the ratio of 'train'"),
        ({"train": float("nan")}, "the ratio of 'train'"),
    ],
)
def test_bad_splits_are_named(split: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_shares(split)  # type: ignore[arg-type]
