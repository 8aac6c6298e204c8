"""Benchmarks: each one a ratio to a reference that is measured in the same run, round by round in turn.

    pytest benchmarks                                   all, on samples made on the spot
    pytest benchmarks/bench_images.py --images DIR      on your own JPEGs (searched recursively)
    pytest benchmarks --benchmark-json=benchmarks/results/NAME.json

The machine's speed drifts; the ratio of two runs a second apart does not. Results are in `extra_info` of the JSON.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--images", type=Path, default=None, help="folder of JPEGs to use instead of made ones")
    parser.addoption("--peers", type=Path, default=None, help="python of an environment that has the peers installed")


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    cpu = machine_info["cpu"]
    kept = {"cpu": cpu.get("brand_raw"), "cores": os.cpu_count(), "python": machine_info["python_version"]}
    machine_info.clear()
    machine_info.update(kept)


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: Any, output_json: dict[str, Any]) -> None:
    output_json.pop("commit_info", None)
    for entry in output_json["benchmarks"]:
        entry["stats"].pop("data", None)
        entry.pop("options", None)


@pytest.fixture
def paired(benchmark: Any, capsys: Any) -> Callable[..., float]:
    """paired(ours, reference, items=N, unit=...): time both in turn; returns the median ratio of their rates."""

    def run(
        ours: Callable[[], Any],
        reference: Callable[[], Any],
        *,
        items: int,
        unit: str,
        rounds: int = 5,
        reference_name: str,
    ) -> float:
        ours(), reference()  # warm: page cache, imports, worker start
        theirs: list[float] = []
        mine: list[float] = []

        def clock(run: Callable[[], Any], seconds: list[float]) -> None:
            start = time.perf_counter()
            measured = run()  # a subprocess reports the seconds that it measured itself, without its start
            seconds.append(measured if isinstance(measured, float) else time.perf_counter() - start)

        benchmark.pedantic(
            lambda: clock(ours, mine), setup=lambda: clock(reference, theirs), rounds=rounds, iterations=1
        )
        ratios = [b / a for a, b in zip(mine, theirs, strict=True)]
        benchmark.extra_info.update(
            unit=unit,
            items=items,
            per_second=round(items / statistics.median(mine)),
            reference=reference_name,
            reference_per_second=round(items / statistics.median(theirs)),
            ratio=round(statistics.median(ratios), 3),
            ratio_min=round(min(ratios), 3),
            ratio_max=round(max(ratios), 3),
        )
        info = benchmark.extra_info
        with capsys.disabled():
            print(
                f"\n  {info['per_second']:,} {unit}/s; {reference_name}: {info['reference_per_second']:,}; "
                f"ratio {info['ratio']} ({info['ratio_min']} to {info['ratio_max']})"
            )
        return float(info["ratio"])

    return run
