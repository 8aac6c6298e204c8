"""Data sets of others through the same engine, device and augmentation: any torch dataset, a `webdataset` pipeline.

    MapStyle   has a length and samples by number: shared out, shuffled and resumed as packed shards are
    Iterated   only gives one sample after the other: read ahead, and nothing more is promised

Samples are what torch's DataLoader takes: dicts, tuples or tensors, collated by `collate_fn`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.utils.data

from fastload.assemble import BatchMaking, Recipe
from fastload.batch import Batch, BufferPool
from fastload.decode import Decoder
from fastload.errors import ConfigError, StateError
from fastload.faults import Fault
from fastload.meter import DECODE, Clock
from fastload.order.arguments import integer
from fastload.order.cursor import State, Step
from fastload.order.distribute import Share
from fastload.order.hashing import sample_keys
from fastload.order.shuffle import ORDER_VERSION, Ints, Order
from fastload.remote.cache import Cache, Cached
from fastload.shards.read import Rows
from fastload.stream import Streamed

Collate = Callable[[list[Any]], Any]


@runtime_checkable
class ByNumber(Protocol):
    """A map-style dataset, of torch or in its manner."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Any: ...


def collated(data: Any, options: dict[str, Any]) -> Streamed | None:
    """The stream that a dataset of others makes; None if `data` is none.

    Args:
        data: anything.
        options: of `MapStyle` or `Iterated`.

    Raises:
        ConfigError: options that it cannot have.
    """
    iterable = isinstance(data, torch.utils.data.IterableDataset)
    if isinstance(data, str | bytes | list | tuple | dict) or not (iterable or isinstance(data, ByNumber)):
        return None
    kind = Iterated if iterable else MapStyle
    try:
        return kind(data, **options)
    except TypeError as error:
        raise ConfigError(f"{type(data).__name__}: {error}".replace(f"{kind.__name__}.__init__() ", "")) from None


class MapStyle(Streamed):
    """Samples by number. Shares, order, states and padding are those of packed shards; the samples are as reproducible
    as the dataset is. Rows of padding repeat a sample, with valid False. A state fits every dataset of the same type
    and length, for what samples are cannot be seen from outside; `fingerprint` tells them apart.

    Args:
        data: the dataset; of several samples at once `__getitems__` is asked, if it has that.
        shuffle: False as in torch; True shuffles all samples.
        seed: of the order.
        rank, world_size: as for StreamingDataset.
        collate_fn: makes a batch of a list of samples.
        fingerprint: a name for what the dataset holds, such as a version or a hash: it goes into states, and they are
            refused under another.
    """

    def __init__(
        self,
        data: ByNumber,
        *,
        shuffle: bool = False,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        collate_fn: Collate = torch.utils.data.default_collate,
        fingerprint: str | None = None,
    ) -> None:
        super().__init__(rank=rank, world_size=world_size, batch_size=None)
        if not isinstance(fingerprint, str | None):
            raise ConfigError(f"fingerprint={fingerprint!r}: pass a string")
        self._content = {} if fingerprint is None else {"content": fingerprint}
        if shuffle not in (True, False):
            raise ConfigError(f"shuffle={shuffle!r}: pass True or False")
        self.data, self.seed, self._shuffle, self._collate = data, integer("seed", seed), shuffle, collate_fn
        self.fields, self.masks = {}, False
        self.shape, self._told = _Shape(), _Told()
        self.order = self.make_order()

    def make_order(self) -> Order:
        return Order([len(self.data)], seed=self.seed, window=int(self._shuffle))

    @property
    def fingerprint(self) -> dict[str, Any]:
        return {
            "order": ORDER_VERSION,
            "data": type(self.data).__name__,
            "samples": self.samples,
            "seed": self.seed,
            "window": int(self._shuffle),
            **self._content,
        }

    def make_recipe(self) -> Recipe:
        return Recipe(
            index=_OneShard(self.samples, type(self.data).__name__),
            reader=_NoReader(),
            decoders={},
            scalars={},
            fields=(),
            seed=self.seed,
            fingerprint=self.fingerprint,
            faults=None,
            maker=_Collator(self.data, self._collate, self.shape, self._told),
        )

    def give(self, batch: Batch) -> Any:
        return self.shape.give(batch)


class _OneShard:
    """All samples as one shard."""

    def __init__(self, samples: int, name: str) -> None:
        self.sizes: Ints = np.array([samples], np.int64)
        self.offsets: Ints = np.array([0, samples], np.int64)
        self._name = name

    caches: tuple[Cache, ...] = ()  # it is no business of this package where a dataset of others reads

    def shard_name(self, shard: int) -> str:
        return self._name

    def objects(self, shard: int) -> tuple[Cached, ...]:
        return ()


class _NoReader:
    """Stands where packed shards have a reader; threads help as far as the dataset lets them."""

    blocking = True

    def read(self, shards: Ints, rows: Ints) -> Rows:
        raise ConfigError("a dataset of others has no reader")


class _Told:
    """The epoch that the dataset was told last; of all copies of a `MapStyle`, which have the dataset in common."""

    epoch: int | None = None


class _Collator:
    """Makes the batches of a `MapStyle`; the `maker` of its recipe."""

    def __init__(self, data: ByNumber, collate: Collate, shape: _Shape, told: _Told) -> None:
        self.data, self.collate, self.shape, self._told = data, collate, shape, told

    @property
    def names(self) -> tuple[str, ...]:
        """The names that the first sample has."""
        return tuple(self.shape.take(self.collate([self.data[0]]))) if len(self.data) else ()

    def shards(self, step: Step) -> Ints:
        return step.shards

    def __call__(self, recipe: Recipe, step: Step, pool: BufferPool, part_rows: int) -> BatchMaking:
        epoch = int(step.epochs[0]) if len(step.epochs) else self._told.epoch
        if epoch != self._told.epoch and hasattr(self.data, "set_epoch"):
            self.data.set_epoch(epoch)
        self._told.epoch = epoch
        return _MapJob(self, recipe, step, pool, part_rows)


class _MapJob:
    """One batch of a map-style dataset."""

    def __init__(self, maker: _Collator, recipe: Recipe, step: Step, pool: BufferPool, part_rows: int) -> None:
        self._maker, self._recipe, self._step, self._pool, self._part_rows = maker, recipe, step, pool, part_rows
        self._samples: list[Any] = [None] * len(step.rows)

    def __repr__(self) -> str:
        return f"batch of {self._step.size} samples of a {type(self._maker.data).__name__}"

    @property
    def parts(self) -> int:
        return max(1, -(-len(self._step.rows) // self._part_rows))

    def run(self, part: int, clock: Clock) -> None:
        where = slice(part * self._part_rows, (part + 1) * self._part_rows)
        rows, data = self._step.rows[where].tolist(), self._maker.data
        clock.read(len(rows), 0)  # reading is the data set's own affair: all is decoding
        many = getattr(data, "__getitems__", None)
        self._samples[where] = many(rows) if callable(many) else [data[row] for row in rows]

    def result(self) -> Batch:
        step, count = self._step, len(self._samples)
        padding = self._samples[-1:] if count else [self._maker.data[0]]
        samples = self._samples + padding * (step.size - count)
        keys = np.zeros(step.size, np.uint64)
        keys[:count] = sample_keys(self._recipe.seed, step.epochs, step.rows)
        valid = torch.arange(step.size, device="cpu") < count
        state = State(consumed=step.consumed, fingerprint=self._recipe.fingerprint).to_dict()
        fields = self._maker.shape.take(self._maker.collate(samples))
        return _batch(fields, valid, keys, state, self._pool)


class Iterated(Streamed):
    """One sample after the other, read ahead by one thread. What needs more is refused: states, padding, exact shares.

    Args:
        data: the dataset.
        seed: of augmentation.
        rank, world_size: rank=0, world_size=1 on several ranks says that each rank's dataset is a stream of its own.
        collate_fn: makes a batch of a list of samples; with batch_size=None each sample is a batch already.
    """

    def __init__(
        self,
        data: torch.utils.data.IterableDataset[Any],
        *,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        collate_fn: Collate = torch.utils.data.default_collate,
    ) -> None:
        super().__init__(rank=rank, world_size=world_size, batch_size=None)
        self.data, self.seed, self._collate = data, integer("seed", seed), collate_fn
        self.fields, self.masks = {}, False
        self.shape, self.epoch = _Shape(), 0  # that the next iteration draws for
        self.whole_batches = False  # the loader has batch_size=None
        self.order = self.make_order()

    def make_order(self) -> Order:
        return Order([0], seed=0, window=0)

    def make_recipe(self) -> Recipe:
        raise ConfigError(f"a {type(self.data).__name__} has no shards")

    @property
    def names(self) -> None:
        return None

    @property
    def faults(self) -> list[Fault]:
        return []

    @property
    def fingerprint(self) -> dict[str, Any]:
        raise StateError(
            f"a {type(self.data).__name__} only gives one sample after the other, so that its place cannot be saved or "
            "found again; stream its shards by their path instead (tar and Parquet files as they are, `fastload index` "
            "makes their index), or give the dataset __len__ and __getitem__"
        )

    def check(self, share: Share) -> None:
        kind = type(self.data).__name__
        if share.world_size > 1:
            raise ConfigError(
                f"a {kind} on {share.world_size} ranks: nothing keeps ranks from reading the same samples, or unequal "
                "numbers of batches; stream its shards by their path instead, or pass rank=0, world_size=1 to say that "
                "each rank's dataset is a stream of its own"
            )
        if share.last_batch in ("pad", "wrap"):
            raise ConfigError(f"last_batch={share.last_batch!r}: where a {kind} ends is not known; pass 'drop'")

    def threads(self, asked: int) -> int:
        return min(1, asked)

    def crew_threads(self, asked: int) -> int:
        return 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        tell = getattr(self.data, "set_epoch", None)
        if callable(tell):
            tell(epoch)

    def batches_left(self, share: Share, consumed: int) -> int:
        try:
            samples = len(self.data)  # type: ignore[arg-type]
        except (TypeError, NotImplementedError):
            raise TypeError(f"a {type(self.data).__name__} does not tell its length") from None
        return samples if self.whole_batches else Share.batches_left(share, samples, 0)

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
        stream = _Stream(iter(self.data))
        epoch, self.epoch = self.epoch, self.epoch + 1
        try:
            while True:
                yield _StreamJob(self, stream, share, epoch, pool)
        finally:
            stream.close()

    def collate(self, samples: list[Any]) -> dict[str, Any]:
        """Fields of a batch."""
        if self.whole_batches:
            return self.shape.take(torch.utils.data.default_convert(samples[0]))
        return self.shape.take(self._collate(samples))

    def give(self, batch: Batch) -> Any:
        return self.shape.give(batch)


class _Stream:
    """The iterator that the jobs of one epoch take turns with."""

    def __init__(self, samples: Iterator[Any]) -> None:
        self._samples, self._lock = samples, threading.Lock()
        self.taken = 0

    def take(self, count: int) -> list[Any]:
        """The next samples; fewer, or none, at the end."""
        with self._lock:
            found = list(islice(self._samples, count))
            self.taken += len(found)
            return found

    def close(self) -> None:
        close = getattr(self._samples, "close", None)
        if callable(close):
            close()


class _StreamJob:
    """The next batch of a stream; its result raises StopIteration where there is none."""

    parts = 1

    def __init__(self, source: Iterated, stream: _Stream, share: Share, epoch: int, pool: BufferPool) -> None:
        self._source, self._stream, self._share, self._epoch, self._pool = source, stream, share, epoch, pool
        self._fields: dict[str, Any] | None = None

    def __repr__(self) -> str:
        return f"the next samples of a {type(self._source.data).__name__}"

    def run(self, part: int, clock: Clock) -> None:
        clock.enter(DECODE)
        self._first = self._stream.taken
        wanted = 1 if self._source.whole_batches else self._share.rows_at(self._first)
        samples = self._stream.take(wanted)
        if samples and (len(samples) == wanted or self._share.last_batch != "drop"):
            self._fields = self._source.collate(samples)
            clock.read(_rows(self._fields), 0)  # only now it is known how many a batch of others has

    def result(self) -> Batch:
        if self._fields is None:
            raise StopIteration
        rows = _rows(self._fields)
        numbers = np.arange(self._first, self._first + rows)
        keys = sample_keys(self._source.seed, np.full(rows, self._epoch), numbers)
        return _batch(self._fields, torch.ones(rows, dtype=torch.bool, device="cpu"), keys, None, self._pool)


class _Shape:
    """What samples look like: dicts, tuples or bare tensors. Inside the loader a batch is a dict; of tuples it has the
    names "0", "1", ..."""

    def __init__(self) -> None:
        self._kind: type = dict

    def take(self, batch: Any) -> dict[str, Any]:
        """The fields of a collated batch."""
        if isinstance(batch, Mapping):
            self._kind = dict
            return {str(name): value for name, value in batch.items()}
        self._kind = tuple if isinstance(batch, tuple | list) else torch.Tensor
        values = batch if isinstance(batch, tuple | list) else [batch]
        return {str(number): value for number, value in enumerate(values)}

    def give(self, batch: Batch) -> Any:
        """The batch in the form of the samples."""
        if self._kind is dict:
            return batch
        return tuple(batch.values()) if self._kind is tuple else batch["0"]


def _rows(fields: Mapping[str, Any]) -> int:
    sizes = {len(value) for value in fields.values() if isinstance(value, list | torch.Tensor | tuple)}
    if len(sizes) != 1:
        raise ConfigError(f"a batch has {sorted(sizes) or 'no'} rows; collate_fn must give each field as many")
    return sizes.pop()


def _batch(fields: Mapping[str, Any], valid: torch.Tensor, keys: Any, state: Any, pool: BufferPool) -> Batch:
    if pool.pinned:
        fields = {name: v.pin_memory() if _on_the_cpu(v) else v for name, v in fields.items()}
    return Batch(fields, valid=valid, sample_keys=torch.from_numpy(keys.view(np.int64)), state=state)


def _on_the_cpu(value: Any) -> bool:
    """Whether it is a tensor that can be pinned: a dataset may have put some on a GPU already."""
    return isinstance(value, torch.Tensor) and value.device.type == "cpu"
