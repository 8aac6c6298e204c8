"""What is measured of a user's data set. Rounds go in turn over all benchmarks, so that a drift of the machine's speed
meets all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

import torch

from fastload.bench.rounds import Results, Rounds
from fastload.dataset import StreamingDataset
from fastload.errors import ConfigError
from fastload.loader import DataLoader
from fastload.machine import cores, describe
from fastload.order.arguments import integer
from fastload.profile.capacity import thread_counts
from fastload.profile.rig import Rig
from fastload.profile.subject import subject
from fastload.stream import Streamed

RESUME_AT = 0.9  # of an epoch: what replays its epoch is slowest there
_RATE_SHARE = 0.8  # of the time


def run(
    data: Any,
    batch_size: int = 64,
    *,
    num_workers: int | None = None,
    rounds: int = 5,
    seconds: float = 30.0,
    device: str | None = None,
    **dataset: Any,
) -> Results:
    """Measure how fast a data set loads: batches at 1, 2, 4, ... threads, the first batch, and going on at 90% of an
    epoch.

    The page cache is as it is after a warm-up, so that it is the loader that is measured and not the disk.

    Args:
        data: what StreamingDataset takes; also its keyword arguments (fields, window, ...).
        batch_size: rows of a batch.
        num_workers: most threads, those of a crew where no others help; None: the cores.
        rounds: of each benchmark; of fewer than 4, `compare` says nothing.
        seconds: for all, about; slow batches take longer.
        device: where batches go, such as "cuda"; None: the CPU.

    Raises:
        ConfigError: an argument out of range, or no samples.
        ShardIndexError, SourceError: the data cannot be opened.
    """
    if isinstance(data, StreamingDataset):
        raise ConfigError("bench: pass the path and the arguments of the data set: it is opened anew in each round")
    rounds, most = integer("rounds", rounds, least=1), cores() if num_workers is None else num_workers
    most = integer("num_workers", most, least=0)
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"seconds={seconds!r}: must be a positive number")

    def make(threads: int) -> DataLoader:
        return DataLoader(data, batch_size, num_workers=threads, device=device, **dataset)

    counts = _counts(make(most).dataset, most)
    each = _RATE_SHARE * seconds / (rounds * len(counts))
    suite: dict[str, Callable[[], tuple[int, float]]] = {
        f"rate, {n} {'thread' if n == 1 else 'threads'}": _rate(make(n), each) for n in counts
    }
    suite |= {"first batch": lambda: _first(lambda: make(most), None), "resume at 90%": _resume(lambda: make(most))}
    found = _in_turn(suite, rounds)
    setting = _of(make(0)) | {"batch_size": batch_size, "num_workers": most} | _text(dataset)
    return Results(rounds=found, machine=describe(), setting=setting)


def _counts(dataset: Streamed, most: int) -> list[int]:
    """The numbers of threads to measure: where a crew goes ahead of the consumer's thread, also none."""
    threads, crew = dataset.threads(most), dataset.crew_threads(most)
    if threads:
        return thread_counts(threads)
    return [0, *thread_counts(crew)] if crew else [0]


def _of(loader: DataLoader) -> dict[str, Any]:
    """What was measured, so that no two results are taken for the same."""
    about = subject(loader.dataset)
    fields = ", ".join(f"{name}={kind}" for name, kind in about["fields"].items())
    index = getattr(loader.dataset, "index", None)
    return {
        "data": about["data"],
        "digest": None if index is None else index.digest,
        "samples": about["samples"],
        "fields": fields,
        "device": str(loader.device),
        "time": about["time"],
    }


def _text(options: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in options.items() if value is not None and name != "fields"}


def _in_turn(suite: Mapping[str, Callable[[], tuple[int, float]]], rounds: int) -> dict[str, Rounds]:
    """Every benchmark gives its items and seconds; those of a round before the first are not kept."""
    measured: dict[str, list[tuple[int, float]]] = {name: [] for name in suite}
    for number in range(rounds + 1):
        for name, measure in suite.items():
            items, seconds = measure()
            if number:
                measured[name].append((items, seconds))
    return {
        name: Rounds(
            name=name,
            unit="samples" if pairs[0][0] > 1 else "times",
            items=pairs[0][0],
            seconds=tuple(seconds / items * pairs[0][0] for items, seconds in pairs),  # for as many as in the first
        )
        for name, pairs in measured.items()
    }


def _rate(loader: DataLoader, seconds: float) -> Callable[[], tuple[int, float]]:
    rig = Rig(loader)

    def measure() -> tuple[int, float]:
        run = rig.run(rig.jobs(rig.endless()), seconds)
        return run.stats.samples, run.wall_seconds

    return measure


def _resume(make: Callable[[], DataLoader]) -> Callable[[], tuple[int, float]]:
    loader = make()
    state = loader.state_dict() | {"consumed": int(loader.dataset.samples * RESUME_AT)}
    return lambda: _first(make, state)


def _first(make: Callable[[], DataLoader], state: Mapping[str, Any] | None) -> tuple[int, float]:
    """From nothing to the first batch: index read, shards opened, going on where a state says; Python is loaded."""
    started = time.perf_counter()
    loader = make()
    if state is not None:
        loader.load_state_dict(state)
    with closing(iter(loader)) as batches:
        next(batches)
        if loader.device.type == "cuda":  # its copy is queued and no more
            torch.cuda.synchronize(loader.device)
        return 1, time.perf_counter() - started
