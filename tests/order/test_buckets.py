"""Batches by length: every sample once, a bounded cost, equally many on every rank; a resumed run goes on the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from conformance import (
    PROPERTY,
    assert_equal_batches,
    assert_exactly_once,
    assert_resumes,
    correlation_z,
    epoch_steps,
    flat,
    sample_ids,
    walk,
)
from hypothesis import given
from hypothesis import strategies as st

from fastload.errors import ConfigError
from fastload.order.buckets import BoundBuckets, LengthBuckets, even_out
from fastload.order.cursor import batches_left, steps
from fastload.order.distribute import Share
from fastload.order.sampler import Base, Subset

SIZES = np.array([50, 0, 170, 1, 300, 80, 220, 182])  # 1003 samples
N = 1003
LENGTHS = 1 + np.random.default_rng(0).gamma(2, 60, N).astype(np.int64)
BOUND = 4000


def buckets(
    lengths: npt.ArrayLike = LENGTHS, bound: int = BOUND, *, pool: int = 256, window: int = 64, seed: int = 0
) -> BoundBuckets:
    sizes = SIZES if np.size(lengths) == N else np.array([np.size(lengths)])
    sampler = LengthBuckets("tokens", max_tokens=bound, pool=pool)
    sequence = sampler.bind(Base(sizes=sizes, seed=seed, window=window, lanes=1), {"tokens.count": np.asarray(lengths)})
    assert isinstance(sequence, BoundBuckets)
    return sequence


def share(rank: int, world_size: int, batch_size: int = 32) -> Share:
    return Share(rank=rank, world_size=world_size, batch_size=batch_size, last_batch="pad")


def ids(step: Any) -> list[int]:
    return sample_ids(SIZES, step)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8, 64])
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_every_sample_once_in_equally_many_batches_of_bounded_cost(world_size: int, batch_size: int) -> None:
    sequence = buckets()
    ranks = walk(sequence, SIZES, world_size=world_size, batch_size=batch_size, last_batch="pad")
    assert_equal_batches(ranks)
    assert_exactly_once(flat(ranks), N)
    assert {len(batches) for batches in ranks} == {batches_left(sequence, share(0, world_size, batch_size), 0)}
    for batches in ranks:
        for batch in batches:
            assert len(batch) <= batch_size
            assert len(batch) * max((LENGTHS[i] for i in batch), default=0) <= BOUND


@PROPERTY
@given(
    st.lists(st.integers(0, 50), max_size=60),
    st.integers(50, 300),
    st.integers(1, 20),
    st.sampled_from([1, 2, 5, 64]),
    st.integers(1, 70),
    st.integers(0, 3),
)
def test_on_small_data_of_any_lengths(
    lengths: list[int], bound: int, batch_size: int, world_size: int, pool: int, window: int
) -> None:
    sequence, sizes = buckets(lengths, bound, pool=pool, window=window), [len(lengths)]
    ranks = walk(sequence, sizes, world_size=world_size, batch_size=batch_size, last_batch="pad", epochs=2)
    assert_equal_batches(ranks)
    read = flat(ranks)
    assert sorted(read) == sorted([*range(len(lengths))] * 2)
    for batches in ranks:
        for batch in batches:
            assert len(batch) * max((lengths[i] for i in batch), default=0) <= bound


def test_batches_waste_little_and_are_as_full_as_the_bound_allows() -> None:
    batches = walk(buckets(), SIZES, world_size=1, batch_size=10**6, last_batch="pad")[0]
    padded = sum(len(batch) * max(LENGTHS[i] for i in batch) for batch in batches)
    assert LENGTHS.sum() / padded > 0.85
    assert padded / (len(batches) * BOUND) > 0.85
    plain = sum(32 * int(LENGTHS[at : at + 32].max()) for at in range(0, N - 31, 32))
    assert LENGTHS.sum() / plain < 0.55  # what batches of neighbours would waste


def test_lengths_of_following_batches_are_unrelated_and_epochs_differ() -> None:
    sequence = buckets(pool=N)
    runs = [walk(sequence, SIZES, world_size=1, batch_size=16, last_batch="pad", consumed=e * N)[0] for e in range(6)]
    z = [
        correlation_z(longest[:-1], longest[1:])
        for longest in ([max(LENGTHS[i] for i in batch) for batch in batches] for batches in runs)
    ]
    assert abs(np.mean(z)) < 4 / np.sqrt(len(z))
    assert abs(np.array(z)).max() < 4
    assert len({tuple(map(tuple, batches)) for batches in runs}) == len(runs)
    assert {frozenset(batch) for batch in runs[0]} != {frozenset(batch) for batch in runs[1]}  # ties and pools differ
    assert buckets(seed=1).plan(0, 16)[0].tolist() != buckets(seed=2).plan(0, 16)[0].tolist()


def test_who_shares_a_batch_changes_from_epoch_to_epoch() -> None:
    sequence = buckets(pool=64)
    first, second = (
        {frozenset(b) for b in walk(sequence, SIZES, world_size=1, batch_size=8, last_batch="pad", consumed=e * N)[0]}
        for e in (0, 1)
    )
    assert len(first & second) < len(first) / 20


def test_only_the_shards_of_one_pool_are_at_hand() -> None:
    sequence = buckets(pool=100, window=1)
    for step in epoch_steps(sequence, share(0, 1), 1):
        assert len(set(step.shards.tolist())) <= 5  # of a pool of 100 in shards of 50 to 300


@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (1, 2), (6, 7)])
def test_a_resumed_run_gives_the_equal_rest(rank: int, world_size: int) -> None:
    def start(consumed: int | None) -> Iterator[tuple[Any, int]]:
        sequence, at = buckets(), consumed or 0
        while True:
            for step in steps(sequence, share(rank, world_size), at):
                at = step.consumed
                yield (step.size, step.epochs.tolist(), step.shards.tolist(), step.rows.tolist()), at

    per_epoch = batches_left(buckets(), share(rank, world_size), 0)
    assert_resumes(start, 2 * per_epoch + 1, stride=5)


@PROPERTY
@given(st.lists(st.tuples(st.sampled_from([1, 2, 3, 8, 64]), st.integers(0, 9)), min_size=1, max_size=6))
def test_resumed_at_other_world_sizes_the_union_is_exact(parts: list[tuple[int, int]]) -> None:
    sequence, consumed = buckets(), 0
    read: list[int] = []
    for world_size, batches in [*parts, (4, 10**6)]:
        for _ in range(batches):
            if consumed == N:
                break
            found = [next(steps(sequence, share(rank, world_size), consumed)) for rank in range(world_size)]
            assert {step.consumed for step in found} == {found[0].consumed}
            read += [one for step in found for one in ids(step)]
            consumed = found[0].consumed
    assert_exactly_once(read, N)


def test_what_is_left_is_counted_from_any_place() -> None:
    sequence = buckets()
    for world_size in (1, 3, 64):
        left = batches_left(sequence, share(0, world_size), 0)
        for step in steps(sequence, share(0, world_size), 0):
            left -= 1
            if step.consumed < N:
                assert batches_left(sequence, share(0, world_size), step.consumed) == left
        assert left == 0


def test_an_empty_data_set_has_no_batches() -> None:
    sequence = buckets([])
    assert list(steps(sequence, share(0, 2), 0)) == []
    assert batches_left(sequence, share(0, 2), 0) == 0


@PROPERTY
@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.sampled_from([1, 2, 3, 8, 64]), st.integers(0, 39))
def test_evening_out_cuts_the_last_group_only(sizes: list[int], world_size: int, start: int) -> None:
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    consumed = int(bounds[min(start, len(sizes) - 1)])
    evened = even_out(bounds, consumed, world_size)
    assert evened[0] == consumed
    assert evened[-1] == bounds[-1]
    assert (np.diff(evened) >= 0).all()
    assert (len(evened) - 1) % world_size == 0
    rest = bounds[bounds >= consumed].tolist()
    whole = (len(rest) - 1) // world_size * world_size
    assert evened[: whole + 1].tolist() == rest[: whole + 1]
    assert set(rest) <= set(evened.tolist())  # no batch grows
    if len(rest) - 1 > whole:
        last = np.diff(evened[-world_size - 1 :])
        assert last.max() <= max(1, max(np.diff(rest[whole:])))
        if rest[-1] - rest[whole] >= world_size:
            assert last.min() >= 1  # no rank goes without a sample where there are enough


def test_a_batch_without_a_sample_is_one_row_of_padding() -> None:
    sequence = buckets([5, 6], 100)
    found = [next(steps(sequence, share(rank, 4), 0)) for rank in range(4)]
    assert sorted(len(step.rows) for step in found) == [0, 0, 1, 1]
    assert {step.size for step in found} == {1}


def test_seconds_meet_their_bound_exactly() -> None:
    frames, rates = np.array([16000, 8000, 4800, 1]), np.array([16000, 8000, 48000, 8000])
    sampler = LengthBuckets("audio", max_seconds=1)
    assert sampler.columns == ("audio.seconds",)
    sequence = sampler.bind(Base(sizes=np.array([4]), seed=0, window=0, lanes=1), {"audio.seconds": frames / rates})
    batches = walk(sequence, [4], world_size=1, batch_size=9, last_batch="pad")[0]
    assert sorted(map(sorted, batches)) == [[0], [1], [2, 3]]
    tenths = LengthBuckets("audio", max_seconds=0.3).bind(
        Base(sizes=np.array([3]), seed=0, window=0, lanes=1), {"audio.seconds": np.full(3, 0.1)}
    )
    assert len(walk(tenths, [3], world_size=1, batch_size=9, last_batch="pad")[0]) == 1  # 3 * 0.1 > 0.3 in floats


def test_over_a_subset() -> None:
    sampler = Subset(LENGTHS < 100, then=LengthBuckets("tokens", max_tokens=99))
    sequence = sampler.bind(Base(sizes=SIZES, seed=0, window=4, lanes=1), {"tokens.count": LENGTHS})
    ranks = walk(sequence, SIZES, world_size=3, batch_size=8, last_batch="pad")
    assert_exactly_once(flat(ranks), np.flatnonzero(LENGTHS < 100).tolist())
    assert sequence.fingerprint.startswith("Subset:")


def test_fingerprints_tell_arguments_apart() -> None:
    options: list[dict[str, Any]] = [{}, {"bound": 5000}, {"pool": 100}, {"lengths": LENGTHS[::-1]}]
    assert len({buckets(**one).fingerprint for one in options}) == 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LengthBuckets("x"), "pass one of max_tokens and max_seconds"),
        (lambda: LengthBuckets("x", 5, 5.0), "pass one of max_tokens and max_seconds"),
        (lambda: LengthBuckets("x", 0), "a bound of 0; it must be positive and finite"),
        (lambda: LengthBuckets("x", True), "a bound of True; it must be a number"),
        (lambda: LengthBuckets("x", "9"), "a bound of '9'; it must be a number"),  # type: ignore[arg-type]
        (lambda: LengthBuckets("x", max_seconds=float("inf")), "a bound of inf"),
        (lambda: LengthBuckets("x", max_seconds=float("nan")), "a bound of nan"),
        (lambda: LengthBuckets("x", 5, pool=0), "pool=0: must be at least 1"),
        (
            lambda: buckets([5, 101, 7, 102], 100),
            "2 of 4 samples are longer than the bound of 100, the first is sample 1 w",
        ),
        (
            lambda: buckets([5, 101], 100),
            r"Subset\(lambda c: c\['tokens.count'\] <= 100, fields=\('tokens.count',\), then",
        ),
        (lambda: buckets([5, -1], 100), "sample 1 has length -1 in tokens.count"),
        (lambda: buckets([5, np.nan], 100), "sample 1 has length nan"),
    ],
)
def test_what_cannot_be_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_there_are_no_positions() -> None:
    with pytest.raises(TypeError, match="LengthBuckets has no positions"):
        buckets().locate(0, [0])
