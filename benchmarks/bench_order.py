"""The order by itself, arithmetic alone: 10^9 samples in 10^6 shards on 4,096 ranks, in fresh processes: time to start,
per batch and to resume, and memory."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

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
start = time.perf_counter()
next(steps(order, share, 10**12 + 10**9 // 2 // (WORLD * BATCH) * (WORLD * BATCH)))
resume = time.perf_counter() - start
tracemalloc.start()
order = Base(sizes=sizes, seed=0, window=64, lanes=1).order()
next(steps(order, share, 0))
held, peak = tracemalloc.get_traced_memory()
print(json.dumps({
    "samples": order.samples,
    "first_batch_seconds": first,
    "batch_microseconds": rest / count * 1e6,
    "batches": count + 1,
    "resume_seconds": resume,
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


def run(program: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_a_billion_samples_on_4096_ranks(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    result = benchmark.pedantic(lambda: run(PROGRAM), rounds=1, iterations=1)
    benchmark.extra_info.update(unit="seconds", **result)
    assert result["batches"] == -(-(10**9) // (4096 * 256))
    with capsys.disabled():
        print(
            f"\n  first batch after {result['first_batch_seconds']:.2f} s, then {result['batch_microseconds']:.0f} us "
            f"each; resume in the middle of epoch 1,000: {result['resume_seconds']:.2f} s; "
            f"{result['bytes'] / 2**20:.0f} MiB held, {result['peak_bytes'] / 2**20:.0f} at most; "
            f"state of {result['state_bytes']} bytes"
        )


def test_a_mixture_of_ten_sources_on_4096_ranks(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    result = benchmark.pedantic(lambda: run(MIXED), rounds=1, iterations=1)
    benchmark.extra_info.update(unit="seconds", **result)
    with capsys.disabled():
        print(
            f"\n  {result['samples']:,} samples: first batch after {result['first_batch_seconds']:.2f} s, then "
            f"{result['batch_microseconds']:.0f} us each"
        )
