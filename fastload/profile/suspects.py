"""What may be behind a limit of reading or decoding: shards that take much longer than the others, and threads that do
less than fewer would. Whatever looks so is measured again before it is named.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fastload.batch import BufferPool
from fastload.dataset import StreamingDataset
from fastload.meter import DECODE, IDLE, READ, Clock
from fastload.order.cursor import Step
from fastload.profile.capacity import Capacity, passed_in, run_alone
from fastload.profile.recording import Recording
from fastload.profile.rig import Rig

SHARDS_LOOKED_AT = 256  # spread over all; the largest first, for time may run out
ROWS_LOOKED_AT = 8  # of each shard
_TIMES = 3.0  # what others take: the fields of samples differ by less from shard to shard
_SHARE = 0.1  # of reading and decoding, for all slow shards: below, nobody would notice
_LEAST_SHARE = 0.02  # of it, for each that is named: beside one that dominates, others that look slow are noise
_AGAIN = 3  # measurements of what looks slow; the fastest counts, for other programs only make it slower
_PAIRS = 5  # of fewer threads and those that there are, in turn: the median counts, and one may say otherwise
_CROWD = 1.1  # times as much with fewer threads


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowShard:
    """One that takes much longer than the others.

    Attributes:
        milliseconds: reading and decoding a sample of it, by one thread.
        others_ms: a sample of the others, in the median.
        share: of the reading and decoding of an epoch, what it takes.
        excess: by stage ("read", "decode"): of that stage's time, what it takes more than others would.
    """

    name: str
    milliseconds: float
    others_ms: float
    share: float
    excess: Mapping[str, float]

    @property
    def times(self) -> float:
        """As long as others."""
        return self.milliseconds / max(self.others_ms, 1e-9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """Threads that do less than fewer would.

    Attributes:
        stage: read or decode, whichever takes more of their time.
        threads: how many would do the most, of those tried.
        gain: what these do over what as many as there are do.
    """

    stage: str
    threads: int
    gain: float


def slow_shards(rig: Rig, seconds: float) -> list[SlowShard]:
    """Shards of a StreamingDataset that take much longer than the others, the worst first; none where batches are not
    made of rows of shards (PackSequences, mixtures, other data sets).
    """
    dataset = rig.loader.dataset
    if not isinstance(dataset, StreamingDataset) or rig.recipe.maker is not None:
        return []
    sizes = dataset.index.sizes
    chosen = np.argsort(-sizes, kind="stable")[: int((sizes > 0).sum())]
    if rig.at_hand is not None:  # others would have to be fetched
        chosen = chosen[np.isin(chosen, list(rig.at_hand.shards))]
    chosen = chosen[np.unique(np.linspace(0, len(chosen) - 1, min(len(chosen), SHARDS_LOOKED_AT)).astype(int))]
    costs: dict[int, tuple[float, float]] = {}  # shard -> seconds a sample of reading, of decoding
    started = time.perf_counter()
    for shard in chosen.tolist():
        _cost(rig, shard, int(sizes[shard]))  # opens it; what is in no memory yet is storage, and the ladder's business
        costs[shard] = _cost(rig, shard, int(sizes[shard]))
        if len(costs) > 2 and time.perf_counter() - started > seconds:
            break
    usual = statistics.median(map(sum, costs.values())) if costs else 0.0
    if len(costs) < 3:
        return []
    suspicious, started = [shard for shard, cost in costs.items() if sum(cost) > _TIMES * usual], time.perf_counter()
    for shard in suspicious * _AGAIN:
        costs[shard] = min(costs[shard], _cost(rig, shard, int(sizes[shard])), key=sum)
    for shard in costs if suspicious else ():  # what these are compared with
        costs[shard] = min(costs[shard], _cost(rig, shard, int(sizes[shard])), key=sum)
        if time.perf_counter() - started > seconds:
            break
    return _slow(dataset, costs)


def _slow(dataset: StreamingDataset, costs: Mapping[int, tuple[float, float]]) -> list[SlowShard]:
    sizes = dataset.index.sizes
    usual = statistics.median(map(sum, costs.values()))
    by_stage = [statistics.median(cost[stage] for cost in costs.values()) for stage in (0, 1)]
    spent = [sum(cost[stage] * int(sizes[shard]) for shard, cost in costs.items()) for stage in (0, 1)]
    whole = max(sum(spent), 1e-12)
    found = []
    for shard, cost in costs.items():
        share = sum(cost) * int(sizes[shard]) / whole
        if sum(cost) <= _TIMES * usual or share < _LEAST_SHARE:
            continue
        more = [
            max(0.0, cost[stage] - by_stage[stage]) * int(sizes[shard]) / max(spent[stage], 1e-12) for stage in (0, 1)
        ]
        found.append(
            SlowShard(
                name=dataset.index.shard_name(shard),
                milliseconds=1e3 * sum(cost),
                others_ms=1e3 * usual,
                share=share,
                excess={"read": more[0], "decode": more[1]},
            )
        )
    found.sort(key=lambda each: -each.share)
    return found if sum(each.share for each in found) >= _SHARE else []


def _cost(rig: Rig, shard: int, size: int) -> tuple[float, float]:
    """Seconds a sample, of reading and of decoding."""
    rows = np.unique(np.linspace(0, size - 1, min(size, ROWS_LOOKED_AT)).astype(np.int64))
    step = Step(size=len(rows), epochs=np.zeros_like(rows), shards=np.full_like(rows, shard), rows=rows, consumed=0)
    job = rig.recipe.job(step, BufferPool(), len(rows))
    clock = Clock(READ)
    job.run(0, clock)
    clock.enter(IDLE)
    seconds = clock.seconds
    return seconds[READ] / len(rows), seconds[DECODE] / len(rows)


def crowd(
    rig: Rig, recording: Recording, alone: Sequence[Capacity], stage: str, queued_share: float, seconds: float
) -> Crowd | None:
    """Whether the loader's threads do less than fewer would.

    Args:
        alone: capacities, with one of the stage.
        stage: of these, the one that takes most of the threads' time.
        queued_share: of the threads' busy time, what they were ready to run for and had no processor: so much of a
            difference may be the work of other programs.
    """
    found = next((each for each in alone if each.stage == stage), None)
    if found is None or rig.threads not in found.threads:
        return None
    rates = dict(zip(found.threads, found.rates, strict=True))
    fewer = {n: rate for n, rate in rates.items() if n < rig.threads}
    best = max(fewer, key=lambda n: fewer[n], default=0)
    if not best or fewer[best] < _CROWD * rates[rig.threads]:
        return None
    pairs = [
        tuple(_rate(stage, rig, recording, n, seconds / (2 * _PAIRS)) for n in (best, rig.threads))
        for _ in range(_PAIRS)
    ]
    gain = steady([few / many for few, many in pairs])
    return Crowd(stage=stage, threads=best, gain=gain) if gain * (1 - queued_share) >= _CROWD else None


def steady(gains: Sequence[float]) -> float:
    """The median of what was measured several times; 1, which is no gain, where more than one of them are below."""
    return statistics.median(gains) if sorted(gains)[1] > 1 else 1.0


def _rate(stage: str, rig: Rig, recording: Recording, threads: int, seconds: float) -> float:
    items, _, busy_seconds = passed_in(stage, run_alone(stage, rig, recording, threads, seconds))
    return threads * items / busy_seconds
