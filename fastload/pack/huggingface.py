"""Data sets of Hugging Face `datasets`: folders that it saved (save_to_disk), and its objects in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from fastload.errors import PackError
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
    """Whether an object is a `datasets.Dataset`, which need not be imported for that."""
    return type(dataset).__module__.partition(".")[0] == "datasets" and hasattr(dataset, "with_format")


def table_stream(dataset: Any) -> Stream:
    """The rows of a `datasets.Dataset` as they are stored: pictures and sounds keep their bytes.

    Raises:
        PackError: when it is read, as of `arrow.batch_samples`.
    """
    about = ArrowColumns(features=dataset.features.to_dict(), folder=Path())

    def read() -> Iterator[Sample]:
        tables = dataset.with_format("arrow").iter(batch_size=BATCH_ROWS)
        batches = (batch for table in tables for batch in table.combine_chunks().to_batches())
        yield from batch_samples(batches, about, "Dataset")

    return Stream(name="Dataset", read=read, classes=about.classes())
