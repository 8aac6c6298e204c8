"""Which epoch an iteration is of, however the one before it was left."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from loading import SIZES, loader
from samples import ids

from fastload.batch import Batch

Packed = Callable[..., Path]


def epochs_of(batches: list[Batch], reference: dict[int, list[list[int]]]) -> int:
    """Which epoch these batches are of."""
    found = [ids(batch) for batch in batches]
    return next(epoch for epoch, expected in reference.items() if expected[: len(found)] == found)


@pytest.fixture
def reference(packed: Packed) -> dict[int, list[list[int]]]:
    """The batches of epochs 0 to 5, by ids."""
    run = loader(packed("tar", SIZES[23]))
    return {epoch: [ids(batch) for batch in run] for epoch in range(6)}


def test_set_epoch_jumps(packed: Packed, reference: dict[int, list[list[int]]]) -> None:
    run = loader(packed("tar", SIZES[23]))
    run.set_epoch(3)
    assert (run.epoch, run.state_dict()["consumed"]) == (3, 69)
    assert epochs_of(list(run), reference) == 3
    assert epochs_of(list(run), reference) == 4
    run.set_epoch(0)
    assert epochs_of(list(run), reference) == 0


def test_set_epoch_keeps_a_resume_inside_the_same_epoch_and_no_other(
    packed: Packed, reference: dict[int, list[list[int]]]
) -> None:
    run = loader(packed("tar", SIZES[23]))
    run.set_epoch(2)
    states = [batch.state for batch in run]
    run.load_state_dict(states[2])  # type: ignore[arg-type]
    run.set_epoch(2)
    assert [ids(batch) for batch in run] == reference[2][3:]
    run.load_state_dict(states[2])  # type: ignore[arg-type]
    run.set_epoch(3)
    assert [ids(batch) for batch in run] == reference[3]
    run.set_epoch(3)
    assert [ids(batch) for batch in run] == reference[3], "the resume is over: this is a jump"


def test_set_epoch_during_an_iteration_is_for_the_next(packed: Packed, reference: dict[int, list[list[int]]]) -> None:
    run = loader(packed("tar", SIZES[23]))
    seen = []
    for number, batch in enumerate(run):
        seen.append(ids(batch))
        if number == 1:
            run.set_epoch(0)  # what trainers do that prefetch a batch first
            assert run.state_dict() == batch.state
        if number == 3:
            run.set_epoch(4)
            assert run.state_dict() == batch.state
            assert (run.epoch, len(run)) == (0, 6)
    assert seen == reference[0]
    assert (run.epoch, run.state_dict()["consumed"]) == (4, 4 * 23)
    assert epochs_of(list(run), reference) == 4


def test_set_epoch_of_the_epoch_that_is_running_changes_nothing(
    packed: Packed, reference: dict[int, list[list[int]]]
) -> None:
    run = loader(packed("tar", SIZES[23]))
    for epoch in range(3):
        batches = iter(run)
        found = [ids(next(batches))]  # trainers that prefetch a batch call it after that
        run.set_epoch(epoch)
        found += [ids(batch) for batch in batches]
        assert found == reference[epoch]
    assert run.epoch == 3


@pytest.mark.parametrize("last_batch", ["partial", "pad", "drop"])
def test_breaking_out_abandons_the_epoch(
    packed: Packed, reference: dict[int, list[list[int]]], last_batch: str
) -> None:
    run = loader(packed("tar", SIZES[23]), last_batch=last_batch, num_workers=2)
    for _ in run:
        break
    assert (run.epoch, len(run)) == (1, 5 if last_batch == "drop" else 6)
    second = list(run)
    assert epochs_of(second[:2], reference) == 1
    for number, _ in enumerate(run, 1):
        if number == len(second):
            break
    assert run.epoch == 3, "broken out of after its last batch, epoch 2 is complete"


def test_breaking_out_of_a_wrapped_pass_abandons_the_epoch_too(packed: Packed) -> None:
    data = packed("tar", SIZES[23])
    run = loader(data, 5, last_batch="wrap")
    jumped = loader(data, 5, last_batch="wrap")
    for _ in run:
        break
    assert (run.epoch, len(run)) == (1, 5)
    jumped.set_epoch(1)
    assert [ids(batch) for batch in run] == [ids(batch) for batch in jumped]
    assert run.state_dict()["consumed"] == 23 + 25, "a pass that ended goes on where it ended"
    for number, _ in enumerate(run, 1):
        if number == len(run):
            break
    assert run.state_dict()["consumed"] == 48 + 25
    assert run.epoch == 3


def test_an_exception_in_the_loop_ends_the_iteration(packed: Packed) -> None:
    run = loader(packed("tar", SIZES[23]), num_workers=2)
    kept = None
    try:
        for _ in run:
            raise KeyError("mine")
    except KeyError as error:
        kept = error
    assert kept is not None
    run.load_state_dict(run.state_dict())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fastload-")]


def test_the_newest_of_several_iterators_is_the_loaders_place(
    packed: Packed, reference: dict[int, list[list[int]]]
) -> None:
    run = loader(packed("tar", SIZES[23]))
    first, second = iter(run), iter(run)
    seen = [ids(next(first)), ids(next(first))]
    assert [ids(next(second))] == reference[1][:1]
    seen += [ids(batch) for batch in first]
    assert seen == reference[0], "the older one goes on undisturbed"
    assert (run.epoch, len(run), run.state_dict()["consumed"]) == (1, 6, 23 + 4)
    assert [ids(batch) for batch in second] == reference[1][1:]
    assert run.epoch == 2


def test_a_batch_that_was_not_handed_over_does_not_count(packed: Packed) -> None:
    run = loader(packed("tar", SIZES[23]), num_workers=2, prefetch_factor=4)
    batches = iter(run)
    next(batches)
    assert run.state_dict()["consumed"] == 4


def test_an_augmentation_that_fails_is_raised_and_its_batch_does_not_count(packed: Packed) -> None:
    def fails(batch: Batch) -> Batch:
        if batch.state is not None and batch.state["consumed"] > 8:
            raise ArithmeticError("no")
        return batch

    run = loader(packed("tar", SIZES[23]), augment=fails, num_workers=2)
    with pytest.raises(ArithmeticError, match="no"):
        list(run)
    assert run.state_dict()["consumed"] == 8


def test_a_function_that_makes_a_batch_anew_changes_neither_place_nor_order(
    packed: Packed, reference: dict[int, list[list[int]]]
) -> None:
    kept: list[Batch] = []

    def anew(batch: Batch) -> Batch:
        return Batch({"label": batch["label"]}, valid=batch.valid)

    def stale(batch: Batch) -> Batch:
        """A batch with the state of another."""
        kept.append(batch)
        return Batch({"label": batch["label"]}, valid=batch.valid, state=kept[0].state)

    for function in (anew, stale):
        run = loader(packed("tar", SIZES[23]), augment=function)
        states = []
        for epoch in range(3):
            batches = list(run)
            assert epochs_of(batches, reference) == epoch
            states += [batch.state for batch in batches]
        assert run.state_dict()["consumed"] == 3 * 23
        run.load_state_dict(states[7])  # type: ignore[arg-type]
        assert [ids(batch) for batch in run] == reference[1][2:]


def test_set_epoch_is_for_the_next_iteration_while_an_older_iterator_is_held(
    packed: Packed, reference: dict[int, list[list[int]]]
) -> None:
    run = loader(packed("tar", SIZES[23]))
    held = iter(run)
    first = [ids(next(held))]
    run.set_epoch(4)
    assert epochs_of(list(run), reference) == 4
    assert run.epoch == 5
    assert first + [ids(batch) for batch in held] == reference[0]
    assert run.epoch == 5
