"""What crosses processes or must leave no trace: ranks under torch.distributed, forks, signals, exits, memory."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import conformance
import pytest
import samples
import torch.utils.data
import warm
from samples import FORMATS, Leftovers, ids, own_memory

import fastload
from fastload.errors import FastloadError
from fastload.loader import DataLoader

Packed = Callable[..., Path]
FIELDS = {"image": fastload.Image(8, crop="random"), "label": fastload.Scalar()}
SIZES = [5, 1, 9, 8]

RANK_PROGRAM = """
import json, sys
import torch, torch.distributed as dist
import torch.utils.data
import fastload
from fastload import DataLoader, StreamingDataset

def ids(batch):
    return batch["label"][batch.valid].tolist()

def main():
    data, meeting, rank, out = sys.argv[1:]
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=int(rank), world_size=2)
    fields = {"image": fastload.Image(8), "label": fastload.Scalar()}
    found = {}
    run = DataLoader(data, 4, fields=fields, num_workers=2)
    found["own"] = []
    for epoch in range(2):
        found["own"].append([])
        for batch in run:
            dist.all_reduce(torch.ones(1))  # hangs if the ranks have unequal numbers of batches
            found["own"][-1].append(ids(batch))
    for start in ("fork", "spawn") if rank == "1" else ("fork",):  # to spawn a worker takes seconds
        dataset = StreamingDataset(data, fields={"label": fastload.Scalar()})
        loader = torch.utils.data.DataLoader(dataset, batch_size=4, num_workers=1, multiprocessing_context=start)
        found[start] = [batch["label"][batch["__valid__"]].tolist() for batch in loader]
    with open(out, "w") as file:
        json.dump(found, file)
    dist.destroy_process_group()

if __name__ == "__main__":
    main()
"""


def test_two_ranks_of_torch_distributed_find_their_place_and_share_exactly(packed: Packed, tmp_path: Path) -> None:
    data, program = packed("tar", SIZES), tmp_path / "rank.py"
    program.write_text(RANK_PROGRAM)
    env = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    meeting = tmp_path / "meeting"
    started = [warm.Program(program, data, meeting, rank, tmp_path / f"{rank}.json", env=env) for rank in range(2)]
    errors = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], errors
    found: list[dict[str, Any]] = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for epoch in range(2):
        ranks = [one["own"][epoch] for one in found]
        conformance.assert_equal_batches(ranks)
        conformance.assert_exactly_once(conformance.flat(ranks), 23)
        expected = []
        for rank in range(2):
            run = DataLoader(data, 4, fields=FIELDS, rank=rank, world_size=2)
            run.set_epoch(epoch)
            expected.append([ids(batch) for batch in run])
        assert ranks == expected
    ranks = [one["fork"] for one in found]
    conformance.assert_equal_batches(ranks)
    conformance.assert_exactly_once(conformance.flat(ranks), 23)
    assert found[1]["spawn"] == found[1]["fork"]


def program(body: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return warm.run("import fastload, os, sys\n" + body, *arguments)


def test_a_program_that_ends_inside_an_iteration_exits(packed: Packed) -> None:
    body = """
run = fastload.DataLoader(sys.argv[1], 2, fields={"image": fastload.Image(8)}, num_workers=3, prefetch_factor=4)
batches = iter(run)
next(batches)
print("left open")
"""
    done = program(body, packed("tar", SIZES))
    assert (done.returncode, done.stdout, done.stderr) == (0, "left open\n", "")


def test_a_forked_child_is_told_and_may_begin_its_own_iteration(packed: Packed) -> None:
    body = """
from fastload.errors import EngineError
run = fastload.DataLoader(sys.argv[1], 2, fields={"image": fastload.Image(8)}, num_workers=3, prefetch_factor=4)
batches = iter(run)
first = next(batches)["__key__"]
pid = os.fork()
if pid == 0:
    try:
        next(batches)
        os._exit(1)
    except EngineError as error:
        assert "make its iterator in the child process" in str(error)
    run.set_epoch(1)
    own = [key for batch in run for key in batch["__key__"]]
    os._exit(42 if sorted(own) == [f"{i:06d}" for i in range(23)] else 2)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42
keys = first + [key for batch in batches for key in batch["__key__"]]
assert sorted(keys) == [f"{i:06d}" for i in range(23)]
"""
    done = program(body, packed("tar", SIZES))
    assert done.returncode == 0, done.stderr


def test_an_interrupt_ends_the_loop_at_once_and_leaves_no_process(packed: Packed) -> None:
    body = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that runs the tests behind it has it ignored
run = fastload.DataLoader(sys.argv[1], 2, fields={"image": fastload.Image(8)}, num_workers=2)
print("begun", flush=True)
try:
    while True:
        for batch in run:
            pass
except KeyboardInterrupt:
    import threading
    run.load_state_dict(run.state_dict())
    print([t.name for t in threading.enumerate()], flush=True)
    raise
"""
    process = warm.Program("import fastload, sys\n" + body, packed("tar", SIZES))
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    try:
        out, error = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        out, error = process.communicate()
    assert out == "['MainThread']\n"
    assert process.returncode == -signal.SIGINT
    assert error.rstrip().endswith("KeyboardInterrupt")


@pytest.mark.parametrize("shard_format", FORMATS)
@pytest.mark.parametrize("how", ["end", "break", "exception", "dropped", "fault"])
def test_no_thread_and_no_descriptor_is_left(tmp_path: Path, shard_format: str, how: str) -> None:
    bad = {20: {"image": b"junk"}} if how == "fault" else None
    data = samples.make(tmp_path / "d", shard_format, SIZES, replace=bad)  # type: ignore[arg-type]
    before = Leftovers()
    run = DataLoader(data, 4, fields=FIELDS, num_workers=3, prefetch_factor=3, shuffle=False)
    if how == "end":
        assert len(list(run)) == 6
    elif how == "break":
        for _ in run:
            break
    elif how == "dropped":
        batches = iter(run)
        next(batches)
        del batches
    elif how == "exception":
        with pytest.raises(ZeroDivisionError):
            print([1 / 0 for _ in run])
    else:
        with pytest.raises(FastloadError):
            list(run)
    now = Leftovers()
    assert now.threads == before.threads, "threads end with the iteration; open shards stay for the next"
    del run
    if how in ("exception", "fault"):
        gc.collect()  # an exception and its traceback may be a cycle
    before.assert_none(patience_seconds=2.0)


@pytest.mark.parametrize(("shard_format", "workers"), [("tar", 0), ("tar", 2), ("parquet", 2)])
def test_memory_is_flat_over_200_epochs(packed: Packed, shard_format: str, workers: int) -> None:
    data = packed(shard_format, [4, 4])
    fields = {"image": fastload.Image(96, crop="random"), "label": fastload.Scalar()}
    run = DataLoader(data, 4, fields=fields, num_workers=workers)
    for epoch in range(240):
        for batch in run:
            del batch
        if epoch == 39:
            gc.collect()
            before = own_memory()
    gc.collect()
    # an epoch's pixels are 0.2 MB: to keep one batch of each would leave 22 MB
    assert own_memory() - before < 6 << 20


def test_workers_that_are_spawned_go_on_with_the_epochs_and_count_masked_samples_with_their_parent(
    tmp_path: Path,
) -> None:
    """One is spawned, because it takes seconds, for an epoch in the middle."""
    junk: dict[int, dict[str, bytes | None]] = {i: {"image": b"junk"} for i in (1, 7)}
    data = samples.make(tmp_path / "d", "parquet", SIZES, replace=junk)
    stream = fastload.StreamingDataset(data, fields=FIELDS, on_error="mask")
    next(iter(stream))  # opens a shard, which does not travel
    stream.set_epoch(1)

    def epoch(start: str) -> list[int]:
        loader = torch.utils.data.DataLoader(stream, 4, num_workers=1, multiprocessing_context=start)
        return [i for batch in loader for i in batch["label"][batch["__valid__"]].tolist()]

    run = DataLoader(data, 4, fields=FIELDS, on_error="mask")
    run.set_epoch(1)
    expected = [[i for batch in run for i in ids(batch)] for _ in range(2)]
    assert epoch("spawn") == expected[0]
    assert stream._counted is not None
    assert len(run.faults) == 2
    assert stream._counted.add(run.faults[0].shard, run.faults[0].row) == (False, 2)
    assert epoch("fork") == expected[1]


TREE_PROGRAM = '''
import gc, sys
import psutil, torch.utils.data
import fastload

def own(process):
    """KiB, without files that it has mapped; as `samples.own_memory`."""
    with open(f"/proc/{process.pid}/smaps_rollup") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith(("Pss_Anon:", "Pss_Shmem:")))

def tree():
    gc.collect()
    process = psutil.Process()
    return sum(own(one) for one in (process, *process.children(recursive=True)))

def stream(seed):
    fields = {"image": fastload.Image(96, crop="random"), "label": fastload.Scalar()}
    return fastload.StreamingDataset(sys.argv[1], fields=fields, seed=seed)

def grown(run):
    for epoch in range(EPOCHS := 100):
        for batch in run:
            del batch
        if epoch == EPOCHS // 4:
            before = tree()
    return tree() - before

print(grown(torch.utils.data.DataLoader(stream(0), 4, num_workers=2, persistent_workers=True)))
mix = fastload.Mix({"a": stream(0), "b": stream(1)}, [0.7, 0.3], stop=24)
print(grown(fastload.DataLoader(mix, 4, num_workers=2)))
'''


def test_memory_of_all_processes_is_flat(packed: Packed) -> None:
    """Of a stock DataLoader with worker processes, and of threads and a mixture."""
    command = [sys.executable, "-c", TREE_PROGRAM, str(packed("tar", [9, 8, 7]))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    # an epoch's pixels are 0.7 MB: to keep one batch of each would leave 8 MB
    stock, mixed = map(int, done.stdout.split())
    assert stock < 4 << 10, f"{stock} KiB more"
    assert mixed < 4 << 10, f"{mixed} KiB more"


UNTOUCHED_PROGRAM = """
import os, random, signal, sys
import numpy, torch, torch.distributed, torch.utils.data
import fastload
from fastload.augment import ColorJitter, RandomHorizontalFlip

def state():
    return {
        "random": random.getstate(),
        "numpy": str(numpy.random.get_state()),
        "torch": torch.get_rng_state().tolist(),
        "environment": dict(os.environ),
        "handlers": [str(signal.getsignal(number)) for number in signal.valid_signals()],
        "threads of torch": torch.get_num_threads(),
        "process group": torch.distributed.is_initialized(),
        "folder": os.getcwd(),
        "default dtype": torch.get_default_dtype(),
    }

fields = {"image": fastload.Image(24, crop="random"), "text": fastload.Text(), "label": fastload.Scalar()}
before = state()
sampler = fastload.samplers.ClassBalanced("label")
for workers in (0, 2):
    run = fastload.DataLoader(sys.argv[1], 4, shuffle=True, fields=fields, num_workers=workers, sampler=sampler,
                              augment=[RandomHorizontalFlip(), ColorJitter(0.4)], on_error="mask")
    for _ in range(2):
        list(run)
    run.load_state_dict(run.state_dict())
stream = fastload.StreamingDataset(sys.argv[1], fields=fields)
list(stream)
list(fastload.DataLoader(fastload.Mix({"a": stream, "b": stream}, [2, 1]), 4))
list(fastload.DataLoader(fastload.IndexedDataset(sys.argv[1], fields={"label": fields["label"]}), 4, shuffle=True))
after = state()
print([name for name in before if before[name] != after[name]])
"""


def test_using_it_leaves_the_program_as_it_was(packed: Packed) -> None:
    data = packed("tar", SIZES, ("image", "text", "label"))
    done = warm.run(UNTOUCHED_PROGRAM, data)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
