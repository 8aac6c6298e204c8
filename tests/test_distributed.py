"""Real processes: gloo on one to four ranks, with torchrun or not, threads and worker processes, deaths and resumes."""

from __future__ import annotations

import json
import re
import signal
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import conformance
import pytest
import ranks
import warm

Packed = Callable[..., Path]
SIZES = [20, 1, 17, 12]
SAMPLES = 50
STATUS_SECONDS = 5  # how often torch's DataLoader looks for its workers while it waits for them
MARGIN_SECONDS = 10  # for a machine that is busy with other things
WORLDS = (2, 1, 4, 3)  # each resumes what the one before it saved
TORCHRUN = 2  # the one that torchrun starts; it imports torch itself, and so does each of its ranks, for seconds


@pytest.fixture(scope="module")
def runs(packed: Packed, tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[Any]]:
    """What each rank found, by world size."""
    data, folder = packed("tar", SIZES), tmp_path_factory.mktemp("runs")
    found: dict[int, list[Any]] = {}
    before: list[Path] = []
    for world_size in WORLDS:
        out = folder / str(world_size)
        run = ranks.torchrun if world_size == TORCHRUN else partial(ranks.run, plain=False)  # it gives no more
        found[world_size] = run("distributed_program.py", world_size, out, data, *before)
        before = [out / "rank0.json"]
    return found


@pytest.mark.parametrize("world_size", WORLDS)
@pytest.mark.parametrize("workers", range(4))
def test_every_rank_has_its_share_with_any_workers(runs: Any, world_size: int, workers: int) -> None:
    for epoch in range(2):
        batches = [found["threads"][str(workers)][epoch] for found in runs[world_size]]
        conformance.assert_equal_batches(batches)
        conformance.assert_exactly_once(conformance.flat(batches), SAMPLES)
        conformance.assert_same_global_batches(batches, [found["threads"]["0"][epoch] for found in runs[world_size]])
        one = [found["threads"]["0"][epoch] for found in runs[1]]
        conformance.assert_same_global_batches(batches, one)
    processes = [found["processes"][str(workers)] for found in runs[world_size]]
    assert processes == [found["threads"]["0"][0] for found in runs[world_size]], "a stock DataLoader has the same"


@pytest.mark.parametrize(("before", "after"), list(pairwise(WORLDS)))
def test_saved_at_any_batch_and_resumed_at_another_world_size(runs: Any, before: int, after: int) -> None:
    saved = [found["saved"] for found in runs[before]]
    assert len(saved[0]) == 6, "before the first batch, and after each of five"
    for number, ranks_saved in enumerate(zip(*saved, strict=True)):
        assert len({json.dumps(one["state"]) for one in ranks_saved}) == 1, "the state is the same on every rank"
        seen = conformance.flat([one["seen"] for one in ranks_saved])
        resumed = [found["resumed"][number] for found in runs[after]]
        conformance.assert_equal_batches(resumed)
        rest = conformance.flat(resumed)
        if number == 5:
            conformance.assert_exactly_once(seen, SAMPLES)
            conformance.assert_exactly_once(rest, SAMPLES)
        else:
            conformance.assert_exactly_once([*seen, *rest], SAMPLES)


@pytest.mark.parametrize("world_size", WORLDS)
def test_the_mean_over_padded_batches_is_that_of_the_samples(runs: Any, world_size: int) -> None:
    expected = sum((label + 3) ** 0.5 for label in range(SAMPLES)) / SAMPLES
    for found in runs[world_size]:
        assert found["mean_loss"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("world_size", WORLDS)
def test_a_mixture_with_a_sampler_is_shared_out_and_resumed_too(runs: Any, world_size: int) -> None:
    found, one = ([rank["mixed"] for rank in runs[size]] for size in (world_size, 1))
    seen = [rank["seen"] for rank in found]
    conformance.assert_equal_batches(seen)
    read = conformance.flat(seen)
    assert sorted(read) == sorted(conformance.flat([rank["seen"] for rank in one]))
    everything = {*range(SAMPLES), *range(100, 130)}
    for rests in zip(*(rank["rest"] for rank in found), strict=True):  # from its own state, and from another run's
        conformance.assert_equal_batches(rests)
        rest = conformance.flat(rests)
        assert len(read) + len(rest) == 90
        assert set(read) | set(rest) == everything
        assert max(Counter(read + rest).values()) <= 2, "of 60 in an epoch, 10 of the 50 begin again"


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_rank_that_dies_or_hangs_is_an_error_on_the_others(packed: Packed, tmp_path: Path, how: str) -> None:
    first, second = ranks.start("dying_program.py", 2, tmp_path, packed("tar", SIZES), how, 2)
    try:
        said = ranks.finish(first)
        # where a peer hangs, gloo aborts the process at its end
        assert first.returncode in ((0,) if how == "killed" else (0, -signal.SIGABRT)), said
        found = json.loads((tmp_path / "rank0.json").read_text())
        message = "Connection (closed|reset) by peer" if how == "killed" else "Timed out waiting 3000ms"
        assert re.search(message, found["error"])
        assert found["seconds"] < ranks.GROUP_SECONDS + MARGIN_SECONDS
        assert found["threads"] == [], "the loader's threads ended with the loop"
        assert found["consumed"] == 2 * 3 * 2
    finally:
        second.kill()
        ranks.finish(second)


# In a program of its own: torch raises the error wherever its main thread is when the worker dies.
KILL_A_WORKER = """
import os, signal, sys, time
import torch.utils.data
import fastload

rows = int(sys.argv[2])
dataset = fastload.StreamingDataset(sys.argv[1], fields={"label": fastload.Scalar()}, batch_size=rows or None)
try:
    batches = iter(torch.utils.data.DataLoader(dataset, 2, num_workers=2, timeout=30))
    next(batches)
    workers = batches._workers
    since = time.monotonic()
    os.kill(workers[0].pid, signal.SIGKILL)
    workers[0].join()  # or it dies while a batch is handed over, which is another error
    for _ in batches:
        time.sleep(0.01)
except RuntimeError as error:
    print(str(error).splitlines()[0])
    print(time.monotonic() - since)
del batches
print(*(worker.is_alive() for worker in workers))
print(sorted(i for batch in torch.utils.data.DataLoader(dataset, 2) for i in batch["label"].tolist()))
"""


@pytest.mark.parametrize("planned", [False, True], ids=["by sample", "by batch"])
def test_a_worker_process_that_is_killed_is_an_error(packed: Packed, planned: bool) -> None:
    done = warm.run(KILL_A_WORKER, packed("tar", SIZES), 2 if planned else 0)
    assert done.returncode == 0, done.stderr
    error, seconds, alive, labels = done.stdout.splitlines()
    assert re.match(r"DataLoader worker \(pid.*\) (is killed by signal: Killed|exited unexpectedly)", error)
    assert float(seconds) < STATUS_SECONDS + MARGIN_SECONDS
    assert alive == "False False"
    assert labels == str(list(range(SAMPLES))), "the data set can be read again"
