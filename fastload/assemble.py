"""One batch in the making: reads and decodes its rows, part by part, into buffers allocated once.

Step (numbers) -> BatchJob.run(part, clock) in any thread -> BatchJob.result() -> Batch
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cache, partial
from itertools import accumulate, islice, pairwise
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch

from fastload.batch import KEY, LENGTH_SUFFIX, Batch, BufferPool, Column
from fastload.decode import Decoder, decode_rows
from fastload.decode.base import Like
from fastload.decode.text import ListDecoder
from fastload.errors import ConfigError, CorruptError, DecodeError, FastloadError
from fastload.faults import Fault, FaultLog
from fastload.meter import Clock
from fastload.order.cursor import State, Step
from fastload.order.hashing import sample_keys
from fastload.order.shuffle import Ints
from fastload.remote.cache import Cache, Cached
from fastload.shards.read import Copying, CopyingReader, Raw, Reader, Rows, make_crew

if TYPE_CHECKING:
    from fastload.shards._rows import Crew

OnError = Literal["raise", "mask"]

# Parts are cut so that each thread gets about four of a batch: the last ones to finish then differ by a quarter of a
# thread's share.
PARTS_PER_THREAD = 4

# Samples whose keys are worked out at once, about: numpy's cost per call is then spread thin.
KEY_ROWS = 1024

_STEP_ARRAYS = tuple(map(Step._fields.index, ("shards", "rows", "epochs")))


class Layout(Protocol):
    """How samples are numbered over the shards: `shards.index.Index`, or several of them."""

    @property
    def sizes(self) -> Ints:
        """Samples of each shard, int64 [S]."""
        ...

    @property
    def offsets(self) -> Ints:
        """First sample of each shard, int64 [S + 1]."""
        ...

    def shard_name(self, shard: int) -> str:
        """What errors call a shard."""
        ...

    def objects(self, shard: int) -> tuple[Cached, ...]:
        """What has to be fetched before a shard can be read; empty for a local one."""
        ...

    @property
    def caches(self) -> tuple[Cache, ...]:
        """What shards behind URLs are read through; empty where all are local."""
        ...


class BatchMaking(Protocol):
    """A `fastload.engine.Job` that makes one Batch."""

    @property
    def parts(self) -> int: ...

    def run(self, part: int, clock: Clock) -> None: ...

    def result(self) -> Batch: ...


class Maker(Protocol):
    """Makes batches of another kind than one row a sample."""

    @property
    def names(self) -> tuple[str, ...]:
        """What its batches have by name."""
        ...

    def shards(self, step: Step) -> Ints:
        """The shards that the batch of a step is read from, in the order of use, int64 [any]."""
        ...

    def __call__(self, recipe: Recipe, step: Step, pool: BufferPool, part_rows: int) -> BatchMaking: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What all batches of a data set have in common.

    Attributes:
        decoders: of the fields that are read from the shards.
        scalars: dtype of the fields that come from the index.
        fields: names of all, in the order the user gave.
        faults: None where on_error="raise".
        maker: what makes a batch of a step where that is not `BatchJob`.
    """

    index: Layout
    reader: Reader
    decoders: Mapping[str, Decoder]
    scalars: Mapping[str, np.dtype[Any]]
    fields: tuple[str, ...]
    seed: int
    fingerprint: Mapping[str, Any]
    faults: FaultLog | None
    maker: Maker | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Everything that a batch has by name, keys and `valid` apart."""
        if self.maker is not None:
            return (*self.maker.names, *self.scalars)
        lengths = [name + LENGTH_SUFFIX for name, decoder in self.decoders.items() if decoder.spec.has_length]
        return (*self.fields, *lengths)

    def job(self, step: Step, pool: BufferPool, part_rows: int) -> BatchMaking:
        """What makes the batch of a step, `part_rows` rows at a time."""
        if self.maker is not None:
            return self.maker(self, step, pool, part_rows)
        return BatchJob(self, step, pool, part_rows, self.keys([step])[0])

    def keys(self, steps: Sequence[Step]) -> list[npt.NDArray[np.uint64]]:
        """The keys of the samples of some steps: per step uint64 [k], a view. Of many small batches at once, because
        hashing few numbers takes numpy as long as hashing a thousand."""
        shards, rows, epochs = (np.concatenate([step[field] for step in steps]) for field in _STEP_ARRAYS)
        keys = sample_keys(self.seed, epochs, self.index.offsets[shards] + rows)
        bounds = [0, *accumulate(len(step.shards) for step in steps)]
        return [keys[start:stop] for start, stop in pairwise(bounds)]

    def shards(self, step: Step) -> Ints:
        """The shards that the batch of a step is read from, in the order of use, int64 [any]."""
        return step.shards if self.maker is None else self.maker.shards(step)

    def record(self, fault: Fault, error: FastloadError) -> None:
        """Count a masked sample, or raise its error where none is masked."""
        if self.faults is not None:
            self.faults.add(fault)
            return
        error.message = f'{fault.reason}; repack, or pass on_error="mask"'
        raise error.at(shard=fault.shard, row=fault.row, key=fault.key)

    @property
    def parallel(self) -> bool:
        """Whether threads make it faster; where nothing releases the GIL they only get into each other's way."""
        return self.reader.blocking or any(decoder.spec.parallel for decoder in self.decoders.values())

    @property
    def goes_ahead(self) -> bool:
        """Whether a crew can do ahead what is to be done without the interpreter: check and copy rows of numbers, or
        contents that are kept as they are. Not from behind URLs: to begin a batch would wait for its shards, before
        the one in front of it is handed out."""
        if self.maker is not None or self.index.caches or not hasattr(self.reader, "begin") or not self.decoders:
            return False
        if all(isinstance(decoder, ListDecoder) for decoder in self.decoders.values()):
            return True
        return [hasattr(d, "like") and d.spec.shape is not None for d in self.decoders.values()] == [True]


class BatchJob:
    """A `fastload.engine.Job` that makes one Batch."""

    def __init__(
        self, recipe: Recipe, step: Step, pool: BufferPool, part_rows: int, sample_keys: npt.NDArray[np.uint64]
    ) -> None:
        """`sample_keys`: uint64 [k], of the step's samples."""
        self.recipe, self.step, self.part_rows = recipe, step, part_rows
        count = len(step.shards)
        self.columns = {name: Column(decoder.spec, step.size, pool) for name, decoder in recipe.decoders.items()}
        self.scalars = {name: np.zeros(step.size, dtype) for name, dtype in recipe.scalars.items()}
        self.keys: list[str] = [""] * step.size
        self.valid = np.empty(step.size, np.bool_)
        self.valid.fill(True)  # np.ones takes ten times as long
        self.masked = False
        self._begun: Callable[[], Rows] | None = None  # of the only part
        self.sample_keys = sample_keys
        if count < step.size:
            self.valid[count:] = False
            self.sample_keys = np.concatenate([sample_keys, np.zeros(step.size - count, np.uint64)])
            for column in self.columns.values():
                column.blank(count, step.size)

    def __repr__(self) -> str:
        shards = sorted({self.recipe.index.shard_name(s) for s in self.step.shards.tolist()[:3]})
        return f"batch of {self.step.size} rows from {', '.join(shards)}, ..."

    @property
    def parts(self) -> int:
        return max(1, -(-len(self.step.shards) // self.part_rows))

    def run(self, part: int, clock: Clock) -> None:
        start = part * self.part_rows
        stop = min(start + self.part_rows, len(self.step.shards))
        if start >= stop:
            return
        begun = self._begun or self._begin(slice(start, stop), None)
        found = begun()
        clock.read(stop - start, found.raw.values() if found.bytes is None else found.bytes)
        self.keys[start:stop] = found.keys
        for name, values in found.scalars.items():
            self.scalars[name][start:stop] = self._in_range(name, start, values)
        for place, name in found.lacking:
            self._fault(name, start + place, CorruptError(f"the sample has no field {name!r} (null)"))
        for name, contents in found.raw.items():
            if not (found.intact and self._decode_whole(name, start, contents)):
                self._decode(name, start, contents)

    def begin(self, crew: Crew) -> None:
        """Have a crew do what it can before the job is run, which is in one part."""
        if len(self.step.shards):
            self._begun = self._begin(slice(0, len(self.step.shards)), crew)

    def _begin(self, rows: slice, crew: Crew | None) -> Callable[[], Rows]:
        """Begin to read; what is returned waits for it."""
        reader, shards, numbers = self.recipe.reader, self.step.shards[rows], self.step.rows[rows]
        if not hasattr(reader, "begin"):
            return partial(reader.read, shards, numbers)
        return cast(CopyingReader, reader).begin(shards, numbers, crew, self._copying(rows))

    def _copying(self, rows: slice) -> Copying | None:
        """Where rows of numbers may be copied to as they are read, where that is the only stored field. Lengths of rows
        that are not copied are set when they are decoded."""
        if len(self.columns) != 1:
            return None
        ((name, column),) = self.columns.items()
        like: Like | None = getattr(self.recipe.decoders[name], "like", None)
        if like is None or column.array is None:
            return None
        lengths = None if column.lengths is None else column.lengths[rows]
        if lengths is not None and not like.ragged:
            lengths[:] = column.array.shape[1]
        out = column.array[rows]
        return Copying(name, like.head, like.dtype, like.exact, out, lengths if like.ragged else None)

    def _in_range(self, name: str, start: int, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The numbers, without those that the declared dtype would wrap round or make infinite. Integers that wrap
        round are never masked: the declaration is wrong, and not the sample."""
        dtype = self.scalars[name].dtype
        if values.dtype == dtype or np.can_cast(values.dtype, dtype, "safe"):
            return values
        low, high = _range(dtype)
        wrong = np.flatnonzero((values < low) | (values > high))
        if len(wrong) and dtype.kind == "f":
            with np.errstate(over="ignore"):  # some are infinite as they are stored, or rounded down to the largest
                found = values[wrong].astype(np.float64)
                wrong = wrong[np.isinf(found.astype(dtype)) & np.isfinite(found)]
        for at in wrong.tolist():
            row, holds = start + at, f"{dtype}, which holds {low} to {high}"
            error = DecodeError(f"{values[at]} does not fit into {holds}; declare a wider dtype")
            if dtype.kind == "f" and self.recipe.faults is not None:
                self._fault(name, row, error)
                continue
            error.message = f"field {name!r}: {error.message}"
            shard = self.recipe.index.shard_name(int(self.step.shards[row]))
            raise error.at(shard=shard, row=int(self.step.rows[row]), key=self.keys[row])
        if not len(wrong):
            return values
        kept = values.copy()
        kept[wrong] = 0
        return kept

    def _decode_whole(self, name: str, start: int, values: list[Any]) -> bool:
        """Decode a field of rows that were all read; False if it is kept as a list and some row fails."""
        column, decoder, rows = self.columns[name], self.recipe.decoders[name], slice(start, start + len(values))
        if column.array is not None:
            lengths = None if column.lengths is None else column.lengths[rows]
            keys = self.sample_keys[rows].tolist()
            outcomes = decode_rows(decoder, values, column.array[rows], keys, lengths)
            for row, outcome in enumerate(outcomes, start):
                if outcome is not None:
                    self._fault(name, row, outcome)
            return True
        try:
            if isinstance(decoder, ListDecoder):
                column.values[rows] = decoder.decode_all(values, self.sample_keys[rows])
            else:
                decode, keys = decoder.decode, self.sample_keys[rows].tolist()
                column.values[rows] = [decode(raw, key) for raw, key in zip(values, keys, strict=True)]
        except DecodeError:
            return False  # row by row, to tell which
        return True

    def _decode(self, name: str, start: int, values: list[Raw | FastloadError]) -> None:
        decoder, column = self.recipe.decoders[name], self.columns[name]
        keys = self.sample_keys[start : start + len(values)].tolist()
        if column.array is None:
            for row, (raw, key) in enumerate(zip(values, keys, strict=True), start):
                try:
                    if isinstance(raw, FastloadError):
                        raise raw
                    column.values[row] = decoder.decode(raw, key)
                except (CorruptError, DecodeError) as error:
                    self._fault(name, row, error)
            return
        rows = slice(start, start + len(values))
        lengths = None if column.lengths is None else column.lengths[rows]
        raws = [None if isinstance(value, FastloadError) else value for value in values]
        outcomes = decode_rows(decoder, raws, column.array[rows], keys, lengths)
        for row, (value, outcome) in enumerate(zip(values, outcomes, strict=True), start):
            fault = value if isinstance(value, FastloadError) else outcome
            if fault is not None:
                self._fault(name, row, fault)

    def _fault(self, name: str, row: int, error: FastloadError) -> None:
        if not self.valid[row]:  # several fields of one sample count once
            return
        fault = Fault(
            epoch=int(self.step.epochs[row]),
            shard=self.recipe.index.shard_name(int(self.step.shards[row])),
            row=int(self.step.rows[row]),
            key=self.keys[row],
            field=name,
            error=error.message,
        )
        self.recipe.record(fault, error)
        self.valid[row] = False
        self.masked = True

    def _blank_masked(self) -> None:
        rows = np.flatnonzero(~self.valid[: len(self.step.shards)])
        for row in rows.tolist():
            for column in self.columns.values():
                column.blank(row, row + 1)
        for values in self.scalars.values():
            values[rows] = 0

    def result(self) -> Batch:
        if self.masked:
            self._blank_masked()
        fields: dict[str, Any] = {}
        for name in self.recipe.fields:
            if name in self.scalars:
                fields[name] = torch.from_numpy(self.scalars[name])
                continue
            column = self.columns[name]
            fields[name] = column.finish()
            if column.lengths is not None:
                fields[name + LENGTH_SUFFIX] = torch.from_numpy(column.lengths)
        fields[KEY] = self.keys
        return Batch(
            fields,
            valid=self.valid,
            sample_keys=self.sample_keys,
            state=State(self.step.consumed, self.recipe.fingerprint).to_dict(),
        )


def batch_jobs(
    recipe: Recipe, steps: Iterator[Step], pool: BufferPool, *, threads: int, crew_threads: int = 0
) -> Generator[BatchMaking, None, None]:
    """The plan's steps as jobs for an engine of so many threads.

    Args:
        crew_threads: for an engine without threads: how many go ahead, see `Recipe.goes_ahead`. They end with the
            plan, or when it is closed.
    """
    ahead = 1  # steps whose keys are worked out at once; the first batch waits for no other
    with ExitStack() as until_closed:
        crew = make_crew(crew_threads)
        if crew is not None:
            until_closed.enter_context(closing(crew))
        while some := list(islice(steps, ahead)):
            keys = recipe.keys(some) if recipe.maker is None else [None] * len(some)
            for step, of_step in zip(some, keys, strict=True):
                part_rows = max(1, -(-step.size // (threads * PARTS_PER_THREAD)) if threads > 1 else step.size)
                if of_step is None:
                    yield recipe.job(step, pool, part_rows)
                else:
                    yield _begun(BatchJob(recipe, step, pool, part_rows, of_step), crew)  # no name here keeps it alive
            ahead = min(2 * ahead, max(1, KEY_ROWS // some[-1].size))


def _begun(job: BatchJob, crew: Crew | None) -> BatchJob:
    if crew is not None:
        job.begin(crew)
    return job


@cache
def _range(dtype: np.dtype[Any]) -> tuple[float, float]:
    """The least and the largest number of a dtype."""
    if dtype.kind == "b":
        return 0, 1
    if dtype.kind == "f":
        return -float(np.finfo(dtype).max), float(np.finfo(dtype).max)
    return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)


def scalar_dtype(name: str, declared: str | None, stored: npt.DTypeLike) -> np.dtype[Any]:
    """The dtype of a scalar in a batch: as declared, or int64 for integers and booleans and float32 for floats.

    Raises:
        ConfigError: floats declared as integers, or something that is no number.
    """
    if declared is not None:
        dtype = np.dtype(declared)
        if dtype.kind not in "iufb" or (np.dtype(stored).kind == "f" and dtype.kind != "f"):
            raise ConfigError(
                f"fields[{name!r}] is Scalar(dtype={declared!r}), and the data holds {np.dtype(stored)} there; "
                "pass a dtype that can hold it, or none"
            )
        return dtype
    return np.dtype(np.float32 if np.dtype(stored).kind == "f" else np.int64)
