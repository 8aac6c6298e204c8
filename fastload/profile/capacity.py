"""What each stage can do alone, fed with the recorded output of the stage before it, and how it scales with threads.

The fit is Gunther's universal scalability law (N. J. Gunther, Guerrilla Capacity Planning, 2007, chapter 4): N threads
do C(N) = N / (1 + contention (N - 1) + coherency N (N - 1)) times what one does.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from fastload.assemble import BatchMaking
from fastload.flow import tensor_bytes
from fastload.machine import cores
from fastload.profile.gpu import events_of, queued_and_run
from fastload.profile.measuring import Run, another_round, enough
from fastload.profile.recording import ReadJob, Recording
from fastload.profile.rig import Rig

WAITS = 0.5  # a stage whose CPU time is less than this share of its busy time waits for something else
MOST_THREADS = 4  # times the cores, for stages that wait
_SHORTER = 3  # times: a measurement of a round, which there are several of
READ_AND_DECODE = "read and decode"
_ON_DEVICE = 20  # times that a stage is timed by the GPU's clock
_HOST_BOUND = 0.9  # of its time on the GPU: work that takes so long to queue keeps the GPU waiting
_ON_BUS = 64 << 20  # bytes: a large batch
_CHUNK, _CHUNKS = 1 << 20, 64  # of a file that is read again and again


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """How a stage scales.

    Attributes:
        contention: share of the work that only one thread does at a time, from 0.
        coherency: cost of each pair of threads keeping each other informed, from 0.
    """

    contention: float = 0.0
    coherency: float = 0.0

    def speedup(self, threads: float) -> float:
        """Of so many threads over one."""
        n = threads
        return n / (1 + self.contention * (n - 1) + self.coherency * n * (n - 1))

    @property
    def best_threads(self) -> float:
        """Where more threads make it slower; infinite if nowhere."""
        return ((1 - min(1.0, self.contention)) / self.coherency) ** 0.5 if self.coherency > 0 else float("inf")


def fit(threads: Sequence[int], rates: Sequence[float]) -> Scaling:
    """The law that fits best, by least squares over N X(1) / X(N) - 1 = contention (N - 1) + coherency N (N - 1), both
    at least 0, and contention at most 1 where there is no coherency. One number of threads fits nothing; two give no
    coherency.

    Args:
        threads: N, ascending, beginning with 1.
        rates: X(N), items/s.
    """
    n = np.array(threads, np.float64)
    y = n * rates[0] / np.array(rates) - 1
    first, second = n - 1, n * (n - 1)
    if len(n) < 2:
        return Scaling()
    if len(n) > 2:
        (a, b), *_ = np.linalg.lstsq(np.stack([first, second], 1), y, rcond=None)
        if a >= 0 and b >= 0:
            return Scaling(contention=float(a), coherency=float(b))
        if a < 0:  # the best that is not negative lies on an edge
            return Scaling(coherency=max(0.0, float(second @ y / (second @ second))))
    return Scaling(contention=min(1.0, max(0.0, float(first @ y / (first @ first)))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What a stage does alone.

    Attributes:
        threads: numbers of threads that were tried.
        rates: samples/s of each.
        cpu_ms: CPU time a sample, of one thread.
        bytes_per_second: at the most threads; 0 where bytes are not counted.
        scaling: None of a stage that only the consumer's thread runs.
        queue_ms, device_ms: a batch, that the host takes to queue the stage, and that the GPU takes to do it; None
            where there is no GPU.
    """

    stage: str
    threads: tuple[int, ...]
    rates: tuple[float, ...]
    cpu_ms: float
    bytes_per_second: float = 0.0
    scaling: Scaling | None = None
    queue_ms: float | None = None
    device_ms: float | None = None

    @property
    def waits_for_host(self) -> bool:
        """The GPU is done as soon as the last of it is queued. It begins with the first, so that it takes no less."""
        if self.queue_ms is None or self.device_ms is None:
            return False
        return self.queue_ms > _HOST_BOUND * self.device_ms


def thread_counts(cores: int, threads: int = 0) -> list[int]:
    """1, 2, 4, ... and the cores; also as many as a loader has, and one fewer."""
    own = {each for each in (threads - 1, threads) if each > 0}
    return sorted({1 << i for i in range(cores.bit_length()) if 1 << i <= cores} | {cores} | own)


def capacities(rig: Rig, recording: Recording, seconds: float) -> list[Capacity]:
    """Of every stage; reading and decoding as one, where what is read cannot be given again."""
    counts = thread_counts(cores(), rig.threads)
    each = seconds / (2 * len(counts) + 2)
    found = []
    if not recording.reads:
        found.append(_in_threads(READ_AND_DECODE, rig, recording, counts, each))
    if recording.reads:
        found.append(_in_threads("read", rig, recording, counts, each))
        found.append(_in_threads("decode", rig, recording, counts, each))
        run = rig.run(rig.jobs(recording.plan(), recording.recipe), each, threads=0, whole=False, warm_up=1)
        found.append(
            _alone("assemble", run.stats.samples, run.stats.assemble.busy_seconds, run.stats.assemble.busy_seconds)
        )
    found += _on_device(rig, recording, each)
    return found


def _in_threads(stage: str, rig: Rig, recording: Recording, counts: list[int], seconds: float) -> Capacity:
    """In rounds, each of which goes through all numbers of threads."""
    rounds: list[dict[int, _Alone]] = []
    numbers, started = sorted({1, *counts}), time.perf_counter()
    while another_round(len(rounds), started, seconds * len(numbers)):
        measured: dict[int, _Alone] = {}
        for threads in numbers:
            measured[threads] = _measured(stage, rig, recording, threads, seconds / _SHORTER)
            if threads == 1 and not rounds and measured[1].waits:
                numbers += sorted({cores() << i for i in range(MOST_THREADS.bit_length())} - set(numbers))
        rounds.append(dict(sorted(measured.items())))
    rates = steady_rates([{threads: each.rate for threads, each in one.items()} for one in rounds])
    return Capacity(
        stage=stage,
        threads=tuple(rates),
        rates=tuple(rates.values()),
        cpu_ms=statistics.median(one[1].cpu_ms for one in rounds),
        bytes_per_second=statistics.median(one[max(one)].bytes_per_second for one in rounds),
        scaling=fit(tuple(rates), tuple(rates.values())),
    )


def steady_rates(rounds: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """Rates by threads, of rounds that each measured all: of one thread the median, of more that times the median of
    how many times as much they did in the same round."""
    one = statistics.median(rates[1] for rates in rounds)
    return {threads: one * statistics.median(rates[threads] / rates[1] for rates in rounds) for threads in rounds[0]}


class _Alone(NamedTuple):
    """A stage that ran alone once: samples/s, CPU ms a sample, bytes/s, and whether it mostly waits for something
    else."""

    rate: float
    cpu_ms: float
    bytes_per_second: float
    waits: bool


def _measured(stage: str, rig: Rig, recording: Recording, threads: int, seconds: float) -> _Alone:
    run = run_alone(stage, rig, recording, threads, seconds)
    items, size, busy = passed_in(stage, run)
    return _Alone(
        rate=threads * max(1, items) / busy,
        cpu_ms=1e3 * min(run.cpu_seconds, busy) / max(1, items),
        bytes_per_second=threads * size / busy,
        waits=run.cpu_seconds + run.queued_seconds < WAITS * busy,
    )


def run_alone(stage: str, rig: Rig, recording: Recording, threads: int, seconds: float) -> Run:
    """Read or decode alone, or both, with so many threads."""
    jobs: Iterator[BatchMaking]
    if stage == READ_AND_DECODE:
        jobs = rig.jobs(rig.endless(), threads=threads)
    elif stage == "read":
        reader = rig.recipe.reader
        part_rows = rig.part_rows_for(threads)
        jobs = (ReadJob(reader, step, part_rows) for step in recording.plan())
    else:
        jobs = rig.jobs(recording.plan(), recording.recipe)  # cut as they were recorded
    return rig.run(jobs, seconds, threads=threads, whole=False)


def passed_in(stage: str, run: Run) -> tuple[int, int, float]:
    """Items, bytes and busy seconds of a stage that ran alone."""
    stats = run.stats
    if stage == READ_AND_DECODE:
        return stats.samples, stats.read.bytes, max(1e-9, stats.read.busy_seconds + stats.decode.busy_seconds)
    passed = run.settled.stages[stage]
    if not passed.items:  # what was handed over had been done before
        passed = stats.stages[stage]
    return passed.items, passed.bytes, max(1e-9, passed.busy_seconds)


def _alone(stage: str, items: int, seconds: float, cpu_seconds: float) -> Capacity:
    items, seconds = max(1, items), max(seconds, 1e-9)
    return Capacity(stage=stage, threads=(1,), rates=(items / seconds,), cpu_ms=1e3 * cpu_seconds / items)


def _on_device(rig: Rig, recording: Recording, seconds: float) -> list[Capacity]:
    """Copy and augment, each waited for."""
    host = recording.hosts[0]
    found = []
    if rig.device.type != "cpu":
        copied = _timed("copy", host.rows, lambda: host.to(rig.device, non_blocking=True), rig, seconds)
        found.append(replace(copied, bytes_per_second=copied.rates[0] / host.rows * tensor_bytes(host)))
    if rig.chain:
        there = host.to(rig.device)
        found.append(_timed("augment", host.rows, lambda: rig.augmented(there), rig, seconds))
    return found


def _timed(stage: str, rows: int, work: Callable[[], object], rig: Rig, seconds: float) -> Capacity:
    work()
    rig.synchronize()
    started, cpu, times = time.perf_counter(), time.process_time(), 0
    while not enough(times, time.perf_counter() - started, seconds):
        work()
        rig.synchronize()
        times += 1
    found = _alone(stage, rows * times, time.perf_counter() - started, time.process_time() - cpu)
    make = events_of(rig.device)
    if make is None:
        return found
    queue_ms, device_ms = queued_and_run(work, make, rig.synchronize, min(times, _ON_DEVICE))
    return replace(found, queue_ms=queue_ms, device_ms=device_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """What the machine does at best with one thread, bytes/s; None where it was not measured."""

    memory_copy: float
    file_read: float | None
    bus: float | None = None


def ceilings(paths: Sequence[str], seconds: float, device: torch.device | None = None) -> Ceilings:
    """Copying memory, reading the files once they are in the page cache, and copying pinned memory to a GPU."""
    source = np.ones(16 << 20, np.uint8)
    target = source.copy()

    def copy_once() -> int:
        np.copyto(target, source)
        return source.nbytes

    local = [path for path in paths if os.path.isfile(path)]
    on_gpu = device is not None and device.type == "cuda"
    each = seconds / (3 if on_gpu else 2)
    return Ceilings(
        memory_copy=_rate(copy_once, each),
        file_read=_file_rate(local[0], each) if local else None,
        bus=_bus_rate(device, each) if device is not None and on_gpu else None,
    )


def _bus_rate(device: torch.device, seconds: float) -> float:
    source = torch.ones(_ON_BUS, dtype=torch.uint8).pin_memory()
    target = torch.empty_like(source, device=device)

    def copy_once() -> int:
        target.copy_(source, non_blocking=True)
        torch.cuda.synchronize(device)
        return source.nbytes

    return _rate(copy_once, seconds)


def _file_rate(path: str, seconds: float) -> float:
    buffer = bytearray(_CHUNK)
    with open(path, "rb", buffering=0) as file:

        def some() -> int:
            got = file.readinto(buffer) or 0
            if got < _CHUNK or file.tell() >= _CHUNKS * _CHUNK:  # what lies beyond may be on the disk
                file.seek(0)
            return got

        for _ in range(_CHUNKS):  # into the page cache
            some()
        file.seek(0)
        return _rate(some, seconds)


def _rate(work: Callable[[], int], seconds: float) -> float:
    done, started = work(), time.perf_counter()
    done = 0
    while (took := time.perf_counter() - started) < seconds:
        done += work()
    return done / took
