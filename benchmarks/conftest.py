"""Benchmarks: each one a ratio to a reference that is measured in the same run, round by round in turn.

    pytest benchmarks                                   all, on samples made on the spot
    pytest benchmarks/bench_images.py --images=DIR      on your own JPEGs (searched recursively)
    pytest benchmarks --benchmark-json=benchmarks/results/NAME.json
    fastload bench --compare OLD.json NEW.json          whether a change is real; every round is kept for it

The machine's speed drifts; the ratio of two runs a second apart does not. Results are in `extra_info` of the JSON.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from fastload.bench.rounds import Rounds
from fastload.machine import describe


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--images", type=Path, default=None, help="folder of JPEGs to use instead of made ones")
    parser.addoption("--peers", type=Path, default=None, help="python of an environment that has the peers installed")
    parser.addoption("--seconds", type=float, default=20.0, help="of each comparison of bench_meter.py")


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


@pytest.fixture
def race(benchmark: Any, capsys: Any) -> Callable[..., dict[str, dict[str, float]]]:
    """race(contenders, ours=[...], items=N, unit=...): time several in turn within each round.

    Args (of what it gives):
        contenders: functions by name, each of which returns when its work is done. One that fails before the first
            round (a compiler may) is left out, and why stands in `extra_info["left_out"]`.
        ours: names of those whose ratios to each of the others are kept; the first is what pytest-benchmark shows.

    Returns:
        Of each of ours, how many times as fast as each of the others it is: the median of the rounds.
    """

    def run(
        contenders: Mapping[str, Callable[[], Any]],
        *,
        ours: Sequence[str],
        items: int,
        unit: str,
        rounds: int = 5,
    ) -> dict[str, dict[str, float]]:
        standing, left_out = {}, {}
        for name, function in contenders.items():
            try:
                function(), function()  # warm: imports, compilers, clocks
            except Exception as error:
                if name == ours[0]:
                    raise
                left_out[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            else:
                standing[name] = function
        names = [name for name in standing if name != ours[0]]
        seconds: dict[str, list[float]] = {name: [] for name in standing}

        def clock(name: str) -> None:
            start = time.perf_counter()
            standing[name]()
            seconds[name].append(time.perf_counter() - start)

        def others() -> None:
            for name in names:
                clock(name)
            names.append(names.pop(0))  # nobody always follows the same one

        benchmark.pedantic(lambda: clock(ours[0]), setup=others, rounds=rounds, iterations=1)
        times = {
            mine: {name: _beside(seconds[mine], seconds[name]) for name in standing if name not in ours}
            for mine in ours
            if mine in standing
        }
        first = next(name for name in standing if name not in ours)
        rounds_of = Rounds(
            name=benchmark.name,
            unit=unit,
            items=items,
            seconds=tuple(seconds[ours[0]]),
            reference=first,
            reference_seconds=tuple(seconds[first]),
        )
        rates = {name: round(items / statistics.median(each), 1) for name, each in seconds.items()}
        benchmark.extra_info.update(rounds_of.facts() | {"rates": rates, "times": times, "left_out": left_out})
        with capsys.disabled():
            for name, rate in rates.items():
                print(f"\n  {rate:>12,.0f} {unit}/s  {name}", end="")
            for mine, found in times.items():
                told = ", ".join(f"{ratio['median']} times {name}" for name, ratio in found.items())
                print(f"\n  {mine}: {told}", end="")
            print("".join(f"\n  left out: {name}: {why}" for name, why in left_out.items()))
        return {mine: {name: ratio["median"] for name, ratio in found.items()} for mine, found in times.items()}

    return run


def _beside(mine: list[float], theirs: list[float]) -> dict[str, float]:
    """How many times as fast, round by round."""
    ratios = [other / own for own, other in zip(mine, theirs, strict=True)]
    return {
        "median": round(statistics.median(ratios), 3),
        "min": round(min(ratios), 3),
        "max": round(max(ratios), 3),
    }
