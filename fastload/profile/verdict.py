"""Which stage limits and why, and what a change would bring, by the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fastload.profile.advice import WORTH_SAYING, Advice, advise, bound
from fastload.profile.capacity import MOST_THREADS, WAITS
from fastload.profile.fetching import cause as fetching_cause
from fastload.profile.fetching import more_from_the_server
from fastload.profile.interpreter import Held, held, letting_go
from fastload.profile.ladder import Rung
from fastload.profile.model import IN_THREADS, Model
from fastload.profile.network import Network
from fastload.profile.suspects import Crowd, SlowShard

_STORAGE_SHARE = 0.15  # of a step; two runs of a loader on a busy machine differ by as much as 10%
_DOUBT = 0.15  # what the model, or a second run, is off by: from here on its figures are no predictions
_LARGER = (2, 4)  # times as many rows, for batches that cost by the batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What limits.

    Attributes:
        limit: the stage that limits.
        behind: the one that would limit next.
        waiting_share: of the time, what is spent waiting for batches and putting them together, 0 to 1.
        samples_per_second: measured; no more than a server gives of shards that have to be fetched.
        predicted: samples/s by the model, to judge it by.
        loader_alone: samples/s if your step took no time: what was measured, times the gain by the model.
        advice: the largest gain first, and those that are bounds last.
        cause: what is behind the limit, where it is one thing: "slow shard", "too many threads" or "interpreter"; of
            shards that a server gives too slowly "latency" or "bandwidth"; else "".
        why: the cause in words.
        again: time of a batch when the loader ran again, over that of the run that was judged, both no less than a
            server takes; None: it did not.
        cold_ms: what a batch takes longer where files come from the disk; None where it was not measured.
        cold_share: of the time of such a batch.
    """

    limit: str
    behind: str
    waiting_share: float
    samples_per_second: float
    predicted: float
    loader_alone: float
    advice: tuple[Advice, ...]
    cause: str = ""
    why: str = ""
    again: float | None = None
    cold_ms: float | None = None
    cold_share: float = 0.0

    @property
    def model_error(self) -> float:
        """Of samples/s, what the model is off by: 0.1 where it says 10% more than was measured."""
        return self.predicted / max(self.samples_per_second, 1e-9) - 1

    @property
    def doubt(self) -> str:
        """Why gains cannot be told; empty where they can. Batches that come late are no reason: they are found as what
        is measured beyond the model."""
        late = any("prefetch_factor" in each.setting for each in self.advice)
        if self.was_cold:
            return (
                "The files came from the disk in the run that was judged: when the loader ran again, from memory, a "
                f"batch took × {self.again:.2f} as long. To be told what a change brings once they are there, read the "
                "shards before (cat SHARDS > /dev/null) and profile again."
            )
        if abs(self.model_error) > _DOUBT and not late:
            why = f"the model is {self.model_error:+.0%} off what was measured"
        elif self.again is not None and abs(self.again - 1) > _DOUBT:
            why = f"a batch took × {self.again:.2f} as long when the loader ran again"
        else:
            return ""
        return f"{why[0].upper()}{why[1:]}: the machine was too busy to tell what a change would bring; run again."

    @property
    def was_cold(self) -> bool:
        """The run that was judged took as long as one does whose files come from the disk, and much longer than the
        same from memory: it was the first that read them."""
        return (
            self.again is not None
            and bool(self.first_epoch)
            and self.again < 1 - _DOUBT
            and abs(self.again - (1 - self.cold_share)) < _DOUBT
        )

    @property
    def first_epoch(self) -> str:
        """What files cost that are not in memory yet, in words; empty where it is nothing or was not measured."""
        if self.cold_ms is None or self.cold_share < _STORAGE_SHARE:
            return ""
        return f"A first epoch costs {self.cold_ms:+.1f} ms a batch: its files come from the disk."

    @property
    def sentence(self) -> str:
        """The verdict in a line."""
        what = "your step limits: the loader keeps up" if self.limit == "step" else f"{self.limit} limits"
        what += f", for {self.why}" if self.why else ""
        return f"{what}; {self.waiting_share:.0%} of the time goes to waiting for batches; next comes {self.behind}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A change of the stored data, or of what is read of it, that was tried on some samples or worked out.

    Attributes:
        factor: time of the stage over that of now.
        stage: "decode" or "read".
        bound: as of `Advice`.
        size: stored bytes over those of now.
    """

    change: str
    why: str
    factor: float
    stage: str = "decode"
    bound: bool = False
    size: float = 1.0

    def on(self, model: Model) -> Model:
        """What a batch takes then."""
        after = model.changed({self.stage: self.factor})
        return replace(after, fetch_ms=model.fetch_ms * self.size)


def judge(
    model: Model,
    *,
    rungs: Sequence[Rung] = (),
    trials: Sequence[Trial] = (),
    prefetch: int = 2,
    device: str = "cpu",
    gpu: bool = False,
    parallel: bool = True,
    shards: Sequence[SlowShard] = (),
    crowd: Crowd | None = None,
    ragged: Sequence[str] = (),
    fits: bool = True,
    samples: int | None = None,
    stepped: bool = True,
    network: Network | None = None,
) -> Verdict:
    """The verdict on a loader.

    Args:
        model: of the loader as it is.
        rungs: of the ladder.
        trials: changes of the stored data, and of what is read of it.
        prefetch: its prefetch_factor.
        device: its device's type.
        gpu: there is one.
        parallel: threads make its reading or decoding faster.
        shards: those that take much longer than the others.
        crowd: its threads do less than fewer would.
        ragged: fields that come as lists and could have a declared size.
        samples: of an epoch, which no batch can have more rows than; None: not known.
        fits: the stored data fits into memory, so that later epochs find it there.
        stepped: there was a step; without one, it limits nothing.
        network: what an epoch has to fetch; its time is in the model.
    """
    own = model if stepped else replace(model, stage_ms={**model.stage_ms, "step": 0.0}, on_gpu_ms=0.0)
    holder = None if own.fetch_limits or own.gpu_limits else held(own, rungs)
    limit = own.ranked()[0] if holder is None else holder.stage
    rest = replace(own, fetch_ms=0.0) if own.fetch_limits else own.changed({limit: 0.0})
    behind = next(name for name in rest.ranked() if name != limit and (stepped or name != "step"))
    cause, why = _cause(model, limit, shards, crowd, holder)
    if network is not None and own.fetch_limits:
        cause, why = fetching_cause(network)
    found = [*_slow_shards(model, shards), *(_crowd(model, crowd) if crowd else _threads(model, parallel))]
    found += [
        *([] if model.fetch_limits else _prefetch(model, limit, prefetch)),
        *_consumer(model, limit, ragged, samples),
        *_augment(model, limit, device, gpu),
    ]
    found += [
        replace(advise(trial.change, trial.why, model, trial.on(model), trial.stage), bound=trial.bound)
        for trial in trials
        if trial.factor < 1 or trial.size < 1
    ]
    if not fits:
        found += _storage(model, rungs)
    if cause == "interpreter" and holder is not None:
        found += letting_go(model, holder)
    if network is not None:
        found += more_from_the_server(model, network)
    worth = [_at_most(each, model) for each in found if each.gain > 1 + WORTH_SAYING]
    worth += [] if crowd or model.fetch_limits else _spare_threads(model)  # later epochs may come from a cache
    alone = model.changed({"step": 0.0})
    again = next((rung.batch_ms for rung in rungs if rung.adds in ("read and check", "read and decode")), None)
    cold = next((rung for rung in rungs if rung.adds == "storage"), None)
    return Verdict(
        limit=limit,
        behind=behind,
        waiting_share=model.waiting_share,
        samples_per_second=model.measured_rate,
        predicted=model.rate(),
        loader_alone=alone.rate() / model.rate() * model.measured_rate,
        advice=tuple(sorted(worth, key=lambda each: (each.bound, -each.gain))),
        cause=cause,
        why=why,
        again=None if again is None else max(again, model.fetch_ms) / max(model.batch_ms, model.fetch_ms, 1e-9),
        cold_ms=None if cold is None else cold.cost_ms,
        cold_share=0.0 if cold is None else cold.cost_ms / max(cold.batch_ms, 1e-9),
    )


def _at_most(advice: Advice, model: Model) -> Advice:
    """A bound, if the waits for processors that other programs have are no small part of what a batch would take."""
    after_ms = max(model.batch_ms, model.fetch_ms) / advice.gain
    return replace(advice, bound=advice.bound or model.taken_ms > _DOUBT * after_ms)


def _cause(
    model: Model, limit: str, shards: Sequence[SlowShard], crowd: Crowd | None, holder: Held | None
) -> tuple[str, str]:
    """What is behind the limit, and in words."""
    if limit not in IN_THREADS:
        return "", ""
    if shards:
        first, more = shards[0], f" (and {len(shards) - 1} more)" if len(shards) > 1 else ""
        took = sum(shard.share for shard in shards)
        why = f"{first.name}{more} takes {first.times:.0f} times as long as others, {took:.0%} of reading and decoding"
        return "slow shard", why
    if crowd is not None:
        return "too many threads", f"{model.threads} threads do less than {crowd.threads}"
    return ("", "") if holder is None else ("interpreter", holder.why)


def _slow_shards(model: Model, shards: Sequence[SlowShard]) -> list[Advice]:
    """All of them as fast as the others."""
    if not shards:
        return []
    factors = {name: max(0.0, 1 - sum(shard.excess[name] for shard in shards)) for name in IN_THREADS}
    names = ", ".join(shard.name for shard in shards[:3]) + (", ..." if len(shards) > 3 else "")
    why = f"{shards[0].name}: {shards[0].milliseconds:.2f} ms a sample, others {shards[0].others_ms:.2f}"
    change = f"pack {names} anew, or store where the others are"
    stage = min(IN_THREADS, key=lambda name: factors[name] * model.stage_ms[name] - model.stage_ms[name])
    return [advise(change, why, model, model.changed(factors), stage)]


def _crowd(model: Model, crowd: Crowd) -> list[Advice]:
    """As many threads as do the most."""
    after = model.changed(dict.fromkeys(IN_THREADS, 1 / crowd.gain))
    advice = advise(
        f"num_workers={crowd.threads}, from {model.threads}",
        f"threads get into each other's way: {crowd.stage} alone does {crowd.gain:.2f} times as much with fewer",
        model,
        after,
        crowd.stage,
    )
    return [replace(advice, setting={"num_workers": crowd.threads})]


def _threads(model: Model, parallel: bool) -> list[Advice]:
    """The fewest threads that bring nearly the most."""
    if not parallel:
        return []
    busy = sum(model.stage_ms[name] for name in IN_THREADS)
    waits = model.cpu_ms + model.queued_ms < WAITS * busy
    most = max(model.threads, model.cores * (MOST_THREADS if waits else 1))
    rates = {n: model.rate(n) for n in range(1, most + 1)}
    best = max(rates.values())
    n = next(n for n, rate in rates.items() if rate >= 0.97 * best)
    stage = max(IN_THREADS, key=lambda name: model.stage_ms[name])
    if rates[n] > (1 + WORTH_SAYING) * model.rate():
        return [
            advise(
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
            samples_per_second=model.measured_rate,
            stage=max(IN_THREADS, key=lambda name: model.stage_ms[name]),
            setting={"num_workers": n},
        )
    ]


def _prefetch(model: Model, limit: str, prefetch: int) -> list[Advice]:
    """Batches come late although both sides are fast enough on average: their times vary."""
    late = model.waiting_ms - model.stage_ms["assemble"] - model.stage_ms["plan"]
    slack = model.threads_ms() < 0.8 * model.consumer_ms()
    if not model.threads or not slack or late < WORTH_SAYING * model.batch_ms:
        return []
    gain = model.batch_ms / (model.batch_ms - late)
    return [
        Advice(
            change=f"prefetch_factor={2 * prefetch}, from {prefetch}",
            why=f"{late:.1f} ms a batch are spent waiting although threads are fast enough on average: batches differ",
            gain=gain,
            samples_per_second=gain * model.measured_rate,
            stage=limit,
            setting={"prefetch_factor": 2 * prefetch},
        )
    ]


def _consumer(model: Model, limit: str, ragged: Sequence[str], samples: int | None) -> list[Advice]:
    """What takes less of the consumer's own time."""
    without = model.changed({limit: 0.0})
    if limit == "copy":
        why = f"copying to the device takes {model.stage_ms[limit]:.1f} ms a batch"
        change = "fewer bytes a sample: uint8 that is normalised on the device, smaller crops"
        return [bound(change, why, model, without, limit)]
    if limit not in ("assemble", "plan"):
        return []
    doing = "putting a batch together" if limit == "assemble" else "planning a batch"
    why = f"{doing} takes {model.stage_ms[limit]:.1f} ms"
    found = []
    for times in _LARGER:
        rows = times * round(model.rows)
        if samples is not None and rows > samples:
            break
        after = model.changed({name: 1 / times for name in model.stage_ms if name not in IN_THREADS})
        change = f"batch_size={rows}, from {round(model.rows)}"
        found.append(bound(change, f"{why}, if larger ones take no longer", model, after, limit, batch_size=rows))
    if ragged and limit == "assemble":
        change = f"a declared size for {', '.join(ragged)}, in place of lists"
        found.append(bound(change, why, model, without, limit))
    return found


def _augment(model: Model, limit: str, device: str, gpu: bool) -> list[Advice]:
    without = model.changed({"augment": 0.0})
    if limit != "augment":
        return []
    took = f"augmenting takes {model.stage_ms['augment']:.1f} ms a batch"
    if device == "cpu" and gpu:
        return [bound('device="cuda"', f"{took} on the CPU", model, without, "augment", device="cuda")]
    where = "on the device" if device != "cpu" else "on the CPU, where there is no GPU to do it"
    return [bound("fewer or cheaper operations", f"{took} {where}", model, without, "augment")]


def _storage(model: Model, rungs: Sequence[Rung]) -> list[Advice]:
    """Of data that every epoch reads from the disk: how much faster the loader is from memory."""
    cold = next((rung for rung in rungs if rung.adds == "storage"), None)
    if cold is None or cold.cost_ms < _STORAGE_SHARE * cold.batch_ms:
        return []
    beside = model.threads_ms() if model.threads else model.predict_ms()
    more = max(0.0, cold.batch_ms - beside) * max(1, model.threads)
    from_disk = replace(model, stage_ms={**model.stage_ms, "read": model.stage_ms["read"] + more})
    return [
        Advice(
            change="a faster disk, or memory enough to keep the shards in the page cache",
            why=f"the shards are larger than memory, and files that are not there cost {cold.cost_ms:.1f} ms a batch",
            gain=from_disk.predict_ms() / max(model.predict_ms(), 1e-9),
            samples_per_second=model.measured_rate,
            stage="read",
        )
    ]
