"""Loaders with one stage that is slow on purpose, by sleeps that dominate everything else they do.

CASES[name].make(data)         a loader, and the step it is trained with
CASES[name].named(verdict)     whether a verdict names what is slow
CASES[name].better(data, ...)  the loader and step after the advice was followed
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import fastload
from fastload.assemble import BatchJob, Recipe
from fastload.batch import Batch, BufferPool
from fastload.decode import Decoder, Raw
from fastload.loader import DataLoader
from fastload.order.cursor import Step
from fastload.profile import Profile, profile
from fastload.profile.advice import Advice
from fastload.profile.verdict import Verdict
from fastload.shards.read import Ints, Reader, Rows

ROWS = 8
SHORT, LONG = 0.006, 0.036  # seconds a batch
TIMED = 24
SHARDS = [40, 40, 40, 120, 40, 40, 40, 40, 40, 40]
SLOW_SHARD = 3  # the large one: nearly every batch has rows of it, and all take about as long
CROWD = 2  # threads that do not get into each other's way
FIELDS = {"image": fastload.Image(8), "label": fastload.Scalar()}

LoaderAndStep = tuple[DataLoader, Callable[[Any], object]]


class SlowReader:
    """A source that takes its time for every row, or for those of one shard."""

    blocking = True

    def __init__(self, reader: Reader, shard: int | None = None) -> None:
        self._reader, self._shard = reader, shard

    def read(self, shards: Ints, rows: Ints, into: object = None) -> Rows:
        slow = len(rows) / ROWS if self._shard is None else 4 / ROWS * np.count_nonzero(shards == self._shard)
        time.sleep(LONG * slow)
        return self._reader.read(shards, rows)


class SlowDecoder:
    def __init__(self, decoder: Decoder) -> None:
        self._decoder, self.spec = decoder, decoder.spec

    def wait(self) -> None:
        time.sleep(LONG / ROWS)

    def decode_into(self, raw: Raw, out: npt.NDArray[Any], key: int) -> int:
        self.wait()
        return self._decoder.decode_into(raw, out, key)

    def decode(self, raw: Raw, key: int) -> object:
        return self._decoder.decode(raw, key)


class HalfDecoder(SlowDecoder):
    """Half as slow, so that a change brings twice as much and no more."""

    def wait(self) -> None:
        time.sleep(LONG / ROWS / 2)


class BusyDecoder(SlowDecoder):
    """Takes a processor, and leaves the interpreter to others."""

    work = bytes(4 << 20)

    def wait(self) -> None:
        hashlib.sha256(self.work).digest()


class PythonDecoder(SlowDecoder):
    """Takes a processor and the interpreter, which only one thread has at a time."""

    def wait(self) -> None:
        sum(i * i for i in range(50_000))


class CrowdedDecoder(SlowDecoder):
    """Threads beyond CROWD slow all down, as where they fight for one lock or cache."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__(decoder)
        self._lock, self._inside = threading.Lock(), 0

    def wait(self) -> None:
        with self._lock:
            self._inside += 1
            crowded = self._inside > CROWD
        time.sleep(LONG / ROWS * (4 if crowded else 1))
        with self._lock:
            self._inside -= 1


DECODERS = {
    "decode": SlowDecoder,
    "half": HalfDecoder,
    "busy": BusyDecoder,
    "python": PythonDecoder,
    "crowd": CrowdedDecoder,
}


class SlowJob(BatchJob):
    def result(self) -> Batch:
        time.sleep(LONG)
        return super().result()


class SlowBatch(Batch):
    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        time.sleep(LONG)
        return super().to(device, non_blocking=non_blocking)


class JobOfSlowBatch(BatchJob):
    def result(self) -> Batch:
        made = super().result()
        return SlowBatch(made, valid=made.valid, sample_keys=made.sample_keys, state=made.state)


@dataclass(frozen=True)
class Maker:
    job: type[BatchJob]
    names = ("image",)

    def __call__(self, recipe: Recipe, step: Step, pool: BufferPool, part_rows: int) -> BatchJob:
        return self.job(recipe, step, pool, part_rows, recipe.keys([step])[0])


class Slowed(fastload.StreamingDataset):
    """A data set with a slow stage."""

    def __init__(self, data: Path, slow: str) -> None:
        self.slow = slow
        super().__init__(data, fields=FIELDS)

    def make_recipe(self) -> Recipe:
        recipe = super().make_recipe()
        decoders = recipe.decoders
        match self.slow:
            case "read":
                return replace(recipe, reader=SlowReader(recipe.reader))
            case "shard":
                return replace(recipe, reader=SlowReader(recipe.reader, SLOW_SHARD))
            case "decode" | "half" | "busy" | "python" | "crowd":
                kind = DECODERS[self.slow]
                return replace(recipe, decoders={name: kind(each) for name, each in decoders.items()})
            case "assemble":
                return replace(recipe, maker=Maker(SlowJob))
            case "copy":
                return replace(recipe, maker=Maker(JobOfSlowBatch))
        return recipe


def sleeping(seconds: float) -> Callable[[Batch], Batch]:
    def operation(batch: Batch) -> Batch:
        time.sleep(seconds)
        return batch

    return operation


def make(data: Path, slow: str, workers: int = 1, augment: bool = True, rows: int = ROWS) -> DataLoader:
    """A loader with a slow stage; copying needs another device, for which "meta" does, where nothing is stored."""
    chain = [sleeping(LONG if slow == "augment" else SHORT / 2)] if augment else []
    device = "meta" if slow == "copy" else None
    return DataLoader(Slowed(data, slow), rows, num_workers=workers, augment=chain, device=device)


def rate(loader: DataLoader, step: Callable[[Any], object] | None, timed: int = TIMED) -> float:
    """Samples/s of so many batches, or of an epoch where it has fewer, the first ones apart."""
    before = loader.stats()
    for number, batch in enumerate(loader):
        if step is not None:
            step(batch)
        if number == 3:
            before = loader.stats()
        if number == 3 + timed:
            break
    took = loader.stats() - before
    return took.samples / took.consumer_seconds


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing that is slow.

    Attributes:
        limit, cause: what the verdict has to say.
        workers: of the loader.
        timed: batches that say how fast it is.
        seconds: of a profile, where it needs more than others.
        followed: the loader and step once the advice about it was followed; None where it is beyond the loader.
    """

    slow: str
    limit: str
    cause: str = ""
    workers: int = 1
    timed: int = TIMED
    seconds: float | None = None
    followed: Callable[[Path, Advice], LoaderAndStep] | None = None

    def make(self, data: Path) -> LoaderAndStep:
        return make(data, self.slow, self.workers), sleeping(LONG if self.slow == "step" else SHORT)

    def profile(self, data: Path, seconds: float) -> Profile:
        loader, step = self.make(data)
        return profile(loader, step, seconds=seconds)

    def named(self, verdict: Verdict) -> bool:
        return (verdict.limit, verdict.cause) == (self.limit, self.cause)

    def advice(self, verdict: Verdict) -> Advice | None:
        """What the verdict would do about it, the most helpful first."""
        return next((each for each in verdict.advice if each.stage == self.limit and each.gain > 1), None)


def _more_workers(slow: str) -> Callable[[Path, Advice], LoaderAndStep]:
    def followed(data: Path, advice: Advice) -> LoaderAndStep:
        return make(data, slow, int(advice.setting["num_workers"])), sleeping(SHORT)

    return followed


def _usual(data: Path, advice: Advice) -> LoaderAndStep:
    return make(data, ""), sleeping(SHORT)


def _larger_batches(data: Path, advice: Advice) -> LoaderAndStep:
    return make(data, "assemble", rows=int(advice.setting["batch_size"])), sleeping(SHORT)


def _without_augmenting(data: Path, advice: Advice) -> LoaderAndStep:
    return make(data, "augment", augment=False), sleeping(SHORT)


CASES = {
    "slow disk": Case(slow="read", limit="read", followed=_more_workers("read")),
    "slow decode": Case(slow="decode", limit="decode", followed=_more_workers("decode")),
    "slow collate": Case(slow="assemble", limit="assemble", followed=_larger_batches),
    "slow copy": Case(slow="copy", limit="copy", followed=_usual),
    "slow augment": Case(slow="augment", limit="augment", followed=_without_augmenting),
    "slow model": Case(slow="step", limit="step"),
    "one slow shard": Case(  # a whole epoch: how many rows of it the first batches have is chance, the same each time
        slow="shard", limit="read", cause="slow shard", timed=sum(SHARDS) // ROWS, seconds=8.0, followed=_usual
    ),
    "one thread too many": Case(
        slow="crowd", limit="decode", cause="too many threads", workers=CROWD + 1, followed=_more_workers("crowd")
    ),
}

# What only `tools/bottlenecks.py` runs: it depends on the machine's processors, and on nobody else taking them.
MORE_CASES = {
    "decode, half as slow": Case(slow="half", limit="decode", followed=_more_workers("half")),
    "decode, processors": Case(slow="busy", limit="decode", seconds=10.0, followed=_more_workers("busy")),
    "decode, interpreter": Case(slow="python", limit="decode", cause="interpreter", seconds=10.0),
}
