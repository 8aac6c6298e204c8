"""Files that a table beside them describes: Parquet manifests, and the metadata of Hugging Face's imagefolder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.types as pt

from fastload.errors import PackError
from fastload.pack.arrow import damaged
from fastload.pack.manifest import manifest_table
from fastload.pack.missing import Lenience
from fastload.pack.table import Files, Table
from fastload.shards.foreign import names_below
from fastload.shards.members import KIND_OF_EXTENSION, file_extension
from fastload.shards.parquetscan import open_parquet

METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_MEDIA = ("image", "audio")
_LOOK_AT = 64  # rows: files of some may be gone


def names_files(source: Path) -> bool:
    """Whether a Parquet file is a manifest: one of its first rows names a file of samples that is there."""
    if source.suffix.lower() != ".parquet":
        return False
    with damaged(source):
        return _names_files(source)


def _names_files(source: Path) -> bool:
    file = open_parquet(source)
    texts = [c.name for c in file.schema_arrow if pt.is_string(c.type) or pt.is_large_string(c.type)]
    first = next(file.iter_batches(batch_size=_LOOK_AT, columns=texts), None) if texts else None
    columns = [] if first is None else first.columns
    values = [value for column in columns for value in column.cast(pa.large_binary()).to_pylist()]
    known = [name for name in map(os.fsdecode, filter(None, values)) if file_extension(name) in KIND_OF_EXTENSION]
    return any(os.path.isfile(source.parent / value) for value in known)


def described_table(folder: Path, columns: Mapping[str, str] | None, lenience: Lenience) -> Table | None:
    """The files of a folder that a manifest in it describes, in a column "file_name"; None for a folder without.

    Raises:
        PackError: as of `manifest_table`; or a picture or sound in the folder that no row names.
    """
    metadata = next((folder / name for name in METADATA_NAMES if (folder / name).is_file()), None)
    if metadata is None:
        return None
    table = manifest_table(metadata, columns, lenience)
    named = {path for column in table.columns.values() if isinstance(column, Files) for path in column.paths}
    if not named and columns is None:
        return None  # it describes something else
    loose = [
        name for name in names_below(folder)
        if KIND_OF_EXTENSION.get(file_extension(name)) in _MEDIA and os.path.normpath(name) not in named
    ]  # fmt: skip
    if loose and columns is None:
        raise PackError(
            f"{metadata} has no row for {min(loose)!r} and {len(loose) - 1} more; add them, remove the files, or choose"
            " what is to be packed with columns="
        )
    return table
