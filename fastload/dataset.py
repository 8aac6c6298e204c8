"""Data sets: packed shards as a torch IterableDataset (streamed, shuffled, shared out) and as a map-style Dataset.

`fastload.DataLoader` drives a StreamingDataset by its plan; the stock `torch.utils.data.DataLoader` iterates it sample
by sample.
"""

from __future__ import annotations

import difflib
import operator
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed
import torch.utils.data

from fastload.assemble import OnError, Recipe, scalar_dtype
from fastload.batch import KEY, BufferPool
from fastload.decode import decoder_for
from fastload.errors import ConfigError
from fastload.faults import FaultLog, errors_path
from fastload.fields import Audio, Bytes, Field, Image, Json, Scalar, Tensor, Text, Tokens
from fastload.meter import READ, Clock
from fastload.order.arguments import integer
from fastload.order.cursor import Ordering, Step
from fastload.order.packing import BoundPacking
from fastload.order.sampler import Base, Sampler
from fastload.order.shuffle import DEFAULT_WINDOW, ORDER_VERSION
from fastload.packed import Packer, token_decoders
from fastload.remote.settings import Remote, gather
from fastload.shards.access import check_room, shards_at_hand
from fastload.shards.columns import read_columns
from fastload.shards.index import Index
from fastload.shards.open import Data, open_index
from fastload.shards.read import Reader, TarReader
from fastload.shards.read_parquet import ParquetReader
from fastload.stream import VALID, Streamed, detect_rank, take_apart

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


def row_groups_open(window: int) -> int:
    """Row groups of Parquet that are held in memory at most: those of a block, and two of the next."""
    return window + 2 if window else 4


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
    # the shards of this block and of the next one that prefetching runs into, if a cache has room for them
    room = shards_at_hand(index)
    capacity = min(2 * window if window else 8, room)
    reader: Reader
    if index.shard_format == "tar":
        copies = all(fields[name] == Bytes() for name in stored)  # whole, and not cut
        reader = TarReader(index, tuple(scalars), stored, capacity, copies=copies)
    else:
        reader = ParquetReader(index, tuple(scalars), stored, capacity=min(row_groups_open(window), room))
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


class StreamingDataset(Streamed):
    """Packed shards, streamed in an order that is exact at any number of ranks and workers.

    Pass it to `fastload.DataLoader`, or to the stock `torch.utils.data.DataLoader(ds, batch_size=B, num_workers=W)`:
    each worker then reads its own samples, and every sample comes once an epoch. On several ranks the stock loader gets
    the same number of samples on each; those that only even out the ranks have `sample["__valid__"] == False`, and so
    have samples masked by on_error="mask".

    Args:
        data: a packed folder or its index; tar or Parquet files; a {000..099} or * pattern; the URL of any of these
            but * (http, https, s3, gs, az, or what fsspec reads); a list of these.
        split: which split of a packed folder that has several.
        fields: name -> kind (`fastload.Image(224)`, ...). None: all fields, as the index describes them.
        shuffle: False streams in the order of packing.
        seed: of the order and of all random draws.
        window: shards mixed at a time: None for 64 (see `order.shuffle.DEFAULT_WINDOW`), "all" for a global shuffle,
            1 to shuffle inside each shard only.
        lanes: parts of the epoch that consecutive samples go round; set it to the number of nodes to give each its own
            shards, where launchers number the ranks of a node in a row, as torchrun does. Stratified and LengthBuckets
            deal samples out by themselves. It is part of the order: keep it for the whole run.
        sampler: what an epoch has: `fastload.samplers` Subset, Weighted, ClassBalanced, Stratified, LengthBuckets or
            PackSequences.
        rank, world_size: None: torch.distributed if initialised, else RANK and WORLD_SIZE, else 0 of 1.
        on_error: "raise", or "mask": a sample that cannot be read or decoded becomes a row of zeros with valid False.
        max_errors: masked samples that are put up with before an error: different ones, over the whole run of a rank,
            its worker processes included.
        errors_file: of masked samples: a file that gets a line of JSON for each, with shard, row, key, epoch, field and
            error, from every rank and worker process; a rank adds a sample once.
        batch_size: only for a stock DataLoader: the batch size it is given. Its workers then take whole batches in
            turn, so that batches are the same at any num_workers. Without it every worker has a remainder of its own,
            which drop_last=True drops: up to num_workers x (batch size - 1) samples, all where each has few.
        cache_dir, cache_size: where shards behind URLs are kept, and the most bytes, such as "50GB"; see
            `fastload.Remote`.
        remote: all that there is to set about URLs.

    Raises:
        ConfigError, ShardIndexError, SourceError: at once, on arguments and indexes; no sample is read yet.
    """

    def __init__(
        self,
        data: Data | Sequence[Data],
        *,
        split: str | None = None,
        fields: Mapping[str, Field] | None = None,
        shuffle: bool = True,
        seed: int = 0,
        window: int | Literal["all"] | None = None,
        lanes: int = 1,
        sampler: Sampler | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        on_error: OnError = "raise",
        max_errors: int = 100,
        errors_file: str | os.PathLike[str] | None = None,
        batch_size: int | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_size: int | str | None = None,
        remote: Remote | None = None,
    ) -> None:
        super().__init__(rank=rank, world_size=world_size, batch_size=batch_size)
        self.index = open_index(data, split, gather(remote, cache_dir, cache_size))
        self.fields = resolve_fields(self.index, fields)
        self.window = _resolve_window(shuffle, window, len(self.index.sizes))
        check_room(self.index, self.window)
        if on_error not in ("raise", "mask"):
            raise ConfigError(f"on_error={on_error!r}: pass 'raise' or 'mask'")
        self.on_error, self.masks = on_error, on_error == "mask"
        self.max_errors = integer("max_errors", max_errors, least=0)
        self.errors_file = errors_path(errors_file, self.masks)
        if self.index.cache is not None:
            self.index.cache.keep_damaged = self.masks
        self.seed, self.lanes = integer("seed", seed), integer("lanes", lanes, least=1)
        if sampler is not None and (isinstance(sampler, type) or not hasattr(sampler, "bind")):
            raise ConfigError(
                f"sampler={sampler!r}: pass one of fastload.samplers, e.g. ClassBalanced('label'); those of torch go "
                "with an IndexedDataset"
            )
        self.sampler = sampler
        self.order = self.make_order()
        _ = self.recipe  # so that what no decoder can do is refused now

    def make_order(self) -> Ordering:
        base = Base(sizes=self.index.sizes, seed=self.seed, window=self.window, lanes=self.lanes)
        if self.sampler is None:
            return base.order()
        return self.sampler.bind(base, read_columns(self.index, self.sampler.columns))

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What the order depends on, as it stands in saved states."""
        return {
            "order": ORDER_VERSION,
            "data": self.index.digest,
            "sampler": getattr(self.order, "fingerprint", None),
            "samples": self.samples,
            "seed": self.seed,
            "window": self.window,
            "lanes": self.lanes,
        }

    def make_recipe(self) -> Recipe:
        faults = self.fault_log(self.max_errors, self.errors_file) if self.masks else None
        recipe = make_recipe(
            self.index, self.fields, seed=self.seed, window=self.window, faults=faults, fingerprint=self.fingerprint
        )
        if not isinstance(self.order, BoundPacking):
            return recipe
        length = self.order.length
        decoders = token_decoders(self.fields, self.index.fields, self.order.field, length)
        return replace(recipe, decoders={}, maker=Packer(packing=self.order, length=length, decoders=decoders))


def _resolve_window(shuffle: bool, window: int | Literal["all"] | None, shards: int) -> int:
    """The number that the order takes: 0 for no shuffle, the number of shards for all."""
    if shuffle not in (True, False):
        raise ConfigError(f"shuffle={shuffle!r}: pass True or False")
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
        data, split, fields, cache_dir, cache_size, remote: as for StreamingDataset.
        seed: of random crops; `set_epoch` changes them from epoch to epoch.

    Raises:
        ConfigError, ShardIndexError, SourceError: on arguments and indexes.
        IndexError: from ds[i], out of range.
    """

    def __init__(
        self,
        data: Data | Sequence[Data],
        *,
        split: str | None = None,
        fields: Mapping[str, Field] | None = None,
        seed: int = 0,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_size: int | str | None = None,
        remote: Remote | None = None,
    ) -> None:
        self.index = open_index(data, split, gather(remote, cache_dir, cache_size))
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
        job = self.recipe.job(step, BufferPool(), max(1, len(samples)))
        for part in range(job.parts):
            job.run(part, Clock(READ))
        return take_apart(job.result(), self.fields, with_valid=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_recipe": None}


__all__ = ["KEY", "VALID", "IndexedDataset", "StreamingDataset", "detect_rank"]
