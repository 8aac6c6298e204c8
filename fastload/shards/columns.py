"""Whole columns of the index, for samplers: labels, weights, lengths of every sample, without reading a sample."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from fastload.errors import ConfigError, CorruptError
from fastload.shards.idx import Idx
from fastload.shards.index import Index


def read_columns(index: Index, names: Iterable[str]) -> dict[str, npt.NDArray[Any]]:
    """Columns of all shards, each [samples] in the order of packing.

    Args:
        index: of the shards.
        names: scalar fields ("label"), or facts that the packer noted ("audio.frames", "image.width").

    Raises:
        ConfigError: a column that the index lacks; the message names those it has.
        CorruptError: a Parquet column with missing values.
    """
    wanted = tuple(dict.fromkeys(names))
    if not wanted:
        return {}
    read = _of_tar if index.shard_format == "tar" else _of_parquet
    parts = [read(index, file, wanted) for file in range(len(index.files))]
    if not parts:
        return {name: np.zeros(0, np.int64) for name in wanted}
    return {name: np.concatenate([part[name] for part in parts]) for name in wanted}


def _of_tar(index: Index, file: int, names: tuple[str, ...]) -> dict[str, npt.NDArray[Any]]:
    idx = Idx(index.idx_paths[file], index.files[file].index_xxh3)
    _refuse_unknown(names, idx.numbers)
    return {name: np.array(idx.column(name)) for name in names}  # copied: the map goes with `idx`


def _of_parquet(index: Index, file: int, names: tuple[str, ...]) -> dict[str, npt.NDArray[Any]]:
    parquet = pq.ParquetFile(index.paths[file], memory_map=True)
    numbers = [f.name for f in parquet.schema_arrow if pa.types.is_integer(f.type) or pa.types.is_floating(f.type)]
    numbers += [f.name for f in parquet.schema_arrow if pa.types.is_boolean(f.type)]
    _refuse_unknown(names, numbers)
    table = parquet.read(columns=list(names))
    for name in names:
        if table.column(name).null_count:
            raise CorruptError(f"column {name!r} has missing values; fill or drop them", shard=index.files[file].name)
    return {name: table.column(name).to_numpy() for name in names}


def _refuse_unknown(names: tuple[str, ...], known: list[str]) -> None:
    for name in names:
        if name not in known:
            has = ", ".join(map(repr, known)) or "none"
            raise ConfigError(f"the index has no column {name!r}; it has {has}. Pack the data again to add one")
