"""One stream of several data sets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from fastload.assemble import Recipe
from fastload.errors import ConfigError
from fastload.fields import Field, Scalar
from fastload.mixed import SOURCE, merged, separate
from fastload.order.arguments import integer
from fastload.order.buckets import BoundBuckets
from fastload.order.mix import Mixture, Stop
from fastload.order.shuffle import ORDER_VERSION
from fastload.stream import Streamed


class Mix(Streamed):
    """Several data sets as one, in fixed proportions; it goes wherever a StreamingDataset goes.

    Of the first i samples each source has its share, give or take less than one, and so it has of any batch of two
    sources (of more, less than two). Every rank's batch has it too. Each source runs through its own epochs, shuffled
    by its own seed and window, under its own sampler; `lanes` of a source gives no node shards of its own. A run is
    resumed at once; where a source's sampler prepares an epoch, it does so for the one that the source is in.

    Args:
        sources: name -> StreamingDataset or Mix. LengthBuckets cannot be mixed.
        weights: share of each source, in their order; need not sum to 1. Whole numbers are a quota: weights=[24, 8]
            gives 24 and 8 of every 32. None: round robin, one of each in turn.
        stop: when an epoch ends. "first": before any source would begin again. "all": when each has been through once,
            the shorter ones repeating. A number: after so many samples. Sources run on across epochs.
        fields: "merged": all sources declare the same fields, and a batch has their rows together, with a further field
            `source`, int64 [B]: the number of the row's source in the order given (of a Mix in this one, the Mix's).
            "separate": sources declare what
            they like, and a batch is {name: Batch of that source's rows}, whose numbers of rows vary; only for
            fastload.DataLoader.
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
        fields: Literal["merged", "separate"] = "merged",
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(rank=rank, world_size=world_size, batch_size=batch_size)
        self.sources = _checked(sources)
        if weights is None:
            weights = [1.0] * len(self.sources)
        if isinstance(weights, str | Mapping) or not isinstance(weights, Iterable):
            names = ", ".join(self.sources)
            raise ConfigError(f"Mix(weights={weights!r}): pass a list, one number for each of {names}")
        self.weights = list(weights)
        self.stop, self.seed = stop, integer("seed", seed)
        if fields not in ("merged", "separate"):
            raise ConfigError(f"Mix(fields={fields!r}): pass 'merged' or 'separate'")
        self.separate = fields == "separate"
        self.fields: dict[str, Field] = {}
        if not self.separate:
            self.fields = {**_common_fields(self.sources), SOURCE: Scalar("int64")}
        self.masks = any(source.masks for source in self.sources.values())
        self.order: Mixture = self.make_order()
        _ = self.recipe  # so that sources that do not fit each other are refused now

    def make_order(self) -> Mixture:
        sources = list(self.sources.values())
        shards = [len(source.recipe.index.sizes) for source in sources]
        return Mixture([source.order for source in sources], shards, self.weights, self.stop)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What the order depends on, as it stands in saved states: of the sources, a digest."""
        parts = {name: source.fingerprint for name, source in self.sources.items()}
        return {
            "order": ORDER_VERSION,
            "mix": self.order.digest,
            "sources": hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).hexdigest(),
            "samples": self.samples,
            "seed": self.seed,
        }

    def make_recipe(self) -> Recipe:
        recipes = {name: source.recipe for name, source in self.sources.items()}
        logs = [recipe.faults for recipe in recipes.values() if recipe.faults is not None]
        paths = {log.path for log in logs}
        if len(paths) > 1:
            raise ConfigError(f"Mix: errors_file is {' and '.join(map(repr, paths))}; pass the same in all sources")
        faults = self.fault_log(max(log.max_errors for log in logs), paths.pop()) if logs else None
        return (separate if self.separate else merged)(recipes, self.seed, self.fingerprint, faults)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if self.separate:
            raise ConfigError("Mix(fields='separate') gives batches of batches; use fastload.DataLoader")
        return super().__iter__()


def _checked(sources: Mapping[str, Streamed]) -> dict[str, Streamed]:
    if not isinstance(sources, Mapping) or not sources:
        raise ConfigError("Mix: no sources; pass a dict of StreamingDatasets")
    for name, source in sources.items():
        if not isinstance(source, Streamed):
            raise ConfigError(f"Mix: {name!r} is a {type(source).__name__}; pass a StreamingDataset or a Mix")
        if isinstance(source.order, BoundBuckets):
            raise ConfigError(f"Mix: {name!r} has LengthBuckets, which plans whole batches; stream it by itself")
        if not source.samples:
            raise ConfigError(f"Mix: {name!r} has no samples; leave it out")
    return dict(sources)


def _common_fields(sources: Mapping[str, Streamed]) -> dict[str, Field]:
    first_name, first = next(iter(sources.items()))
    common = _own_fields(first_name, first)
    for name, source in sources.items():
        if _own_fields(name, source) != common:
            raise ConfigError(
                f"Mix: {name!r} declares {_own_fields(name, source)} and {first_name!r} {common}; "
                "declare the same fields in all, or pass fields='separate'"
            )
        if source.masks != first.masks:
            raise ConfigError(f"Mix: on_error of {name!r} and {first_name!r} differ; pass the same in all")
    return common


def _own_fields(name: str, source: Streamed) -> dict[str, Field]:
    """The fields of a source, without the one that a Mix adds."""
    if isinstance(source, Mix):
        if source.separate:
            raise ConfigError(f"Mix: {name!r} has fields='separate'; pass it to this one too")
        return {field: kind for field, kind in source.fields.items() if field != SOURCE}
    if SOURCE in source.fields:
        raise ConfigError(f"Mix adds a field {SOURCE!r}, and {name!r} has one; leave it out of fields=")
    return source.fields
