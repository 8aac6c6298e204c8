"""Benchmarks: each one a ratio to a reference that is measured in the same run, round by round in turn.

    pytest benchmarks                                   all, on samples made on the spot
    pytest benchmarks/bench_images.py --images DIR      on your own JPEGs (searched recursively)
    pytest benchmarks --benchmark-json=benchmarks/results/NAME.json
    fastload bench --compare OLD.json NEW.json          whether a change is real; every round is kept for it

The machine's speed drifts; the ratio of two runs a second apart does not. Results are in `extra_info` of the JSON.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastload.bench.rounds import Rounds
from fastload.machine import describe


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--images", type=Path, default=None, help="folder of JPEGs to use instead of made ones")
    parser.addoption("--peers", type=Path, default=None, help="python of an environment that has the peers installed")


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    machine_info.clear()
    machine_info.update(describe())


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: Any, output_json: dict[str, Any]) -> None:
    output_json.pop("commit_info", None)
    for entry in output_json["benchmarks"]:
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
        rounds_of = Rounds(
            name=benchmark.name,
            unit=unit,
            items=items,
            seconds=tuple(mine),
            reference=reference_name,
            reference_seconds=tuple(theirs),
        )
        benchmark.extra_info.update(rounds_of.facts())
        info = benchmark.extra_info
        with capsys.disabled():
            print(
                f"\n  {info['per_second']:,.0f} {unit}/s; {reference_name}: {info['reference_per_second']:,.0f}; "
                f"ratio {info['ratio']} ({info['ratio_min']} to {info['ratio_max']})"
            )
        return float(info["ratio"])

    return run
