"""Batches whose rows hold several documents each, as `order.packing` lays them out.

Step (rows) -> pieces of documents -> PackedJob.run(part, clock): each document's tokens into their columns -> Batch
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from fastload.assemble import BatchMaking, Recipe
from fastload.batch import KEY, Batch, BufferPool
from fastload.decode.tokens import TokensDecoder, cast_tokens
from fastload.errors import ConfigError, CorruptError, DecodeError, FastloadError
from fastload.faults import Fault
from fastload.fields import Field, Tokens
from fastload.meter import Clock
from fastload.order.cursor import State, Step
from fastload.order.hashing import sample_keys
from fastload.order.packing import Pieces
from fastload.order.shuffle import Ints
from fastload.shards.index import FieldInfo

POSITIONS, SEGMENTS, BOUNDS, LONGEST = "position_ids", "segment_ids", "cu_seqlens", "max_seqlen"
PER_BATCH = (BOUNDS, LONGEST)  # not one entry a row


class Packing(Protocol):
    """What says what rows consist of: `order.packing.BoundPacking`, or that of a mixture."""

    samples: int  # rows, whose numbers are below that

    def pieces(self, epochs: Ints, pools: Ints, rows: Ints) -> Pieces: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Packer:
    """Makes packed batches; the `maker` of their recipe.

    Attributes:
        length: tokens of a row.
        decoders: of the fields, all of which have as many tokens in each document as the index says.
    """

    packing: Packing
    length: int
    decoders: Mapping[str, TokensDecoder]

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.decoders, POSITIONS, SEGMENTS, BOUNDS, LONGEST)

    def shards(self, step: Step) -> Ints:
        """Those of the documents."""
        return self.packing.pieces(step.epochs, step.shards, step.rows).shards

    def __call__(self, recipe: Recipe, step: Step, pool: BufferPool, part_rows: int) -> BatchMaking:
        return PackedJob(self, recipe, step, pool, part_rows)


def token_decoders(
    fields: Mapping[str, Field], infos: Mapping[str, FieldInfo], packed: str, length: int
) -> dict[str, TokensDecoder]:
    """The decoders of fields that are packed.

    Raises:
        ConfigError: the packed field is not declared, one is not Tokens(length), or has a name that batches use.
    """
    wanted = f"PackSequences packs rows of {length} tokens: pass fields={{{packed!r}: fastload.Tokens({length})}}"
    if packed not in fields:
        raise ConfigError(f"fields lack {packed!r}; {wanted}")
    for name, field in fields.items():
        if not isinstance(field, Tokens) or field.length != length:
            raise ConfigError(f"fields[{name!r}] is {field!r}; {wanted}, and others only if they are like it")
        if name in (POSITIONS, SEGMENTS, BOUNDS, LONGEST):
            raise ConfigError(
                f"fields[{name!r}]: packed batches have an entry of that name; pack the field under another"
            )
    return {
        name: TokensDecoder(field, infos[name].dtype) for name, field in fields.items() if isinstance(field, Tokens)
    }


class PackedJob:
    """One packed batch in the making; a `fastload.engine.Job`."""

    def __init__(self, packer: Packer, recipe: Recipe, step: Step, pool: BufferPool, part_rows: int) -> None:
        self.packer, self.recipe, self.step, self.part_rows = packer, recipe, step, part_rows
        self.pieces = packer.packing.pieces(step.epochs, step.shards, step.rows)
        shape = (step.size, packer.length)
        self.arrays = {name: pool.take(shape, decoder.dtype) for name, decoder in packer.decoders.items()}
        self.padding = {n: np.full(packer.length, d.pad, d.dtype) for n, d in packer.decoders.items()}
        self.positions, self.segments = (pool.take(shape, np.dtype(np.int64)) for _ in range(2))
        self.scalars = {name: np.zeros(step.size, dtype) for name, dtype in recipe.scalars.items()}
        self.keys: list[list[str]] = [[] for _ in range(step.size)]
        self.valid = np.zeros(step.size, np.bool_)
        self.valid[: len(step.rows)] = True
        self._blank(slice(len(step.rows), step.size))

    def __repr__(self) -> str:
        return f"batch of {self.step.size} packed rows, {len(self.pieces.rows)} documents"

    @property
    def parts(self) -> int:
        return max(1, -(-len(self.step.rows) // self.part_rows))

    def run(self, part: int, clock: Clock) -> None:
        start = part * self.part_rows
        stop = min(start + self.part_rows, len(self.step.rows))
        if start >= stop:
            return
        first, last = int(self.pieces.bounds[start]), int(self.pieces.bounds[stop])
        found = self.recipe.reader.read(self.pieces.shards[first:last], self.pieces.rows[first:last])
        clock.read(last - first, found.raw.values() if found.bytes is None else found.bytes)
        bounds = self.pieces.bounds[start : stop + 1] - first
        for row in range(start, stop):
            self.keys[row] = found.keys[bounds[row - start] : bounds[row - start + 1]]
        for name, values in found.scalars.items():  # of a row's first document: which source it is from
            self.scalars[name][start:stop] = values[bounds[:-1]]
        sizes = self.pieces.sizes[first:last]
        ends, numbers = _segments(bounds, sizes, self.packer.length)
        spans = np.diff(ends, prepend=0)
        flat = np.arange(int(ends[-1])) - np.repeat(ends - spans, spans)
        ids = np.repeat(numbers, spans)
        self.segments[start:stop] = ids.reshape(stop - start, -1)
        self.positions[start:stop] = (flat * (ids > 0)).reshape(stop - start, -1)
        for name, raws in found.raw.items():
            self._fill(name, start, stop, bounds.tolist(), raws)

    def _fill(self, name: str, start: int, stop: int, bounds: list[int], raws: Sequence[Any]) -> None:
        """Write the rows [start, stop) of a field; `raws` are their pieces' documents."""
        decoder, out = self.packer.decoders[name], self.arrays[name]
        first = int(self.pieces.bounds[start])
        skips, sizes, lengths = (
            column[first : first + len(raws)].tolist()
            for column in (self.pieces.skip, self.pieces.sizes, self.pieces.lengths)
        )
        parts: list[npt.NDArray[Any]] = []  # of the rows, end to end
        for row in range(start, stop):
            left, before = self.packer.length, len(parts)
            for piece in range(bounds[row - start], bounds[row - start + 1]):
                try:
                    tokens = _document(decoder, raws[piece], lengths[piece], out.dtype)
                except (CorruptError, DecodeError) as error:
                    self._fault(name, row, first + piece, error)
                    del parts[before:]
                    left = self.packer.length
                    break
                parts.append(tokens[skips[piece] : skips[piece] + sizes[piece]])
                left -= sizes[piece]
            parts.append(self.padding[name][:left])
        np.concatenate(parts, out=out[start:stop].reshape(-1))

    def _fault(self, name: str, row: int, piece: int, error: FastloadError) -> None:
        shard, row_in_shard = int(self.pieces.shards[piece]), int(self.pieces.rows[piece])
        key = self.keys[row][piece - int(self.pieces.bounds[row])]
        fault = Fault(
            epoch=int(self.step.epochs[row]),
            shard=self.recipe.index.shard_name(shard),
            row=row_in_shard,
            key=key,
            field=name,
            error=error.message,
        )
        self.recipe.record(fault, error)
        self.valid[row] = False

    def _blank(self, rows: Any) -> None:
        for name, array in self.arrays.items():
            array[rows] = self.packer.decoders[name].pad
        self.positions[rows] = 0
        self.segments[rows] = 0

    def result(self) -> Batch:
        rows, length = self.step.size, self.packer.length
        self._blank(np.flatnonzero(~self.valid))
        counts = np.where(self.valid[: len(self.step.rows)], np.diff(self.pieces.bounds), 0)
        kept = np.repeat(self.valid[: len(self.step.rows)], np.diff(self.pieces.bounds))
        bounds = np.zeros(rows + 1, np.int64)
        bounds[1 : len(counts) + 1] = np.cumsum(counts)
        bounds[len(counts) + 1 :] = bounds[len(counts)]
        ends, _ = _segments(bounds, self.pieces.sizes[kept], length)
        offsets = np.concatenate([np.zeros(1, np.int64), ends]).astype(np.int32)
        fields: dict[str, Any] = {name: torch.from_numpy(array) for name, array in self.arrays.items()}
        keys = np.zeros(rows, np.uint64)
        keys[: len(counts)] = sample_keys(self.recipe.seed, self.step.epochs, self.pieces.numbers)
        return Batch(
            {
                **fields,
                POSITIONS: torch.from_numpy(self.positions),
                SEGMENTS: torch.from_numpy(self.segments),
                BOUNDS: torch.from_numpy(offsets),
                LONGEST: int(np.diff(offsets).max(initial=0)),
                **{name: torch.from_numpy(values) for name, values in self.scalars.items()},
                KEY: self.keys,
            },
            valid=torch.from_numpy(self.valid),
            sample_keys=torch.from_numpy(keys.view(np.int64)),
            state=State(consumed=self.step.consumed, fingerprint=self.recipe.fingerprint).to_dict(),
        )


def _document(decoder: TokensDecoder, raw: Any, length: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """All tokens of a document, as stored or in `dtype`, whichever the latter can hold."""
    if isinstance(raw, FastloadError):
        raise raw
    tokens = decoder.tokens(raw)
    if len(tokens) != length:
        raise DecodeError(f"{len(tokens)} tokens, where the index counts {length} in the packed field")
    if np.can_cast(tokens.dtype, dtype, "safe"):
        return tokens
    out = np.empty(length, dtype)
    cast_tokens(tokens, out)
    return out


def _segments(bounds: Ints, sizes: Ints, length: int) -> tuple[Ints, Ints]:
    """The segments of rows laid end to end: where each ends, and its number in its row.

    Args:
        bounds: first piece of each row, int64 [rows + 1].
        sizes: tokens of each piece, int64 [pieces].

    Returns:
        ends, numbers: int64 [segments] each; numbers are 1, 2, ..., and 0 for the padding at the end of a row.
    """
    counts = np.diff(bounds)
    row_of = np.repeat(np.arange(len(counts)), counts)  # [pieces]
    numbers = np.arange(len(sizes)) - bounds[row_of] + 1
    reached = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    ends = reached[1:] - reached[bounds[row_of]] + row_of * length
    filled = reached[bounds[1:]] - reached[bounds[:-1]]  # [rows]
    short = np.flatnonzero(filled < length)
    all_ends = np.concatenate([ends, (short + 1) * length])
    order = np.argsort(all_ends, kind="stable")
    return all_ends[order], np.concatenate([numbers, np.zeros(len(short), np.int64)])[order]
