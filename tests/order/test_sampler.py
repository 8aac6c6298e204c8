"""Samplers: how often samples come, that ranks share an epoch out equally, that a resumed run goes on the same."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from conformance import (
    PROPERTY,
    assert_equal_batches,
    assert_exactly_once,
    assert_resumes,
    assert_same_global_batches,
    chi_squared_z,
    epoch_steps,
    flat,
    walk,
)
from hypothesis import given
from hypothesis import strategies as st

from fastload.errors import ConfigError, StateError
from fastload.order.cursor import State, steps
from fastload.order.distribute import LastBatch, Share
from fastload.order.sampler import Base, BoundSampler, Sampler, Subset
from fastload.order.stratified import Stratified
from fastload.order.weighted import ClassBalanced, Weighted

SIZES = np.array([5, 0, 17, 1, 30, 8, 0, 22, 20])  # 103 samples
N = 103
LABELS = np.array([0] * 60 + [1] * 30 + [5] * 12 + [7])
COLUMNS = {"label": LABELS, "w": np.arange(N) / 7.0, "zero": np.zeros(N)}
SAMPLERS: dict[str, Sampler] = {
    "subset": Subset(range(3, 103, 3)),
    "weighted": Weighted("w"),
    "fewer": Weighted("w", samples=40),
    "balanced": ClassBalanced(samples=150),
    "stratified": Stratified(),
    "stratified part": Subset(lambda c: c["label"] < 7, ("label",), then=Stratified()),
    "weighted part": Subset(np.arange(N) % 2 == 0, then=ClassBalanced()),
}


def base(*, seed: int = 0, window: int = 2, lanes: int = 1, sizes: npt.ArrayLike = SIZES) -> Base:
    return Base(sizes=np.asarray(sizes), seed=seed, window=window, lanes=lanes)


def bound(sampler: Sampler, **options: Any) -> BoundSampler:
    return sampler.bind(base(**options), {name: COLUMNS[name] for name in sampler.columns})


def epoch(sequence: BoundSampler, number: int) -> list[int]:
    """The samples of an epoch, in order."""
    shards, rows = sequence.locate(number, np.arange(sequence.samples))
    assert ((rows >= 0) & (rows < SIZES[shards])).all()
    return ((np.cumsum(SIZES) - SIZES)[shards] + rows).tolist()  # type: ignore[no-any-return]


# What every sampler keeps.


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("last_batch", ["pad", "wrap", "drop"])
def test_ranks_share_an_epoch_out_in_equally_many_batches(name: str, last_batch: LastBatch) -> None:
    sequence = bound(SAMPLERS[name])
    everything = Counter(epoch(sequence, 0))
    for world_size, batch_size in ((1, 7), (2, 3), (3, 32), (8, 1), (64, 1)):
        if last_batch == "drop" and world_size * batch_size > sequence.samples:
            continue
        ranks = walk(sequence, SIZES, world_size=world_size, batch_size=batch_size, last_batch=last_batch)
        assert_equal_batches(ranks)
        got = Counter(flat(ranks))
        if last_batch == "pad":
            assert got == everything
        elif last_batch == "wrap":
            assert got >= everything
        else:
            assert got <= everything
            assert sum(everything.values()) - sum(got.values()) < world_size * batch_size


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_same_global_batches_at_any_world_size(name: str) -> None:
    sequence = bound(SAMPLERS[name])
    runs = [
        walk(sequence, SIZES, world_size=world, batch_size=24 // world, last_batch="pad", epochs=2)
        for world in (1, 2, 8)
    ]
    if "stratified" not in name:
        assert_same_global_batches(runs[0], runs[1])
        assert_same_global_batches(runs[0], runs[2])
        return
    merged = [[sorted(one for part in parts for one in part) for parts in zip(*ranks, strict=True)] for ranks in runs]
    assert merged[0] == merged[1] == merged[2]  # dealt to ranks by class, so not in the order of the sequence


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(("rank", "world_size", "batch_size"), [(0, 1, 7), (2, 3, 4)])
def test_a_resumed_run_gives_the_equal_rest(name: str, rank: int, world_size: int, batch_size: int) -> None:
    share = Share(rank=rank, world_size=world_size, batch_size=batch_size, last_batch="pad")

    def start(consumed: int | None) -> Iterator[tuple[Any, int]]:
        sequence, at = bound(SAMPLERS[name]), consumed or 0  # bound anew, as in a new process
        while True:
            for step in steps(sequence, share, at):
                at = step.consumed
                yield (step.epochs.tolist(), step.shards.tolist(), step.rows.tolist()), at

    per_epoch = share.batches_left(bound(SAMPLERS[name]).samples, 0)
    assert_resumes(start, 2 * per_epoch + 1, stride=3)


@pytest.mark.parametrize("name", SAMPLERS)
def test_resumed_at_another_world_size_the_union_is_exact(name: str) -> None:
    sequence, consumed = bound(SAMPLERS[name]), 0
    read: list[int] = []
    for world_size, batch_size, batches in ((2, 3, 2), (3, 1, 4), (8, 2, 10**6)):
        for _ in range(batches):
            ranks = [
                next(
                    steps(
                        sequence,
                        Share(rank=rank, world_size=world_size, batch_size=batch_size, last_batch="pad"),
                        consumed,
                    )
                )
                for rank in range(world_size)
            ]
            read += [
                int((np.cumsum(SIZES) - SIZES)[s] + r)
                for step in ranks
                for s, r in zip(step.shards, step.rows, strict=True)
            ]
            consumed = ranks[0].consumed
            if consumed == sequence.samples:
                break
    assert Counter(read) == Counter(epoch(sequence, 0))


@pytest.mark.parametrize("name", SAMPLERS)
def test_positions_are_found_one_by_one_as_all_at_once(name: str) -> None:
    sequence = bound(SAMPLERS[name])
    epochs, positions = np.array([3, 0, 3, 1]), np.array([5, 5, 0, sequence.samples - 1])
    shards, rows = sequence.locate(epochs, positions)
    for i in range(4):
        one = sequence.locate(int(epochs[i]), [int(positions[i])])
        assert (one[0].tolist(), one[1].tolist()) == ([shards[i]], [rows[i]])


@pytest.mark.parametrize("name", SAMPLERS)
def test_epochs_differ_and_seeds_too(name: str) -> None:
    sequence, other = bound(SAMPLERS[name]), bound(SAMPLERS[name], seed=1)
    assert epoch(sequence, 0) == epoch(bound(SAMPLERS[name]), 0)
    assert epoch(sequence, 0) != epoch(sequence, 1)
    assert epoch(sequence, 0) != epoch(other, 0)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_window_bounds_the_shards_at_hand(name: str) -> None:
    """Under window 1 a shard's samples follow each other, whatever the sampler (but classes in proportion need all)."""
    if "stratified" in name:
        return
    order = [
        int(np.searchsorted(np.cumsum(SIZES), sample, "right")) for sample in epoch(bound(SAMPLERS[name], window=1), 0)
    ]
    changes = sum(a != b for a, b in pairwise(order))
    assert changes == len(set(order)) - 1


def test_states_are_small_and_other_samplers_are_refused_by_name() -> None:
    prints = {name: bound(sampler).fingerprint for name, sampler in SAMPLERS.items()}
    assert len(set(prints.values())) == len(prints)
    for name, mine in prints.items():
        fingerprint = {"order": 1, "data": "0f" * 8, "sampler": mine, "samples": 10**9, "seed": -(2**63), "window": 64}
        saved = State(consumed=10**18, fingerprint=fingerprint).to_dict()
        assert len(json.dumps(saved)) < 1000
        assert State.from_dict(saved, fingerprint).consumed == 10**18
        other = next(other for another, other in prints.items() if another != name)
        message = (
            rf"saved under the sampler '{mine.replace('+', '.')}', and this loader has '{other.replace('+', '.')}'"
        )
        with pytest.raises(StateError, match=message):
            State.from_dict(saved, {**fingerprint, "sampler": other, "samples": 5})


@pytest.mark.parametrize(
    ("one", "another"),
    [
        (Weighted("w"), Weighted("w", samples=40)),
        (Weighted("w"), Weighted(np.arange(N)[::-1])),
        (ClassBalanced(), Weighted(1 / np.bincount(LABELS)[LABELS])),
        (Subset([1, 2]), Subset([1, 3])),
        (Subset([1, 2]), Subset([1, 2], then=Stratified())),
    ],
)
def test_fingerprints_tell_arguments_apart(one: Sampler, another: Sampler) -> None:
    assert bound(one).fingerprint != bound(another).fingerprint


def test_fingerprints_are_the_same_for_the_same_order() -> None:
    assert bound(Weighted("w")).fingerprint == bound(Weighted(COLUMNS["w"] * 4)).fingerprint
    assert bound(Subset([2, 1])).fingerprint == bound(Subset(lambda c: np.isin(np.arange(N), [1, 2]))).fingerprint


def test_classes_of_the_same_sizes_are_told_apart() -> None:
    def fingerprint(labels: list[int]) -> str:
        return ClassBalanced().bind(base(sizes=[4]), {"label": np.array(labels)}).fingerprint

    assert fingerprint([0, 0, 1, 1]) != fingerprint([0, 1, 0, 1])
    assert fingerprint([0, 0, 1, 1]) == fingerprint([5, 5, 7, 7]), "what classes are called changes nothing"
    assert bound(Weighted("w")).fingerprint == "Weighted:c8794ddbfbe38c6c", "as saved states have it"


# Subset.


@PROPERTY
@given(st.lists(st.integers(0, N - 1), unique=True), st.integers(0, 9), st.sampled_from([1, 2]))
def test_a_subset_has_each_of_its_samples_once(rows: list[int], window: int, lanes: int) -> None:
    sequence = bound(Subset(rows), window=window, lanes=lanes)
    assert_exactly_once(epoch(sequence, 0), rows)
    assert_exactly_once(epoch(sequence, 7), rows)


@pytest.mark.parametrize(
    "rows",
    [
        [4, 2],
        (2, 4),
        np.array([4, 2], np.uint8),
        np.isin(np.arange(N), [2, 4]),
        lambda c: np.isin(np.arange(N), [2, 4]),
    ],
)
def test_what_names_a_subset(rows: Any) -> None:
    assert sorted(epoch(bound(Subset(rows)), 0)) == [2, 4]


def test_a_subset_by_columns() -> None:
    assert sorted(epoch(bound(Subset(lambda c: (c["label"] == 1) & (c["w"] > 10), ("label", "w"))), 0)) == list(
        range(71, 90)
    )
    assert Subset(lambda c: c["label"] > 0, "label").columns == ("label",)


def test_an_empty_subset_is_an_empty_epoch() -> None:
    for rows in ([], np.zeros(N, np.bool_)):
        assert bound(Subset(rows)).samples == 0
        assert bound(Subset(rows, then=Stratified())).samples == 0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([1, 103], "rows 1 to 103: the data has samples 0 to 102"),
        ([-1], "rows -1 to -1: the data has samples 0 to 102"),
        ([5, 3, 5], "row 5 is given twice; pass each once, or use Weighted"),
        ([1.5], r"rows are float64 of shape \[1\]; pass a list of sample numbers"),
        ([[1, 2]], r"rows are int64 of shape \[1, 2\]"),
        (3, r"rows are int64 of shape \[\]"),
        (np.ones(5, np.bool_), r"bool of shape \[5\]; pass one for each of 103 samples"),
        (lambda c: np.arange(N), r"returned int64 of shape \[103\]; return bool \[103\]"),
        (lambda c: np.ones(5, np.bool_), r"returned bool of shape \[5\]"),
    ],
)
def test_subsets_that_are_none_are_refused(rows: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bound(Subset(rows))


# Weighted and ClassBalanced.


@PROPERTY
@given(st.lists(st.floats(0, 1e6), min_size=N, max_size=N).filter(lambda w: max(w) > 0), st.integers(0, 300))
def test_each_sample_comes_as_often_as_its_weight_says_give_or_take_one(weights: list[float], samples: int) -> None:
    sequence = bound(Weighted(weights, samples=samples))
    expected = np.array(weights) / sum(weights) * samples
    for number in range(2):
        got = np.bincount(epoch(sequence, number), minlength=N)
        assert got.sum() == samples
        assert (got >= np.floor(expected - 1e-6)).all()
        assert (got <= np.ceil(expected + 1e-6)).all()
        assert not got[np.array(weights) == 0].any()


def test_over_many_epochs_the_frequencies_are_the_weights() -> None:
    weights = np.arange(1, N + 1, dtype=np.float64)
    sequence, epochs = bound(Weighted(weights, samples=50)), 600
    got = sum(np.bincount(epoch(sequence, number), minlength=N) for number in range(epochs))
    expected = weights / weights.sum() * 50 * epochs
    assert abs(chi_squared_z(got, expected)) < 8  # systematic draws vary less than a multinomial: far below is right
    assert chi_squared_z(got, expected) < 0
    spread = np.sqrt(epochs * (p := expected / epochs % 1) * (1 - p))  # of each sample alone
    assert (abs(got - expected) < 4.5 * np.maximum(spread, 1)).all()


def test_neighbours_are_drawn_without_regard_to_each_other() -> None:
    """Without the shuffle of the line, systematic sampling of equal weights would take every other sample."""
    sequence, epochs = bound(Weighted(np.ones(N), samples=51)), 400
    together = np.zeros(N - 1)
    for number in range(epochs):
        got = np.bincount(epoch(sequence, number), minlength=N)
        together += got[:-1] * got[1:]
    assert abs(together.mean() / epochs - 51 / N * 50 / (N - 1)) < 0.01


def test_weights_of_any_size_do_not_overflow() -> None:
    weights = np.where(np.arange(N) < 4, 1.7e308, 0.0)
    assert np.bincount(epoch(bound(Weighted(weights)), 0), minlength=N)[:4].tolist() in (
        [26, 26, 26, 25],
        [26, 26, 25, 26],
        [26, 25, 26, 26],
        [25, 26, 26, 26],
    )


def test_classes_come_equally_often_in_every_epoch() -> None:
    sequence = bound(ClassBalanced())
    for number in range(5):
        _, counts = np.unique(LABELS[epoch(sequence, number)], return_counts=True)
        assert counts.sum() == N
        assert set(counts.tolist()) <= {25, 26}


def test_which_class_has_one_more_changes_from_epoch_to_epoch() -> None:
    sequence, epochs = bound(ClassBalanced(samples=10)), 400  # 2.5 of each of four classes
    got = np.zeros(len(np.unique(LABELS)), np.int64)
    for number in range(epochs):
        got += (
            np.unique(np.concatenate([LABELS[epoch(sequence, number)], np.unique(LABELS)]), return_counts=True)[1] - 1
        )
    assert abs(got - 2.5 * epochs).max() < 4.5 * np.sqrt(epochs) / 2


def test_samples_of_a_class_come_equally_often() -> None:
    sequence, epochs = bound(ClassBalanced()), 300
    got = sum(np.bincount(epoch(sequence, number), minlength=N) for number in range(epochs))
    for label in (0, 1, 5):
        own = got[label == LABELS]
        assert abs(own - N / 4 / len(own) * epochs).max() < 4.5 * np.sqrt(epochs / 4) + 1


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (lambda: Weighted(np.ones(5)), r"Weighted: weights of shape \[5\]; pass one for each of 103 samples"),
        (lambda: Weighted(1.0), r"weights of shape \[\]"),
        (lambda: Weighted(["a"] * N), "weights are not numbers"),
        (
            lambda: Weighted(np.where(np.arange(N) == 4, -1, 1)),
            "weight -1.0 of sample 4; weights are finite and not neg",
        ),
        (lambda: Weighted(np.where(np.arange(N) == 4, np.nan, 1)), "weight nan of sample 4"),
        (lambda: Weighted(np.where(np.arange(N) == 4, np.inf, 1)), "weight inf of sample 4"),
        (lambda: Weighted("zero"), "all weights are 0; give some sample a weight above 0"),
        (lambda: Weighted("w", samples=-1), "samples=-1: must be at least 0"),
        (lambda: ClassBalanced(samples=-1), "samples=-1: must be at least 0"),
        (lambda: Weighted("w", samples=1.5), "samples=1.5: must be an integer"),
        (lambda: Subset([], then=Weighted([], samples=3)), "there are no samples to draw from"),
    ],
)
def test_weights_that_are_none_are_refused(sampler: Callable[[], Sampler], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bound(sampler())


# Stratified.


@PROPERTY
@given(st.lists(st.integers(0, 4), min_size=N, max_size=N), st.integers(0, 9))
def test_stratified_has_each_sample_once_and_each_prefix_in_proportion(labels: list[int], window: int) -> None:
    classes = np.array(labels)
    sequence = Stratified("x").bind(base(window=window), {"x": classes})
    order = epoch(sequence, 2)
    assert_exactly_once(order, N)
    for label in set(labels):
        reached = np.cumsum(classes[order] == label)
        expected = np.arange(1, N + 1) * (classes == label).mean()
        assert abs(reached - expected).max() < 1


@pytest.mark.parametrize(("world_size", "batch_size"), [(1, 10), (2, 10), (4, 5), (8, 4)])
def test_every_batch_of_every_rank_has_the_classes_in_proportion(world_size: int, batch_size: int) -> None:
    labels = np.arange(800) % 2  # of which every second position would be one class
    sequence = Stratified("x").bind(base(sizes=[100] * 8), {"x": labels})
    for rank in range(world_size):
        share = Share(rank=rank, world_size=world_size, batch_size=batch_size, last_batch="wrap")
        for step in islice(epoch_steps(sequence, share, 2), 25):
            assert abs(labels[step.shards * 100 + step.rows].sum() - batch_size / 2) < 1


def test_a_class_comes_in_the_shuffled_order() -> None:
    sequence, plain = bound(Stratified()), base().order()
    shards, rows = plain.locate(4, np.arange(N))
    shuffled = ((np.cumsum(SIZES) - SIZES)[shards] + rows).tolist()
    got = epoch(sequence, 4)
    for label in (0, 1, 5, 7):
        assert [s for s in got if LABELS[s] == label] == [s for s in shuffled if LABELS[s] == label]


def test_classes_may_be_any_values() -> None:
    for values in (LABELS.astype(np.float32) / 3, LABELS == 1, LABELS.astype("U2")):
        assert_exactly_once(epoch(Stratified("x").bind(base(), {"x": values}), 0), N)
