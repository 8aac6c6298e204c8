"""What a source is, and its table: a folder of files, a manifest, or a text file of one sample per line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from fastload.errors import ConfigError, PackError
from fastload.pack.folders import folder_table
from fastload.pack.manifest import KEY_DIGITS, manifest_table
from fastload.pack.table import Spans, Table
from fastload.shards.index import FieldInfo

SourceKind = Literal["image", "audio", "text", "manifest"]
MANIFESTS = (".csv", ".tsv", ".jsonl", ".ndjson")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_source(
    source: Path,
    *,
    kind: SourceKind | None = None,
    columns: str | Mapping[str, str] | None = None,
    label_regex: str | None = None,
) -> Table:
    """The table of a source.

    Args:
        source: a folder; a manifest (.csv, .tsv, .jsonl, .ndjson); or a .txt file.
        kind: what the source is, where its files do not tell.
        columns: of a manifest (`manifest.manifest_table`).
        label_regex: of a folder (`folders.folder_table`).

    Raises:
        PackError: missing, empty, or with a fault in it.
        ConfigError: arguments that do not fit the source.
    """
    if kind is not None and kind not in get_args(SourceKind):
        raise ConfigError(f"kind={kind!r}: pass one of {', '.join(map(repr, get_args(SourceKind)))}")
    if not source.exists():
        raise PackError(f"{source} does not exist")
    manifest = source.is_file() and (source.suffix.lower() in MANIFESTS or kind == "manifest") and kind != "text"
    if columns is not None and not manifest:
        raise ConfigError(f"columns={columns!r} needs a manifest ({', '.join(MANIFESTS)}); {source} is none")
    if label_regex is not None and not source.is_dir():
        raise ConfigError(f"label_regex={label_regex!r} needs a folder; {source} is a file")
    if source.is_dir():
        if kind == "manifest":
            raise ConfigError(f"kind='manifest' needs a file; {source} is a folder")
        return folder_table(source, kind, label_regex)
    if manifest:
        return manifest_table(source, columns)
    if source.suffix.lower() == ".txt" or kind == "text":
        return lines_table(source)
    raise PackError(f"{source} is none of a folder, a manifest ({', '.join(MANIFESTS)}) and a .txt file; pass kind=")


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
