"""`profile`: runs a loader in parts and as a whole, and says what limits it."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fastload.errors import ConfigError
from fastload.fields import Audio, Image, Tensor, Tokens
from fastload.loader import DataLoader
from fastload.machine import free_bytes
from fastload.meter import Stats
from fastload.profile.advice import Advice, Tried
from fastload.profile.capacity import READ_AND_DECODE, Capacity, Scaling, capacities, ceilings
from fastload.profile.findings import Findings
from fastload.profile.groups import fewer_rows
from fastload.profile.ladder import climb, from_server
from fastload.profile.measuring import Steps, Train, another_round, drive, drop
from fastload.profile.model import IN_THREADS, Model, model_of
from fastload.profile.network import Network, fetch_first, measure, served
from fastload.profile.page import to_html
from fastload.profile.recording import record
from fastload.profile.rig import Rig
from fastload.profile.subject import stored, subject
from fastload.profile.suspects import crowd, slow_shards
from fastload.profile.table import to_text
from fastload.profile.timeline import trace
from fastload.profile.trials import try_changes
from fastload.profile.verdict import Verdict, judge

_TRIED = {"num_workers", "prefetch_factor", "batch_size", "downloads"}  # arguments that are tried
_TRIED_RUNS = 6  # of each advice, with it and without
_WARM = "Files on disk were not measured: they stay in memory while somebody has them open, as a loader that was used"
_ALL_CACHED = "Nothing is told of the server: all shards are in the cache, or it could not be measured"

# Shares of the time: the loader as it is, stages alone, the ladder, recording, ceilings, and each suspicion. Of shards
# behind URLs, and beyond that time: measuring the server, and fetching what is measured on.
_LIVE, _ALONE, _LADDER, _RECORD, _CEILINGS, _SUSPECTS = 0.33, 0.2, 0.29, 0.08, 0.04, 0.05
_SERVER, _FETCH = 0.1, 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile(Findings):
    """What a profile found; `str` of it is the report as text."""

    def __str__(self) -> str:
        return to_text(self)

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {"sentence": self.verdict.sentence, **asdict(self)}

    def save_json(self, path: str | Path) -> None:
        """Write all numbers."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=1) + "\n")

    def save_html(self, path: str | Path) -> None:
        """Write one page that needs no other file.

        Raises:
            MissingExtraError: jinja2 is not installed.
        """
        Path(path).write_text(to_html(self), encoding="utf-8")


def profile(
    loader: DataLoader, step: Train | None = None, seconds: float = 20.0, *, try_advice: bool = False
) -> Profile:
    """Find out what limits a loader, and what a change would bring.

    The loader's place in the run stays. Your step is run on real batches, on some of them again and again, and on
    made-up ones of the same shapes (noise, under labels of another batch): a step that trains, trains on them all, and
    so do running statistics such as BatchNorm's. Pass a step of a copy of your model, or load its state, and the
    optimizer's, from before. A step that waits for other ranks (DistributedDataParallel's) may wait for ever, for how
    many steps a rank takes depends on its clock: profile one rank, and a model that is not wrapped.

    Shards on a disk of this machine are dropped from its page cache, to see what a first epoch pays, unless a program
    has them mapped; those that were there are read again at the end, for a few seconds at most.

    Of shards behind URLs, the server is measured, and then those of the first batch are fetched, however long that
    takes, and those of more batches as far as there is time: all else is measured on them. How much that is the logger
    `fastload.profile.network` says before, at level INFO.

    Args:
        loader: a fastload.DataLoader.
        step: what you do with a batch, as the loader hands it out; None: nothing.
        seconds: to spend, about; slow batches take longer, for each measurement needs some, and so may a server.
        try_advice: also try each advice that only takes other arguments of the loader, which takes that long again.

    Raises:
        ConfigError: another kind of loader, no samples, or seconds that are not positive.
    """
    steps = profiling(loader, seconds, try_advice, stepped=step is not None)
    return drive(steps, drop if step is None else lambda batch: step(loader._hand_out(batch)))


def profiling(loader: DataLoader, seconds: float, try_advice: bool, *, stepped: bool = True) -> Steps[Profile]:
    """`profile`, whose batches are yielded, each to be trained on before the next is asked for."""
    if not isinstance(loader, DataLoader):
        stock = "; pass its dataset to one" if isinstance(loader, torch.utils.data.DataLoader) else ""
        raise ConfigError(f"profile: {type(loader).__name__} is not a fastload.DataLoader{stock}")
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < float("inf"):
        raise ConfigError(f"profile: seconds={seconds!r}: must be a positive number")
    rig = Rig(loader)
    network = _network(rig, seconds)
    live = yield from rig.running(rig.jobs(rig.endless()), _LIVE * seconds)
    seen = yield from trace(rig)
    recording = record(rig, _RECORD * seconds)
    alone = capacities(rig, recording, _ALONE * seconds)
    best = ceilings(rig.files, _CEILINGS * seconds, rig.device)
    shards = slow_shards(rig, _SUSPECTS * seconds)
    rungs = yield from climb(rig, recording, _LADDER * seconds, live)
    model = model_of(live, rig.threads, _scaling(live.stats, alone))
    if network is not None:
        model = replace(model, fetch_ms=network.fetch_ms(model.rows))
        rungs = from_server(rungs, model.fetch_ms)
    queued = model.queued_ms / max(1e-9, sum(model.stage_ms[name] for name in IN_THREADS))
    sample_bytes = None if network is None else network.sample_bytes
    verdict = judge(
        model,
        rungs=rungs,
        trials=[*try_changes(rig.recipe.decoders, recording.reader, sample_bytes), *fewer_rows(rig)],
        prefetch=loader.prefetch_factor,
        device=loader.device.type,
        gpu=torch.cuda.is_available(),
        parallel=rig.recipe.parallel,
        shards=shards,
        crowd=crowd(rig, recording, alone, _limiting(live.stats, alone), queued, _SUSPECTS * seconds),
        ragged=_ragged(loader),
        samples=rig.order.samples,
        fits=_stored_bytes(loader) < free_bytes(),
        stepped=stepped,
        network=network,
    )
    tried = (yield from _try(rig, verdict.advice, seconds, model, network)) if try_advice else []
    return Profile(
        verdict=verdict,
        model=model,
        stats=live.stats,
        capacities=tuple(alone),
        ceilings=best,
        rungs=tuple(rungs),
        setting={
            "batch_size": rig.share.rows_at(0),
            "num_workers": loader.num_workers,
            "prefetch_factor": loader.prefetch_factor,
            "device": str(loader.device),
            "cores": model.cores,
            **({} if network is None else {"downloads": network.downloads}),
        },
        tried=tuple(tried),
        between_share=live.between_share,
        timeline=seen,
        stepped=stepped,
        about=subject(loader.dataset),
        stored=stored(loader.dataset),
        notes=_notes(rig, verdict, _ragged(loader), network),
        network=network,
    )


def _network(rig: Rig, seconds: float) -> Network | None:
    """What a server gives, if shards are behind URLs; and those that are measured, fetched."""
    network = measure(rig, _SERVER * seconds)
    first = fetch_first(rig, _FETCH * seconds)
    if network is None or first is None:
        return None
    return replace(network, first_objects=first.objects, first_seconds=first.seconds)


def _notes(rig: Rig, verdict: Verdict, ragged: Sequence[str], network: Network | None = None) -> tuple[str, ...]:
    said = [_WARM] if rig.files and verdict.cold_ms is None else []
    if rig.at_hand is not None and network is None:
        said.append(_ALL_CACHED)
    if ragged and verdict.limit == "decode":
        lists = ", ".join(ragged)
        said.append(f"Decoded whole, for no size is declared: {lists}. A size, and a crop, may take far less")
    return tuple(said)


def _stored_bytes(loader: DataLoader) -> int:
    return sum(file.bytes for file in getattr(getattr(loader.dataset, "index", None), "files", ()))


def _ragged(loader: DataLoader) -> list[str]:
    """Fields that come as lists and could have a declared size."""
    sizes = {Image: "size", Audio: "seconds", Tokens: "length", Tensor: "shape"}
    fields = getattr(loader.dataset, "fields", {}).items()
    return [name for name, each in fields if type(each) in sizes and getattr(each, sizes[type(each)]) is None]


def _try(
    rig: Rig, advice: Sequence[Advice], seconds: float, model: Model | None = None, network: Network | None = None
) -> Steps[list[Tried]]:
    """Each advice that other arguments of the loader follow, in turn with runs without it.

    Args:
        model, network: of the loader, where shards have to be fetched.
    """
    found = []
    can = sum(_can_try(each) for each in advice)
    most = float("inf") if model is None or not model.fetch_ms else 1e3 * model.rows / model.fetch_ms  # by a server
    for each in advice:
        tried = Tried(advice=each, now=None, came=None)
        if _can_try(each):
            rates: list[tuple[float, float]] = []
            share, started = seconds / can, time.perf_counter()
            while another_round(len(rates), started, share):
                if model is not None and network is not None and "downloads" in each.setting:
                    rates.append(_rates_fetched(rig, each, model, network, share / _TRIED_RUNS))
                    continue
                before = yield from _tried_rate(rig, {}, tried.alone, share / _TRIED_RUNS)
                after = yield from _tried_rate(rig, each.setting, tried.alone, share / _TRIED_RUNS)
                rates.append((min(before, most), min(after, most)))
            now = statistics.median(before for before, _ in rates)
            tried = replace(tried, now=now, came=now * statistics.median(after / before for before, after in rates))
        found.append(tried)
    return found


def _can_try(advice: Advice) -> bool:
    return bool(advice.setting) and set(advice.setting) <= _TRIED


def _rates_fetched(rig: Rig, advice: Advice, model: Model, network: Network, seconds: float) -> tuple[float, float]:
    """Samples/s with as many downloads as there are, and as are advised: the server is asked for that many objects at a
    time, and what comes is dropped, for an epoch of it takes too long."""
    rates = []
    for downloads in (network.downloads, int(advice.setting["downloads"])):
        speed = served(rig, network, network.at_a_time(downloads), seconds)
        rates.append(replace(model, fetch_ms=network.fetch_ms(model.rows, speed)).measured_rate)
    return rates[0], rates[1]


def _tried_rate(rig: Rig, setting: Mapping[str, Any], alone: bool, seconds: float) -> Steps[float]:
    """Samples/s with other arguments.

    Args:
        alone: without your step, which may have no memory for larger batches.
    """
    threads = setting.get("num_workers", rig.threads)
    jobs = rig.jobs(rig.endless(setting.get("batch_size")), threads=threads)
    steps = rig.running(
        jobs, seconds, threads=threads, ahead=setting.get("prefetch_factor", rig.loader.prefetch_factor)
    )
    run = drive(steps, drop) if alone else (yield from steps)
    return run.samples_per_second


def _scaling(stats: Stats, alone: Sequence[Capacity]) -> Scaling:
    """Of the stage that takes most of the threads' time."""
    found = {each.stage: each.scaling for each in alone}
    return found.get(_limiting(stats, alone)) or Scaling()


def _limiting(stats: Stats, alone: Sequence[Capacity]) -> str:
    """The stage that takes most of the threads' time, of those that were measured alone."""
    if any(each.stage == READ_AND_DECODE for each in alone):
        return READ_AND_DECODE
    return "read" if stats.read.busy_seconds > stats.decode.busy_seconds else "decode"
