"""Rows of several documents: every token once, full rows, the same in number every epoch and dealt anew."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from conformance import (
    PROPERTY,
    WINDOWS,
    assert_equal_batches,
    assert_exactly_once,
    assert_resumes,
    epoch_steps,
    placement_z,
)
from hypothesis import given
from hypothesis import strategies as st

from fastload.errors import ConfigError
from fastload.order.cursor import steps
from fastload.order.distribute import Share
from fastload.order.mix import Mixture
from fastload.order.packing import BoundPacking, PackSequences, Pieces, join_pieces
from fastload.order.sampler import Base, Subset

SIZES = np.array([50, 0, 170, 1, 300, 80, 220, 182])  # 1003 documents
N = 1003
LENGTHS = np.minimum(np.random.default_rng(0).lognormal(3.5, 1.0, N).astype(np.int64), 300)  # some have no token


def packing(
    lengths: npt.ArrayLike = LENGTHS,
    length: int = 128,
    *,
    sizes: npt.ArrayLike = SIZES,
    pool: int = 200,
    window: int = 4,
    seed: int = 0,
) -> BoundPacking:
    base = Base(sizes=np.asarray(sizes, np.int64), seed=seed, window=window, lanes=1)
    sequence = PackSequences("tokens", length, pool=pool).bind(base, {"tokens.count": np.asarray(lengths)})
    assert isinstance(sequence, BoundPacking)
    return sequence


def rows_of(sequence: BoundPacking, epoch: int, positions: npt.ArrayLike | None = None) -> Pieces:
    at = np.arange(sequence.samples) if positions is None else np.asarray(positions)
    return sequence.pieces(np.full(len(at), epoch), *sequence.locate(epoch, at))


def documents(pieces: Pieces, sizes: npt.ArrayLike = SIZES) -> list[int]:
    counts = np.asarray(sizes)
    return ((np.cumsum(counts) - counts)[pieces.shards] + pieces.rows).tolist()  # type: ignore[no-any-return]


def tokens_of(pieces: Pieces, sizes: npt.ArrayLike = SIZES) -> list[tuple[int, int]]:
    """(document, token) of all pieces."""
    spans = zip(documents(pieces, sizes), pieces.skip.tolist(), pieces.sizes.tolist(), strict=True)
    return [(document, token) for document, skip, size in spans for token in range(skip, skip + size)]


def every_token(lengths: npt.ArrayLike = LENGTHS) -> list[tuple[int, int]]:
    return [
        (document, token) for document, length in enumerate(np.asarray(lengths).tolist()) for token in range(length)
    ]


def row_sizes(pieces: Pieces) -> list[int]:
    reached = np.concatenate([[0], np.cumsum(pieces.sizes)])
    return np.diff(reached[pieces.bounds]).tolist()  # type: ignore[no-any-return]


@PROPERTY
@given(
    st.lists(st.lists(st.integers(0, 70), max_size=12), min_size=1, max_size=6),
    st.integers(1, 40),
    st.integers(1, 30),
    st.sampled_from(WINDOWS),
)
def test_every_token_comes_once_in_rows_that_hold_it(
    shards: list[list[int]], length: int, pool: int, window: int
) -> None:
    lengths, sizes = np.array([n for shard in shards for n in shard], np.int64), [len(shard) for shard in shards]
    sequence = packing(lengths, length, sizes=sizes, pool=pool, window=window)
    for epoch in (0, 1, 5):
        pieces = rows_of(sequence, epoch)
        assert_exactly_once(tokens_of(pieces, sizes), every_token(lengths))
        assert all(0 < size <= length for size in row_sizes(pieces))
        assert pieces.lengths.tolist() == lengths[documents(pieces, sizes)].tolist()
        assert (np.diff(pieces.bounds) > 0).all()
        assert_exactly_once(pieces.numbers.tolist(), sequence.samples)
        assert (pieces.skip % length == 0).all()  # none is cut but those longer than a row, and these at whole rows
    assert sequence.fill == pytest.approx(lengths.sum() / (sequence.samples * length) if sequence.samples else 1)


@PROPERTY
@given(st.lists(st.integers(1, 30), min_size=1, max_size=60), st.integers(30, 60))
def test_rows_are_as_few_as_best_fit_decreasing_makes_them(lengths: list[int], length: int) -> None:
    room: list[int] = []
    for size in sorted(lengths, reverse=True):
        fitting = [i for i, left in enumerate(room) if left >= size]
        if fitting:
            best = min(fitting, key=lambda i: room[i])
            room[best] -= size
        else:
            room.append(length - size)
    assert packing(lengths, length, sizes=[len(lengths)], pool=1000).samples == len(room)


def test_rows_are_full() -> None:
    lengths = np.random.default_rng(1).lognormal(5, 1, 20_000).astype(np.int64) + 1
    sequence = packing(lengths, 1024, sizes=[2000] * 10, pool=8192, window=64)
    assert sequence.fill > 0.999


def test_pools_keep_to_their_shards_and_the_window_to_its() -> None:
    sequence = packing(window=1)
    for epoch in (0, 1):
        pieces = rows_of(sequence, epoch)
        for start, stop in zip(pieces.bounds[:-1], pieces.bounds[1:], strict=True):
            assert len(set(pieces.shards[start:stop].tolist())) == 1
        order = pieces.shards[pieces.bounds[:-1]]
        assert np.count_nonzero(np.diff(order)) == len(set(order.tolist())) - 1  # shard after shard
    many = packing([10] * 1000, sizes=[10] * 100, pool=10**6, window=5)
    pieces = rows_of(many, 0)
    for start in range(0, many.samples - 4, 4):
        assert len(set(pieces.shards[pieces.bounds[start] : pieces.bounds[start + 4]].tolist())) <= 10  # two blocks


def test_unshuffled_rows_come_in_the_order_of_their_first_document() -> None:
    sequence = packing(window=0)
    assert documents(rows_of(sequence, 0)) == documents(rows_of(sequence, 3))
    pieces = rows_of(sequence, 0)
    first = [min(documents(pieces)[a:b]) for a, b in zip(pieces.bounds[:-1], pieces.bounds[1:], strict=True)]
    for pool in range(int(sequence.locate(0, np.arange(sequence.samples))[0].max()) + 1):
        here = sequence.locate(0, np.arange(sequence.samples))[0] == pool
        own = np.array(first)[here].tolist()
        assert own == sorted(own)
    equal = packing([10] * 40, 20, sizes=[20, 20], pool=10, window=0)
    assert documents(rows_of(equal, 0), [20, 20]) == list(range(40))


def test_who_shares_a_row_changes_from_epoch_to_epoch() -> None:
    lengths, sizes = np.random.default_rng(2).integers(10, 40, 8000), [2000] * 4
    sequence = packing(lengths, 128, sizes=sizes, pool=8000)

    def pairs(epoch: int) -> set[tuple[int, int]]:
        pieces = rows_of(sequence, epoch)
        found = documents(pieces, sizes)
        spans = zip(pieces.bounds[:-1], pieces.bounds[1:], strict=True)
        return {(a, b) for start, stop in spans for a in found[start:stop] for b in found[start:stop] if a < b}

    first, second, third = pairs(0), pairs(1), pairs(2)
    assert len(first & second) < 0.05 * len(first)
    assert len(second & third) < 0.05 * len(first)
    assert packing(seed=1).fill == packing(seed=2).fill
    assert documents(rows_of(packing(seed=1), 0)) != documents(rows_of(packing(seed=2), 0))


@pytest.mark.parametrize(("count", "epochs"), [(12, 1200), (70, 700)])
def test_documents_are_dealt_to_all_places_of_their_length_equally(count: int, epochs: int) -> None:
    sequence = packing([10] * count, 10, sizes=[count], window=1)
    counts = np.zeros((count, count))
    for epoch in range(epochs):
        pieces = sequence.pieces(np.full(count, epoch), np.zeros(count, np.int64), np.arange(count))
        counts[np.arange(count), pieces.rows] += 1
    assert abs(placement_z(counts, epochs)) < 4


def test_any_rows_are_found_as_among_all() -> None:
    sequence = packing()
    whole, some = rows_of(sequence, 2), rows_of(sequence, 2, [7, 0, 33])
    at = 0
    for row, position in enumerate((7, 0, 33)):
        start, stop = whole.bounds[position], whole.bounds[position + 1]
        assert documents(some)[at : at + stop - start] == documents(whole)[start:stop]
        assert some.numbers[row] == whole.numbers[position]
        at += int(stop - start)


@pytest.mark.parametrize(("world_size", "batch_size"), [(1, 7), (3, 4), (8, 16), (64, 8)])
def test_ranks_share_rows_out_in_equally_many_batches(world_size: int, batch_size: int) -> None:
    sequence = packing()
    ranks, read = [], []
    for rank in range(world_size):
        share = Share(rank=rank, world_size=world_size, batch_size=batch_size, last_batch="pad")
        run = list(epoch_steps(sequence, share, 1))
        ranks.append([step.rows.tolist() for step in run])
        for step in run:
            read += tokens_of(sequence.pieces(step.epochs, step.shards, step.rows))
    assert_equal_batches(ranks)
    assert_exactly_once(read, every_token())


def test_a_resumed_run_gives_the_equal_rest() -> None:
    share = Share(rank=1, world_size=2, batch_size=5, last_batch="pad")

    def start(consumed: int | None) -> Iterator[tuple[Any, int]]:
        sequence, at = packing(), consumed or 0
        while True:
            for step in steps(sequence, share, at):
                at = step.consumed
                pieces = sequence.pieces(step.epochs, step.shards, step.rows)
                yield (step.size, documents(pieces), pieces.skip.tolist(), pieces.sizes.tolist()), at

    assert_resumes(start, 2 * share.batches_left(packing().samples, 0) + 1, stride=6)


def test_pieces_of_several_sources_are_joined_row_by_row() -> None:
    sequences = [packing(seed=1), packing([5] * 30, 10, sizes=[10, 20])]
    mix = Mixture(sequences, [len(SIZES), 2], [2, 1], "first")
    shards, rows = mix.locate(0, np.arange(20))
    sources = np.searchsorted(mix.first_shards, shards, "right") - 1
    places = [np.flatnonzero(sources == source) for source in (0, 1)]
    parts = [
        sequence.pieces(np.zeros(len(where), np.int64), shards[where] - first, rows[where])
        for sequence, where, first in zip(sequences, places, mix.first_shards, strict=False)
    ]
    joined = join_pieces(parts, places, 20)
    for row in range(20):
        source, number = int(sources[row]), int(np.flatnonzero(places[sources[row]] == row)[0])
        own = slice(int(parts[source].bounds[number]), int(parts[source].bounds[number + 1]))
        here = slice(int(joined.bounds[row]), int(joined.bounds[row + 1]))
        assert joined.numbers[row] == parts[source].numbers[number]
        for name in ("shards", "rows", "skip", "sizes", "lengths"):
            assert getattr(joined, name)[here].tolist() == getattr(parts[source], name)[own].tolist()


def test_over_a_subset() -> None:
    sampler = Subset(LENGTHS % 2 == 0, then=PackSequences("tokens", 64, pool=100))
    sequence = sampler.bind(Base(sizes=SIZES, seed=0, window=4, lanes=1), {"tokens.count": LENGTHS})
    assert isinstance(sequence, BoundPacking)
    expected = [one for one in every_token() if LENGTHS[one[0]] % 2 == 0]
    assert_exactly_once(tokens_of(rows_of(sequence, 1)), expected)


def test_data_without_a_token_is_an_empty_epoch() -> None:
    for lengths, sizes in (([], []), ([0, 0], [2]), ([], [0, 0])):
        sequence = packing(lengths, sizes=sizes)
        assert sequence.samples == 0
        assert sequence.fill == 1
        share = Share(rank=0, world_size=1, batch_size=5, last_batch="pad")
        assert list(steps(sequence, share, 0)) == []


def test_fingerprints_tell_arguments_apart() -> None:
    prints = {packing(**one).fingerprint for one in ({}, {"length": 64}, {"pool": 50}, {"lengths": LENGTHS[::-1]})}  # type: ignore[arg-type]
    assert len(prints) == 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PackSequences("x", 0), "length=0: must be at least 1"),
        (lambda: PackSequences("x", 8, pool=0), "pool=0: must be at least 1"),
        (lambda: PackSequences("x", 8, longer="cut"), r"longer='cut'\): pass 'split' or 'error'"),  # type: ignore[arg-type]
        (lambda: packing([3, -2], sizes=[2]), "'tokens.count' holds int64 values that are no lengths"),
        (lambda: packing([3, 2.5], sizes=[2]), "'tokens.count' holds float64 values that are no lengths"),
        (
            lambda: PackSequences("x", 8, longer="error").bind(
                Base(sizes=np.array([2]), seed=0, window=0, lanes=1), {"x.count": np.array([8, 9])}
            ),
            "sample 1 has 9 tokens, and rows 8; pass longer='split', or leave long ones out with Subset",
        ),
    ],
)
def test_what_cannot_be_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
