"""What `fastload inspect` shows: splits, fields, class counts, ranges of numbers and facts; no sample is read.

`summary` gives it as JSON values, `render` as tables. Counts and ranges come from the `.idx` files, or from the number
columns of Parquet files.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fastload.errors import SourceError
from fastload.prepared import STEPS, prepared_texts
from fastload.remote.cache import Cache
from fastload.remote.fetch import is_refusal
from fastload.remote.settings import Remote
from fastload.remote.urls import is_url, path_of, shown
from fastload.shards.access import open_idx, parquet_input
from fastload.shards.behind import packed_folder
from fastload.shards.foreign import choose_split, is_shard
from fastload.shards.index import INDEX_NAME, Index, IndexFile
from fastload.shards.open import Data, open_index
from fastload.shards.parquetscan import fact_names, open_parquet

TOP_CLASSES = 20
MAX_UNNAMED = 1000  # an integer without class names and with more values than this is no label
MAX_CLASSES = 1 << 20
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def summary(data: Data, split: str | None = None) -> dict[str, Any]:
    """What is in packed data, as JSON values.

    Args:
        data: a packed folder, or any other name that `open_index` takes.
        split: only this one; None: all.

    Raises:
        as `open_index`.
    """
    indexes, packed, statistics = indexes_of(data, split)
    first = next(iter(indexes.values()))
    return {
        "data": os.fspath(data),
        "shard_format": first.shard_format,
        "splits": {name: _split_summary(index) for name, index in indexes.items()},
        "fields": {name: info.to_json() for name, info in first.fields.items()},
        "jpeg": statistics.get("jpeg", {}),
        "cleaning": statistics.get("cleaning", {}),
        "prepared": {step: statistics[step] for step in STEPS if step in statistics},
        "packed": packed,
    }


def indexes_of(data: Data, split: str | None) -> tuple[dict[str, Index], dict[str, Any], dict[str, Any]]:
    """The splits by name, how they were packed, and what was counted then; with `split`, that one and what was counted
    in it.

    Data without index.json is one split called "all", of which the rest is not known.
    """
    whole, folder, cache = _packed(os.fspath(data))
    if whole is None:
        return {split or "all": open_index(data, split)}, {}, {}
    place = folder if cache is None else shown(folder)
    names = list(whole.splits) if split is None else [choose_split(whole.splits, split, place)]
    statistics = whole.statistics if split is None else _of_split(whole.statistics, split)
    return {name: whole.split(name, folder, cache) for name in names}, whole.packed, statistics


def _packed(data: str) -> tuple[IndexFile | None, str, Cache | None]:
    """The index.json of a packed folder, None if it has none; the folder, and what it is read through."""
    if not is_url(data):
        path = Path(os.path.abspath(data))
        folder = path.parent if path.name == INDEX_NAME else path
        whole = IndexFile.load(folder / INDEX_NAME) if (folder / INDEX_NAME).is_file() else None
        return whole, str(folder), None
    if is_shard(path_of(data)):
        return None, "", None
    cache = Cache(Remote())
    try:
        return (*packed_folder(data, cache), cache)
    except SourceError as error:
        if not is_refusal(error):
            raise
        return None, "", None  # stores refuse what is not there; whoever opens the data says what else there is


def _of_split(statistics: Mapping[str, Any], split: str) -> dict[str, Any]:
    """What was counted in one split alone."""
    return {
        name: {split: counted[split]}
        for name, counted in statistics.items()
        if isinstance(counted, Mapping) and split in counted
    }


def _split_summary(index: Index) -> dict[str, Any]:
    about: dict[str, Any] = {
        "samples": index.samples,
        "files": len(index.files),
        "shards": len(index.sizes),
        "bytes": sum(file.bytes for file in index.files),
        "classes": {},
        "ranges": {},
    }
    columns: dict[str, _Column] = {}
    for file in range(len(index.files)):
        numbers = dict(numbers_of(index, file))
        for name, values in {**numbers, **seconds_of(numbers)}.items():
            columns.setdefault(name, _Column()).add(values)
    for name, column in columns.items():
        info = index.fields.get(name)
        few = column.counts is not None and (len(column.counts) <= MAX_UNNAMED or (info is not None and info.classes))
        if column.counts and few and info is not None:  # facts are measures, not classes
            about["classes"][name] = named_counts(column.counts, info.classes)
        elif column.low is not None:
            about["ranges"][name] = [column.low, column.high]
    return about


class _Column:
    """Range of one column of finite numbers, and how often each value occurs while there are few."""

    def __init__(self) -> None:
        self.low: float | None = None
        self.high: float | None = None
        self.counts: Counter[int] | None = Counter()

    def add(self, values: npt.NDArray[Any]) -> None:
        values = finite(values)
        if not len(values):
            return
        low, high = values.min().item(), values.max().item()
        self.low = low if self.low is None else min(self.low, low)
        self.high = high if self.high is None else max(self.high, high)
        if self.counts is not None and values.dtype.kind in "iub":
            labels, counts = np.unique(values, return_counts=True)
            self.counts.update(dict(zip(labels.astype(np.int64).tolist(), counts.tolist(), strict=True)))
        if self.counts is not None and (values.dtype.kind == "f" or len(self.counts) > MAX_CLASSES):
            self.counts = None


def finite(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Those that are neither NaN nor infinite, which no range and no histogram holds, [n]."""
    return values[np.isfinite(values)] if values.dtype.kind == "f" else values


def numbers_of(index: Index, file: int) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Scalar fields and facts of one file, by name, without missing values."""
    if index.shard_format == "tar":
        idx = open_idx(index, file, check=False)
        for name in idx.numbers:
            offsets = f"{name.rpartition('.')[0]}.offset"  # of the field of a fact: 0 in samples that lack it
            lacking = name not in idx.fields and offsets in idx
            yield name, idx.column(name)[idx.column(offsets) > 0] if lacking else idx.column(name)
        return
    parquet = open_parquet(Path(index.paths[file]), source=parquet_input(index, file))
    names = [n for n in parquet.schema_arrow.names if _is_scalar(index, n) or n in fact_names(parquet)]
    table = parquet.read(columns=names, use_threads=False)
    for name in names:
        yield name, table.column(name).drop_null().to_numpy()


def seconds_of(numbers: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Durations of sounds, where their length and rate are known: `<field>.seconds`."""
    pairs = {name.removesuffix(".frames"): frames for name, frames in numbers.items() if name.endswith(".frames")}
    return {
        f"{field}.seconds": frames / np.maximum(numbers[f"{field}.sample_rate"], 1)
        for field, frames in pairs.items()
        if len(numbers.get(f"{field}.sample_rate", ())) == len(frames)
    }


def _is_scalar(index: Index, name: str) -> bool:
    return name in index.fields and index.fields[name].kind == "scalar"


def named_counts(counts: Mapping[int, int], classes: Sequence[str] | None) -> dict[str, int]:
    """Samples of each class, the most frequent first."""

    def name(label: int) -> str:
        return classes[label] if classes is not None and 0 <= label < len(classes) else str(label)

    return {name(label): n for label, n in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))}


def render(about: Mapping[str, Any]) -> RenderableType:
    """The summary as tables."""
    parts: list[RenderableType] = [Text(f"{about['data']}  ({about['shard_format']})", style="bold")]
    parts += [_splits(about), _fields(about)]
    for split, found in about["splits"].items():
        for name, counts in found["classes"].items():
            more = f", the {TOP_CLASSES} most frequent" if len(counts) > TOP_CLASSES else ""
            parts += [Text(f"{name} in {split}: {len(counts)} classes{more}"), _classes(counts)]
    parts += [Text(text) for text in prepared_texts(about["prepared"])]
    parts += [Text(f"{split}: {jpeg_text(counts)}") for split, counts in about["jpeg"].items()]
    if about["cleaning"]:
        parts.append(Text(cleaning_text(about["cleaning"])))
    if about["packed"]:
        options = {name: value for name, value in about["packed"].items() if name not in ("version", "history")}
        parts.append(Text(f"packed: {', '.join(_pairs(options))}", style="dim"))
    for entry in about["packed"].get("history", ()):
        source = f" from {entry['source']}" if "source" in entry else ""
        what = f"{entry['samples']:,} samples in {entry['shards']:,} files{source}"
        parts.append(Text(f"version {entry['version']}: {what}", style="dim"))
    return Group(*parts)


def _pairs(values: Mapping[str, Any]) -> Iterator[str]:
    """`key=value` of everything that was said, a mapping inside taken apart."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from (f"{key}.{pair}" for pair in _pairs(value))
        elif value not in (None, [], ""):
            yield f"{key}={value}"


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(
            column, justify="right" if column in ("samples", "files", "shards", "size", "share") else "left"
        )
    return table


def _splits(about: Mapping[str, Any]) -> Table:
    unit = "row groups" if about["shard_format"] == "parquet" else "shards"
    table = _table("split", "samples", "files", "shards", "size")
    table.columns[3].header = unit
    for name, found in about["splits"].items():
        table.add_row(
            name, f"{found['samples']:,}", str(found["files"]), str(found["shards"]), size_text(found["bytes"])
        )
    return table


def _fields(about: Mapping[str, Any]) -> Table:
    """One row per field; its facts, over all splits, in the last column."""
    ranges: dict[str, list[float]] = {}
    for found in about["splits"].values():
        for name, (low, high) in found["ranges"].items():
            before = ranges.get(name, [low, high])
            ranges[name] = [min(before[0], low), max(before[1], high)]
    table = _table("field", "kind", "dtype", "shape", "extension", "range")
    for name, info in about["fields"].items():
        mine = {k: v for k, v in ranges.items() if k == name or k.startswith(name + ".")}
        spans = [
            f"{k.removeprefix(name).removeprefix('.')} {_number(a)}{f' to {_number(b)}' if a != b else ''}".strip()
            for k, (a, b) in mine.items()
        ]
        classes = f"{len(info['classes'])} classes" if "classes" in info else ""
        shape = "x".join(map(str, info["shape"])) if "shape" in info else ""
        cells = (info["kind"], info.get("dtype", ""), shape, info.get("extension", ""), "; ".join(spans) or classes)
        table.add_row(*map(escape, (name, *cells)))
    return table


def _classes(counts: Mapping[str, int]) -> Table:
    shown, total = list(counts.items())[:TOP_CLASSES], sum(counts.values())
    table = _table("class", "samples", "share")
    for label, samples in shown:
        table.add_row(escape(label), f"{samples:,}", f"{samples / total:.1%}")
    return table


def jpeg_text(counts: Mapping[str, Any]) -> str:
    """What became of JPEGs, as "jpeg" of index.json's statistics has it for one split."""
    kept = ", ".join(f"{reason} {count:,}" for reason, count in counts["kept"].items())
    total = sum(counts["kept"].values())
    return f"{counts['seekable']:,} JPEGs crop-seekable" + (f", {total:,} kept as they are ({kept})" if total else "")


def cleaning_text(counts: Mapping[str, Mapping[str, int]]) -> str:
    """What cleaning left out and reported, by reason, as "cleaning" of index.json's statistics has it."""
    parts = []
    for what, file in (("rejected", "rejected.parquet"), ("reported", "suspects.parquet")):
        total = sum(counts[what].values())
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in counts[what].items())
        parts += [f"{total:,} {what} ({reasons}), listed in {file}"] if total else []
    return "; ".join(parts) or "nothing rejected"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def many(count: int, what: str) -> str:
    """Things of a kind, counted: 1 -> "1 shard", 1200 -> "1,200 shards"."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def size_text(count: float) -> str:
    """Bytes in the unit that a person would take: 1536 -> "1.5 KiB"."""
    unit = 0
    while count >= 1024 and unit < len(_UNITS) - 1:
        count, unit = count / 1024, unit + 1
    return f"{count:.1f} {_UNITS[unit]}" if unit else f"{count} bytes"
