"""Lightning's Trainer, on two processes and one: shares, validation, checkpoints inside an epoch, other world sizes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import conformance
import pytest
import ranks

import fastload

Packed = Callable[..., Path]
PROGRAM = "dropin/lightning_program.py"
IMPORTS = ("lightning", "torch._dynamo")
SIZES, SAMPLES, EPOCH = [5, 1, 9, 8], 23, 4  # batches of 3 on 2 ranks


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def two(packed: Packed, checkpoints: Path) -> list[Any]:
    """What two ranks found; they leave checkpoints after 2, 4 and 6 steps."""
    return ranks.run(PROGRAM, 2, checkpoints / "two", packed("tar", SIZES), checkpoints, imports=IMPORTS)


@pytest.fixture(scope="module")
def one(packed: Packed, checkpoints: Path, two: list[Any]) -> Any:
    """What one process found that resumes after 2 and 6 steps of the two."""
    return ranks.run(PROGRAM, 1, checkpoints / "one", packed("tar", SIZES), checkpoints, 2, 6, imports=IMPORTS)[0]


def test_each_sample_once_an_epoch_in_the_batches_of_fastload(packed: Packed, two: list[Any]) -> None:
    for rank, found in enumerate(two):
        data = fastload.StreamingDataset(packed("tar", SIZES), rank=rank, world_size=2)
        loader = fastload.DataLoader(data, 3)
        assert found["whole"] == [batch["label"][batch.valid].tolist() for _ in range(2) for batch in loader]
    for epoch in range(2):
        batches = [found["whole"][EPOCH * epoch :][:EPOCH] for found in two]
        conformance.assert_exactly_once(conformance.flat(batches), SAMPLES)


def test_validation_sees_each_sample_once_an_epoch(two: list[Any]) -> None:
    first = [found["validated"][: len(found["validated"]) // 2] for found in two]
    conformance.assert_exactly_once([i for rank in first for i in rank], SAMPLES)
    conformance.assert_exactly_once(
        [i for found, seen in zip(two, first, strict=True) for i in found["validated"][len(seen) :]], SAMPLES
    )


def test_a_stock_loader_is_shared_out_once(two: list[Any]) -> None:
    batches = [found["stock"] for found in two]
    conformance.assert_equal_batches(batches)
    conformance.assert_exactly_once(conformance.flat(batches), SAMPLES)


@pytest.mark.parametrize("step", [2, 4, 6])
def test_a_checkpoint_resumes_with_the_rest(two: list[Any], step: int) -> None:
    for found in two:
        assert found[str(step)] == found["whole"][step:]


def test_a_checkpoint_resumes_on_another_number_of_ranks(two: list[Any], one: Any) -> None:
    seen = conformance.flat([found["whole"][:2] for found in two])
    rest, second = one["2"][:4], one["2"][4:]
    conformance.assert_exactly_once(seen + conformance.flat([rest]), SAMPLES)
    conformance.assert_exactly_once(conformance.flat([second]), SAMPLES)
    seen = conformance.flat([found["whole"][EPOCH:6] for found in two])
    conformance.assert_exactly_once(seen + conformance.flat([one["6"]]), SAMPLES)


def test_a_resume_that_lightning_would_cut_short_is_refused(two: list[Any]) -> None:
    expected = "the state was saved after 3 batches of an epoch, and 3 are left at this world size and batch size; "
    assert two[0]["grown"] == expected + (
        "Lightning counts both and stops at 4. Resume at the old ones, or from the end of an epoch"
    )


def test_a_stock_loader_that_would_begin_the_epoch_anew_is_refused(two: list[Any]) -> None:
    for found in two:
        for error in found["restarted"][:2]:
            assert error.startswith("the checkpoint was saved after 2 batches of an epoch, and a stock DataLoader")
    batches = [found["restarted"][2] for found in two]
    conformance.assert_equal_batches(batches)
    conformance.assert_exactly_once(conformance.flat(batches), SAMPLES)


def test_a_pipeline_is_saved_with_the_model_and_resumes_between_epochs(one: Any) -> None:
    found = one["pipeline"]
    epoch = [[0, 1], [2, 3], [4, 5], [6, 7]]
    whole, between = found["whole"], found["between"]
    assert whole["labels"] == epoch * 2
    assert between == {"labels": epoch, "keys": whole["keys"][4:]}, "augmentation draws as in the second epoch"
    assert whole["keys"][4:] != whole["keys"][:4]
    assert found["states"] == [{"epoch": 0}]
    for refused in (found["inside"], found["loaded"]):
        assert refused.startswith("a Pipeline only gives one sample after the other, so that its place cannot be saved")
