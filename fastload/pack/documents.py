"""Text corpora as streams: JSON Lines and lines of text, plain or compressed, in one file or many.

    .jsonl .ndjson .json .txt    with .gz, .zst, .bz2 or .lz4 behind it, or without

Each line of JSON is a document: an object, whose values become fields as those of Python's data sets do (`objects.py`).
Only a document at a time is in memory.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa

from fastload.errors import CorruptError, PackError
from fastload.pack.lines import BYTE_ORDER_MARK
from fastload.pack.objects import named_sample
from fastload.pack.streams import Sample, Stream
from fastload.pack.tabular import json_row
from fastload.shards.foreign import names_below, natural_key

COMPRESSIONS = (".gz", ".zst", ".bz2", ".lz4")
_NULL = "is null; fill it (--fill field=value), or leave such lines out with drop_missing=True (--drop-missing)"
_JSON, _TEXT = (".jsonl", ".ndjson", ".json"), (".txt",)


def ending(name: str) -> tuple[str, str]:
    """The ending of a name and that of its compression: "a.jsonl.gz" -> (".jsonl", ".gz")."""
    path = Path(name.lower())
    return (Path(path.stem).suffix, path.suffix) if path.suffix in COMPRESSIONS else (path.suffix, "")


def is_compressed(name: str) -> bool:
    """Whether a file is one of compressed documents."""
    inner, compression = ending(name)
    return compression != "" and inner in (*_JSON, *_TEXT)


def document_stream(source: Path) -> Stream:
    """The documents of a file, or of all files of a folder in natural order. A line that is not UTF-8, no JSON object,
    or has a value that no field holds, is a sample with a fault.

    Raises:
        PackError: a folder without such files.
        CorruptError: when it is read, a compressed file that is cut off or damaged.
    """
    files = [source]
    if source.is_dir():
        names = [name for name in names_below(source) if ending(name)[0] in _JSON[:2] or is_compressed(name)]
        files = [source / name for name in sorted(names, key=natural_key)]
    if not files:
        raise PackError(f"{source} has no documents ({', '.join(_JSON[:2])}; {', '.join(COMPRESSIONS)} behind it)")
    return Stream(name=str(source), read=partial(_documents, files))


def _documents(files: Sequence[Path]) -> Iterator[Sample]:
    for path in files:
        kind = ending(path.name)[0]
        for number, line in _lines(path):
            where = f"{path}, line {number}"
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                yield Sample(where, {}, fault=f"not UTF-8 ({error.reason} at byte {error.start})")
                continue
            yield Sample(where, {"text": text}) if kind in _TEXT else _document(text, where)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, and their numbers from 1."""
    try:
        with pa.input_stream(str(path), compression="detect") as stream:
            for number, line in enumerate(io.BufferedReader(stream, 1 << 20), 1):
                text = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
                if text.strip():
                    yield number, text.rstrip(b"\r\n")
    except (OSError, pa.ArrowException) as error:
        raise CorruptError(f"{path} cannot be read: {' '.join(str(error).split())}; fetch it again") from error


def _document(text: str, where: str) -> Sample:
    row, why = json_row(text)
    if row is None:
        return Sample(where, {}, fault=why)
    return named_sample(where, row, _NULL)
