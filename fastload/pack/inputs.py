"""What a source is: a table where its files tell the sizes of contents, a stream where they have to be read first.

folder of images, sounds or texts        folders.py      table
files that belong together by name       joined.py       table
manifest: CSV, JSON Lines                manifest.py     table
Parquet file of names, metadata.csv      described.py    table
text file, one sample per line           here            table
tar and Parquet shards                   stored.py       stream
folder of MDS or LitData                 foreign.py      stream
folder that `datasets` saved             huggingface.py  stream
Python's iterables, lists, data sets     objects.py      stream
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from fastload.errors import ConfigError, PackError
from fastload.pack.classes import ClassNaming
from fastload.pack.described import described_table, names_files
from fastload.pack.folders import folder_table
from fastload.pack.foreign import foreign_stream, is_foreign
from fastload.pack.huggingface import is_saved, saved_stream
from fastload.pack.joined import parallel_table
from fastload.pack.manifest import Columns, manifest_table, parse_columns
from fastload.pack.objects import Samples, object_stream
from fastload.pack.stored import is_pattern, shard_stream
from fastload.pack.streams import KEY_DIGITS, Stream, chosen
from fastload.pack.table import Spans, Table
from fastload.shards.index import INDEX_NAME, FieldInfo
from fastload.shards.members import KIND_OF_EXTENSION

SourceKind = Literal["image", "audio", "text", "manifest", "shards"]
MANIFESTS = (".csv", ".tsv", ".jsonl", ".ndjson")
SHARDS = (".tar", ".parquet")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def open_source(
    source: Path | Samples,
    *,
    kind: SourceKind | None = None,
    columns: Columns | None = None,
    label_regex: str | None = None,
    label_level: int | None = None,
) -> Table | Stream:
    """What there is to pack, as a table or a stream.

    Args:
        source: a path, or a data set of Python's (`objects.object_stream`).
        kind: what the source is, where its files do not tell.
        columns: of a manifest (`manifest.manifest_table`); of a stream field -> name in the source.
        label_regex, label_level: of a folder of files: where a class stands (`classes.ClassNaming`).

    Raises:
        PackError: missing, empty, or with a fault in it.
        ConfigError: arguments that do not fit the source.
    """
    if kind is not None and kind not in get_args(SourceKind):
        raise ConfigError(f"kind={kind!r}: pass one of {', '.join(map(repr, get_args(SourceKind)))}")
    wanted = parse_columns(columns)
    if not isinstance(source, Path):
        if kind is not None or label_regex is not None or label_level is not None:
            raise ConfigError(
                "kind, label_regex and label_level are of files; data sets of Python say themselves what they hold"
            )
        return object_stream(source, wanted)
    if not source.exists() and is_pattern(source):
        return shard_stream(source, wanted)
    if not source.exists():
        raise PackError(f"{source} does not exist")
    if label_regex is not None and not source.is_dir():
        raise ConfigError(f"label_regex={label_regex!r} needs a folder; {source} is a file")
    if label_level is not None and not source.is_dir():
        raise ConfigError(f"label_level={label_level!r} needs a folder; {source} is a file")
    if not source.is_dir():
        return _of_file(source, kind, wanted)
    asked = label_regex is not None or label_level is not None
    naming = ClassNaming(level=1 if label_level is None else label_level, regex=label_regex)
    return _of_folder(source, kind, wanted, naming, of_files=asked)


def _of_folder(
    source: Path, kind: SourceKind | None, columns: dict[str, str] | None, naming: ClassNaming, of_files: bool
) -> Table | Stream:
    """The samples of a folder; `of_files`: an option says that it is one of files."""
    if kind == "manifest":
        raise ConfigError(f"kind='manifest' needs a file; {source} is a folder")
    stream = None if of_files else _stream_of_folder(source, kind, columns)
    if stream is not None or kind == "shards":
        return stream or shard_stream(source, columns)
    described = described_table(source, columns) if kind is None and not of_files else None
    if described is not None:
        return described
    if columns is not None and kind is None:
        return parallel_table(source, columns, naming)
    _refuse_columns(source, columns)
    return folder_table(source, kind, naming)


def _stream_of_folder(source: Path, kind: SourceKind | None, columns: dict[str, str] | None) -> Stream | None:
    """The samples of a folder that some program wrote; None for one of files."""
    if kind not in (None, "shards"):
        return None
    if is_saved(source):
        return chosen(saved_stream(source), columns)
    if is_foreign(source):
        return chosen(foreign_stream(source), columns)
    endings = _endings(source)
    media = any(KIND_OF_EXTENSION.get(ending) in ("image", "audio") for ending in endings)
    if (source / INDEX_NAME).is_file() or (endings & {"tar", "parquet"} and not media):
        return shard_stream(source, columns)
    return None


def _endings(folder: Path) -> set[str]:
    """The endings of all files in a folder and in the folders in it."""
    found = set()
    for place in (folder, *sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")):
        with os.scandir(place) as entries:
            found |= {entry.name.rpartition(".")[2].lower() for entry in entries if entry.name[0] != "."}
    return found


def _of_file(source: Path, kind: SourceKind | None, columns: dict[str, str] | None) -> Table | Stream:
    ending = source.suffix.lower()
    if kind == "manifest" or (kind is None and (ending in MANIFESTS or names_files(source))):
        return manifest_table(source, columns)
    if kind == "shards" or (kind is None and ending in SHARDS):
        return shard_stream(source, columns)
    _refuse_columns(source, columns)
    if kind == "text" or ending == ".txt":
        return lines_table(source)
    raise PackError(
        f"{source} is none of a folder, a manifest ({', '.join(MANIFESTS)}), a .txt file and a shard"
        f" ({', '.join(SHARDS)}); pass kind="
    )


def _refuse_columns(source: Path, columns: dict[str, str] | None) -> None:
    if columns is not None:
        text = ",".join(f"{field}:{column}" for field, column in columns.items())
        raise ConfigError(f"columns={text!r} needs a manifest ({', '.join(MANIFESTS)}); {source} is none")


def lines_table(source: Path) -> Table:
    """One sample per line that is not blank; the key is its line number, from 1; the text has no line break."""
    keys, starts, sizes, at = [], [], [], 0
    with open(source, "rb", buffering=1 << 20) as file:
        for number, line in enumerate(file, 1):
            mark = len(BYTE_ORDER_MARK) if at == 0 and line.startswith(BYTE_ORDER_MARK) else 0
            text = line[mark:].rstrip(b"\r\n")
            if text.strip():
                keys.append(f"{number:0{KEY_DIGITS}d}")
                starts.append(at + mark)
                sizes.append(len(text))
            at += len(line)
    if not keys:
        raise PackError(f"{source} has no line of text")
    spans = Spans(
        path=str(source),
        starts=np.array(starts, np.int64),
        sizes=np.array(sizes, np.int64),
        mtime=source.stat().st_mtime_ns,
    )
    return Table(keys=keys, columns={"text": spans}, fields={"text": FieldInfo(kind="text", extension="txt")})
