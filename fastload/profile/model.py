"""What a batch takes, and what it would take if something were otherwise.

A batch takes as long as the slower of two sides that run at the same time, and no less than the processors need for
all of its work, than a server takes to give its shards, and than a GPU takes for the step, which the consumer only
queues: when the queue is full, it waits in whatever it is about to put there.

    threads    (read + decode) / threads, by the fitted scaling
    consumer   plan + assemble + copy + augment + step, one after the other
    processors CPU time of the whole process / cores
    server     stored bytes that have to be fetched / bytes per second, of shards behind URLs
    GPU        your step, from its first operation on the stream to its last

Without threads, read and decode are the consumer's too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fastload.machine import cores
from fastload.meter import STAGES
from fastload.profile.capacity import Scaling
from fastload.profile.measuring import Run

IN_THREADS = ("read", "decode")
_WIDE = ("augment", "step")  # stages whose operations torch spreads over threads of its own
_FULL = 0.9  # of the time: a GPU that is in the step for more leaves a loader next to nothing to bring
_OWN = 0.7  # of the processors' time: a process that gets more stands in nobody's line but its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What a batch takes where.

    Attributes:
        rows: samples a batch.
        stage_ms: busy time of each stage a batch, in milliseconds, summed over threads.
        cpu_ms: CPU time of the process a batch.
        batch_ms: wall time a batch, as measured.
        waiting_ms: of it, waiting for a batch, planning it and putting it together.
        threads: threads of the loader.
        queued_ms: a batch, that threads of the process were ready to run and had no processor, summed.
        scaling: how read and decode scale together.
        fetch_ms: that a server takes for what has to be fetched for a batch; beside all that was measured.
        on_gpu_ms: that the step takes on the GPU's stream; 0 without one.
    """

    rows: float
    stage_ms: Mapping[str, float]
    cpu_ms: float
    batch_ms: float
    waiting_ms: float
    threads: int
    cores: int
    scaling: Scaling = field(default_factory=Scaling)
    queued_ms: float = 0.0
    fetch_ms: float = 0.0
    on_gpu_ms: float = 0.0

    @property
    def queued_share(self) -> float:
        """Of the time that threads could have run, what they had no processor for: more threads than processors, or
        other programs."""
        return self.queued_ms / max(1e-9, self.queued_ms + self.cpu_ms)

    @property
    def taken_ms(self) -> float:
        """A batch, that threads waited for processors which other programs had, summed; 0 where this process keeps the
        processors busy itself."""
        return self.queued_ms if self.cpu_ms < _OWN * self.cores * self.batch_ms else 0.0

    def threads_ms(self, threads: int | None = None) -> float:
        """Of the threads' side, with so many threads; 0 without."""
        n = self.threads if threads is None else threads
        if n == 0:
            return 0.0
        busy = sum(self.stage_ms[name] for name in IN_THREADS) / max(1, self.threads)
        return busy * self.scaling.speedup(max(1, self.threads)) / self.scaling.speedup(n)

    def consumer_ms(self, threads: int | None = None) -> float:
        """Of the consumer's side."""
        n = self.threads if threads is None else threads
        return sum(ms for name, ms in self.stage_ms.items() if n == 0 or name not in IN_THREADS)

    def local_ms(self, threads: int | None = None) -> float:
        """Wall time a batch once its shards are here."""
        return max(self.threads_ms(threads), self.consumer_ms(threads), self.cpu_ms / self.cores, self.on_gpu_ms)

    def predict_ms(self, threads: int | None = None) -> float:
        """Wall time a batch."""
        return max(self.local_ms(threads), self.fetch_ms)

    @property
    def fetch_limits(self) -> bool:
        """A server gives shards more slowly than all else takes."""
        return self.fetch_ms > max(self.local_ms(), self.batch_ms)

    @property
    def gpu_limits(self) -> bool:
        """The GPU is in the step all the time."""
        return self.on_gpu_ms > _FULL * self.batch_ms

    @property
    def waiting_share(self) -> float:
        """Of the time, what is spent waiting for batches and putting them together, 0 to 1."""
        whole = max(self.batch_ms, self.fetch_ms)
        return min(1.0, (self.waiting_ms + whole - self.batch_ms) / max(whole, 1e-9))

    def rate(self, threads: int | None = None) -> float:
        """Samples/s."""
        return 1e3 * self.rows / max(self.predict_ms(threads), 1e-6)

    @property
    def measured_rate(self) -> float:
        """Samples/s as they were measured; no more than a server gives."""
        return 1e3 * self.rows / max(self.batch_ms, self.fetch_ms, 1e-9)

    def changed(self, factors: Mapping[str, float]) -> Model:
        """With stages that take so many times as long.

        CPU time beyond that of the stages is that of torch's own threads, which work on operations of the augmentation
        and the step: it goes as these do.
        """
        stage_ms = {name: ms * factors.get(name, 1.0) for name, ms in self.stage_ms.items()}
        busy, now = sum(self.stage_ms.values()), sum(stage_ms.values())
        wide, less = (sum(stages[name] for name in _WIDE) for stages in (self.stage_ms, stage_ms))
        beside = max(0.0, self.cpu_ms - busy) * max(0.0, wide - less) / max(wide, 1e-9)
        cpu_ms = max(0.0, self.cpu_ms - max(0.0, busy - now) - beside)
        return replace(self, stage_ms=stage_ms, cpu_ms=cpu_ms, on_gpu_ms=self.on_gpu_ms * factors.get("step", 1.0))

    def path_ms(self) -> dict[str, float]:
        """What each stage takes of the time of a batch, by itself."""
        over = max(1, self.threads)
        return {name: ms / over if name in IN_THREADS else ms for name, ms in self.stage_ms.items()}

    def ranked(self) -> list[str]:
        """The stages, the one that limits first, then those behind it; fetching is part of reading."""
        path = self.path_ms()
        by_time = sorted(path, key=lambda name: -path[name])
        if self.fetch_limits:
            return ["read", *(name for name in by_time if name != "read")]
        if self.gpu_limits:  # whatever the consumer was held up in
            return ["step", *(name for name in by_time if name != "step")]
        in_threads = self.threads > 0 and self.threads_ms() >= self.consumer_ms()
        side = [name for name in by_time if self.threads == 0 or (name in IN_THREADS) == in_threads]
        return [side[0], *(name for name in by_time if name != side[0])]


def model_of(run: Run, threads: int, scaling: Scaling) -> Model:
    """The model of a loader that ran with so many threads."""
    batches = max(1, run.stats.batches)
    return Model(
        rows=run.stats.samples / batches,
        stage_ms={name: 1e3 * run.stats.stages[name].busy_seconds / batches for name in STAGES},
        cpu_ms=run.cpu_ms,
        batch_ms=run.batch_ms,
        waiting_ms=1e3 * run.stats.waiting_seconds / batches,
        threads=threads,
        cores=cores(),
        scaling=scaling,
        queued_ms=run.queued_ms,
        on_gpu_ms=0.0 if run.between_share is None else (1 - run.between_share) * run.batch_ms,
    )
