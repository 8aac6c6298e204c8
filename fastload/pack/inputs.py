"""What a source is: a table where its files tell the sizes of contents, a stream where they have to be read first.

folder of images, sounds or texts        folders.py      table
files that belong together by name       joined.py       table
manifest: CSV, JSON Lines                manifest.py     table
Parquet file of names, metadata.csv      described.py    table
text file, one sample per line           lines.py        table
documents: JSON Lines, compressed text   documents.py    stream
.npy and .npz                            arrays.py       stream
DICOM and NIfTI                          medical.py      stream
tar and Parquet shards                   stored.py       stream
folder of MDS or LitData                 foreign.py      stream
folder that `datasets` saved             huggingface.py  stream
Python's iterables, lists, data sets     objects.py      stream
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, cast, get_args

from fastload.errors import ConfigError, PackError
from fastload.pack.arrays import ARRAYS, array_stream
from fastload.pack.classes import ClassNaming
from fastload.pack.described import described_table, names_files
from fastload.pack.documents import document_stream, is_compressed
from fastload.pack.folders import FolderKind, folder_table
from fastload.pack.foreign import foreign_stream, is_foreign
from fastload.pack.huggingface import is_saved, saved_stream
from fastload.pack.joined import parallel_table
from fastload.pack.lines import lines_table, paragraphs_table
from fastload.pack.listing import refuse_faulty
from fastload.pack.manifest import Columns, manifest_table, parse_columns
from fastload.pack.medical import is_medical, medical_stream
from fastload.pack.missing import STRICT, Lenience
from fastload.pack.objects import Samples, object_stream
from fastload.pack.stored import is_pattern, shard_stream
from fastload.pack.streams import Stream, chosen
from fastload.pack.table import Table
from fastload.shards.index import INDEX_NAME
from fastload.shards.members import KIND_OF_EXTENSION

SourceKind = Literal["image", "audio", "text", "tensor", "manifest", "paragraphs", "documents", "medical", "shards"]
MANIFESTS = (".csv", ".tsv", ".jsonl", ".ndjson")
SHARDS = (".tar", ".parquet")
_STREAMS = {"saved": saved_stream, "foreign": foreign_stream, "documents": document_stream, "medical": medical_stream}


def open_source(
    source: Path | Samples,
    *,
    kind: SourceKind | None = None,
    columns: Columns | None = None,
    label_regex: str | None = None,
    label_level: int | None = None,
    lenience: Lenience = STRICT,
) -> Table | Stream:
    """What there is to pack, as a table or a stream.

    Args:
        source: a path, or a data set of Python's (`objects.object_stream`).
        kind: what the source is, where its files do not tell.
        columns: of a manifest (`manifest.manifest_table`); of a stream field -> name in the source.
        label_regex, label_level: of a folder of files: where a class stands (`classes.ClassNaming`).
        lenience: which faults of files, and of manifests, are no errors.

    Raises:
        PackError: missing, empty, or with a fault in it.
        ConfigError: arguments that do not fit the source.
    """
    opened = _open(source, kind, columns, label_regex, label_level, lenience)
    mended = not isinstance(opened, Table) or (opened.left_out is not None if not lenience.fill else opened.numbers)
    if lenience.mends and not mended:
        raise ConfigError(
            f"drop_missing and fill are for manifests ({', '.join(MANIFESTS)}) and streams of samples; files and lines"
            " have no values that could be missing, but for files that belong together, of which drop_missing leaves"
            " out those that lack one"
        )
    if isinstance(opened, Table) and not lenience.faulty:
        refuse_faulty(opened)
    return opened


def _open(
    source: Path | Samples,
    kind: SourceKind | None,
    columns: Columns | None,
    label_regex: str | None,
    label_level: int | None,
    lenience: Lenience,
) -> Table | Stream:
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
        return _of_file(source, kind, wanted, lenience)
    asked = label_regex is not None or label_level is not None
    naming = ClassNaming(level=label_level, regex=label_regex)
    return _of_folder(source, kind, wanted, naming, lenience, of_files=asked)


def _of_folder(
    source: Path,
    kind: SourceKind | None,
    columns: dict[str, str] | None,
    naming: ClassNaming,
    lenience: Lenience,
    of_files: bool,
) -> Table | Stream:
    """The samples of a folder; `of_files`: an option says that it is one of files."""
    if kind == "manifest" or kind == "paragraphs":
        raise ConfigError(f"kind={kind!r} needs a file; {source} is a folder")
    if kind is not None and kind not in get_args(FolderKind) and of_files:
        raise ConfigError(f"kind={kind!r} has no classes in names: leave label_regex and label_level out")
    what = "files" if of_files else kind or _detect(source)
    if what == "shards":
        what = _written(source) or what
    if what in _STREAMS:
        return chosen(_STREAMS[what](source), columns)
    if what == "shards":
        return shard_stream(source, columns)
    described = described_table(source, columns, lenience) if what == "files" and not of_files else None
    if described is not None:
        return described
    if columns is not None and kind is None:
        return parallel_table(source, columns, naming, lenience)
    _refuse_columns(source, columns)
    return folder_table(source, cast("FolderKind | None", kind), naming, lenience)  # other kinds are streams


def _written(folder: Path) -> str | None:
    """Which other program wrote the data set of a folder."""
    return "saved" if is_saved(folder) else "foreign" if is_foreign(folder) else None


def _detect(folder: Path) -> str:
    """What a folder holds. Pictures and sounds count first, .txt files last: they may be notes."""
    written = _written(folder) or ("shards" if (folder / INDEX_NAME).is_file() else None)
    if written is not None:
        return written
    endings: set[str] = set()
    compressed = medical = False
    for names, linked in _names_below(folder):
        for name in names:
            ending = name.rpartition(".")[2].lower()
            if KIND_OF_EXTENSION.get(ending) in ("image", "audio") and name[0] != ".":
                return "files"
            if not linked:  # links are followed to files alone
                endings.add(ending)
                compressed, medical = compressed or is_compressed(name), medical or is_medical(name)
    if endings & {"tar", "parquet"}:
        return "shards"
    if endings & {"jsonl", "ndjson"} or compressed:
        return "documents"
    return "medical" if medical else "files"


def _names_below(folder: Path) -> Iterator[tuple[list[str], bool]]:
    """The names of the files in each folder below one, hidden folders left out, and whether a link leads there. Links
    are followed, but to no folder that was come to already: they may lead in a circle."""
    known, linked = {os.path.realpath(folder)}, set[str]()
    for place, folders, names in os.walk(folder, followlinks=True):
        yield names, place in linked
        below, folders[:] = sorted(name for name in folders if name[0] != "."), []
        for name in below:
            path = os.path.join(place, name)
            real, is_link = os.path.realpath(path), os.path.islink(path)
            if is_link and real in known:
                continue
            folders.append(name)
            known.add(real)
            if is_link or place in linked:
                linked.add(path)


def _of_file(
    source: Path, kind: SourceKind | None, columns: dict[str, str] | None, lenience: Lenience
) -> Table | Stream:
    ending = source.suffix.lower()
    if kind == "manifest" or (kind is None and (ending in MANIFESTS or names_files(source))):
        return manifest_table(source, columns, lenience)
    if kind == "shards" or (kind is None and ending in SHARDS):
        return shard_stream(source, columns)
    if kind == "documents" or (kind is None and is_compressed(source.name)):
        return chosen(document_stream(source), columns)
    if kind == "medical" or (kind is None and is_medical(source.name)):
        return chosen(medical_stream(source), columns)
    if kind is None and ending in ARRAYS:
        return chosen(array_stream(source), columns)
    _refuse_columns(source, columns)
    if kind == "paragraphs":
        return paragraphs_table(source)
    if kind == "text" or ending == ".txt":
        return lines_table(source)
    raise PackError(
        f"{source} is none of a folder, a manifest ({', '.join(MANIFESTS)}), text (.txt), arrays ({', '.join(ARRAYS)}),"
        f" shards ({', '.join(SHARDS)}) and compressed documents (.jsonl.gz, .txt.zst, ...); pass kind="
    )


def _refuse_columns(source: Path, columns: dict[str, str] | None) -> None:
    if columns is not None:
        text = ",".join(f"{field}:{column}" for field, column in columns.items())
        raise ConfigError(f"columns={text!r} needs a manifest ({', '.join(MANIFESTS)}); {source} is none")
