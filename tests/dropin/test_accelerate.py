"""Accelerate's prepare, on two processes and one: loaders of fastload stay as they are, and stock DataLoaders over its
data sets give the same batches whichever way Accelerate shares them out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import conformance
import pytest
import ranks
import samples

Packed = Callable[..., Path]
PROGRAM = "dropin/accelerate_program.py"
IMPORTS = ("accelerate", "datasets", "torch._dynamo")  # which each rank would import
SIZES, SAMPLES = [5, 1, 9, 8], 23
MARGIN_SECONDS = 20  # of 60 that the process group would wait, on a machine that is busy with other things
WAYS = [f"{dispatch} {split} {w}" for dispatch in (None, False, True) for split in (False, True) for w in (0, 2)]


@pytest.fixture(scope="module", params=[1, 2])
def found(request: pytest.FixtureRequest, packed: Packed, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What each rank found."""
    out = tmp_path_factory.mktemp("accelerate") / "out"
    return ranks.run(PROGRAM, request.param, out, packed("tar", SIZES), imports=IMPORTS)


def test_a_loader_of_fastload_is_left_as_it_is(found: list[Any]) -> None:
    for epoch in range(2):
        batches = [rank["own"][epoch] for rank in found]
        conformance.assert_equal_batches(batches)
        conformance.assert_exactly_once(conformance.flat(batches), SAMPLES)


def test_a_registered_loader_goes_on_where_the_checkpoint_was(found: list[Any]) -> None:
    for rank in found:
        assert rank["saved"] == [rank["own"][0][1:]] * 2


@pytest.mark.parametrize("way", WAYS)
def test_a_stock_loader_has_the_batches_of_fastload(found: list[Any], way: str) -> None:
    if len(found) == 1 and not way.startswith(("None", "True")):  # not wrapped: sample by sample, in any worker
        conformance.assert_exactly_once(conformance.flat([found[0][way][0]]), SAMPLES)
        return
    assert [rank[way] for rank in found] == [rank["own"] for rank in found]


def test_workers_that_are_spawned_know_too(found: list[Any]) -> None:
    if len(found) == 1:
        assert "spawn" not in found[0], "nothing is shared out"
        return
    assert [rank["spawn"][0] for rank in found] == [rank["own"][0] for rank in found]


def test_drop_last_drops_and_pads_nothing(found: list[Any]) -> None:
    whole = SAMPLES // (3 * len(found))
    assert [rank["drop"] for rank in found] == [[epoch[:whole] for epoch in rank["own"]] for rank in found]


def test_a_loader_that_was_not_prepared_has_its_own_share(found: list[Any]) -> None:
    batches = [rank["unprepared"][0] for rank in found]
    conformance.assert_equal_batches(batches)
    conformance.assert_exactly_once(conformance.flat(batches), SAMPLES)


def test_metrics_of_an_indexed_data_set_count_each_sample_once(found: list[Any]) -> None:
    assert all(sorted(rank["metric"]) == list(range(SAMPLES)) for rank in found)


def test_metrics_without_the_padding_count_each_sample_once(found: list[Any]) -> None:
    for rank in found:
        assert sorted(rank["gathered"]["own"]) == sorted(rank["gathered"]["stock"]) == list(range(SAMPLES))


def test_a_wrapper_is_not_shared_out_a_second_time(found: list[Any]) -> None:
    errors = [error for rank in found for how, error in rank["wrapped"].items() if not how.endswith("once")]
    if len(found) == 1:
        assert all(sorted(read) == list(range(SAMPLES)) for read in errors)
        return
    assert len(errors) == 3 * 2 + 4, "both ranks read, or the first for both"
    for error in errors:
        assert "Accelerate would share out a second time, over 2 processes, what a Wrapper reads from fastload" in error
    for dispatch in (False, True):
        read = {i for rank in found for i in rank["wrapped"][f"{dispatch} once"]}
        assert read == set(range(SAMPLES)), "what gives every rank everything may be"


def test_accumulated_gradients_step_at_the_end_of_an_epoch(found: list[Any]) -> None:
    last = len(found[0]["own"][0]) - 1
    for rank in found:
        steps = [number for number in range(last + 1) if number % 3 == 2 or number == last] * 2
        assert rank["accumulated"] == {"stock": steps, "own": steps, "left": False}


def test_skipping_batches_does_not_make_another_loader(found: list[Any]) -> None:
    for rank in found:
        assert rank["skipped"].startswith("skip_first_batches would go on with another loader, without augment=")


def test_what_cannot_be_shared_out_is_refused(found: list[Any]) -> None:
    expected = [
        f"world_size=8: Accelerate shares this out over {len(found)} processes; leave rank and world_size out",
        f"drop_last=True would drop everything: 23 samples, and a global batch of {50 * len(found)}",
        "under Accelerate the DataLoader needs a batch_size; or pass it a fastload.DataLoader",
    ]
    for rank in found:
        assert len(rank["errors"]) == len(expected)
        assert all(part in error for part, error in zip(expected, rank["errors"], strict=True))


def test_where_the_first_rank_reads_for_all_its_error_ends_the_others(tmp_path: Path) -> None:
    """They wait for its batch, and gloo tells them when its process is gone; before, nothing can."""
    data = samples.make(tmp_path / "data", "tar", [8, 8, 8])
    samples.flip_byte(data / "train" / "shard-000001.tar", 5 * 1024)
    out = tmp_path / "out"
    processes = ranks.start("dropin/dispatch_program.py", 2, out, data, imports=IMPORTS)
    try:
        said = [ranks.finish(process) for process in processes]
    finally:
        for process in processes:
            ranks.abort(process)
    first, other = (json.loads((out / f"rank{rank}.json").read_text()) for rank in range(2))
    assert re.match("CorruptError.*'train/shard-000001.tar'.*are not what was packed", first["error"], re.DOTALL), said
    assert re.match("RuntimeError.*Connection (closed|reset) by peer", other["error"]), said
    assert other["batches"] == first["batches"]
    assert other["seconds"] < MARGIN_SECONDS


def test_what_reads_inside_of_a_wrapped_loader_does_not_end_its_epoch(found: list[Any]) -> None:
    assert [rank["nested"] for rank in found if "nested" in rank] == [[4, 9, 14, 19, 22] * 2] * (len(found) == 1)
