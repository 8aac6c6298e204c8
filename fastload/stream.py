"""What streams under any loader: the place among ranks and workers, and iteration by a stock torch DataLoader."""

from __future__ import annotations

import multiprocessing
import os
import warnings
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.distributed
import torch.utils.data

from fastload.ahead import fetched_ahead
from fastload.assemble import BatchMaking, Recipe, batch_jobs
from fastload.batch import KEY, Batch, BufferPool
from fastload.decode import Decoder
from fastload.errors import ConfigError
from fastload.faults import Counted, Fault, FaultLog
from fastload.fields import Bytes, Field, Text
from fastload.meter import READ, Clock
from fastload.order.arguments import integer
from fastload.order.buckets import BoundBuckets
from fastload.order.cursor import Ordering, Step, batches_left, steps
from fastload.order.distribute import Share, place_of
from fastload.order.mix import visit
from fastload.order.pattern import Composed
from fastload.packed import PER_BATCH, SEGMENTS
from fastload.trainers import Sharing, refuse_restart, sharing_of

VALID = (
    "__valid__"  # in samples for a stock DataLoader: False on those that only even out the ranks, and on masked ones
)
_SAMPLE_CHUNK = (
    32  # samples decoded at a time for a stock DataLoader: enough to spread the cost of planning and reading
)
# Of a stock DataLoader. The counters of their passes then stay below 32 kB, from where on torch would make and copy
# them with OpenMP, which hangs in a process that was forked after it.
_MAX_WORKERS = 127
_EMPTY: dict[type, str | bytes] = {Text: "", Bytes: b""}  # of samples that hold nothing: what collates with the others


def detect_rank(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """This process's rank and the world size: as given, else of torch.distributed if initialised, else RANK and
    WORLD_SIZE of the environment, else 0 of 1.

    Raises:
        ConfigError: only one of the two is given, the rank is not in [0, world_size), or the environment's are not
            numbers.
    """
    if (rank is None) != (world_size is None):
        raise ConfigError(f"rank={rank}, world_size={world_size}: pass both or neither")
    if rank is not None and world_size is not None:
        return _checked(rank, world_size)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    try:
        found = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:
        raise ConfigError(
            f"RANK={os.environ.get('RANK')!r} and WORLD_SIZE={os.environ.get('WORLD_SIZE')!r} in the environment "
            "are not numbers; unset them or pass rank= and world_size="
        ) from None
    return _checked(*found)


def check_rank_is_known(rank: int | None) -> None:
    """For who begins to read; before, a launcher such as Lightning's has set WORLD_SIZE alone, and torch.distributed
    is initialised later.

    Raises:
        ConfigError: the environment says that there are several ranks, and nothing which of them this is.
    """
    known = rank is not None or "RANK" in os.environ
    if known or (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    _, world_size = detect_rank(None, None)
    if world_size > 1:
        raise ConfigError(
            f"WORLD_SIZE={world_size} in the environment and no RANK: every process would take itself for rank 0; set "
            "both, as torchrun does, unset both, or pass rank= and world_size="
        )


def _checked(rank: int, world_size: int) -> tuple[int, int]:
    rank, world_size = integer("rank", rank), integer("world_size", world_size, least=1)
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank={rank}: must be in [0, {world_size}), the world size")
    return rank, world_size


def take_apart(batch: Batch, fields: Mapping[str, Field], *, with_valid: bool) -> list[dict[str, Any]]:
    """A batch taken apart into dicts of one sample each."""
    names = [name for name in batch if name not in PER_BATCH]
    assert batch.valid is not None
    for name, declared in fields.items():
        if type(declared) in _EMPTY and isinstance(batch[name], list):
            batch[name] = [_EMPTY[type(declared)] if value is None else value for value in batch[name]]
    if SEGMENTS in batch:  # of packed rows: lists of different lengths would not collate
        batch[KEY] = ["\n".join(keys) for keys in batch[KEY]]
    rows = [dict(zip(names, values, strict=True)) for values in zip(*(batch[name] for name in names), strict=True)]
    if with_valid:
        for sample, valid in zip(rows, batch.valid.tolist(), strict=True):
            sample[VALID] = valid
    return rows


class Streamed(torch.utils.data.IterableDataset[dict[str, Any]]):
    """Base of what streams: an order, fields and a recipe, iterated by `fastload.DataLoader` or by a stock one."""

    order: Ordering
    fields: dict[str, Field]
    seed: int
    masks: bool  # on_error="mask"
    lanes = 1  # of the order, by which ranks are given shards of their own

    def __init__(self, *, rank: int | None, world_size: int | None, batch_size: int | None) -> None:
        self.rank, self.world_size = rank, world_size
        detect_rank(rank, world_size)
        self.batch_size = None if batch_size is None else integer("batch_size", batch_size, least=1)
        # Shared with the workers of a stock DataLoader: [0] is the epoch of the first pass, [_slot(w, W)] the passes
        # that worker w of W has begun since. All workers begin each pass, so they agree on the epoch without talking.
        self._passes = torch.zeros(_slot(0, _MAX_WORKERS + 1), dtype=torch.int32, device="cpu").share_memory_()
        self._pickled_by: tuple[int, tuple[int, int], Sharing | None] | None = None  # process, place, sharing
        self._recipe: tuple[int, Recipe] | None = None
        self._counted: Counted | None = None

    def fault_log(self, max_errors: int, path: str | None) -> FaultLog:
        """Where this process counts and lists masked samples; together with those that are forked or spawned later."""
        if self._counted is None:
            self._counted = Counted(max(1, min(max_errors, self.samples) + 1))
        return FaultLog(max_errors, path, self._counted)

    def make_recipe(self) -> Recipe:
        """Readers and decoders, made anew."""
        raise TypeError(f"{type(self).__name__} has no recipe of its own")

    def make_order(self) -> Ordering:
        """The order, made anew."""
        raise TypeError(f"{type(self).__name__} has no order of its own")

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What the order depends on, as it stands in saved states."""
        raise TypeError(f"{type(self).__name__} has no fingerprint of its own")

    @property
    def samples(self) -> int:
        """Samples in an epoch, over all ranks."""
        return self.order.samples

    @property
    def recipe(self) -> Recipe:
        """Readers and decoders of this process; what was made before a fork may hold locks of threads left behind."""
        if self._recipe is None or self._recipe[0] != os.getpid():
            self._recipe = (os.getpid(), self.make_recipe())
        return self._recipe[1]

    # What fastload.DataLoader asks; `fastload.collated` answers some of it differently.

    @property
    def names(self) -> tuple[str, ...] | None:
        """Everything that a batch has by name, keys and `valid` apart; None if that is not known beforehand."""
        return self.recipe.names

    @property
    def faults(self) -> list[Fault]:
        """Samples masked so far in this process, which are not those of a stock DataLoader's workers."""
        log = self.recipe.faults
        return list(log.faults) if log is not None else []

    def check(self, share: Share) -> None:
        """Raise ConfigError if the data cannot be shared out like this."""

    def threads(self, asked: int) -> int:
        """How many threads help, of those asked for."""
        return asked if self.recipe.parallel else 0

    def crew_threads(self, asked: int) -> int:
        """How many threads outside of Python help, of those asked for, where no others do."""
        return asked if self.recipe.goes_ahead and not self.recipe.parallel else 0

    def batches_left(self, share: Share, consumed: int) -> int:
        """Batches from `consumed` to the end of its epoch."""
        return batches_left(self.order, share, consumed)

    def jobs(
        self,
        share: Share,
        consumed: int,
        pool: BufferPool,
        *,
        threads: int,
        crew_threads: int,
        marks: Mapping[str, Any],
        decoders: Mapping[str, Decoder],
    ) -> Iterator[BatchMaking]:
        """What makes the batches from `consumed` to the end of its epoch, by so many threads; `marks` join the
        fingerprint of their states, `decoders` take the place of the recipe's."""
        recipe = replace(
            self.recipe,
            fingerprint={**self.fingerprint, **marks},
            decoders={**self.recipe.decoders, **decoders},
        )
        plan = steps(self.order, share, consumed)
        made = batch_jobs(recipe, plan, pool, threads=threads, crew_threads=crew_threads)
        return fetched_ahead(made, recipe, steps(self.order, share, consumed))

    def give(self, batch: Batch) -> Any:
        """A batch as it is handed out where no as_tuple says how."""
        return batch

    def set_epoch(self, epoch: int) -> None:
        """The epoch of the next pass under a stock DataLoader; passes after it count on by themselves."""
        epoch = integer("epoch", epoch, least=0)
        self._passes.zero_()
        self._passes[0] = epoch

    def __len__(self) -> int:
        """Samples of this rank in an epoch under a stock DataLoader, those that even out the ranks included; where
        Accelerate shares out, those of all ranks."""
        sharing = self._sharing()
        if sharing is not None:
            share = self._shares(sharing)[0]
            whole = share.batches_left(self.samples, 0) * share.global_batch()
            return min(whole, self.samples) if sharing.world_size == 1 else whole
        rank, world_size = self._place()
        if self.batch_size is not None and world_size > 1:
            share = Share(rank=rank, world_size=world_size, batch_size=self.batch_size, last_batch="pad")
            return share.batches_left(self.samples, 0) * self.batch_size
        return -(-self.samples // world_size)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = torch.utils.data.get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        if workers > _MAX_WORKERS:
            raise ConfigError(f"num_workers={workers}: at most {_MAX_WORKERS} under a stock DataLoader")
        slot = 1 if info is None else _slot(worker, workers)
        epoch = int(self._passes[0] + self._passes[slot])
        self._passes[slot] += 1
        if isinstance(self.order, BoundBuckets):
            raise ConfigError(
                "LengthBuckets plans whole batches, which a stock DataLoader cannot take; use fastload.DataLoader"
            )
        sharing = self._sharing()
        if sharing is not None:
            return self._iterate_for_all(epoch, sharing, self._shares(sharing), worker, workers)
        if self._pickled_for_worker() is None:
            check_rank_is_known(self.rank)
        rank, world_size = self._place()
        return self._iterate(epoch, rank, world_size, worker, workers)

    def _iterate(self, epoch: int, rank: int, world_size: int, worker: int, workers: int) -> Iterator[dict[str, Any]]:
        def plan() -> Generator[Step, None, None]:
            if self.batch_size is None:
                return self._sample_steps(epoch, rank, world_size, worker, workers)
            share = Share.auto(
                rank=rank, world_size=world_size, batch_size=self.batch_size, last_batch="auto", lanes=self.lanes
            )
            every = steps(self.order, share, epoch * self.samples)
            return (step for number, step in enumerate(every) if number % workers == worker)

        pool = BufferPool()
        with closing(fetched_ahead(plan(), self.recipe, plan())) as planned:
            for step in planned:
                yield from self._samples_of(step, pool, with_valid=world_size > 1 or self.masks)

    def _samples_of(self, step: Step, pool: BufferPool, *, with_valid: bool) -> list[dict[str, Any]]:
        job = self.recipe.job(step, pool, step.size)
        for part in range(job.parts):
            job.run(part, Clock(READ))
        return take_apart(job.result(), self.fields, with_valid=with_valid)

    def _iterate_for_all(
        self, epoch: int, sharing: Sharing, shares: list[Share], worker: int, workers: int
    ) -> Iterator[dict[str, Any]]:
        """The batches of all processes in turn, for Accelerate; empty samples in place of those that it will drop."""
        pool, processes, with_valid = BufferPool(), sharing.world_size, sharing.world_size > 1 or self.masks
        plans = [steps(self.order, share, epoch * self.samples) for share in shares]
        padding = _padding(self.samples, sharing, shares)
        if padding and worker == 0 and self._place()[0] == 0:
            _tell_of_padding(padding)
        for turn, batches in enumerate(zip(*plans, strict=True)):
            for rank, step in enumerate(batches):
                if (turn if sharing.whole else turn * processes + rank) % workers != worker:
                    continue
                if sharing.rank not in (None, rank):
                    yield from ({} for _ in range(step.size))
                    continue
                for sample in self._samples_of(step, pool, with_valid=with_valid):
                    if sharing.rank is None:
                        del sample[KEY]  # what is sent between processes has to be tensors
                    yield sample

    def _shares(self, sharing: Sharing) -> list[Share]:
        """The shares of all processes that Accelerate shares out to.

        Raises:
            ConfigError: it is shared out already; a world size of the data set's own; a global batch larger than the
                data that would be dropped; or padding that would be measured.
        """
        sharing.check()
        if self.world_size not in (None, 1, sharing.world_size):
            raise ConfigError(
                f"world_size={self.world_size}: Accelerate shares this out over {sharing.world_size} processes; "
                "leave rank and world_size out, or pass Accelerate a fastload.DataLoader"
            )
        last = "drop" if sharing.drops else "auto"
        shares = [
            Share.auto(
                rank=rank,
                world_size=sharing.world_size,
                batch_size=sharing.rows,
                last_batch=last,  # type: ignore[arg-type]
                lanes=self.lanes,
            )
            for rank in range(sharing.world_size)
        ]
        if sharing.drops and 0 < self.samples < shares[0].global_batch():
            raise ConfigError(
                f"drop_last=True would drop everything: {self.samples} samples, and a global batch of "
                f"{shares[0].global_batch()}"
            )
        padding = _padding(self.samples, sharing, shares)
        if padding and sharing.evaluates is not None and VALID not in sharing.evaluates:
            raise ConfigError(
                f"the Trainer would measure {padding} rows of padding with the {self.samples} samples: evaluate with "
                f"an IndexedDataset, which it counts right, or have the model's forward() take {VALID!r} and leave "
                "out the rows where it is False"
            )
        return shares

    def _sharing(self) -> Sharing | None:
        """How Accelerate shares this out, if it does; in a worker that was spawned, as its parent found."""
        pickled = self._pickled_for_worker()
        refuse_restart(self)
        found = sharing_of(self, self._place()[1])
        return pickled[1] if found is None and pickled is not None else found

    def _place(self) -> tuple[int, int]:
        """Rank and world size; in a worker of a stock DataLoader those of the process that started it, which a worker
        that was spawned cannot find out by itself."""
        pickled = self._pickled_for_worker()
        return detect_rank(self.rank, self.world_size) if pickled is None else pickled[0]

    def _pickled_for_worker(self) -> tuple[tuple[int, int], Sharing | None] | None:
        """Place and sharing as the parent pickled them, in a worker of a stock DataLoader that was spawned."""
        parent = multiprocessing.parent_process()
        if self._pickled_by is None or parent is None or torch.utils.data.get_worker_info() is None:
            return None
        return self._pickled_by[1:] if self._pickled_by[0] == parent.pid else None

    def _sample_steps(
        self, epoch: int, rank: int, world_size: int, worker: int, workers: int
    ) -> Generator[Step, None, None]:
        """This worker's samples, a few at a time: position place + world_size * (worker + workers * j) for j = 0, 1, 2,
        ..., where `place` is `place_of` the rank, or as many dealt by source.

        Every rank has as many for worker w as rank 0 has; where it runs out of samples, rows are padding.
        """
        place = rank if isinstance(self.order, Composed) else place_of(rank, world_size, self.lanes)
        parts, part, first = world_size * workers, place + world_size * worker, epoch * self.samples
        rows = max(0, -(-(self.samples - world_size * worker) // parts))
        for at in range(0, rows, _SAMPLE_CHUNK):
            start, stop = parts * at, min(self.samples, parts * (at + _SAMPLE_CHUNK))
            if isinstance(self.order, Composed):
                positions = self.order.deal(first + start, first + stop, part, parts) - first
            else:
                positions = np.arange(start + part, stop, parts)
            epochs, shards, rows_in_shard = visit(self.order, epoch, positions)
            size = min(_SAMPLE_CHUNK, rows - at)
            yield Step(size=size, epochs=epochs, shards=shards, rows=rows_in_shard, consumed=0)

    def __getstate__(self) -> dict[str, Any]:
        return {
            **self.__dict__,
            "order": None,
            "_recipe": None,
            "_pickled_by": (os.getpid(), self._place(), self._sharing()),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._passes.share_memory_()  # a copy through plain pickle is not
        self.order = self.make_order()


def _slot(worker: int, workers: int) -> int:
    """Where the passes of worker w of W are counted. Each W has its own counters: loaders of fewer workers would move
    some workers of one with more, and not the others."""
    return 2 + workers * (workers - 1) // 2 + worker


def _padding(samples: int, sharing: Sharing, shares: list[Share]) -> int:
    """Rows of padding in the last batch of an epoch, over all processes."""
    return 0 if sharing.drops or sharing.world_size == 1 else -samples % shares[0].global_batch()


def _tell_of_padding(rows: int) -> None:
    warnings.warn(
        f"the last batch of an epoch has {rows} rows of padding, with {VALID!r} False: take them out of the loss (the "
        f"Hugging Face Trainer passes {VALID!r} to a forward() that takes it) and of what is gathered for metrics, or "
        "give the DataLoader drop_last=True",
        stacklevel=3,
    )
