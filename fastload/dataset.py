"""Data sets: packed shards as a torch IterableDataset (streamed, shuffled, shared out) and as a map-style Dataset.

`fastload.DataLoader` drives a StreamingDataset by its plan; the stock `torch.utils.data.DataLoader` iterates it sample
by sample.
"""

from __future__ import annotations

import difflib
import multiprocessing
import operator
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed
import torch.utils.data

from fastload.assemble import BatchJob, FaultLog, OnError, Recipe, scalar_dtype
from fastload.batch import KEY, Batch, BufferPool
from fastload.decode import decoder_for
from fastload.errors import ConfigError
from fastload.fields import Audio, Bytes, Field, Image, Json, Scalar, Tensor, Text, Tokens
from fastload.order.arguments import integer
from fastload.order.cursor import Step, steps
from fastload.order.distribute import Share
from fastload.order.shuffle import DEFAULT_WINDOW, ORDER_VERSION, Order
from fastload.shards.index import Index
from fastload.shards.open import Data, open_index
from fastload.shards.read import Reader, TarReader
from fastload.shards.read_parquet import ParquetReader

VALID = "__valid__"  # in samples for a stock DataLoader on several ranks: False on those that only even out the ranks

_READABLE: dict[type, tuple[str, ...]] = {
    Image: ("image", "bytes"),
    Audio: ("audio", "bytes"),
    Text: ("text", "json", "bytes"),
    Json: ("json", "text", "bytes"),
    Tokens: ("tokens", "tensor", "bytes"),
    Tensor: ("tensor", "tokens", "bytes"),
    Scalar: ("scalar", "text", "bytes"),
    Bytes: ("image", "audio", "text", "tokens", "tensor", "json", "bytes"),
}
_SAMPLE_CHUNK = (
    32  # samples decoded at a time for a stock DataLoader: enough to spread the cost of planning and reading
)
_MAX_WORKERS = 256  # of a stock DataLoader
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


def _checked(rank: int, world_size: int) -> tuple[int, int]:
    rank, world_size = integer("rank", rank), integer("world_size", world_size, least=1)
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank={rank}: must be in [0, {world_size}), the world size")
    return rank, world_size


def resolve_fields(index: Index, fields: Mapping[str, Field] | None) -> dict[str, Field]:
    """The declarations in force: the user's, or every field of the index as it is stored.

    Raises:
        ConfigError: a field that the data lacks, something that is not a field kind, or a kind that cannot read it.
    """
    if fields is None:
        return {name: info.default_field() for name, info in index.fields.items()}
    if not isinstance(fields, Mapping):
        raise ConfigError(f"fields={fields!r}: pass a dict of kinds, e.g. {{'image': fastload.Image(224)}}")
    for name, declared in fields.items():
        if name not in index.fields:
            close = difflib.get_close_matches(name, index.fields, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ConfigError(f"no field {name!r} in the data; it has {', '.join(map(repr, index.fields))}{hint}")
        if type(declared) not in _READABLE:
            raise ConfigError(f"fields[{name!r}] is {declared!r}; pass a kind such as fastload.Image(224)")
        kind = index.fields[name].kind
        if kind not in _READABLE[type(declared)]:
            raise ConfigError(
                f"fields[{name!r}] is {type(declared).__name__}, and the data holds {kind} there; "
                f"pass {type(index.fields[name].default_field()).__name__}(...)"
            )
    return dict(fields)


def make_recipe(
    index: Index,
    fields: Mapping[str, Field],
    *,
    seed: int,
    window: int,
    faults: FaultLog | None,
    fingerprint: Mapping[str, Any],
) -> Recipe:
    """Readers and decoders for these fields; opens nothing yet."""
    scalars = {n: f for n, f in fields.items() if isinstance(f, Scalar) and index.fields[n].kind == "scalar"}
    stored = [name for name in fields if name not in scalars]
    # the shards of this block and of the next one that prefetching runs into
    capacity = 2 * window if window else 8
    reader: Reader
    if index.shard_format == "tar":
        reader = TarReader(index, tuple(scalars), stored, capacity)
    else:
        reader = ParquetReader(index, tuple(scalars), stored, capacity=window + 2 if window else 4)
    return Recipe(
        index=index,
        reader=reader,
        decoders={name: decoder_for(fields[name], index.fields[name].dtype) for name in stored},
        scalars={n: scalar_dtype(n, f.dtype, index.fields[n].dtype or "int64") for n, f in scalars.items()},
        fields=tuple(fields),
        seed=seed,
        fingerprint=fingerprint,
        faults=faults,
    )


def _samples(batch: Batch, fields: Mapping[str, Field], *, with_valid: bool) -> list[dict[str, Any]]:
    """A batch taken apart into dicts of one sample each."""
    names = list(batch)
    assert batch.valid is not None
    for name, declared in fields.items():
        if type(declared) in _EMPTY:
            batch[name] = [_EMPTY[type(declared)] if value is None else value for value in batch[name]]
    rows = [dict(zip(names, values, strict=True)) for values in zip(*batch.values(), strict=True)]
    if with_valid:
        for sample, valid in zip(rows, batch.valid.tolist(), strict=True):
            sample[VALID] = valid
    return rows


class StreamingDataset(torch.utils.data.IterableDataset[dict[str, Any]]):
    """Packed shards, streamed in an order that is exact at any number of ranks and workers.

    Pass it to `fastload.DataLoader`, or to the stock `torch.utils.data.DataLoader(ds, batch_size=B, num_workers=W)`:
    each worker then reads its own samples, and every sample comes once an epoch. On several ranks the stock loader gets
    the same number of samples on each; those that only even out the ranks have `sample["__valid__"] == False`, and so
    have samples masked by on_error="mask".

    Args:
        data: a packed folder or its index; tar or Parquet files; a {000..099} or * pattern; a list of these.
        split: which split of a packed folder that has several.
        fields: name -> kind (`fastload.Image(224)`, ...). None: all fields, as the index describes them.
        shuffle: False streams in the order of packing.
        seed: of the order and of all random draws.
        window: shards mixed at a time: None for 64 (see `order.shuffle.DEFAULT_WINDOW`), "all" for a global shuffle,
            1 to shuffle inside each shard only.
        lanes: parts of the epoch that consecutive samples go round; set it to the number of nodes to give each its own
            shards. It is part of the order: keep it for the whole run.
        rank, world_size: None: torch.distributed if initialised, else RANK and WORLD_SIZE, else 0 of 1.
        on_error: "raise", or "mask": a sample that cannot be read or decoded becomes a row of zeros with valid False.
        max_errors: masked samples that are put up with before an error.
        batch_size: only for a stock DataLoader: the batch size it is given. Its workers then take whole batches in
            turn, so that batches are the same at any num_workers.

    Raises:
        ConfigError, ShardIndexError, SourceError: at once, on arguments and indexes; no sample is read yet.
    """

    def __init__(
        self,
        data: Data,
        *,
        split: str | None = None,
        fields: Mapping[str, Field] | None = None,
        shuffle: bool = True,
        seed: int = 0,
        window: int | Literal["all"] | None = None,
        lanes: int = 1,
        rank: int | None = None,
        world_size: int | None = None,
        on_error: OnError = "raise",
        max_errors: int = 100,
        batch_size: int | None = None,
    ) -> None:
        self.index = open_index(data, split)
        self.fields = resolve_fields(self.index, fields)
        self.window = _resolve_window(shuffle, window, len(self.index.sizes))
        self.rank, self.world_size = rank, world_size
        detect_rank(rank, world_size)
        if on_error not in ("raise", "mask"):
            raise ConfigError(f"on_error={on_error!r}: pass 'raise' or 'mask'")
        if max_errors < 0:
            raise ConfigError(f"max_errors={max_errors}: must not be negative")
        self.batch_size = None if batch_size is None else integer("batch_size", batch_size, least=1)
        self.on_error, self.max_errors = on_error, max_errors
        self.order = Order(self.index.sizes, seed=seed, window=self.window, lanes=lanes)
        self.seed, self.lanes = self.order.seed, self.order.lanes  # as plain integers, which a state can hold
        # Shared with the workers of a stock DataLoader: [0] is the epoch of the first pass, [_slot(w, W)] the passes
        # that worker w of W has begun since. All workers begin each pass, so they agree on the epoch without talking.
        self._passes = torch.zeros(_slot(0, _MAX_WORKERS + 1), dtype=torch.int64).share_memory_()
        self._pickled_by: tuple[int, int, int] | None = None
        self._recipe: tuple[int, Recipe] | None = None
        _ = self.recipe  # so that what no decoder can do is refused now

    @property
    def samples(self) -> int:
        """Samples in an epoch, over all ranks."""
        return self.order.samples

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What the order depends on, as it stands in saved states."""
        return {
            "order": ORDER_VERSION,
            "data": self.index.digest,
            "samples": self.samples,
            "seed": self.seed,
            "window": self.window,
            "lanes": self.lanes,
        }

    @property
    def recipe(self) -> Recipe:
        """Readers and decoders of this process; what was made before a fork may hold locks of threads left behind."""
        if self._recipe is None or self._recipe[0] != os.getpid():
            faults = FaultLog(self.max_errors) if self.on_error == "mask" else None
            recipe = make_recipe(
                self.index, self.fields, seed=self.seed, window=self.window, faults=faults, fingerprint=self.fingerprint
            )
            self._recipe = (os.getpid(), recipe)
        return self._recipe[1]

    def set_epoch(self, epoch: int) -> None:
        """The epoch of the next pass under a stock DataLoader; passes after it count on by themselves."""
        epoch = integer("epoch", epoch, least=0)
        self._passes.zero_()
        self._passes[0] = epoch

    def __len__(self) -> int:
        """Samples of this rank in an epoch under a stock DataLoader, those that even out the ranks included."""
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
        rank, world_size = self._place()
        return self._iterate(epoch, rank, world_size, worker, workers)

    def _iterate(self, epoch: int, rank: int, world_size: int, worker: int, workers: int) -> Iterator[dict[str, Any]]:
        if self.batch_size is None:
            plan = self._sample_steps(epoch, rank, world_size, worker, workers)
        else:
            share = Share.auto(rank=rank, world_size=world_size, batch_size=self.batch_size, last_batch="auto")
            every = steps(self.order, share, epoch * self.samples)
            plan = (step for number, step in enumerate(every) if number % workers == worker)
        pool = BufferPool()
        for step in plan:
            job = BatchJob(self.recipe, step, pool, step.size)
            for part in range(job.parts):
                job.run(part)
            yield from _samples(job.result(), self.fields, with_valid=world_size > 1 or self.on_error == "mask")

    def _place(self) -> tuple[int, int]:
        """Rank and world size; in a worker of a stock DataLoader those of the process that started it, which a worker
        that was spawned cannot find out by itself."""
        parent = multiprocessing.parent_process()
        if self._pickled_by is not None and parent is not None and torch.utils.data.get_worker_info() is not None:
            pid, rank, world_size = self._pickled_by
            if pid == parent.pid:
                return rank, world_size
        return detect_rank(self.rank, self.world_size)

    def _sample_steps(self, epoch: int, rank: int, world_size: int, worker: int, workers: int) -> Iterator[Step]:
        """This worker's samples, a few at a time: position rank + world_size * (worker + workers * j) for j = 0, 1, 2,
        ...

        Every rank has as many for worker w as rank 0 has; where it runs out of samples, rows are padding.
        """
        stride = world_size * workers
        rows = max(0, -(-(self.samples - world_size * worker) // stride))
        for at in range(0, rows, _SAMPLE_CHUNK):
            size = min(_SAMPLE_CHUNK, rows - at)
            positions = rank + world_size * worker + stride * np.arange(at, at + size)
            positions = positions[positions < self.samples]
            shards, rows_in_shard = self.order.locate(epoch, positions)
            epochs = np.full(len(positions), epoch, np.int64)
            yield Step(size=size, epochs=epochs, shards=shards, rows=rows_in_shard, consumed=0)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_recipe": None, "_pickled_by": (os.getpid(), *self._place())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._passes.share_memory_()  # a copy through plain pickle is not


def _slot(worker: int, workers: int) -> int:
    """Where the passes of worker w of W are counted. Each W has its own counters: loaders of fewer workers would move
    some workers of one with more, and not the others."""
    return 2 + workers * (workers - 1) // 2 + worker


def _resolve_window(shuffle: bool, window: int | Literal["all"] | None, shards: int) -> int:
    """The number that the order takes: 0 for no shuffle, the number of shards for all."""
    if isinstance(window, bool | float) or (isinstance(window, str) and window != "all"):
        raise ConfigError(f"window={window!r}: pass a number of shards from 0, 'all', or None for {DEFAULT_WINDOW}")
    if window is not None and window != "all":
        window = integer("window", window, least=0)
    if not shuffle:
        if window not in (None, 0):
            raise ConfigError(f"shuffle=False with window={window!r}: drop one of the two")
        return 0
    if window is None:
        window = DEFAULT_WINDOW
    return max(1, shards) if window == "all" else min(window, max(1, shards))


class IndexedDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Packed shards as a map-style dataset: `ds[i]`, `len(ds)`, and `ds.__getitems__(rows)`, which torch's DataLoader
    calls once a batch. Any torch Sampler works. Sample i is the i-th in the order of packing.

    Args:
        data, split, fields: as for StreamingDataset.
        seed: of random crops; `set_epoch` changes them from epoch to epoch.

    Raises:
        ConfigError, ShardIndexError, SourceError: on arguments and indexes.
        IndexError: from ds[i], out of range.
    """

    def __init__(
        self, data: Data, *, split: str | None = None, fields: Mapping[str, Field] | None = None, seed: int = 0
    ) -> None:
        self.index = open_index(data, split)
        self.fields = resolve_fields(self.index, fields)
        self.seed, self.epoch = integer("seed", seed), 0
        self._recipe: tuple[int, Recipe] | None = None
        _ = self.recipe  # so that what no decoder can do is refused now

    @property
    def recipe(self) -> Recipe:
        """Readers and decoders of this process; what was made before a fork may hold locks of threads left behind."""
        if self._recipe is None or self._recipe[0] != os.getpid():
            recipe = make_recipe(
                self.index, self.fields, seed=self.seed, window=DEFAULT_WINDOW, faults=None, fingerprint={}
            )
            self._recipe = (os.getpid(), recipe)
        return self._recipe[1]

    def set_epoch(self, epoch: int) -> None:
        """Random crops are drawn from (seed, epoch, sample). Running workers of a DataLoader do not see the change."""
        self.epoch = integer("epoch", epoch, least=0)

    def __len__(self) -> int:
        return self.index.samples

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self.__getitems__([i])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Several samples at once, in the order of `rows`; negative ones count from the end."""
        samples = np.array([operator.index(row) for row in rows], np.int64)  # floats are refused, not rounded
        wrong = (samples < -len(self)) | (samples >= len(self))
        if wrong.any():
            raise IndexError(f"sample {int(samples[wrong][0])} of {len(self)}: out of range")
        samples = np.where(samples < 0, samples + len(self), samples)
        shards = np.searchsorted(self.index.offsets, samples, "right") - 1
        step = Step(
            size=len(samples),
            epochs=np.full(len(samples), self.epoch, np.int64),
            shards=shards,
            rows=samples - self.index.offsets[shards],
            consumed=0,
        )
        job = BatchJob(self.recipe, step, BufferPool(), max(1, len(samples)))
        for part in range(job.parts):
            job.run(part)
        return _samples(job.result(), self.fields, with_valid=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_recipe": None}


__all__ = ["KEY", "VALID", "IndexedDataset", "StreamingDataset", "detect_rank"]
