"""What `fastload verify` does: every checksum of a packed folder; each fault named by shard, offset or rows, and key.

index.json -> xxh3 of each .idx -> size, samples and xxh3 of its tar, xxh3 of each sample in it
           -> xxh3 of each Parquet file, row groups, CRC-32 of each page, rows of a damaged one (pages.py)
decode=True: also every field of every sample through its decoder
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from fastload.decode import Decoder, decoder_for
from fastload.errors import FastloadError, MissingExtraError
from fastload.pages import damaged_rows
from fastload.shards.files import PARTIAL_SUFFIX
from fastload.shards.foreign import REJECTED_NAME, SUSPECTS_NAME, is_shard, names_below, refuse_unfinished, refuse_url
from fastload.shards.idx import Idx, idx_path
from fastload.shards.index import INDEX_NAME, FieldInfo, Index, IndexFile, ShardFile
from fastload.shards.parquetscan import hash_file, open_parquet, read_through
from fastload.shards.read import Reader, TarReader
from fastload.shards.read_parquet import ParquetReader
from fastload.source import map_file

DECODE_ROWS = 64  # samples per task: long enough that handing it to a thread costs nothing beside it
Progress = Callable[[int, int, int], None]  # shards done, shards in all, bytes done


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        shard: name of the file.
        what: what is wrong with it.
        offset: first byte concerned, where it is known.
        key: key of the first sample concerned, where it is one.
    """

    shard: str
    what: str
    offset: int | None = None
    key: str | None = None

    def __str__(self) -> str:
        offset = f", offset {self.offset}" if self.offset is not None else ""
        key = f", sample {self.key!r}" if self.key is not None else ""
        return f"{self.shard}{offset}{key}: {self.what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was checked, and what was found. `samples` and `bytes` are those that the index promises."""

    shards: int
    samples: int
    bytes: int
    decoded: bool
    faults: tuple[Fault, ...]

    @property
    def ok(self) -> bool:
        return not self.faults


def verify(folder: str | os.PathLike[str], decode: bool = False, progress: Progress | None = None) -> Report:
    """Check every byte of a packed folder against its index.

    Args:
        folder: with an index.json.
        decode: also decode every field of every sample that can be read.
        progress: told of each shard that has been checked.

    Raises:
        ShardIndexError: no index.json, a damaged one, or a packing run that was not finished.
        MissingExtraError: decode=True, and what decodes a field is not installed. All else is in the report.
    """
    refuse_url(folder, "what is read from a URL is verified as it is fetched")
    root = Path(os.path.abspath(folder))
    refuse_unfinished(root)
    index = IndexFile.load(root / INDEX_NAME)
    by_content = {shard.xxh3: shard.name for shard in index.shards if shard.xxh3 is not None}
    check_file = _check_tar if index.shard_format == "tar" else partial(_check_parquet, index.fields)

    faults: list[Fault] = []
    done_bytes = 0
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        checked = pool.map(lambda shard: list(check_file(root, shard, by_content)), index.shards)
        for done, (shard, found) in enumerate(zip(index.shards, checked, strict=True), 1):
            faults += found
            done_bytes += shard.bytes
            if progress is not None:
                progress(done, len(index.shards), done_bytes)
        faults += _extra(root, index)
        if decode:
            for split in index.splits:
                faults += _decode_split(index.split(split, str(root)), pool)
    return Report(
        shards=len(index.shards),
        samples=sum(shard.samples for shard in index.shards),
        bytes=sum(shard.bytes for shard in index.shards),
        decoded=decode,
        faults=tuple(faults),
    )


def _extra(root: Path, index: IndexFile) -> Iterator[Fault]:
    known = {shard.name for shard in index.shards} | {REJECTED_NAME, SUSPECTS_NAME}
    for name in sorted(names_below(root)):
        if name.endswith(PARTIAL_SUFFIX):
            yield Fault(shard=name, what="left behind by a run that was not finished; delete it")
        elif is_shard(name) and name not in known:
            yield Fault(shard=name, what=f"is not in {INDEX_NAME}; delete it, or run `fastload index`")


def _check_file(root: Path, shard: ShardFile, by_content: dict[str, str]) -> tuple[list[Fault], bool]:
    """Presence, size and checksum of the whole file; and whether it is worth a closer look."""
    path = root / shard.name
    try:
        size = path.stat().st_size
        if size != shard.bytes:
            return [Fault(shard=shard.name, what=f"{size} bytes, where the index says {shard.bytes}")], True
        found = hash_file(path) if shard.xxh3 is not None else None
    except FileNotFoundError:
        return [Fault(shard=shard.name, what="is missing")], False
    except OSError as error:
        return [Fault(shard=shard.name, what=f"cannot be read: {error.strerror or error}")], False
    if found == shard.xxh3:
        return [], True
    if found in by_content:
        what = f"holds the bytes of {by_content[found]}; the files were swapped, or one was copied over the other"
        return [Fault(shard=shard.name, what=what)], False
    return [Fault(shard=shard.name, what=f"checksum {found}, where the index says {shard.xxh3}")], True


def _check_tar(root: Path, shard: ShardFile, by_content: dict[str, str]) -> Iterator[Fault]:
    faults, readable = _check_file(root, shard, by_content)
    yield from faults
    name = idx_path(shard.name)
    try:
        idx = Idx(str(root / name), shard.index_xxh3)
    except FastloadError as error:
        yield Fault(shard=shard.name, what=f"its index: {error}")
        return
    if (idx.samples, idx.tar_bytes, idx.tar_xxh3) != (shard.samples, shard.bytes, shard.xxh3):
        yield Fault(shard=shard.name, what=f"{name} describes another tar than {INDEX_NAME}")
    elif readable:
        samples = list(_check_samples(root, shard, idx))
        yield from samples
        if faults and not samples:
            start = int(idx.offsets[-1] + idx.sizes[-1]) if idx.samples else 0
            yield Fault(shard=shard.name, offset=start, what="all samples are whole; the end marker after them differs")


def _check_samples(root: Path, shard: ShardFile, idx: Idx) -> Iterator[Fault]:
    path = root / shard.name
    view = map_file(str(path), path.stat().st_size)
    rows = zip(idx.offsets.tolist(), idx.sizes.tolist(), idx.xxh3.tolist(), strict=True)
    for row, (start, size, expected) in enumerate(rows):
        if start + size > len(view):
            what = f"the file ends inside it; {idx.samples - row} samples are cut off"
            yield Fault(shard=shard.name, offset=start, key=idx.key(row), what=what)
            return
        if xxhash.xxh3_64_intdigest(view[start : start + size]) != expected:
            what = f"its {size} bytes are not those that were packed (checksum)"
            yield Fault(shard=shard.name, offset=start, key=idx.key(row), what=what)


def _check_parquet(
    fields: Mapping[str, FieldInfo], root: Path, shard: ShardFile, by_content: dict[str, str]
) -> Iterator[Fault]:
    faults, readable = _check_file(root, shard, by_content)
    yield from faults
    if not readable:
        return
    try:
        file = open_parquet(root / shard.name, verify_pages=True)
    except FastloadError as error:
        yield Fault(shard=shard.name, what=str(error))
        return
    rows = tuple(file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups))
    if rows != shard.row_groups:
        yield Fault(shard=shard.name, what=f"{len(rows)} row groups of {sum(rows)} samples, unlike the index")
    pages = list(_check_pages(shard.name, root / shard.name, file, fields))
    yield from pages
    if faults and not pages:
        yield Fault(shard=shard.name, what="all pages are whole; the difference is in a page header or the footer")


def _check_pages(name: str, path: Path, file: pq.ParquetFile, fields: Mapping[str, FieldInfo]) -> Iterator[Fault]:
    """Faults by rows and column; not by offset: with a damaged footer, asking pyarrow for it ends the process."""
    for group in range(file.metadata.num_row_groups):
        for column in file.schema_arrow.names:
            try:
                read_through(file, group, [column])
            except (pa.ArrowException, OSError) as error:
                for row in damaged_rows(path, file, group, column, fields.get(column), error):
                    yield Fault(shard=name, key=row.key, what=row.what)


def _decode_split(index: Index, pool: ThreadPoolExecutor) -> Iterator[Fault]:
    """Decode each stored field of every sample; numbers in the index or in a column need none."""
    fields = {name: info for name, info in index.fields.items() if info.kind != "scalar"}
    decoders = {name: decoder_for(info.default_field(), info.dtype) for name, info in fields.items()}
    threads = os.cpu_count() or 1
    reader: Reader
    if index.shard_format == "tar":
        reader = TarReader(index, (), tuple(fields), threads + 1)
    else:
        reader = ParquetReader(index, (), tuple(fields), threads + 1)
    tasks = [
        (shard, range(start, min(start + DECODE_ROWS, size)))
        for shard, size in enumerate(index.sizes.tolist())
        for start in range(0, size, DECODE_ROWS)
    ]
    if decoders:
        for found in pool.map(partial(_decode_rows, index, reader, decoders), *zip(*tasks, strict=True)):
            yield from found


def _decode_rows(
    index: Index, reader: Reader, decoders: dict[str, Decoder], shard: int, rows: Sequence[int]
) -> list[Fault]:
    shards, places = np.full(len(rows), shard), np.asarray(rows, np.int64)
    file = index.files[int(index.file_of_shard[shard])].name
    try:
        read = reader.read(shards, places)
    except FastloadError as error:  # the whole shard: one fault is enough
        return [Fault(shard=file, what=f"cannot be decoded: {error}")] if rows[0] == 0 else []
    faults = []
    for name, decoder in decoders.items():
        for key, raw in zip(read.keys, read.raw[name], strict=True):
            try:
                if isinstance(raw, FastloadError):
                    raise raw
                decoder.decode(raw, 0)
            except MissingExtraError:
                raise
            except FastloadError as error:
                faults.append(Fault(shard=file, key=key, what=f"field {name!r} does not decode: {error.message}"))
    return faults
