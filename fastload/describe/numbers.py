"""Counts, class balance, sizes and lengths of packed data by split and field, from the index; pixels if asked."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from fastload.errors import CorruptError, FastloadError
from fastload.inspect import MAX_UNNAMED, finite, indexes_of, named_counts, numbers_of, seconds_of
from fastload.reshape.records import read_records
from fastload.shards.access import open_idx, parquet_input
from fastload.shards.index import FieldInfo, Index
from fastload.shards.open import Data
from fastload.shards.parquetscan import METADATA_KEY, fact_names, open_parquet
from fastload.statistics import FieldStatistics, Measure, PixelSums, field_statistics

BINS = 20  # of a histogram: as many as a phone's width shows apart
PICTURES_AT_ONCE = 64

Numbers = npt.NDArray[Any]


def describe(data: Data, split: str | None = None, *, pixels: bool = False) -> dict[str, Any]:
    """What is in packed data, in numbers, as JSON values.

    Every split has "samples", "files", "bytes" and, by field:

        present   how many samples have it. Of Parquet files that fastload converted, texts and bytes are read through
                  for that: nothing else tells
        bytes     sizes of its contents: sum, mean, min, max, and a histogram of powers of two ([2^(b-1), 2^b) at b);
                  of tars also "steps", a histogram of equal steps. Of Parquet files that fastload did not pack the sum
                  alone: their index has no more
        classes   name -> samples, the most frequent first, with the classes that no sample has
        balance   of the classes: number, least, most, and evenness (entropy over that of equal classes, 0 to 1)
        numbers   of the field's finite values, or of facts (width, height, seconds, count): count, min, p5, median,
                  p95, max, mean, std, and a histogram of equal steps
        channels  mean and std of red, green and blue, in [0, 1]

    Args:
        data: a packed folder, or any other name that `open_index` takes.
        split: only this one; None: all.
        pixels: decode every picture whose channels were not summed up when it was packed.

    Raises: as `open_index`; with `pixels`, CorruptError and DecodeError, naming the sample.
    """
    indexes, packed, statistics = indexes_of(data, split)
    first = next(iter(indexes.values()))
    return {
        "data": os.fspath(data),
        "shard_format": first.shard_format,
        "version": packed.get("version", 1),
        "splits": {
            name: describe_index(index, statistics, name, pixels=pixels, read_through=True)
            for name, index in indexes.items()
        },
    }


def describe_index(
    index: Index,
    statistics: Mapping[str, Any] | None = None,
    split: str = "all",
    *,
    pixels: bool = False,
    read_through: bool = False,
) -> dict[str, Any]:
    """What `describe` has of one split.

    Args:
        statistics: what was counted when it was packed; None: not known.
        split: its name there.
        pixels: as of `describe`.
        read_through: read columns of Parquet where neither statistics nor footers tell which samples lack a field;
            without, all count as having it.
    """
    statistics = statistics or {}
    columns = _columns(index)
    fields: dict[str, Any] = {}
    for name, info in index.fields.items():
        known = field_statistics(statistics, split, name)
        about: dict[str, Any] = {"kind": info.kind, **_contents(index, name, info, columns, known, read_through)}
        if name in columns:
            about |= _values(info, columns[name])
        for column, values in columns.items():
            field, _, what = column.rpartition(".")
            if field == name and what != "length" and len(values):
                about.setdefault("numbers", {})[what] = spread(values)
        if info.kind == "image" and (pixels or (known is not None and known.pixels is not None)):
            sums = known.pixels if known is not None and known.pixels is not None else _pixels(index, name)
            about["channels"] = {"mean": list(sums.mean), "std": list(sums.std)} if sums.pixels else None
        fields[name] = about
    return {
        "samples": index.samples,
        "files": len(index.files),
        "bytes": sum(file.bytes for file in index.files),
        "fields": fields,
    }


def _columns(index: Index) -> dict[str, Numbers]:
    """Values, facts and, of tars, sizes of contents ("<field>.length"), over all files, of samples that have them."""
    parts: dict[str, list[Numbers]] = {}
    for file in range(len(index.files)):
        numbers = dict(numbers_of(index, file))
        for name, values in (*numbers.items(), *seconds_of(numbers).items(), *_lengths(index, file)):
            parts.setdefault(name, []).append(values)
    return {name: np.concatenate(some) for name, some in parts.items()}


def _lengths(index: Index, file: int) -> Iterator[tuple[str, Numbers]]:
    if index.shard_format == "tar":
        idx = open_idx(index, file)
        for name, info in index.fields.items():
            if info.kind != "scalar" and f"{name}.offset" in idx:
                yield f"{name}.length", idx.column(f"{name}.length")[idx.column(f"{name}.offset") > 0]


def _contents(
    index: Index,
    name: str,
    info: FieldInfo,
    columns: Mapping[str, Numbers],
    known: FieldStatistics | None,
    read_through: bool,
) -> dict[str, Any]:
    """How many samples have the field, and how large their contents are."""
    if info.kind == "scalar":
        return {"present": len(columns.get(name, ()))}
    if index.shard_format == "tar":
        lengths = columns.get(f"{name}.length", np.zeros(0, np.int64))
        steps = {"steps": spread(lengths)["histogram"]} if len(lengths) else {}
        return {"present": len(lengths), "bytes": {**_measured(Measure.of(lengths)), **steps}}
    if known is not None and "bytes" in known.measures:
        return {"present": known.measures["bytes"].count, "bytes": _measured(known.measures["bytes"])}
    of_files = [_of_column(index, file, name, read_through) for file in range(len(index.files))]
    return {"present": sum(n for n, _ in of_files), "bytes": {"sum": sum(size for _, size in of_files)}}


def _measured(measure: Measure) -> dict[str, Any]:
    return {**measure.to_json(), "mean": measure.mean}


def _of_column(index: Index, file: int, name: str, read_through: bool) -> tuple[int, int]:
    """Of a field of a Parquet file: how many samples have it, and its bytes.

    The footer has the bytes, and the nulls of most columns; not of the texts and contents that fastload writes. A fact
    of a field is null with it; else such a column is read if `read_through`. Without any of these, all samples count.
    """
    parquet = open_parquet(Path(index.paths[file]), source=parquet_input(index, file))
    footer, columns = parquet.metadata, parquet.schema_arrow.names
    facts = [fact for fact in fact_names(parquet) if fact.rpartition(".")[0] == name]
    own = METADATA_KEY in (parquet.schema_arrow.metadata or {})
    present = size = 0
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        leaves = {leaf.path_in_schema: leaf for leaf in map(group.column, range(group.num_columns))}
        size += sum(
            leaf.total_uncompressed_size
            for path, leaf in leaves.items()
            if path == name or (path.startswith(f"{name}.") and path not in columns)
        )
        nulls = next((leaves[path].statistics for path in (*facts, name, f"{name}.bytes") if path in leaves), None)
        if nulls is not None and nulls.has_null_count:
            present += group.num_rows - nulls.null_count
        elif read_through and own:
            leaf = f"{name}.path" if f"{name}.path" in leaves else name
            present += group.num_rows - _read(parquet, number, leaf).column(name).null_count
        else:
            present += group.num_rows
    return present, size


def _read(parquet: pq.ParquetFile, group: int, leaf: str) -> pa.Table:
    try:
        return parquet.read_row_group(group, columns=[leaf], use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise CorruptError(f"row group {group} cannot be read: {error}; see `fastload verify`") from error


def _values(info: FieldInfo, values: Numbers) -> dict[str, Any]:
    """Of a scalar field: its classes where it has some, else its numbers."""
    if info.classes is None and (values.dtype.kind == "f" or not len(values)):
        numbers = finite(values)
        return {"numbers": {"value": spread(numbers)}} if len(numbers) else {}
    found, counts = np.unique(values.astype(np.int64), return_counts=True)
    if info.classes is None and len(found) > MAX_UNNAMED:
        return {"numbers": {"value": spread(values)}}
    by_number = dict(zip(found.tolist(), counts.tolist(), strict=True))
    empty = [number for number in range(len(info.classes or ())) if number not in by_number]
    classes = named_counts({**by_number, **dict.fromkeys(empty, 0)}, info.classes)
    return {"classes": classes, "balance": balance(list(classes.values()))}


def balance(counts: list[int]) -> dict[str, Any]:
    """How evenly samples are spread over classes."""
    total = sum(counts)
    shares = [count / total for count in counts if count] if total else []
    entropy = -math.fsum(share * math.log(share) for share in shares)
    evenness = entropy / math.log(len(counts)) if len(counts) > 1 else 1.0
    return {"classes": len(counts), "least": min(counts), "most": max(counts), "evenness": evenness}


def spread(values: Numbers) -> dict[str, Any]:
    """How finite numbers are spread, [n] with n > 0: quantiles, mean, standard deviation, histogram of equal steps."""
    numbers = values.astype(np.float64)
    low, high = float(numbers.min()), float(numbers.max())
    whole = values.dtype.kind in "iub"
    if whole and high - low < BINS:  # one bin a number
        counts, edges = np.histogram(numbers, int(high - low) + 1, (low - 0.5, high + 0.5))
    else:
        counts, edges = np.histogram(numbers, BINS, (low, high) if high > low else (low - 0.5, high + 0.5))
    p5, median, p95 = np.quantile(numbers, [0.05, 0.5, 0.95]).tolist()
    return {
        "count": len(numbers),
        "min": int(low) if whole else low,
        "p5": p5,
        "median": median,
        "p95": p95,
        "max": int(high) if whole else high,
        "mean": float(numbers.mean()),
        "std": float(numbers.std()),
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }


def _pixels(index: Index, field: str) -> PixelSums:
    """Of every picture of a field, decoded."""
    sums = PixelSums()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for file, about in enumerate(index.files):
            records = ((r.key, r.contents[field][1]) for r in read_records(index, file) if field in r.contents)
            while some := list(islice(records, PICTURES_AT_ONCE)):
                sums = PixelSums.total_of([sums, *pool.map(partial(_picture, about.name), some)])
    return sums


def _picture(shard: str, one: tuple[str, bytes]) -> PixelSums:
    key, content = one
    try:
        return PixelSums.of(content)
    except FastloadError as error:
        error.at(shard=shard, key=key)
        raise
