"""`check`: what a run will be like. The order's arithmetic says most of it; the first batch is read."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from fastload.batch import KEY, Batch
from fastload.dataset import StreamingDataset, row_groups_open
from fastload.errors import ConfigError, FastloadError
from fastload.flow import tensor_bytes
from fastload.loader import DataLoader
from fastload.machine import cores, memory_bytes
from fastload.order.arguments import integer
from fastload.order.buckets import BoundBuckets
from fastload.order.cursor import steps
from fastload.order.distribute import LastBatch, Share
from fastload.order.quality import blocks_of, mixing
from fastload.order.shuffle import Ints, Order
from fastload.outlook.concerns import concerns, refused, unreadable
from fastload.outlook.findings import Concern, Data, Epoch, FirstBatch, Memory, Outlook, Plan, Window
from fastload.remote.cache import Cached
from fastload.shards.access import room_sizes
from fastload.shards.index import Index
from fastload.shards.open import Data as Where
from fastload.sizes import parse_size


def check(
    data: StreamingDataset | Where | Sequence[Where],
    batch_size: int = 1,
    *,
    world_size: int = 1,
    num_workers: int = 0,
    prefetch_factor: int = 2,
    last_batch: LastBatch | Literal["auto"] = "auto",
    cache_size: int | str | None = None,
    **dataset: Any,
) -> Outlook:
    """What a run with these arguments of fastload.DataLoader will be like: batches and shards of each rank, how well it
    mixes, what it takes in memory and disk, and what will hurt.

    The first batch of rank 0 is read as the loader reads it: with threads, those behind it are begun meanwhile, and of
    shards behind URLs, those of the next batches begin to be fetched. All of it ends with that batch.

    Args:
        data: a StreamingDataset, or what it takes (a path, a pattern, a list); then also its keyword arguments.
        batch_size: rows per rank.
        world_size: ranks.
        num_workers, prefetch_factor, last_batch: as for fastload.DataLoader.
        cache_size: of each node's cache, where shards are behind URLs or will be: bytes, or such as "200GB"; None: no
            limit.
        dataset: keyword arguments of StreamingDataset (fields, window, lanes, ...), if `data` is not one.

    Raises:
        ConfigError: an argument that is out of range by itself. Those that do not go together are concerns.
        ShardIndexError, SourceError: the data cannot be opened.
    """
    ranks = integer("world_size", world_size, least=1)
    found = _dataset(data, dataset, ranks)
    share, wrong = _share(batch_size, ranks, last_batch)
    cache = found.index.cache
    limit = None if cache is None else cache.limit  # of a data set that is made already
    cache_bytes = limit if cache_size is None else parse_size(cache_size, "cache_size")
    plan = Plan(
        batch_size=share.batch_size,
        world_size=ranks,
        num_workers=integer("num_workers", num_workers, least=0),
        prefetch_factor=integer("prefetch_factor", prefetch_factor, least=1),
        last_batch=share.last_batch,
        window=found.window,
        lanes=found.lanes,
        cache_bytes=cache_bytes,
        disk_bytes=cache.room() if cache is not None and cache_bytes is None else None,
        cores=cores(),
        machine_bytes=memory_bytes(),
    )
    first: FirstBatch | None = None
    if found.samples:
        try:
            first = _first(found, plan)
        except ConfigError as error:
            wrong.append(refused(error))
        except FastloadError as error:
            wrong.append(unreadable(error))
    outlook = Outlook(
        plan=plan,
        data=_data(found),
        epoch=_epoch(found, share),
        window=_window(found, share),
        first_batch=first,
        memory=None if first is None else _memory(found, plan, first),
    )
    wrong += concerns(outlook, threads_help=bool(found.threads(1) or found.crew_threads(1)))
    return replace(outlook, concerns=tuple(sorted(wrong, key=lambda concern: concern.severity != "error")))


def _dataset(data: Any, options: dict[str, Any], world_size: int) -> StreamingDataset:
    if isinstance(data, StreamingDataset):
        if options:
            raise ConfigError(f"{', '.join(options)}: pass these to the StreamingDataset and not to check")
        found = copy.copy(data)
        found.rank, found.world_size = 0, world_size
        return found
    try:
        return StreamingDataset(data, rank=0, world_size=world_size, **options)
    except TypeError as error:
        raise ConfigError(f"check: {error}".replace("StreamingDataset.__init__() ", "")) from None


def _share(batch_size: int, world_size: int, last_batch: LastBatch | Literal["auto"]) -> tuple[Share, list[Concern]]:
    """Of rank 0; with "auto" in place of a last_batch that ranks cannot share, which is a concern."""
    try:
        return Share.auto(rank=0, world_size=world_size, batch_size=batch_size, last_batch=last_batch), []
    except ConfigError as error:
        if last_batch != "partial" or world_size == 1:
            raise
        share = Share.auto(rank=0, world_size=world_size, batch_size=batch_size, last_batch="auto")
        return share, [refused(error)]


def _data(dataset: StreamingDataset) -> Data:
    index = dataset.index
    some = bool(index.samples)
    largest = int(np.argmax(index.sizes)) if some else 0
    return Data(
        samples=dataset.samples,
        shards=int((index.sizes > 0).sum()),
        largest=index.shard_name(largest) if some else "",
        largest_share=float(index.sizes[largest] / index.samples) if some else 0.0,
        bytes=sum(file.bytes for file in index.files),
        remote=index.cache is not None,
    )


def shard_bytes(index: Index) -> Ints:
    """Stored bytes of each shard, int64 [shards]; row groups share their file's by their samples."""
    file = index.file_of_shard
    of_file = np.array([each.bytes for each in index.files], np.int64)[file] if len(file) else file
    samples = np.array([max(1, each.samples) for each in index.files], np.int64)[file] if len(file) else file
    return of_file * index.sizes // samples if len(file) else of_file


def _epoch(dataset: StreamingDataset, share: Share) -> Epoch:
    samples, rows = dataset.samples, share.global_batch()
    batches = dataset.batches_left(share, 0)
    planned = isinstance(dataset.order, BoundBuckets)
    read = dataset.index.sizes[dataset.index.sizes > 0]
    lanes = math.gcd(share.world_size, dataset.lanes)  # of them, a rank reads 1
    missed = (1 - lanes / share.world_size) ** read  # of a shard in those lanes, that the rank reads none
    return Epoch(
        global_batch=rows,
        batches=batches,
        padded=None if planned else batches * rows - samples if share.last_batch == "pad" else 0,
        dropped=None if planned else samples - batches * rows if share.last_batch == "drop" else 0,
        shards_per_rank=float((1 - missed).sum() / lanes),
    )


def _window(dataset: StreamingDataset, share: Share) -> Window:
    """Of the data set's own blocks: a sampler's order visits about the same shards at a time."""
    index, size = dataset.index, shard_bytes(dataset.index)
    order = Order(index.sizes, seed=dataset.seed, window=dataset.window, lanes=dataset.lanes)
    room = sum(room_sizes(index, dataset.window))
    if not order.samples:
        return Window(shards=0, bytes=0, room=room, lane_shards=(0, 0), mixing=None)
    blocks = blocks_of(order)
    lanes_read = dataset.lanes // math.gcd(share.world_size, dataset.lanes)
    counts = np.array([len(shards) for shards, _ in blocks.shards])
    sizes = np.array([size[shards].sum() for shards, _ in blocks.shards])
    of_lane = np.bincount(blocks.lane, counts).astype(np.int64)
    return Window(
        shards=min(int(counts.max()) * lanes_read, int((index.sizes > 0).sum())),
        bytes=min(int(sizes.max()) * lanes_read, int(size.sum())),
        room=room,
        lane_shards=(int(of_lane.min()), int(of_lane.max())),
        mixing=mixing(dataset.order, index.sizes, share.global_batch()),
    )


def _first(dataset: StreamingDataset, plan: Plan) -> FirstBatch:
    """The first batch of rank 0, by a loader of its own."""
    started = time.perf_counter()
    loader = DataLoader(
        dataset,
        plan.batch_size,
        num_workers=plan.num_workers,
        prefetch_factor=plan.prefetch_factor,
        last_batch=plan.last_batch,  # type: ignore[arg-type]
    )
    lacking = _lacking(dataset, loader)
    with closing(iter(loader)) as batches:
        batch: Batch = next(batches)
        seconds = time.perf_counter() - started
    texts = (value for name, values in batch.items() if isinstance(values, list) and name != KEY for value in values)
    size = sum(len(value) for value in texts if isinstance(value, str | bytes | memoryview))
    return FirstBatch(
        seconds=seconds,
        bytes=tensor_bytes(batch) + size,
        objects=len(lacking),
        fetched_bytes=sum(each.blob.size or 0 for each in lacking),
    )


def _lacking(dataset: StreamingDataset, loader: DataLoader) -> list[Cached]:
    """What the first batch has to have fetched."""
    if not dataset.index.caches:
        return []
    step = next(steps(dataset.order, loader._share(), 0))
    shards = dict.fromkeys(dataset.recipe.shards(step).tolist())
    objects = dict.fromkeys(each for shard in shards for each in dataset.index.objects(shard))
    return [each for each in objects if not each.cache.has(each.blob)]


def _memory(dataset: StreamingDataset, plan: Plan, first: FirstBatch) -> Memory:
    threads = dataset.threads(plan.num_workers) or dataset.crew_threads(plan.num_workers)
    held, open_groups = (plan.prefetch_factor if threads else 1) + 2, 0  # without threads none is made ahead
    if dataset.index.shard_format == "parquet":
        largest = np.sort(shard_bytes(dataset.index))[::-1]
        open_groups = int(largest[: row_groups_open(dataset.window)].sum())
    return Memory(batches=held, batches_bytes=held * first.bytes, row_groups_bytes=open_groups)
