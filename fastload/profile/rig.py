"""A loader's path taken apart: the same stages, fed from where one likes. The loader itself and its place in the run
are left alone: shards are opened anew, and pages that nobody else maps can be dropped from the page cache. A map-style
dataset that takes set_epoch is told epochs from 0 on, and its own again with the loader's next batch.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import torch

from fastload.assemble import PARTS_PER_THREAD, BatchMaking, Recipe, batch_jobs
from fastload.batch import Batch, BufferPool
from fastload.collated import Iterated
from fastload.engine import Engine
from fastload.errors import ConfigError
from fastload.flow import flow
from fastload.loader import DataLoader
from fastload.meter import Meter
from fastload.order.cursor import Step, steps
from fastload.order.distribute import Share
from fastload.profile import pagecache
from fastload.profile.gpu import StepsOnStream, events_of
from fastload.profile.measuring import Moment, Run, Steps, drive, drop, enough, overdue


@dataclass(frozen=True, slots=True, kw_only=True)
class AtHand:
    """Of shards behind URLs, those that were fetched to be measured.

    Attributes:
        consumed: samples over all ranks of the steps, from the first on, that need no others.
        shards: by number.
        objects: what the first step needed: files of shards, and the indexes beside them.
        seconds: until they were there; next to nothing where the cache had them.
    """

    consumed: int
    shards: frozenset[int]
    objects: int
    seconds: float


class Rig:
    """The stages of a loader.

    Attributes:
        at_hand: to what measurements keep; None where all shards are local.

    Raises:
        ConfigError: the loader has no samples, or they can only be gone through once.
    """

    def __init__(self, loader: DataLoader) -> None:
        if isinstance(loader.dataset, Iterated):
            raise ConfigError(
                "profile: an iterable data set cannot be taken apart; its loader's stats() say where the time goes"
            )
        self.loader = loader
        self.at_hand: AtHand | None = None
        self.device, self.chain, self.share = loader.device, loader._chain, loader._share()
        self._pool = BufferPool(pinned=loader.pin_memory, limit=64)
        self._dropped: list[str] = []  # files that were in memory, and were dropped from it
        self.reopen()
        if not self.order.samples:
            raise ConfigError("profile: the data set has no samples")
        self.threads, self.crew_threads = loader._threads_to_run()

    def part_rows_for(self, threads: int) -> int:
        """Rows of a part, as the loader would cut batches for so many threads."""
        size = self.share.rows_at(0)
        return max(1, -(-size // (threads * PARTS_PER_THREAD)) if threads > 1 else size)

    def reopen(self) -> None:
        """Let go of open shards; the next reads open them again."""
        dataset = copy.copy(self.loader.dataset)
        self.order, recipe = dataset.order, dataset.recipe
        self.recipe = replace(recipe, decoders={**recipe.decoders, **self.loader._decoders()})

    def endless(self, batch_size: int | None = None) -> Iterator[Step]:
        """Steps, epoch after epoch; None: of the loader's batch size. Those whose shards are at hand, again and again,
        where not all may be."""
        share = self.share if batch_size is None else replace(self.share, batch_size=batch_size, schedule=())
        for epoch in count():
            yield from self._steps_at_hand(share, 0 if self.at_hand else epoch * self.order.samples)

    def first_steps(self) -> Iterator[Step]:
        """An epoch, or as much of it as is at hand, one step at least."""
        yield from self._steps_at_hand(self.share, 0)

    def _steps_at_hand(self, share: Share, start: int) -> Iterator[Step]:
        for step in steps(self.order, share, start):
            yield step
            if self.at_hand is not None and step.consumed >= self.at_hand.consumed:
                return

    def jobs(
        self, plan: Iterator[Step], recipe: Recipe | None = None, threads: int | None = None
    ) -> Iterator[BatchMaking]:
        """Of a plan's steps, cut into parts for so many threads; None: the loader's."""
        threads = self.threads if threads is None else threads
        crew_threads = self.crew_threads if recipe is None and not threads else 0
        return batch_jobs(recipe or self.recipe, plan, self._pool, threads=threads, crew_threads=crew_threads)

    def running(
        self,
        jobs: Iterator[BatchMaking],
        seconds: float,
        *,
        threads: int | None = None,
        ahead: int | None = None,
        whole: bool = True,
        warm_up: int | None = None,
        meter: Meter | None = None,
    ) -> Steps[Run]:
        """Run jobs for so long, and at least 3 batches, or 1 of slow ones; their batches are yielded.

        Args:
            threads, ahead: None: those of the loader.
            whole: batches go on to the device and through the augmentation.
            warm_up: batches before measuring, at most; None: as many as are prefetched.
            meter: to measure with; None: a new one.
        """
        threads = self.threads if threads is None else threads
        if ahead is None:
            begun = threads or self.crew_threads
            ahead = max(2, 2 * threads) if not whole else self.loader.prefetch_factor if begun else 1
        meter = meter or Meter()
        engine = Engine(jobs, threads=threads, ahead=ahead, timeout_seconds=self.loader.timeout, meter=meter)
        with engine:
            device, chain = (self.device, self.chain) if whole else (torch.device("cpu"), [])
            batches = flow(engine, device, chain)
            return (yield from self._measure(batches, meter, seconds, ahead if warm_up is None else warm_up, threads))

    def run(self, jobs: Iterator[BatchMaking], seconds: float, **options: Any) -> Run:
        """`running`, and batches are dropped."""
        return drive(self.running(jobs, seconds, **options), drop)

    def _measure(
        self, batches: Iterator[Batch], meter: Meter, seconds: float, warm_up: int, threads: int
    ) -> Steps[Run]:
        began = since = Moment.of(meter)
        on_stream, warm, measured = StepsOnStream(events_of(self.device)), warm_up == 0, 0
        for number, batch in enumerate(batches, 1):
            on_stream.begin()
            away = yield batch
            if away is None:
                on_stream.end()
            else:
                began, since = began.after(away, threads), since.after(away, threads)
                on_stream.forget()  # its clock went on
            measured += warm
            took = time.perf_counter() - since.wall
            if not warm and (number == warm_up or overdue(number, took, seconds)):
                warm = True
                self.synchronize()
                on_stream.forget()
                since = Moment.of(meter)
            elif enough(measured, took, seconds):
                break
        self.synchronize()
        now, since = Moment.of(meter), since if measured else began  # of few batches, those that warmed up are all
        return Run(
            stats=now.stats - since.stats,
            settled=now.settled - since.settled,
            wall_seconds=now.wall - since.wall,
            cpu_seconds=now.cpu - since.cpu,
            queued_seconds=max(0.0, now.queued - since.queued),
            between_share=on_stream.between_share(),
        )

    def augmented(self, host: Batch) -> Batch:
        batch = host.to(self.device)
        for operation in self.chain:
            batch = operation(batch)
        return batch

    def synchronize(self) -> None:
        """Wait for the GPU."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @property
    def files(self) -> tuple[str, ...]:
        """The shards, where all of them are files of this machine; else none."""
        paths = tuple(getattr(getattr(self.loader.dataset, "index", None), "paths", ()))
        return paths if all(map(os.path.isfile, paths)) else ()

    def drop_page_cache(self) -> bool:
        """Make the system forget the shards' files; False where it cannot, or there are no such files.

        What anybody maps stays in memory, whatever the system is asked: a loader that was used maps its shards. The
        first file that stays decides: those behind it are left in memory.
        """
        files = self.files
        if not files or not pagecache.can_forget():
            return False
        self.reopen()
        for path in files:
            was_there = pagecache.in_memory(path)
            if not pagecache.forgotten(path):
                return False
            if was_there:
                self._dropped.append(path)
        return True

    def read_back(self, seconds: float) -> None:
        """Bring back what was in memory before, as far as there is time: what runs next may count on it."""
        deadline = time.perf_counter() + seconds
        while self._dropped and pagecache.read(self._dropped[0], deadline):
            del self._dropped[0]
