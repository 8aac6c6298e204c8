"""What was measured, where and when: without it, two results cannot be told apart."""

from __future__ import annotations

import os
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from fastload.machine import describe
from fastload.mixture import Mix


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


def _declared(declared: Any) -> str:
    """As it would be written, without what is the default."""
    given = [each for each in fields(declared) if getattr(declared, each.name) != each.default]
    return f"{type(declared).__name__}({', '.join(f'{each.name}={getattr(declared, each.name)!r}' for each in given)})"


def _place(dataset: Any) -> str:
    index = getattr(dataset, "index", None)
    if index is None:
        return type(getattr(dataset, "data", dataset)).__name__
    folders = {os.path.dirname(path) for path in index.paths}
    return ", ".join(sorted(folders)) or "no shards"
