"""Shards as a source: WebDataset tars, Parquet of any writer, what fastload packed.

So shards are sized and made crop-seekable anew. A folder of several splits keeps them, unless others are asked for; it
is refused if their names are not those of splits (`SPLIT_NAMES`): pass one of them.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from fastload.decode.tensor import stored_array
from fastload.decode.tokens import TokensDecoder
from fastload.errors import DecodeError, FastloadError, PackError
from fastload.fields import Tokens
from fastload.pack.arrow import BATCH_ROWS, ArrowColumns, batch_samples, damaged
from fastload.pack.streams import Sample, Stream, chosen
from fastload.pack.values import Blob, Document, Picture, Sound, Value
from fastload.shards.foreign import SPLIT_NAMES, find_splits, natural_key, refuse_unfinished
from fastload.shards.index import INDEX_NAME, FieldInfo, Index, IndexFile
from fastload.shards.open import expand_braces, open_index
from fastload.shards.parquetscan import KEY_COLUMN, METADATA_KEY, fact_names, features_of, open_parquet, scan_parquet
from fastload.shards.read import LackingField, Raw, Rows, TarReader

_HUGGINGFACE = b"huggingface"
_TAR_ROWS = 256
_ADD = "add it, or leave such samples out with drop_missing=True (--drop-missing)"


def is_pattern(source: Path) -> bool:
    """Whether a name that is no file's stands for several."""
    return "{" in str(source) or glob.has_magic(str(source))


def shard_stream(source: Path, columns: Mapping[str, str] | None) -> Stream:
    """The samples of tar or Parquet files: of one, of a folder, of a pattern, or of a split that fastload packed.

    Args:
        source: a file, a folder or a pattern.
        columns: field -> name in the source; of Parquet, no other column is read. None: all.

    Raises:
        PackError: no files, several splits of unusual names, files of both formats.
        CorruptError: a file that is not what its name says, or damaged.
    """
    splits = _shard_files(source)
    files = [path for some in splits.values() for path in some]
    endings = sorted({path.suffix for path in files})
    if endings == [".parquet"]:
        return chosen(_parquet_stream(source, splits, columns), columns)
    if endings != [".tar"]:
        raise PackError(f"{source}: pass .tar files or .parquet files, not {' and '.join(endings)}")
    if source.is_dir():
        indexes = {split: open_index(str(source), split or None) for split in splits}
    else:
        indexes = {"": open_index([str(path) for path in files])}
    fields = next(iter(indexes.values())).fields
    classes = {name: info.classes for name, info in fields.items() if info.classes is not None}
    names = {os.path.abspath(path): str(path) for path in files}  # those of an index may be the same in two splits

    def read() -> Iterator[Sample]:
        for split, index in indexes.items():
            for sample in _tar_samples(index, names):
                yield sample._replace(split=split or None)

    return chosen(Stream(name=str(source), read=read, classes=classes), columns)


def _shard_files(source: Path) -> dict[str, list[Path]]:
    """The shards that a file, a folder or a pattern stands for, by split, in natural order; "" is the only one."""
    if source.is_file():
        return {"": [source]}
    if not source.is_dir():
        found = [
            sorted((Path(path) for path in glob.glob(name, recursive=True)), key=natural_key)
            for name in expand_braces(str(source))
        ]
        if not all(found):
            raise PackError(f"{source}: no file matches")
        return {"": [path for one in found for path in one]}
    refuse_unfinished(source)
    if (source / INDEX_NAME).is_file():
        index = IndexFile.load(source / INDEX_NAME)
        splits = {split: [source / shard.name for shard in index.shards[a:b]] for split, (a, b) in index.splits.items()}
    else:
        splits = find_splits(source)
    if len(splits) == 1:
        return {"": next(iter(splits.values()))}
    if not splits.keys() <= set(SPLIT_NAMES):
        names = ", ".join(map(repr, splits))
        raise PackError(f"{source} has the splits {names}: pass one of its folders, or a pattern of its files")
    return splits


def _tar_samples(index: Index, names: Mapping[str, str]) -> Iterator[Sample]:
    """The samples of some tars; `names`: absolute path -> what errors call the file."""
    scalars = [name for name, info in index.fields.items() if info.kind == "scalar"]
    stored = [name for name in index.fields if name not in scalars]
    reader = TarReader(index, scalars, stored, capacity=1)
    for shard, size in enumerate(index.sizes.tolist()):
        path = index.paths[shard]
        name = names.get(path, path)
        for start in range(0, size, _TAR_ROWS):
            rows = np.arange(start, min(start + _TAR_ROWS, size))
            found = reader.read(np.full(len(rows), shard), rows)
            for at, key in enumerate(found.keys):
                yield _tar_sample(f"{name}, sample {key!r}", found, at, index.fields)


def _tar_sample(where: str, found: Rows, at: int, fields: Mapping[str, FieldInfo]) -> Sample:
    """One of the samples that were read, as far as it is there and whole."""
    values: dict[str, Value] = {"__key__": found.keys[at]}
    lacking: dict[str, str] = {}
    faults: dict[str, str] = {}
    for name, info in fields.items():
        if name in found.scalars:
            values[name] = found.scalars[name][at].item()
            continue
        raw = found.raw[name][at]
        if isinstance(raw, LackingField):
            lacking[name] = f"{raw.message}; {_ADD}"
        elif isinstance(raw, FastloadError):
            return Sample(where, {"__key__": found.keys[at]}, fault=raw.message)
        else:
            try:
                values[name] = _value(raw, info)
            except (DecodeError, UnicodeDecodeError) as error:
                faults[name] = f"field {name!r}: {error}"
    return Sample(where, values, lacking, fault=next(iter(faults.values()), ""), faults=faults)


def _value(raw: Raw, info: FieldInfo) -> Value:
    """What a tar holds of one field; DecodeError or UnicodeDecodeError where that is damaged."""
    match info.kind:
        case "image":
            return Picture(bytes(raw))
        case "audio":
            return Sound(bytes(raw))
        case "text":
            return str(raw, "utf-8")
        case "json":
            return Document(bytes(raw))
        case "tokens":
            return TokensDecoder(Tokens(), info.dtype).tokens(raw)
        case "tensor":
            return stored_array(raw)
    return Blob(bytes(raw))


def _parquet_stream(source: Path, splits: Mapping[str, Sequence[Path]], columns: Mapping[str, str] | None) -> Stream:
    """The rows of some Parquet files, in order.

    Args:
        source: what errors call them.
        splits: files with the same columns, by split.
        columns: field -> column, to read no others; None: all.

    Raises:
        PackError: a column that is not there; when it is read, as of `arrow.batch_samples`.
        CorruptError: a file that is no Parquet file, or damaged.
    """
    files = [(split, path) for split, some in splits.items() for path in some]
    first_path = files[0][1]
    first = open_parquet(first_path)
    about = ArrowColumns(
        features=features_of(first_path, (first.schema_arrow.metadata or {}).get(_HUGGINGFACE)),
        own=scan_parquet(first_path)[1] if METADATA_KEY in (first.schema_arrow.metadata or {}) else None,
        folder=first_path.parent,
    )

    def read() -> Iterator[Sample]:
        for split, path in files:
            file = open_parquet(path, verify_pages=True)
            names = _names(file.schema_arrow, columns, path, set(fact_names(file)))
            with damaged(path):
                batches = file.iter_batches(batch_size=BATCH_ROWS, columns=names, use_threads=False)
                for sample in batch_samples(batches, about, str(path)):
                    yield sample._replace(split=split or None)

    return Stream(name=str(source), read=read, classes=about.classes())


def _names(schema: pa.Schema, columns: Mapping[str, str] | None, path: Path, facts: set[str]) -> list[str]:
    """The columns to read."""
    if columns is None:
        return [name for name in schema.names if name not in facts]
    for name in columns.values():
        if name not in schema.names:
            raise PackError(f"{path} has no column {name!r}; it has {', '.join(map(repr, schema.names))}")
    key = [KEY_COLUMN] if KEY_COLUMN in schema.names else []
    return list(dict.fromkeys([*columns.values(), *key]))
