"""A loader's states: what goes on from them, and which are refused."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import conformance
import numpy as np
import pytest
import torch
from loading import SIZES, Counting, dataset, loader, resuming
from samples import FORMATS, content, ids

from fastload.augment import On, RandomHorizontalFlip
from fastload.errors import StateError
from fastload.loader import DataLoader

Packed = Callable[..., Path]


class Noise(torch.nn.Module):
    """A random module that draws from torch's generator."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x)


RANDOM: dict[str, Any] = {
    "batch_size": 5,
    "augment": [RandomHorizontalFlip(), On("image", Noise())],
}


@pytest.mark.parametrize("shard_format", FORMATS)
@pytest.mark.parametrize("last_batch", ["partial", "pad", "drop", "wrap"])
def test_a_resumed_run_is_bit_equal_at_every_batch_and_again(
    packed: Packed, shard_format: str, last_batch: str
) -> None:
    data = packed(shard_format, SIZES[23], ("image", "tokens", "label"))
    starts = iter(range(10**6))

    def make() -> DataLoader:
        return DataLoader(dataset(data, 0, 1), last_batch=last_batch, num_workers=next(starts) % 4, **RANDOM)

    conformance.assert_resumes(resuming(make, content), 11)


@pytest.mark.parametrize("shard_format", FORMATS)
@pytest.mark.parametrize("last_batch", ["pad", "wrap"])
def test_a_run_goes_on_at_another_world_size_and_batch_size(packed: Packed, shard_format: str, last_batch: str) -> None:
    data = packed(shard_format, SIZES[23])
    for handed_out in range(6):
        first = [DataLoader(dataset(data, rank, 2), 2, last_batch=last_batch) for rank in range(2)]
        seen: list[int] = []
        for run in first:
            for _, batch in zip(range(handed_out), run, strict=False):
                seen += ids(batch)
        states = [run.state_dict() for run in first]
        assert states[0] == states[1]
        assert states[0]["consumed"] == min(23, 4 * handed_out)
        for world, batch_size in ((1, 4), (3, 2), (4, 1)):
            rest: list[int] = []
            counts = set()
            for rank in range(world):
                run = DataLoader(dataset(data, rank, world), batch_size, last_batch="pad", num_workers=1)
                run.load_state_dict(states[0])
                counts.add(len(run))
                batches = list(run)
                assert len(batches) == run_len(23, states[0]["consumed"], world * batch_size)
                rest += [one for batch in batches for one in ids(batch)]
            assert len(counts) == 1
            expected = set(range(23)) - set(seen) if handed_out < 6 else set(range(23))
            conformance.assert_exactly_once(rest, expected)


def run_len(n: int, consumed: int, global_batch: int) -> int:
    return -(-(n - consumed % n) // global_batch)


def test_len_after_a_resume_counts_the_rest(packed: Packed) -> None:
    data = packed("tar", SIZES[23])
    one = loader(data)
    assert len(one) == 6
    states = [batch.state for batch in one]
    for after, state in enumerate(states[:-1], 1):
        other = loader(data)
        other.load_state_dict(state)
        assert len(other) == 6 - after
        assert [len(other) for _ in other] == [6 - after] * (6 - after)
        assert len(other) == 6, "and the next epoch is whole"
    other.load_state_dict(states[-1])
    assert (other.epoch, len(other)) == (1, 6)


@pytest.mark.parametrize("shard_format", FORMATS)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_resume_reads_no_more_the_further_on_it_is(packed: Packed, shard_format: str, workers: int) -> None:
    data = packed(shard_format, [10] * 20, ("label", "image"))
    reads = []
    for position in (0, 2, 100, 160):
        run = loader(data, 2, window=2, num_workers=workers, prefetch_factor=2)
        recipe = run.dataset.recipe
        counting = Counting(recipe.reader)
        run.dataset._recipe = (os.getpid(), dataclasses.replace(recipe, reader=counting))
        run.load_state_dict({**run.state_dict(), "consumed": position})
        batches = iter(run)
        next(batches)
        batches.close()  # type: ignore[attr-defined]
        reads.append(counting.rows)
        assert len(counting.shards) <= 4
    assert reads[0] >= 2
    assert max(reads) <= (1 + 2) * 2, "a batch and what may be ahead of it"


# States.


def test_a_state_is_small_and_plain(packed: Packed) -> None:
    run = loader(packed("tar", SIZES[23]), seed=np.int64(2**62), lanes=np.int32(2))
    state = {**run.state_dict(), "consumed": 10**12}
    text = json.dumps(state)
    assert len(text) < 1000
    run.load_state_dict(json.loads(text))
    assert run.epoch == 10**12 // 23
    assert ids(next(iter(run)))


def test_each_mismatch_of_a_state_has_its_own_message(packed: Packed) -> None:
    data, other = packed("tar", SIZES[23]), packed("tar", SIZES[3])
    state = loader(data).state_dict()
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({"seed": 7}, {}, "the state was saved with seed=0, and this loader has seed=7; pass seed=0 to resume"),
        ({"window": 1}, {}, "saved with window=4, and this loader has window=1"),
        ({"lanes": 2}, {}, "saved with lanes=1, and this loader has lanes=2"),
        ({"shuffle": False}, {}, "saved with window=4, and this loader has window=0"),
        ({}, {"version": 99}, "the state has version 99; this fastload reads version 1"),
        ({}, {"fingerprint": {**state["fingerprint"], "order": 0}}, "saved under version 0 of the order"),
        ({}, {"fingerprint": {**state["fingerprint"], "samples": 5}}, "data set of 5 samples; this one has 23"),
        ({}, {"consumed": -1}, "consumed=-1 is not a number of samples"),
    ]
    for options, change, message in cases:
        with pytest.raises(StateError) as caught:
            loader(data, **options).load_state_dict({**state, **change})
        assert message in str(caught.value)
    with pytest.raises(StateError, match=r"the state belongs to another data set .*shards were added, removed"):
        loader(other).load_state_dict(state)
    with pytest.raises(StateError, match="not a state of fastload"):
        loader(data).load_state_dict({"epoch": 3})


def test_a_refused_state_changes_nothing(packed: Packed) -> None:
    run = loader(packed("tar", SIZES[23]))
    batches = list(run)
    with pytest.raises(StateError, match="version"):
        run.load_state_dict({**batches[1].state, "version": 2})  # type: ignore[dict-item]
    assert (run.epoch, run.state_dict()["consumed"]) == (1, 23)


def test_loading_a_state_while_an_iteration_runs_is_an_error(packed: Packed) -> None:
    run = loader(packed("tar", SIZES[23]), num_workers=1)
    state = run.state_dict()
    for _ in run:
        with pytest.raises(StateError, match="load_state_dict while an iteration is running; load before the loop"):
            run.load_state_dict(state)
        break
    run.load_state_dict(state)
    batches = iter(run)
    run.load_state_dict(state)  # nothing was asked of it yet
    next(batches)
    with pytest.raises(StateError, match="while an iteration is running"):
        run.load_state_dict(state)
    del batches
    run.load_state_dict(state)
    assert len(list(run)) == 6
