"""Which stage limits, and what a change would bring.

The model: a batch takes as long as the slower of two sides that run at the same time, and no less than the processors
need for all of its work.

    threads    (read + decode) / threads, by the fitted scaling
    consumer   assemble + copy + augment + step, one after the other
    processors CPU time of the whole process / cores

Without threads, read and decode are the consumer's too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from fastload.machine import cores
from fastload.meter import STAGES
from fastload.profile.capacity import Scaling
from fastload.profile.ladder import Rung
from fastload.profile.rig import Run

IN_THREADS = ("read", "decode")
WORTH_SAYING = 0.05  # gains below this are noise
_STORAGE_SHARE = 0.15  # of a step; two runs of a loader on a busy machine differ by as much as 10%
_WAITS = 0.5  # a stage whose CPU time is less than this share of its busy time waits for something else
_MOST_THREADS = 4  # times the cores, for stages that wait


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What a batch takes where.

    Attributes:
        rows: samples a batch.
        stage_ms: busy time of each stage a batch, in milliseconds, summed over threads.
        cpu_ms: CPU time of the process a batch.
        batch_ms: wall time a batch, as measured.
        waiting_ms: of it, waiting for a batch and putting it together.
        threads: threads of the loader.
        scaling: how read and decode scale together.
    """

    rows: float
    stage_ms: Mapping[str, float]
    cpu_ms: float
    batch_ms: float
    waiting_ms: float
    threads: int
    cores: int
    scaling: Scaling = field(default_factory=Scaling)

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

    def predict_ms(self, threads: int | None = None) -> float:
        """Wall time a batch."""
        return max(self.threads_ms(threads), self.consumer_ms(threads), self.cpu_ms / self.cores)

    def rate(self, threads: int | None = None) -> float:
        """Samples/s."""
        return 1e3 * self.rows / max(self.predict_ms(threads), 1e-6)

    def changed(self, factors: Mapping[str, float]) -> Model:
        """With stages that take so many times as long."""
        stage_ms = {name: ms * factors.get(name, 1.0) for name, ms in self.stage_ms.items()}
        busy, now = sum(self.stage_ms.values()), sum(stage_ms.values())
        return replace(self, stage_ms=stage_ms, cpu_ms=max(0.0, self.cpu_ms - max(0.0, busy - now)))

    def path_ms(self) -> dict[str, float]:
        """What each stage takes of the time of a batch, by itself."""
        over = max(1, self.threads)
        return {name: ms / over if name in IN_THREADS else ms for name, ms in self.stage_ms.items()}

    def ranked(self) -> list[str]:
        """The stages, the one that limits first, then those behind it."""
        path = self.path_ms()
        by_time = sorted(path, key=lambda name: -path[name])
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
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """A change, and what it would bring.

    Attributes:
        change: what to do.
        why: what it rests on.
        gain: predicted throughput over that of now, e.g. 1.8; 1.0 where it only saves.
        samples_per_second: predicted.
        stage: the stage that it changes.
        setting: arguments of the loader that make the change, by name; empty where it is none of these.
    """

    change: str
    why: str
    gain: float
    samples_per_second: float
    stage: str
    setting: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """An advice, and what it brought.

    Attributes:
        came: samples/s with the change; None where trying it would take more than other arguments of the loader.
        now: samples/s without it, measured right before and after.
    """

    advice: Advice
    now: float | None
    came: float | None

    @property
    def off(self) -> float | None:
        """What came over what was predicted, less 1; with the machine's speed of the moment taken out."""
        if self.came is None or self.now is None:
            return None
        return self.came / self.now / self.advice.gain - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What limits.

    Attributes:
        limit: the stage that limits.
        behind: the one that would limit next.
        waiting_share: of the time, what is spent waiting for batches and putting them together, 0 to 1.
        samples_per_second: measured.
        predicted: samples/s by the model, to judge it by.
        loader_alone: samples/s by the model if your step took no time.
        advice: the largest gain first.
    """

    limit: str
    behind: str
    waiting_share: float
    samples_per_second: float
    predicted: float
    loader_alone: float
    advice: tuple[Advice, ...]

    @property
    def sentence(self) -> str:
        """The verdict in a line."""
        what = "your step limits: the loader keeps up" if self.limit == "step" else f"{self.limit} limits"
        return f"{what}; {self.waiting_share:.0%} of the time goes to waiting for batches; next comes {self.behind}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A change of the stored data that was tried on some samples.

    Attributes:
        factor: decoding time over that of now.
    """

    change: str
    why: str
    factor: float


def judge(
    model: Model,
    *,
    rungs: Sequence[Rung] = (),
    trials: Sequence[Trial] = (),
    prefetch: int = 2,
    device: str = "cpu",
    gpu: bool = False,
    parallel: bool = True,
) -> Verdict:
    """The verdict on a loader.

    Args:
        model: of the loader as it is.
        rungs: of the ladder.
        trials: changes of the stored data.
        prefetch: its prefetch_factor.
        device: its device's type.
        gpu: there is one.
        parallel: threads make its reading or decoding faster.
    """
    limit, behind = model.ranked()[:2]
    found = [*_threads(model, parallel), *_prefetch(model, limit, prefetch), *_augment(model, limit, device, gpu)]
    found += [
        _advice(trial.change, trial.why, model, model.changed({"decode": trial.factor}), "decode")
        for trial in trials
        if trial.factor < 1
    ]
    found += _storage(model, rungs)
    worth = [each for each in found if each.gain > 1 + WORTH_SAYING] + _spare_threads(model)
    alone = model.changed({"step": 0.0})
    return Verdict(
        limit=limit,
        behind=behind,
        waiting_share=min(1.0, model.waiting_ms / max(model.batch_ms, 1e-9)),
        samples_per_second=1e3 * model.rows / max(model.batch_ms, 1e-9),
        predicted=model.rate(),
        loader_alone=alone.rate(),
        advice=tuple(sorted(worth, key=lambda each: -each.gain)),
    )


def _advice(change: str, why: str, model: Model, after: Model, stage: str, threads: int | None = None) -> Advice:
    rate = after.rate(threads)
    return Advice(
        change=change,
        why=why,
        gain=rate / model.rate(),
        samples_per_second=rate,
        stage=stage,
        setting={} if threads is None else {"num_workers": threads},
    )


def _threads(model: Model, parallel: bool) -> list[Advice]:
    """The fewest threads that bring nearly the most."""
    if not parallel:
        return []
    busy = sum(model.stage_ms[name] for name in IN_THREADS)
    waits = model.cpu_ms < _WAITS * busy
    most = max(model.threads, model.cores * (_MOST_THREADS if waits else 1))
    rates = {n: model.rate(n) for n in range(1, most + 1)}
    best = max(rates.values())
    n = next(n for n, rate in rates.items() if rate >= 0.97 * best)
    stage = max(IN_THREADS, key=lambda name: model.stage_ms[name])
    if rates[n] > (1 + WORTH_SAYING) * model.rate():
        return [
            _advice(
                f"num_workers={n}, from {model.threads}",
                f"{'reading and decoding wait' if waits else 'reading and decoding take the processors'} "
                f"{busy:.1f} ms a batch; {n} threads would need {model.threads_ms(n):.1f} ms",
                model,
                model,
                stage,
                n,
            )
        ]
    return []


def _spare_threads(model: Model) -> list[Advice]:
    """Fewer threads, where they do as much even if they took a quarter longer than predicted."""
    n = next((n for n in range(1, model.threads) if 1.25 * model.threads_ms(n) <= model.predict_ms()), model.threads)
    if n >= model.threads:
        return []
    return [
        Advice(
            change=f"num_workers={n}, from {model.threads}",
            why=f"{n} would need {model.threads_ms(n):.1f} of the {model.predict_ms():.1f} ms of a batch; "
            "the others can do something else",
            gain=1.0,
            samples_per_second=model.rate(),
            stage=max(IN_THREADS, key=lambda name: model.stage_ms[name]),
            setting={"num_workers": n},
        )
    ]


def _prefetch(model: Model, limit: str, prefetch: int) -> list[Advice]:
    """Batches come late although both sides are fast enough on average: their times vary."""
    late = model.waiting_ms - model.stage_ms["assemble"]
    slack = model.threads_ms() < 0.8 * model.consumer_ms()
    if not model.threads or not slack or late < WORTH_SAYING * model.batch_ms:
        return []
    gain = model.batch_ms / (model.batch_ms - late)
    rate = gain * 1e3 * model.rows / model.batch_ms
    return [
        Advice(
            change=f"prefetch_factor={2 * prefetch}, from {prefetch}",
            why=f"{late:.1f} ms a batch are spent waiting although threads are fast enough on average: batches differ",
            gain=gain,
            samples_per_second=rate,
            stage=limit,
            setting={"prefetch_factor": 2 * prefetch},
        )
    ]


def _augment(model: Model, limit: str, device: str, gpu: bool) -> list[Advice]:
    without = model.changed({"augment": 0.0})
    if limit != "augment":
        return []
    took = f"augmenting takes {model.stage_ms['augment']:.1f} ms a batch"
    if device == "cpu" and gpu:
        return [_advice('device="cuda"', f"{took} on the CPU; at most, on the GPU", model, without, "augment")]
    where = "on the device" if device != "cpu" else "on the CPU, where there is no GPU to do it"
    return [_advice("fewer or cheaper operations", f"{took} {where}; at most", model, without, "augment")]


def _storage(model: Model, rungs: Sequence[Rung]) -> list[Advice]:
    cold = next((rung for rung in rungs if rung.adds == "storage"), None)
    if cold is None or cold.cost_ms < _STORAGE_SHARE * cold.batch_ms:
        return []
    warm = cold.batch_ms - cold.cost_ms
    return [
        Advice(
            change="a faster disk, or memory enough to keep the shards in the page cache",
            why=f"files not yet in memory cost {cold.cost_ms:.1f} ms a batch; against the first epoch",
            gain=cold.batch_ms / warm,
            samples_per_second=1e3 * model.rows / warm,
            stage="read",
        )
    ]
