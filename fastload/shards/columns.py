"""Whole columns of the index, for samplers: labels, weights, lengths of every sample, without reading a sample.

<field>            a scalar field
<field>.<what>     a fact that the packer noted: image.width, image.height, audio.frames, audio.sample_rate,
                   tokens.count
<field>.seconds    of an audio field, its frames by its sample rate, float64; of a scalar field, the field itself
<field>.count      of a token field, its tokens; of a scalar field, the field itself
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from fastload.errors import ConfigError, CorruptError, SourceError
from fastload.shards.access import open_idx, parquet_input, parquet_parts, shards_at_hand
from fastload.shards.index import Index

Array = npt.NDArray[Any]


def read_columns(index: Index, names: Iterable[str]) -> dict[str, Array]:
    """Columns of all shards, each [samples] in the order of packing.

    Args:
        index: of the shards.
        names: see the module.

    Raises:
        ConfigError: a column that the index lacks; the message names those it has.
        CorruptError: a Parquet column with missing values, or an `.idx` that is not the one that was written.
    """
    wanted, files = tuple(dict.fromkeys(names)), range(len(index.files))
    if not wanted:
        return {}
    turn = threading.Semaphore(shards_at_hand(index))  # of whole files: the cache may have room for few
    read = _of_tar if index.shard_format == "tar" else partial(_of_parquet, turn)
    read_file = partial(read, index, wanted)
    if index.cache is None:
        parts = [read_file(file) for file in files]
    else:  # small requests, which wait for their answers
        with ThreadPoolExecutor(index.cache.remote.downloads) as pool:
            parts = list(pool.map(read_file, files))
    if not parts:
        return {name: np.zeros(0, np.int64) for name in wanted}
    return {name: _joined([part[name] for part in parts]) for name in wanted}


def _joined(parts: list[Array]) -> Array:
    """One column of those of the files. Tars hold uint64 as int64 where that will do: of both numpy would make floats,
    in which large numbers become equal."""
    joined = np.concatenate(parts)
    if joined.dtype.kind == "f" and all(part.dtype.kind != "f" for part in parts):
        return np.concatenate([part.astype(np.uint64) for part in parts])
    return joined


def _of_tar(index: Index, names: tuple[str, ...], file: int) -> dict[str, Array]:
    idx = open_idx(index, file)
    if idx.samples != index.files[file].samples:
        raise CorruptError(
            f"{index.idx_paths[file]} has {idx.samples} samples, and the index says {index.files[file].samples}",
            shard=index.files[file].name,
        )
    return {name: np.array(_column(name, idx.numbers, idx.column)) for name in names}  # copied: the map goes with `idx`


def _of_parquet(turn: threading.Semaphore, index: Index, names: tuple[str, ...], file: int) -> dict[str, Array]:
    parts = parquet_parts(index, file)
    if parts is not None:
        try:
            parquet = pq.ParquetFile(parts, page_checksum_verification=True)
            if parquet.metadata.num_rows == index.files[file].samples:
                return _of_columns(index, names, file, parquet)
        except SourceError:
            raise
        except (OSError, pa.ArrowException, CorruptError):
            pass  # no parts are given, or what came is damaged: of the whole file a checksum tells
    with turn:
        return _of_columns(index, names, file, pq.ParquetFile(parquet_input(index, file), memory_map=True))


def _of_columns(index: Index, names: tuple[str, ...], file: int, parquet: pq.ParquetFile) -> dict[str, Array]:
    known = [column.name for column in parquet.schema_arrow if _is_number(column.type)]

    def read(name: str) -> Array:
        column = parquet.read(columns=[name], use_threads=False).column(name)
        if column.null_count:
            raise CorruptError(f"column {name!r} has missing values; fill or drop them", shard=index.files[file].name)
        values: Array = column.to_numpy()
        return values

    return {name: _column(name, known, read) for name in names}


def _is_number(arrow: pa.DataType) -> bool:
    return bool(pa.types.is_integer(arrow) or pa.types.is_floating(arrow) or pa.types.is_boolean(arrow))


def _column(name: str, known: Collection[str], read: Callable[[str], Array]) -> Array:
    field, _, what = name.rpartition(".")
    if name in known:
        return read(name)
    if what == "seconds" and f"{field}.frames" in known and f"{field}.sample_rate" in known:
        return read(f"{field}.frames") / read(f"{field}.sample_rate")
    if what in ("seconds", "count") and field in known:
        return read(field)
    has = ", ".join(map(repr, known)) or "none"
    raise ConfigError(
        f"the index has no column {name!r}; it has {has}. Facts such as 'audio.frames' and 'tokens.count' are noted by "
        "`fastload pack`: pack the data to have them"
    )
