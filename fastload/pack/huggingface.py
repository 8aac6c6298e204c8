"""Data sets of Hugging Face `datasets`: folders that it saved (save_to_disk); tables in memory, others' too."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from fastload.errors import ConfigError, PackError
from fastload.pack.arrow import BATCH_ROWS, ArrowColumns, batch_samples, damaged
from fastload.pack.streams import Sample, Stream

STATE_NAME, INFO_NAME, DICT_NAME = "state.json", "dataset_info.json", "dataset_dict.json"


def is_saved(folder: Path) -> bool:
    """Whether `datasets` saved a data set in a folder (save_to_disk)."""
    return (folder / STATE_NAME).is_file() or (folder / DICT_NAME).is_file()


def saved_stream(folder: Path) -> Stream:
    """The rows of a folder that `datasets` saved.

    Raises:
        PackError: several splits, or a folder that is incomplete.
        CorruptError: when it is read, a file that is no Arrow stream, or damaged.
    """
    if (folder / DICT_NAME).is_file():
        names = ", ".join(map(repr, _json(folder / DICT_NAME).get("splits", ())))
        raise PackError(f"{folder} has the splits {names}: pass one of these folders")
    state = _json(folder / STATE_NAME)
    files = [folder / entry["filename"] for entry in state.get("_data_files", ())]
    if not files or state.get("_indices_data_files"):
        raise PackError(f"{folder / STATE_NAME} names no files, or only some of their rows; save the data set again")
    features = _json(folder / INFO_NAME).get("features") or {}
    about = ArrowColumns(features=features, folder=folder)

    def read() -> Iterator[Sample]:
        for path in files:
            with damaged(path), pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
                slices = (batch.slice(at, BATCH_ROWS) for batch in reader for at in range(0, len(batch), BATCH_ROWS))
                yield from batch_samples(slices, about, str(path))

    return Stream(name=str(folder), read=read, classes=about.classes())


def _json(path: Path) -> Mapping[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise PackError(f"{path} cannot be read: {error}; save the data set again") from error
    if not isinstance(data, dict):
        raise PackError(f"{path} is no record of a data set; save the data set again")
    return data


def is_table(dataset: object) -> bool:
    """Whether an object is a table in memory: of `datasets`, pandas or Arrow; none need be imported for that."""
    root = type(dataset).__module__.partition(".")[0]
    own = {"datasets": "with_format", "pandas": "columns"}.get(root)  # others have a package "datasets" too
    return isinstance(dataset, pa.Table) or (own is not None and hasattr(dataset, own))


def table_stream(dataset: Any) -> Stream:
    """The rows of a `datasets.Dataset` as they are stored, pictures and sounds with their bytes; of a `DataFrame` of
    pandas without its index; of an Arrow table.

    Raises:
        ConfigError: several splits.
        PackError: when it is read, as of `arrow.batch_samples`.
    """
    name = type(dataset).__qualname__
    if isinstance(dataset, Mapping):
        names = ", ".join(map(repr, dataset))
        raise ConfigError(f"the {name} has the splits {names}: pass one, as in dataset[{next(iter(dataset))!r}]")
    features = getattr(dataset, "features", None)
    about = ArrowColumns(features={} if features is None else features.to_dict(), folder=Path())

    def read() -> Iterator[Sample]:
        yield from batch_samples(_batches(dataset), about, name)

    return Stream(name=name, read=read, classes=about.classes())


def _batches(dataset: Any) -> Iterator[pa.RecordBatch]:
    if hasattr(dataset, "with_format"):
        for table in dataset.with_format("arrow").iter(batch_size=BATCH_ROWS):
            yield from table.combine_chunks().to_batches()
        return
    table = dataset if isinstance(dataset, pa.Table) else pa.Table.from_pandas(dataset, preserve_index=False)
    yield from table.to_batches(max_chunksize=BATCH_ROWS)
