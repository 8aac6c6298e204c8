"""The order by itself, arithmetic alone: 10^9 samples in 10^6 shards on 4,096 ranks, in fresh processes: time to start,
per batch and to resume, and memory; what samplers take of each of a million samples; and what opening an index.json of
10^6 shards takes, without the shards."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastload.shards.index import FieldInfo, IndexFile, ShardFile

PROGRAM = """
import json, time, tracemalloc
import numpy as np
from fastload.order.cursor import State, steps
from fastload.order.distribute import Share
from fastload.order.sampler import Base

SHARDS, ROWS, WORLD, BATCH = 10**6, 1000, 4096, 256

sizes = np.full(SHARDS, ROWS)
start = time.perf_counter()
order = Base(sizes=sizes, seed=0, window=64, lanes=1).order()
share = Share(rank=1234, world_size=WORLD, batch_size=BATCH, last_batch="pad")
batches = steps(order, share, 0)
next(batches)
first = time.perf_counter() - start
start, count = time.perf_counter(), 0
for batch in batches:
    count += 1
rest = time.perf_counter() - start

def place(part):  # where a batch begins in epoch 1,000
    return 10**12 + int(part * 10**9) // (WORLD * BATCH) * (WORLD * BATCH)

resumes = {}
for part in (0, 0.01, 0.5, 0.99):
    order = Base(sizes=sizes, seed=0, window=64, lanes=1).order()  # a fresh one, as after a restart
    start = time.perf_counter()
    next(steps(order, share, place(part)))
    resumes[f"{part:.0%}"] = time.perf_counter() - start

start, seen = time.perf_counter(), np.zeros(SHARDS * ROWS, np.bool_)  # one batch of every rank
for rank in range(WORLD):
    step = next(steps(order, Share(rank=rank, world_size=WORLD, batch_size=BATCH, last_batch="pad"), place(0.5)))
    seen[step.shards * ROWS + step.rows] = True
distinct, everyone = int(seen.sum()), time.perf_counter() - start
del seen
tracemalloc.start()
order = Base(sizes=sizes, seed=0, window=64, lanes=1).order()
next(steps(order, share, 0))
held, peak = tracemalloc.get_traced_memory()
print(json.dumps({
    "samples": order.samples,
    "first_batch_seconds": first,
    "batch_microseconds": rest / count * 1e6,
    "batches": count + 1,
    "resume_seconds": resumes,
    "distinct": distinct,
    "all_ranks_seconds": everyone,
    "bytes": held,
    "peak_bytes": peak,
    "state_bytes": len(json.dumps(State(consumed=10**12, fingerprint={"data": "0" * 16}).to_dict())),
}))
"""

MIXED = """
import json, time
from fastload.order.cursor import steps
from fastload.order.distribute import Share
from fastload.order.mix import Mixture
from fastload.order.sampler import Base
import numpy as np

start = time.perf_counter()
sources = [Base(sizes=np.full(10**5, 1000), seed=i, window=64, lanes=1).order() for i in range(10)]
mix = Mixture(sources, [10**5] * 10, [0.31, 0.2, 0.13, 0.1, 0.08, 0.07, 0.05, 0.03, 0.02, 0.01], "all")
share = Share(rank=1234, world_size=4096, batch_size=256, last_batch="pad")
batches = steps(mix, share, 0)
next(batches)
first = time.perf_counter() - start
start = time.perf_counter()
count = sum(1 for _, _ in zip(range(500), batches))
print(json.dumps({
    "samples": mix.samples,
    "first_batch_seconds": first,
    "batch_microseconds": (time.perf_counter() - start) / count * 1e6,
}))
"""

SAMPLED = """
import json, time, tracemalloc
import numpy as np
from fastload.order.buckets import LengthBuckets
from fastload.order.cursor import steps
from fastload.order.distribute import Share
from fastload.order.packing import PackSequences
from fastload.order.sampler import Base, Subset
from fastload.order.stratified import Stratified
from fastload.order.weighted import ClassBalanced, Weighted

SAMPLES = 10**6
draw = np.random.default_rng(0)
lengths = draw.lognormal(5.8, 1.1, SAMPLES).astype(np.int64).clip(1, 8000)
columns = {"label": draw.integers(0, 1000, SAMPLES), "w": draw.random(SAMPLES), "tokens.count": lengths}
samplers = [Subset(range(0, SAMPLES, 2)), Weighted("w"), ClassBalanced(), Stratified(),
            LengthBuckets("tokens", max_tokens=65536), PackSequences("tokens", 2048)]
share = Share(rank=0, world_size=8, batch_size=64, last_batch="pad")

def bind(sampler):
    return sampler.bind(Base(sizes=np.full(SAMPLES // 1000, 1000), seed=0, window=64, lanes=1), columns)

found = {}
for sampler in samplers:
    took = []
    for act in (lambda: bind(sampler), lambda: next(walk), lambda: next(steps(order, share, 5 * order.samples + done))):
        start = time.perf_counter()
        result = act()
        took.append((time.perf_counter() - start) / SAMPLES * 1e6)
        if len(took) == 1:
            order = result
            walk = steps(order, share, 0)
        if len(took) == 2:
            done = [step.consumed for step, _ in zip(walk, range(100))][-1]
    del order, walk, result
    tracemalloc.start()
    order = bind(sampler)
    next(steps(order, share, 0))
    next(steps(order, share, order.samples))
    held = tracemalloc.get_traced_memory()[0] / SAMPLES
    tracemalloc.stop()
    found[type(sampler).__name__] = dict(zip(("bind", "epoch", "resume", "bytes"), (*took, held)))
print(json.dumps(found))
"""


OPENED = """
import json, resource, sys, time
import torch
import fastload
from fastload.loader import DataLoader

def mebibytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

before, start, worked = mebibytes(), time.perf_counter(), time.process_time()
data = fastload.StreamingDataset(sys.argv[1], fields={"label": fastload.Scalar()}, rank=1234, world_size=4096)
loader = DataLoader(data, 256)
batches, state = len(loader), loader.state_dict()
print(json.dumps({
    "samples": data.samples,
    "batches": batches,
    "open_seconds": time.perf_counter() - start,
    "cpu_seconds": time.process_time() - worked,
    "peak_mebibytes": mebibytes() - before,
    "state_bytes": len(json.dumps(state)),
}))
"""


def write_index(folder: Path, shards: int, rows: int) -> None:
    """An index.json as packing would write it; line by line, for json.dumps takes a minute for so many."""
    index = IndexFile(
        shard_format="tar",
        fields={"image": FieldInfo(kind="image", extension="jpg"), "label": FieldInfo(kind="scalar", dtype="int64")},
        shards=(),
        splits={"train": (0, 0)},
    )
    about = json.loads(index.to_bytes())
    about["splits"]["train"] = {"samples": shards * rows, "shards": [0, shards]}
    head, tail = json.dumps(about).split('"shards": []')
    with (folder / "index.json").open("w") as file:
        file.write(head + '"shards": [\n')
        for number in range(shards):
            digest = f"{(number + 1) * 0x9E3779B97F4A7C15 % 2**64:016x}"
            shard = ShardFile(f"train/shard-{number:06d}.tar", rows, 10**8 + number, digest, digest[::-1])
            file.write(json.dumps(shard.to_json()) + (",\n" if number + 1 < shards else "\n"))
        file.write("]" + tail)


def run(program: str, *arguments: object) -> dict[str, Any]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_a_billion_samples_on_4096_ranks(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    result = benchmark.pedantic(lambda: run(PROGRAM), rounds=1, iterations=1)
    benchmark.extra_info.update(unit="seconds", **result)
    assert result["batches"] == -(-(10**9) // (4096 * 256))
    assert result["distinct"] == 4096 * 256, "a batch of all ranks has no sample twice"
    assert result["state_bytes"] < 1000
    resumes = result["resume_seconds"].values()
    with capsys.disabled():
        print(
            f"\n  first batch after {result['first_batch_seconds']:.2f} s, then {result['batch_microseconds']:.0f} us "
            f"each; resume anywhere in epoch 1,000: {min(resumes):.2f} to {max(resumes):.2f} s; "
            f"{result['bytes'] / 2**20:.0f} MiB held, {result['peak_bytes'] / 2**20:.0f} at most; "
            f"state of {result['state_bytes']} bytes"
        )


def test_opening_the_index_of_a_million_shards(
    benchmark: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_index(tmp_path, 10**6, 1000)
    result = benchmark.pedantic(lambda: run(OPENED, tmp_path), rounds=1, iterations=1)
    benchmark.extra_info.update(unit="seconds", index_bytes=(tmp_path / "index.json").stat().st_size, **result)
    (tmp_path / "index.json").unlink()
    assert result["samples"] == 10**9
    assert result["batches"] == -(-(10**9) // (4096 * 256))
    with capsys.disabled():
        print(
            f"\n  opened in {result['open_seconds']:.1f} s ({result['cpu_seconds']:.1f} s of a processor), at most "
            f"{result['peak_mebibytes']:.0f} MiB more than without; state of {result['state_bytes']} bytes"
        )


def test_a_mixture_of_ten_sources_on_4096_ranks(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    result = benchmark.pedantic(lambda: run(MIXED), rounds=1, iterations=1)
    benchmark.extra_info.update(unit="seconds", **result)
    with capsys.disabled():
        print(
            f"\n  {result['samples']:,} samples: first batch after {result['first_batch_seconds']:.2f} s, then "
            f"{result['batch_microseconds']:.0f} us each"
        )


def test_what_samplers_take_of_each_of_a_million_samples(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    result = benchmark.pedantic(lambda: run(SAMPLED), rounds=1, iterations=1)
    benchmark.extra_info.update(unit="microseconds a sample", **result)
    with capsys.disabled():
        for name, took in result.items():
            print(
                f"\n  {name:13}  bind {took['bind']:.2f} us a sample, begin an epoch {took['epoch']:.2f}, resume "
                f"inside {took['resume']:.2f}; {took['bytes']:.0f} bytes",
                end="",
            )
