"""One sample at a time out of packed shards, tar and Parquet alike, as shard writers take it; each one checked.

A tar is read by its `.idx`, and every sample against its checksum; Parquet row group by row group, and every page
against its CRC-32 where it has one.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from fastload.decode.sniff import sniff
from fastload.errors import CorruptError, FastloadError
from fastload.remote.urls import is_url, path_of
from fastload.shards.access import open_idx, parquet_input, view_file
from fastload.shards.idx import Idx
from fastload.shards.index import FieldInfo, Index
from fastload.shards.members import file_extension, split_member
from fastload.shards.parquet import NPY_MAGIC, TYPE_SUFFIX
from fastload.shards.parquetscan import KEY_COLUMN, METADATA_KEY, fact_names, open_parquet
from fastload.shards.read import Raw
from fastload.shards.read_parquet import RowGroup, remedy

FILE_KINDS = ("image", "audio", "bytes")  # their contents are files, and a tar says of which type


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One sample, as `TarShardWriter.add` and `ParquetShardWriter.add` take it.

    Attributes:
        key: its key.
        contents: field -> (file type such as "jpg", stored bytes); a field that the sample lacks is left out.
        scalars: field -> value.
        facts: "<field>.<what>" -> value, of the fields that it has.
    """

    key: str
    contents: dict[str, tuple[str, bytes]]
    scalars: dict[str, int | float | bool]
    facts: dict[str, int]


def read_records(index: Index, file: int, start: int = 0) -> Iterator[Record]:
    """The samples of one file of an index, in their order, from a row on.

    Raises:
        CorruptError: a sample, page or `.idx` is not what was written; shard, row and key are named.
        SourceError: a file is missing or has another size.
    """
    try:
        yield from _tar(index, file, start) if index.shard_format == "tar" else _parquet(index, file, start)
    except FastloadError as error:
        error.at(shard=index.files[file].name)
        raise


def read_keys(index: Index, file: int) -> list[str]:
    """The keys of one file, without its contents."""
    if index.shard_format == "tar":
        idx = Idx(index.idx_paths[file], index.files[file].index_xxh3)
        return idx.keys(np.arange(idx.samples))
    parquet = open_parquet(Path(index.paths[file]))
    if KEY_COLUMN in parquet.schema_arrow.names:
        keys: list[str | None] = parquet.read(columns=[KEY_COLUMN]).column(0).to_pylist()
        if None not in keys:
            return [str(key) for key in keys]
    stem = Path(index.paths[file]).stem
    return [f"{stem}/{group}/{row}" for group, rows in enumerate(index.files[file].row_groups) for row in range(rows)]


def _tar(index: Index, file: int, begin: int) -> Iterator[Record]:
    about = index.files[file]
    idx = open_idx(index, file)
    if (idx.samples, idx.tar_bytes, idx.tar_xxh3) != (about.samples, about.bytes, about.xxh3):
        raise CorruptError(f"{idx.path} describes another tar; see `fastload verify` and `fastload repair`")
    view = view_file(index, file)
    stored = {name: idx.fields.get(name, info) for name, info in index.fields.items() if info.kind != "scalar"}
    names = [name for name in stored if f"{name}.offset" in idx]
    spans = {name: (idx.column(f"{name}.offset").tolist(), idx.column(f"{name}.length").tolist()) for name in names}
    scalars = {n: idx.column(n).tolist() for n, info in index.fields.items() if info.kind == "scalar"}
    facts = {n: idx.column(n).tolist() for n in idx.numbers if n not in idx.fields}
    varied = any(info.kind in FILE_KINDS and info.extension is None for info in stored.values())
    rows = zip(idx.offsets.tolist(), idx.sizes.tolist(), idx.xxh3.tolist(), strict=True)
    for row, (start, size, digest) in islice(enumerate(rows), begin, None):
        sample = view[start : start + size]
        if xxhash.xxh3_64_intdigest(sample) != digest:
            raise CorruptError(
                f"bytes {start} to {start + size} are not what was packed (checksum); see `fastload repair`",
                row=row,
                key=idx.key(row),
            )
        types = _types(sample) if varied else {}
        contents = {
            name: (_type(stored[name], types.get(starts[row])), bytes(sample[starts[row] :][: lengths[row]]))
            for name, (starts, lengths) in spans.items()
            if starts[row]
        }
        yield Record(
            key=idx.key(row),
            contents=contents,
            scalars={name: values[row] for name, values in scalars.items()},
            facts={n: values[row] for n, values in facts.items() if n.rpartition(".")[0] in contents},
        )


def _types(sample: memoryview) -> dict[int, str]:
    """The extension of each member by the place of its content in the sample."""
    with tarfile.open(fileobj=io.BytesIO(sample), mode="r:") as tar:
        return {member.offset_data: (split_member(member.name) or ("", ""))[1] for member in tar if member.isreg()}


def _type(info: FieldInfo, extension: str | None) -> str:
    """The file type of a content from the extension of its field, or else of its member."""
    if info.kind not in FILE_KINDS:
        return ""
    return (info.extension or extension or "").rpartition(".")[2]


def _parquet(index: Index, file: int, start: int) -> Iterator[Record]:
    about, source = index.files[file], parquet_input(index, file)
    place = index.paths[file]
    path = Path(path_of(place) if is_url(place) else place)
    parquet = open_parquet(path, verify_pages=True, source=source)
    size = path.stat().st_size if isinstance(source, str) else source.size()
    groups = tuple(parquet.metadata.row_group(group).num_rows for group in range(parquet.metadata.num_row_groups))
    if groups != about.row_groups or size != about.bytes:
        raise CorruptError(f"{path} is not the file that its index describes; see `fastload verify`")
    own = METADATA_KEY in (parquet.schema_arrow.metadata or {})
    facts = fact_names(parquet)
    columns = [KEY_COLUMN, *index.fields, *facts, *(name + TYPE_SUFFIX for name in typed_fields(parquet))]
    columns = [name for name in columns if name in parquet.schema_arrow.names]
    for group, rows in enumerate(groups):
        if start >= rows:
            start -= rows
            continue
        try:
            table = parquet.read_row_group(group, columns=columns, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            what_to_do = remedy(error, "see `fastload repair`")
            raise CorruptError(f"row group {group} cannot be read: {error}; {what_to_do}") from error
        yield from islice(_rows(table, index.fields, facts, own, f"{path.stem}/{group}/"), start, None)
        start = 0


def typed_fields(parquet: pq.ParquetFile) -> list[str]:
    """The fields of bytes whose file types are in a column, in a file that fastload wrote; none in others."""
    about = (parquet.schema_arrow.metadata or {}).get(METADATA_KEY)
    names = json.loads(about).get("types", ()) if about is not None else ()
    return [str(name).removesuffix(TYPE_SUFFIX) for name in names]


def _rows(
    table: pa.Table, fields: dict[str, FieldInfo], facts: list[str], own: bool, key_prefix: str
) -> Iterator[Record]:
    stored = {name: info for name, info in fields.items() if info.kind != "scalar"}
    group = RowGroup(table, [name for name in fields if name not in stored], list(stored), key_prefix)
    group.refuse_nulls()
    numbers = {name: table.column(name).to_pylist() for name in facts}
    types = {n: table.column(n + TYPE_SUFFIX).to_pylist() for n in stored if n + TYPE_SUFFIX in table.schema.names}
    for row in range(table.num_rows):
        key, contents = group.key(row), {}
        for name, info in stored.items():
            blobs = group.blobs[name]
            if blobs.lacks(row):
                continue
            raw = blobs.get(row)
            if isinstance(raw, FastloadError):
                raise raw.at(row=row, key=key)
            content = _content(info, raw)
            listed = types[name][row] if name in types else None
            contents[name] = listed or _file_type(info, key, blobs.path(row), content, own), content
        yield Record(
            key=key,
            contents=contents,
            scalars={name: values[row] for name, values in group.scalars.items()},
            facts={name: values[row] for name, values in numbers.items() if values[row] is not None},
        )


def _content(info: FieldInfo, raw: Raw) -> bytes:
    """What a tar would hold: numbers as a .npy, the rest as it is."""
    typed = isinstance(raw, memoryview) and raw.format != "B"
    if info.kind not in ("tokens", "tensor") or not (typed or info.kind == "tokens"):
        return bytes(raw)
    if not typed and raw[: len(NPY_MAGIC)] == NPY_MAGIC:
        return bytes(raw)
    out = io.BytesIO()
    np.save(out, np.asarray(raw) if typed else np.frombuffer(raw, np.uint8), allow_pickle=False)
    return out.getvalue()


def _file_type(info: FieldInfo, key: str, path: str, content: bytes, own: bool) -> str:
    if info.kind == "bytes":
        return "bin"
    if info.kind not in FILE_KINDS:
        return ""
    if own and path == key:
        return ""
    if own and path.startswith(key + "."):
        return path.removeprefix(key + ".")
    return file_extension(path) or file_extension(f"a.{sniff(content) or 'bin'}")


def kept_types(index: Index) -> set[str]:
    """The fields of bytes whose file types Parquet files keep."""
    return {name for path in index.paths for name in typed_fields(open_parquet(Path(path)))}


def fact_columns(index: Index) -> set[str]:
    """The facts that the files of an index have, "<field>.<what>" each."""
    found: set[str] = set()
    for file, path in enumerate(index.paths):
        if index.shard_format == "tar":
            idx = Idx(index.idx_paths[file], index.files[file].index_xxh3)
            found.update(name for name in idx.numbers if name not in idx.fields)
        else:
            found.update(fact_names(open_parquet(Path(path))))
    return found
