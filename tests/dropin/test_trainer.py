"""The Hugging Face Trainer with train_dataset=StreamingDataset, on two processes and one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import conformance
import pytest
import ranks

import fastload

Packed = Callable[..., Path]
SIZES, SAMPLES = [5, 1, 9, 8], 23


@pytest.fixture(scope="module", params=[1, 2])
def found(request: pytest.FixtureRequest, packed: Packed, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What each rank found, and the warnings of the first."""
    out = tmp_path_factory.mktemp("trainer") / "out"
    data, imports = packed("tar", SIZES, ("text", "label")), ("transformers.trainer", "torch._dynamo")
    left = ranks.run("dropin/trainer_program.py", request.param, out, data, imports=imports)
    left[0]["warnings"] = json.loads((out / "whole" / "rank0.json").read_text())
    return left


def test_each_sample_once_an_epoch_in_the_batches_of_fastload(packed: Packed, found: list[Any]) -> None:
    data, steps = packed("tar", SIZES, ("text", "label")), -(-SAMPLES // (3 * len(found)))
    for rank, one in enumerate(found):
        dataset = fastload.StreamingDataset(data, fields={"label": fastload.Scalar()}, rank=rank, world_size=len(found))
        loader = fastload.DataLoader(dataset, 3)
        assert one["whole"] == [batch["label"][batch.valid].tolist() for _ in range(2) for batch in loader]
        assert one["steps"] == 2 * steps, "the Trainer counts the epoch's steps"
    for epoch in range(2):
        batches = [one["whole"][steps * epoch :][:steps] for one in found]
        conformance.assert_exactly_once(conformance.flat(batches), SAMPLES)


def test_the_other_way_of_sharing_has_the_same_batches(found: list[Any]) -> None:
    if len(found) == 1:  # nothing is shared out
        conformance.assert_exactly_once(conformance.flat([found[0]["sharded"]]), SAMPLES)
        return
    assert [one["sharded"] for one in found] == [one["whole"][:4] for one in found]


def test_a_checkpoint_resumes_with_the_rest(found: list[Any]) -> None:
    assert [one["resumed"] for one in found] == [one["whole"][6:] for one in found]


def test_evaluation_of_an_indexed_data_set_counts_each_sample_once(found: list[Any]) -> None:
    assert all(one["evaluated"] == list(range(SAMPLES)) for one in found)


def test_padding_is_not_measured(found: list[Any]) -> None:
    for one in found:
        if len(found) == 1:
            assert one["streamed"] == [list(range(SAMPLES))] * 2
            continue
        for error in one["streamed"]:
            assert error.startswith("the Trainer would measure 1 rows of padding with the 23 samples: evaluate with an")
        assert len(one["aware"]) == SAMPLES + 1, "a model that takes __valid__ is left to it"


def test_a_loader_of_fastload_resumes_by_its_state_and_not_by_skipping(found: list[Any]) -> None:
    for one in found:
        assert min(min(step) for step in one["own"]) >= 100, "augmented"
        assert len(one["own"]) == 2 * -(-SAMPLES // (3 * len(found)))
        assert one["own resumed"] == one["own"][3:]
        assert "ignore_data_skip=True" in one["own skipping"]


def test_padding_is_told_where_there_is_some(found: list[Any]) -> None:
    messages = found[0]["warnings"]
    assert bool(messages) == (len(found) == 2)
    assert all(
        m.startswith("the last batch of an epoch has 1 rows of padding, with '__valid__' False") for m in messages
    )
