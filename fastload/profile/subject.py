"""What was measured, where and when: without it, two results cannot be told apart."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

from fastload.describe.numbers import describe_index
from fastload.errors import ConfigError
from fastload.machine import describe
from fastload.mixture import Mix
from fastload.remote.urls import is_url, shown
from fastload.shards.index import Index
from fastload.statistics import index_file_of

MOST_SAMPLES = 2_000_000  # of which classes and sizes are told: a second; of more, files spread over all of them


def subject(dataset: Any) -> dict[str, Any]:
    """Data set, machine and time, as JSON values: `data` (its folder, or its kind), `samples`, `shards` and `bytes` of
    what is packed, `fields` by name, those of `fastload.machine.describe`, and `time`, with its zone."""
    return {**data_of(dataset), **describe(), "time": datetime.now(UTC).astimezone().isoformat(" ", "seconds")}


def data_of(dataset: Any) -> dict[str, Any]:
    """The data set alone; sources of a mixture by name."""
    if isinstance(dataset, Mix):
        return {
            "data": {name: data_of(source)["data"] for name, source in dataset.sources.items()},
            "samples": dataset.samples,
            "fields": {},
        }
    declared, index = getattr(dataset, "fields", {}), getattr(dataset, "index", None)
    stored = {} if index is None else {"shards": len(index.sizes), "bytes": sum(file.bytes for file in index.files)}
    return {
        **stored,
        "data": _place(dataset),
        "samples": dataset.samples,
        "fields": {name: _declared(each) for name, each in declared.items()},
    }


def stored(dataset: Any) -> dict[str, Any]:
    """Classes, sizes and lengths of what is packed, from the index alone, by folder or by source of a mixture; nothing
    of other data, nor of shards behind URLs, whose index may not be here yet."""
    if isinstance(dataset, Mix):
        inner = {name: stored(source) for name, source in dataset.sources.items()}
        return {
            name if len(found) == 1 else f"{name}, {place}": about
            for name, found in inner.items()
            for place, about in found.items()
        }
    index = getattr(dataset, "index", None)
    if not isinstance(index, Index) or not index.samples or any(map(is_url, index.paths)):
        return {}
    every = -(-index.samples // MOST_SAMPLES)
    if every == 1:
        return {_place(dataset): describe_index(index, *_counted(dataset, index))}
    some = slice(None, None, every)
    fewer = replace(index, files=index.files[some], paths=index.paths[some], idx_paths=index.idx_paths[some])
    return {_place(dataset): describe_index(fewer)}


def _counted(dataset: Any, index: Index) -> tuple[Mapping[str, Any], str]:
    """What was counted when it was packed, which the index of Parquet files lacks, and the split's name there."""
    try:
        whole, _ = index_file_of(dataset)
    except ConfigError:
        return {}, ""
    split = next((name for name, (a, b) in whole.splits.items() if whole.shards[a:b] == index.files), "")
    return whole.statistics, split


def _declared(declared: Any) -> str:
    """As it would be written, without what is the default."""
    given = [each for each in fields(declared) if getattr(declared, each.name) != each.default]
    return f"{type(declared).__name__}({', '.join(f'{each.name}={getattr(declared, each.name)!r}' for each in given)})"


def _place(dataset: Any) -> str:
    index = getattr(dataset, "index", None)
    if index is None:
        return type(getattr(dataset, "data", dataset)).__name__
    folders = {os.path.dirname(shown(path) if is_url(path) else path) for path in index.paths}
    return ", ".join(sorted(folders)) or "no shards"
