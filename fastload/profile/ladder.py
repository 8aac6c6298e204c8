"""The step, fed from further and further up the path: what each rung takes longer than the one before is the cost of
what it adds, as far as prefetching does not hide it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import torch

from fastload.batch import Batch
from fastload.device import move
from fastload.order.cursor import steps
from fastload.profile.gpu import StepsOnStream, events_of
from fastload.profile.measuring import Run, Steps, enough
from fastload.profile.recording import Recording
from fastload.profile.rig import Rig

AFTER_THREADS = ("copy", "augment", "step")  # stages of the consumer, once a batch is made
_DECODED = "copy and augment"  # what the rung of decoded batches adds
LEAST = 0.15  # of a batch, that they take more beside threads than alone: less may be noise, and would change little
_READ_BACK_SECONDS = 3.0  # in which a disk gives some gigabytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One way to feed the step.

    Attributes:
        source: where batches come from.
        adds: what this rung does and the one before does not.
        batch_ms: wall time a batch.
        cost_ms: of it, more than the rung before; negative where the difference drowns in noise.
        beside_ms: what copying, augmenting and the step take of the same batches while the loader's threads make them;
            None where it was not measured.
    """

    source: str
    adds: str
    batch_ms: float
    cost_ms: float
    beside_ms: float | None = None


def climb(rig: Rig, recording: Recording, seconds: float, live: Run) -> Steps[list[Rung]]:
    """All rungs that can be measured, each in a share of the time; their batches are yielded, to be trained on.

    Args:
        live: the loader as it ran. Where its consumer took more than of decoded batches in memory, that is measured
            beside threads too, of the same batches, for others may take longer in any case.
    """
    each = seconds / 6
    kept = [keep(host) for host in recording.hosts]
    whole = rig.augmented(kept[0]())
    cached, made = keep(whole), keep(synthetic(whole))
    decoded = _on_their_way(rig, kept)
    rungs: list[tuple[str, str, float]] = [
        ("synthetic batch", "your step", (yield from _steps(rig, made, each))),
        ("one cached batch", "real values", (yield from _steps(rig, cached, each))),
        ("decoded batches in memory", _DECODED, (yield from _steps(rig, lambda: next(decoded), each))),
    ]
    decoded.close()
    more = _after_threads_ms(live) - rungs[-1][-1]
    suspected = rig.threads and more >= LEAST * live.batch_ms
    beside = (yield from _beside(rig, recording, each)) if suspected else None
    if recording.reads:
        run = yield from rig.running(rig.jobs(recording.plan(), recording.recipe), each)
        rungs.append(("stored bytes in memory", "decode and assemble", run.batch_ms))
    files = "files in the page cache" if rig.at_hand is None else "shards in the cache"
    warm = (files, "read and check") if recording.reads else ("the data set", "read and decode")
    run = yield from rig.running(rig.jobs(rig.endless()), each)
    rungs.append((*warm, run.batch_ms))
    if rig.drop_page_cache():
        epoch = steps(rig.order, rig.share, 0)  # no further: what comes again is no longer cold
        run = yield from rig.running(rig.jobs(epoch), each)
        rungs.append(("files on disk", "storage", run.batch_ms))
    rig.read_back(min(_READ_BACK_SECONDS, 3 * each))  # what runs next may count on it
    before = [0.0, *(ms for _, _, ms in rungs)]
    return [
        Rung(
            source=source,
            adds=adds,
            batch_ms=ms,
            cost_ms=ms - less,
            beside_ms=beside if adds == _DECODED else None,
        )
        for (source, adds, ms), less in zip(rungs, before, strict=False)
    ]


def _on_their_way(rig: Rig, hosts: Sequence[Callable[[], Batch]]) -> Generator[Batch, None, None]:
    """The batches, again and again, copied and augmented. They are moved as the loader moves them: to a GPU one ahead
    and on a stream of their own, where a plain copy would wait for all steps that are queued."""
    for batch in move((again() for again in cycle(hosts)), rig.device):
        yield rig.augmented(batch)


def from_server(rungs: Sequence[Rung], fetch_ms: float) -> list[Rung]:
    """The rungs, and one more: what a server takes for a batch, beside all else. Worked out, for nobody can wait for an
    epoch of it."""
    last = rungs[-1].batch_ms
    more = max(0.0, fetch_ms - last)
    rung = Rung(source="the server, by the model", adds="the network", batch_ms=last + more, cost_ms=more)
    return [*rungs, rung]


def _beside(rig: Rig, recording: Recording, seconds: float) -> Steps[float]:
    """Milliseconds a batch that the consumer's stages take of the decoded batches, while threads make them anew."""
    plan = cycle(recording.steps[: len(recording.hosts)])
    run = yield from rig.running(rig.jobs(plan), seconds)
    return _after_threads_ms(run)


def _after_threads_ms(run: Run) -> float:
    """A batch."""
    busy = sum(run.stats.stages[name].busy_seconds for name in AFTER_THREADS)
    return 1e3 * busy / max(1, run.stats.batches)


def _steps(rig: Rig, batch: Callable[[], Batch], seconds: float) -> Steps[float]:
    """Milliseconds a step."""
    on_stream = StepsOnStream(events_of(rig.device))
    yield batch()
    rig.synchronize()
    started, times = time.perf_counter(), 0
    while not enough(times, time.perf_counter() - started, seconds):
        away = yield batch()
        on_stream.end()
        started += 0.0 if away is None else away.wall
        times += 1
    rig.synchronize()
    return 1e3 * (time.perf_counter() - started) / times


def keep(batch: Batch) -> Callable[[], Batch]:
    """Gives the batch for one more step, again and again. A step may take fields out of it, put others in, and write
    into its tensors: those come as they were. So each is in memory twice."""
    again: Callable[[], Batch] = _kept(batch)
    return again


def _kept(value: Any) -> Callable[[], Any]:
    if isinstance(value, Batch):
        fields = {name: _kept(each) for name, each in value.items()}
        valid, keys = _kept(value.valid), _kept(value.sample_keys)
        # `value` itself is given to nobody, so that it keeps its fields
        return lambda: value.replaced({name: again() for name, again in fields.items()}, valid=valid(), keys=keys())
    if isinstance(value, list):
        if not any(isinstance(each, torch.Tensor) for each in value):
            return value.copy
        rows = [_kept(each) for each in value]
        return lambda: [again() for again in rows]
    return _kept_tensor(value) if isinstance(value, torch.Tensor) else lambda: value


def _kept_tensor(tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
    """A new copy after each step that wrote into it: where none does, measuring a step takes no longer for it."""
    with torch.inference_mode(False):  # what is made in inference mode does not count what is written into it
        whole = tensor.detach().clone()
        given = whole.clone() if tensor.is_inference() else tensor
    version = given._version

    def again() -> torch.Tensor:
        nonlocal given, version
        if given._version != version:
            with torch.inference_mode(False):
                given = whole.clone()
            version = given._version
        return given

    return again


def synthetic(batch: Batch) -> Batch:
    """A batch of the same shapes, with noise in place of samples: floats in [0, 1), bytes in [0, 256). Other integers
    stay: they may be labels, which must be classes."""

    def noise(value: object) -> object:
        if isinstance(value, Batch):
            return synthetic(value)
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            return torch.rand_like(value)
        if isinstance(value, torch.Tensor) and value.dtype is torch.uint8:
            return torch.randint_like(value, 256)
        return value

    return batch.replaced({name: noise(value) for name, value in batch.items()})
