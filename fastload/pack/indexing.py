"""What index.json says of a run: its shards, what was counted in them, how it was packed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastload.pack.cluster import own_version
from fastload.pack.journal import Finished
from fastload.pack.plan import Plan
from fastload.pack.steps import Recipe
from fastload.pack.tally import Counts
from fastload.pack.writing import class_counts, tallies
from fastload.shards.index import IndexFile
from fastload.shards.members import file_extension


def make_index(
    plan: Plan,
    shards: Sequence[Finished],
    recipes: Mapping[str, Recipe],
    counted: Mapping[str, Any],
    packed: Mapping[str, Any],
) -> IndexFile:
    """The index of finished shards.

    Args:
        plan: what was to be written.
        shards: what was, in the plan's order.
        recipes: by field, what became of its contents.
        counted: more statistics, JSON values: what was counted before the plan.
        packed: how it was packed, JSON values.
    """
    fields = dict(plan.table.fields)
    if plan.shard_format == "parquet":
        fields = {name: replace(info, extension=None) for name, info in fields.items()}
    return IndexFile(
        shard_format=plan.shard_format,
        fields=fields,
        shards=tuple(shard.file for shard in shards),
        splits=plan.splits,
        statistics={**_statistics(plan, shards, recipes), **counted},
        packed={"fastload": own_version(), **packed, **_ignored(plan.table.ignored)},
    )


def _ignored(paths: Sequence[str]) -> dict[str, Any]:
    """How many files are no samples, and by ending, most first."""
    endings = Counter(file_extension(path) for path in paths)
    by_ending = dict(sorted(endings.items(), key=lambda item: (-item[1], item[0])))
    return {"ignored_files": len(paths), **({"ignored_endings": by_ending} if by_ending else {})}


def _statistics(plan: Plan, shards: Sequence[Finished], recipes: Mapping[str, Recipe]) -> dict[str, Any]:
    """What is counted, by what, split, and class, step or field; JSON values."""
    classes = class_counts(plan)
    found: dict[str, Any] = {"classes": classes} if classes else {}
    by_split = tallies(plan, shards)
    for step in dict.fromkeys(step for recipe in recipes.values() for step in recipe.steps):
        counts = {split: tally.steps.get(step.name, Counts()) for split, tally in by_split.items()}
        if any(counts.values()):
            found[step.name] = {split: step.about(count) for split, count in counts.items()}
    fields = {
        split: {name: tally.fields[name].to_json() for name in plan.table.fields if name in tally.fields}
        for split, tally in by_split.items()
    }
    return found | ({"fields": fields} if any(fields.values()) else {})
