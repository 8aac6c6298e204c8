"""One stream of several data sets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastload.assemble import FaultLog, Recipe
from fastload.errors import ConfigError
from fastload.fields import Field, Scalar
from fastload.order.arguments import integer
from fastload.order.mix import Mixture, Stop
from fastload.order.shuffle import ORDER_VERSION, Ints
from fastload.shards.read import Reader, Rows
from fastload.stream import Streamed

SOURCE = "source"  # the field that tells which source a row is from


class Mix(Streamed):
    """Several data sets as one, in fixed proportions; it goes wherever a StreamingDataset goes.

    Of any run of samples each source has its share, give or take one; each runs through its own epochs, shuffled by its
    own seed and window, under its own sampler. Batches have a further field `source`, int64 [B]: the number of the
    row's source in the order given.

    Args:
        sources: name -> StreamingDataset or Mix. All must declare the same fields.
        weights: share of each source, in their order; need not sum to 1. Whole numbers are a quota: weights=[24, 8]
        gives 24
            and 8 of every 32. None: round robin, one of each in turn.
        stop: when an epoch ends. "first": before any source would begin again. "all": when each has been through once,
        the
            shorter ones repeating. A number: after so many samples. Sources run on across epochs.
        rank, world_size, batch_size: as for StreamingDataset; those of the sources are not used.

    Raises:
        ConfigError: no sources, fields or on_error that differ, weights that do not fit, an empty source.
    """

    def __init__(
        self,
        sources: Mapping[str, Streamed],
        weights: Sequence[float] | None = None,
        *,
        stop: Stop = "first",
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(rank=rank, world_size=world_size, batch_size=batch_size)
        if not sources:
            raise ConfigError("Mix: no sources; pass a dict of StreamingDatasets")
        self.sources = dict(sources)
        self.weights = [1.0] * len(self.sources) if weights is None else list(weights)
        self.stop, self.seed = stop, integer("seed", seed)
        first_name, first = next(iter(self.sources.items()))
        for name, source in self.sources.items():
            if source.fields != first.fields:
                raise ConfigError(
                    f"Mix: {name!r} declares {source.fields} and {first_name!r} {first.fields}; "
                    "declare the same fields in all"
                )
            if source.masks != first.masks:
                raise ConfigError(f"Mix: on_error of {name!r} and {first_name!r} differ; pass the same in all")
        if SOURCE in first.fields:
            raise ConfigError(f"Mix adds a field {SOURCE!r}, and the sources have one; leave it out of fields=")
        self.fields: dict[str, Field] = {**first.fields, SOURCE: Scalar("int64")}
        self.masks = first.masks
        self.order = self.make_order()

    def make_order(self) -> Mixture:
        sources = list(self.sources.values())
        shards = [len(source.recipe.index.sizes) for source in sources]
        return Mixture([source.order for source in sources], shards, self.weights, self.stop)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What the order depends on, as it stands in saved states: of the sources, a digest."""
        parts = {name: source.fingerprint for name, source in self.sources.items()}
        sources = hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=8).hexdigest()
        mixture = Mixture.digest(self.weights, self.samples)
        return {"order": ORDER_VERSION, "seed": self.seed, "samples": self.samples, "mix": mixture, "sources": sources}

    def make_recipe(self) -> Recipe:
        recipes = {name: source.recipe for name, source in self.sources.items()}
        first = next(iter(recipes.values()))
        layout = _MixLayout(recipes)
        logs = [recipe.faults for recipe in recipes.values() if recipe.faults is not None]
        scalars = {
            name: np.result_type(*(recipe.scalars[name] for recipe in recipes.values())) for name in first.scalars
        }
        return Recipe(
            index=layout,
            reader=_MixReader([recipe.reader for recipe in recipes.values()], layout.first_shards),
            decoders=first.decoders,
            scalars={**scalars, SOURCE: np.dtype(np.int64)},
            fields=tuple(self.fields),
            seed=self.seed,
            fingerprint=self.fingerprint,
            faults=FaultLog(max(log.max_errors for log in logs)) if logs else None,
        )


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
        intact = True
        for source in np.unique(sources).tolist():
            where = np.flatnonzero(sources == source)
            found = self._readers[source].read(shards[where] - self._first_shards[source], rows[where])
            intact = intact and found.intact
            for place, key in zip(where.tolist(), found.keys, strict=True):
                keys[place] = key
            for name, contents in found.raw.items():
                column = raw.setdefault(name, [None] * count)
                for place, content in zip(where.tolist(), contents, strict=True):
                    column[place] = content
            for name, values in found.scalars.items():
                known = scalars.get(name, np.zeros(count, values.dtype))
                scalars[name] = known.astype(np.result_type(known, values))
                scalars[name][where] = values
        return Rows(keys=keys, scalars={**scalars, SOURCE: sources}, raw=raw, intact=intact)
