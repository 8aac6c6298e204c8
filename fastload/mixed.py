"""What batches of a mixture are made from: the recipes of its sources, as one.

merged     rows of all sources in one batch
separate   a batch of batches, one for each source
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fastload.assemble import BatchMaking, Recipe
from fastload.batch import Batch, BufferPool
from fastload.decode import Decoder
from fastload.errors import ConfigError
from fastload.faults import FaultLog
from fastload.meter import Clock
from fastload.order.cursor import State, Step
from fastload.order.packing import Pieces, join_pieces
from fastload.order.shuffle import Ints
from fastload.packed import Packer, Packing
from fastload.remote.cache import Cache, Cached
from fastload.shards.read import Reader, Rows

SOURCE = "source"  # the field that tells which source a row is from


def merged(recipes: Mapping[str, Recipe], seed: int, fingerprint: Mapping[str, Any], faults: FaultLog | None) -> Recipe:
    """Rows of all sources in one batch."""
    first, layout = next(iter(recipes.values())), _MixLayout(recipes)
    packer = _packer(recipes, layout)
    _same_outputs(recipes)
    scalars = {  # those of a source that is a mixture itself have SOURCE already
        name: np.result_type(*(recipe.scalars[name] for recipe in recipes.values()))
        for name in first.scalars
        if name != SOURCE
    }
    return Recipe(
        index=layout,
        reader=_MixReader([recipe.reader for recipe in recipes.values()], layout.first_shards),
        decoders=first.decoders,
        scalars={**scalars, SOURCE: np.dtype(np.int64)},
        fields=(*(name for name in first.fields if name != SOURCE), SOURCE),
        seed=seed,
        fingerprint=fingerprint,
        faults=faults,
        maker=packer,
    )


def _packer(recipes: Mapping[str, Recipe], layout: _MixLayout) -> Packer | None:
    """What makes packed batches of packed sources."""
    packers = {name: recipe.maker for name, recipe in recipes.items() if isinstance(recipe.maker, Packer)}
    if not packers:
        return None
    first = next(iter(packers.values()))
    plain = [name for name in recipes if name not in packers]
    if plain:
        raise ConfigError(
            f"Mix: {', '.join(map(repr, packers))} with PackSequences and {', '.join(map(repr, plain))} without; "
            "pack all, or pass fields='separate'"
        )
    return replace(first, packing=_MixPacking([packer.packing for packer in packers.values()], layout))


def separate(
    recipes: Mapping[str, Recipe], seed: int, fingerprint: Mapping[str, Any], faults: FaultLog | None
) -> Recipe:
    """A batch of its own for each source."""
    layout = _MixLayout(recipes)
    own = {
        name: replace(recipe, index=_MixLayout({name: recipe}), faults=faults if recipe.faults is not None else None)
        for name, recipe in recipes.items()
    }
    return Recipe(
        index=layout,
        reader=_MixReader([recipe.reader for recipe in recipes.values()], layout.first_shards),
        decoders={f"{name}/{field}": d for name, recipe in recipes.items() for field, d in recipe.decoders.items()},
        scalars={},
        fields=tuple(recipes),
        seed=seed,
        fingerprint=fingerprint,
        faults=faults,
        maker=_Separator(recipes=own, first_shards=layout.first_shards),
    )


def _same_outputs(recipes: Mapping[str, Recipe]) -> None:
    """Refuse sources whose rows one decoder cannot read into one buffer."""
    first_name, first = next((name, _decoders(recipe)) for name, recipe in recipes.items())
    for name, recipe in recipes.items():
        decoders = _decoders(recipe)
        for field in sorted(first.keys() ^ decoders.keys()):  # all declare the same
            number, content = (first_name, name) if field in decoders else (name, first_name)
            raise ConfigError(
                f"Mix: {field!r} is a number of the index in {number!r} and content of the shards in {content!r}; "
                "repack one, or pass fields='separate'"
            )
        for field, decoder in decoders.items():
            for what, mine, other in zip(_TOLD_APART, _traits(decoder), _traits(first[field]), strict=True):
                if mine != other:
                    raise ConfigError(
                        f"Mix: {field!r} has {what} {mine} in {name!r} and {other} in {first_name!r}; "
                        "declare it, repack one, or pass fields='separate'"
                    )


def _decoders(recipe: Recipe) -> Mapping[str, Decoder]:
    """Those of all fields, of packed ones too."""
    return recipe.maker.decoders if isinstance(recipe.maker, Packer) else recipe.decoders


_TOLD_APART = ("shape", "dtype", "bytes as tokens")


def _traits(decoder: Decoder) -> tuple[object, ...]:
    """What must be the same in all sources. Rows of uint8 tokens come as bytes, which do not tell their dtype."""
    return decoder.spec.shape, getattr(decoder, "dtype", None), getattr(decoder, "stored", None) == np.uint8


class _MixLayout:
    """Shards of all sources, numbered through."""

    def __init__(self, recipes: Mapping[str, Recipe]) -> None:
        self._names, self._parts = list(recipes), [recipe.index for recipe in recipes.values()]
        self.sizes: Ints = np.concatenate([part.sizes for part in self._parts])
        self.offsets: Ints = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.sizes)])
        counts = [len(part.sizes) for part in self._parts]
        self.first_shards: Ints = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])

    def shard_name(self, shard: int) -> str:
        source = int(np.searchsorted(self.first_shards, shard, "right")) - 1
        return f"{self._names[source]}: {self._parts[source].shard_name(shard - int(self.first_shards[source]))}"

    def objects(self, shard: int) -> tuple[Cached, ...]:
        source = int(np.searchsorted(self.first_shards, shard, "right")) - 1
        return self._parts[source].objects(shard - int(self.first_shards[source]))

    @property
    def caches(self) -> tuple[Cache, ...]:
        return tuple(dict.fromkeys(cache for part in self._parts for cache in part.caches))


class _MixReader:
    """Reads each row from its own source."""

    def __init__(self, readers: Sequence[Reader], first_shards: Ints) -> None:
        self._readers, self._first_shards = readers, first_shards
        self.blocking = any(reader.blocking for reader in readers)

    def read(self, shards: Ints, rows: Ints) -> Rows:
        count = len(shards)
        sources = np.searchsorted(self._first_shards, shards, "right") - 1
        keys: list[str] = [""] * count
        raw: dict[str, list[Any]] = {}
        scalars: dict[str, npt.NDArray[Any]] = {}
        intact, lacking = True, list[tuple[int, str]]()
        for source in np.unique(sources).tolist():
            where = np.flatnonzero(sources == source)
            found = self._readers[source].read(shards[where] - self._first_shards[source], rows[where])
            intact = intact and found.intact
            lacking += [(int(where[place]), name) for place, name in found.lacking]
            for place, key in zip(where.tolist(), found.keys, strict=True):
                keys[place] = key
            for name, contents in found.raw.items():
                column = raw.setdefault(name, [None] * count)
                for place, content in zip(where.tolist(), contents, strict=True):
                    column[place] = content
            for name, values in found.scalars.items():
                known = scalars.get(name, np.zeros(count, values.dtype))
                dtype = np.result_type(known, values)
                if dtype.kind == "f" and known.dtype.kind in "iu" and values.dtype.kind in "iu":
                    dtype = np.dtype(object)  # integers on both sides of 2**63, which floats do not hold
                scalars[name] = known.astype(dtype)
                scalars[name][where] = values
        numbers = {**scalars, SOURCE: sources}
        return Rows(keys=keys, scalars=numbers, raw=raw, intact=intact, lacking=tuple(lacking))


class _MixPacking:
    """The packed rows of all sources; pools are numbered as the mixture numbers shards."""

    def __init__(self, packings: Sequence[Packing], layout: _MixLayout) -> None:
        self._packings, self._first_shards = packings, layout.first_shards
        self._first_rows = np.cumsum([0, *(packing.samples for packing in packings)])  # may be more than documents
        self.samples = int(self._first_rows[-1])

    def pieces(self, epochs: Ints, pools: Ints, rows: Ints) -> Pieces:
        sources = np.searchsorted(self._first_shards, pools, "right") - 1
        places, parts = [], []
        for source in np.unique(sources).tolist():
            where = np.flatnonzero(sources == source)
            first = self._first_shards[source]
            part = self._packings[source].pieces(epochs[where], pools[where] - first, rows[where])
            numbers = part.numbers + self._first_rows[source]
            parts.append(replace(part, shards=part.shards + first, numbers=numbers))
            places.append(where)
        return join_pieces(parts, places, len(pools))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Separator:
    """Makes batches of a batch for each source; the `maker` of their recipe."""

    recipes: Mapping[str, Recipe]
    first_shards: Ints

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.recipes)

    def shards(self, step: Step) -> Ints:
        sources = np.searchsorted(self.first_shards, step.shards, "right") - 1
        found = [np.zeros(0, np.int64)]
        for source, recipe in enumerate(self.recipes.values()):
            where, first = np.flatnonzero(sources == source), self.first_shards[source]
            part = step._replace(epochs=step.epochs[where], shards=step.shards[where] - first, rows=step.rows[where])
            found.append(recipe.shards(part) + first)
        return np.concatenate(found)

    def __call__(self, recipe: Recipe, step: Step, pool: BufferPool, part_rows: int) -> BatchMaking:
        return _SeparateJob(self, recipe, step, pool, part_rows)


class _SeparateJob:
    """A batch of batches in the making; a `fastload.engine.Job`."""

    def __init__(self, separator: _Separator, recipe: Recipe, step: Step, pool: BufferPool, part_rows: int) -> None:
        self._recipe, self._step = recipe, step
        sources = np.searchsorted(separator.first_shards, step.shards, "right") - 1
        self._jobs: dict[str, BatchMaking] = {}
        self._parts: list[tuple[BatchMaking, int]] = []
        for source, (name, own) in enumerate(separator.recipes.items()):
            where = np.flatnonzero(sources == source)
            shards = step.shards[where] - separator.first_shards[source]
            part = step._replace(size=len(where), epochs=step.epochs[where], shards=shards, rows=step.rows[where])
            job = self._jobs[name] = own.job(part, pool, part_rows)
            self._parts += [(job, number) for number in range(job.parts)]

    def __repr__(self) -> str:
        return f"batch of {', '.join(self._jobs)}: {self._step.size} rows"

    @property
    def parts(self) -> int:
        return len(self._parts)

    def run(self, part: int, clock: Clock) -> None:
        job, number = self._parts[part]
        job.run(number, clock)

    def result(self) -> Batch:
        batches = {name: job.result() for name, job in self._jobs.items()}
        for batch in batches.values():
            batch.state = None  # that of the whole is what counts
        valid = np.zeros(self._step.size, np.bool_)
        valid[: len(self._step.shards)] = True
        state = State(consumed=self._step.consumed, fingerprint=self._recipe.fingerprint).to_dict()
        return Batch(batches, valid=torch.from_numpy(valid), state=state)
