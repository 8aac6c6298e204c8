"""The index: what is in which shard, known before the first sample is read.

    index.json   one per packed folder: version, fields, shards, splits, statistics, how it was packed; written last
    *.idx        one beside each tar: Arrow IPC, one row per sample (see `fastload.shards.idx`); Parquet needs none

`IndexFile` is index.json as a value. `Index` is what a dataset reads: the shards of one split, as flat arrays.
A *shard* in the sense of the order is one tar file or one row group of a Parquet file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import xxhash

from fastload.errors import ShardIndexError, SourceError
from fastload.fields import Audio, Bytes, Field, Image, Json, Scalar, Tensor, Text, Tokens
from fastload.remote.cache import Cache, Cached
from fastload.remote.fetch import Blob
from fastload.remote.urls import is_url, join_url
from fastload.shards.files import write_atomic

INDEX_NAME = "index.json"
INDEX_VERSION = 1
IDX_SUFFIX = ".idx"
_NO_SHARDS = '\n "shards": []'  # no other is indented by one
_ENTRIES = 4096  # that are encoded at once
_BREAK = ",\n   "
_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(_BREAK, ": ")).encode
_ROW_GROUPS = re.compile(r'"row_groups": \[([^]]+)\]')
Kind = Literal["image", "audio", "text", "tokens", "tensor", "scalar", "json", "bytes"]
ShardFormat = Literal["tar", "parquet"]


def idx_path(tar: str) -> str:
    """Where the `.idx` of a tar lies: `a/shard-000000.tar` -> `a/shard-000000.idx`"""
    return (tar[:-4] if tar.endswith(".tar") else tar) + IDX_SUFFIX


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldInfo:
    """What the index says of one field.

    Attributes:
        kind: how its bytes are to be decoded if the user does not say.
        dtype: numpy dtype name of scalars, tokens and tensors ("int64", "float64", ...), else None.
        shape: shape of a tensor if all samples share it, else None.
        classes: names of the classes if the scalar is a label: label i means classes[i].
        extension: the ending of its members in a tar ("jpg", "mask.png"); None in Parquet, or where they vary.
    """

    kind: Kind
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    classes: tuple[str, ...] | None = None
    extension: str | None = None

    def to_json(self) -> dict[str, Any]:
        pairs = {"kind": self.kind, "dtype": self.dtype, "shape": self.shape, "classes": self.classes}
        return {k: v for k, v in {**pairs, "extension": self.extension}.items() if v is not None}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> FieldInfo:
        shape, classes = data.get("shape"), data.get("classes")
        if data["kind"] not in get_args(Kind):
            raise ValueError(f"unknown kind {data['kind']!r}")
        return FieldInfo(
            kind=data["kind"],
            dtype=data.get("dtype"),
            shape=None if shape is None else tuple(shape),
            classes=None if classes is None else tuple(classes),
            extension=data.get("extension"),
        )

    def default_field(self) -> Field:
        """The declaration that `fields=None` stands for: everything as it is stored."""
        match self.kind:
            case "image":
                return Image()
            case "audio":
                return Audio()
            case "text":
                return Text()
            case "tokens":
                return Tokens()
            case "tensor":
                return Tensor(self.shape, self.dtype)
            case "scalar":
                return Scalar()
            case "json":
                return Json()
            case "bytes":
                return Bytes()


class ShardFile(NamedTuple):
    """One file of samples. A tuple, because a large folder has many: 1.0 us instead of 2.6.

    Attributes:
        name: path relative to the index, with forward slashes ("train/shard-000000.tar").
        samples: number of samples in it.
        bytes: its size.
        xxh3: XXH3-64 of the whole file, 16 hex digits; None for a foreign Parquet file that was not indexed.
        index_xxh3: XXH3-64 of the `.idx` beside a tar; None for Parquet.
        row_groups: samples of each row group of a Parquet file; empty for tar.
    """

    name: str
    samples: int
    bytes: int
    xxh3: str | None = None
    index_xxh3: str | None = None
    row_groups: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = {"name": self.name, "samples": self.samples, "bytes": self.bytes}
        optional = {"xxh3": self.xxh3, "index_xxh3": self.index_xxh3, "row_groups": list(self.row_groups) or None}
        return data | {k: v for k, v in optional.items() if v is not None}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> ShardFile:
        get = data.get
        return ShardFile(
            data["name"],
            data["samples"],
            data["bytes"],
            get("xxh3"),
            get("index_xxh3"),
            tuple(get("row_groups", ())),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFile:
    """index.json: all splits of one packed folder.

    Attributes:
        shard_format: "tar" or "parquet".
        fields: by name, in the order of packing.
        shards: of all splits, those of one split next to each other.
        splits: name -> (start, stop) into `shards`.
        statistics: free-form, JSON values ("classes": {split: {label: count}}, ...).
        packed: how it was made: source, options, version of fastload.
    """

    shard_format: ShardFormat
    fields: dict[str, FieldInfo]
    shards: tuple[ShardFile, ...]
    splits: dict[str, tuple[int, int]]
    statistics: dict[str, Any] = field(default_factory=dict)
    packed: dict[str, Any] = field(default_factory=dict)

    def samples(self, split: str) -> int:
        """Number of samples of one split."""
        start, stop = self.splits[split]
        return sum(shard.samples for shard in self.shards[start:stop])

    def to_bytes(self) -> bytes:
        """The file's content; the same value gives the same bytes."""
        data = {
            "format": "fastload",
            "version": INDEX_VERSION,
            "shard_format": self.shard_format,
            "fields": {name: info.to_json() for name, info in self.fields.items()},
            "splits": {
                name: {"samples": self.samples(name), "shards": list(span)} for name, span in self.splits.items()
            },
            "shards": [],
            "statistics": self.statistics,
            "packed": self.packed,
        }
        before, empty, after = json.dumps(data, indent=1, ensure_ascii=False).partition(_NO_SHARDS)
        return "".join([before, empty[:-1], *_entries(self.shards), "]", after, "\n"]).encode()

    def save(self, folder: Path) -> None:
        """Write `folder`/index.json atomically and durably."""
        write_atomic(folder / INDEX_NAME, self.to_bytes())

    @staticmethod
    def from_bytes(content: bytes, name: str) -> IndexFile:
        """Parse index.json; `name` is what errors call it.

        Raises:
            ShardIndexError: not an index of fastload, of a newer version, or with a part missing.
        """
        try:
            data = json.loads(content)
            if not isinstance(data, dict) or data.get("format") != "fastload":
                raise ShardIndexError(f"{name} is not an index of fastload; make one with `fastload index`")
            version = data["version"]
            if version > INDEX_VERSION:
                raise ShardIndexError(
                    f"{name} has version {version}; this fastload reads up to {INDEX_VERSION}: install a newer fastload"
                )
            if data["shard_format"] not in get_args(ShardFormat):
                raise ValueError(f"unknown shard_format {data['shard_format']!r}")
            shards = tuple(ShardFile.from_json(shard) for shard in data["shards"])
            splits = {k: (v["shards"][0], v["shards"][1]) for k, v in data["splits"].items()}
            for split, (start, stop) in splits.items():
                if not 0 <= start <= stop <= len(shards):
                    raise ValueError(f"split {split!r} is shards {start} to {stop} of {len(shards)}")
            return IndexFile(
                shard_format=data["shard_format"],
                fields={k: FieldInfo.from_json(v) for k, v in data["fields"].items()},
                shards=shards,
                splits=splits,
                statistics=data.get("statistics", {}),
                packed=data.get("packed", {}),
            )
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ShardIndexError(
                f"{name} is damaged ({type(error).__name__}: {error}); make it again with `fastload index`"
            ) from error

    @staticmethod
    def load(path: Path) -> IndexFile:
        """Read an index.json.

        Raises:
            ShardIndexError: missing, damaged, or of a newer version.
            SourceError: unreadable.
        """
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise ShardIndexError(
                f"{path} does not exist: packing was not finished, or this is another folder"
            ) from None
        except OSError as error:
            raise SourceError(f"{path} cannot be read ({error.strerror or error})") from error
        return IndexFile.from_bytes(content, str(path))

    def split(self, name: str, root: str, cache: Cache | None = None) -> Index:
        """The shards of one split; `root` is the folder that the names are relative to, or its URL, with a cache."""
        if name not in self.splits:
            raise ShardIndexError(f"no split {name!r} in {root}; it has {', '.join(map(repr, self.splits))}")
        start, stop = self.splits[name]
        files = self.shards[start:stop]
        names = [shard.name for shard in files]
        beside = [idx_path(name) for name in names] if self.shard_format == "tar" else []
        return Index(
            shard_format=self.shard_format,
            fields=self.fields,
            files=files,
            paths=tuple(_places(root, names)),
            idx_paths=tuple(_places(root, beside)),
            cache=cache,
        )


def _entries(shards: Sequence[ShardFile]) -> Iterator[str]:
    """What `json.dumps` with indent=1 writes of the shards. Its encoder in C knows no indentation, and that in Python
    takes 46 s for a million shards; so here the separator has it."""
    for start in range(0, len(shards), _ENTRIES):
        entries = _ENCODE([shard.to_json() for shard in shards[start : start + _ENTRIES]])[2:-2]
        # a text has no bare line break or quote, so that neither is found inside one
        entries = entries.replace(f"}}{_BREAK}{{", "\n  },\n  {\n   ")
        entries = _ROW_GROUPS.sub(lambda found: _indented(found[1]), entries)
        yield f"{',' if start else ''}\n  {{\n   {entries}\n  }}"
    if shards:
        yield "\n "


def _indented(row_groups: str) -> str:
    return f'"row_groups": [\n    {row_groups.replace(_BREAK, f"{_BREAK} ")}\n   ]'


def _places(root: str, names: list[str]) -> list[str]:
    """Where files lie whose names are relative to a folder or its URL."""
    return [join_url(root, name) for name in names] if is_url(root) else [f"{root}/{name}" for name in names]


@dataclass(frozen=True, kw_only=True)
class Index:
    """What a dataset reads: shards of one format, numbered 0, 1, 2, ... as the order sees them.

    Attributes:
        files: the files in their order.
        paths: where each file lies: a local path or a URL.
        idx_paths: where the `.idx` of each tar lies: beside it, or in a cache where its folder is read-only; empty for
            Parquet.
        cache: what URLs among the paths are read through; None if there are none.
        blobs: of shards behind URLs that have no index.json, by URL: what tells that they have changed.
    """

    shard_format: ShardFormat
    fields: dict[str, FieldInfo]
    files: tuple[ShardFile, ...]
    paths: tuple[str, ...]
    idx_paths: tuple[str, ...] = ()
    cache: Cache | None = field(default=None, compare=False)
    blobs: Mapping[str, Blob] = field(default_factory=dict, compare=False)

    @cached_property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Samples of each shard, int64 [shards]."""
        if self.shard_format == "tar":
            return np.array([file.samples for file in self.files], np.int64)
        return np.array([rows for file in self.files for rows in file.row_groups], np.int64)

    @cached_property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Index of the first sample of each shard, int64 [shards + 1]; the last entry is the number of samples."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.sizes)])

    @cached_property
    def file_of_shard(self) -> npt.NDArray[np.int64]:
        """Which file each shard is in, int64 [shards]."""
        groups = [1 if self.shard_format == "tar" else len(file.row_groups) for file in self.files]
        return np.repeat(np.arange(len(self.files)), groups)

    @cached_property
    def row_group_of_shard(self) -> npt.NDArray[np.int64]:
        """Row group of each shard in its file, int64 [shards]; 0 for tar."""
        first = np.searchsorted(self.file_of_shard, self.file_of_shard, "left")
        return np.arange(len(self.file_of_shard)) - first

    @property
    def samples(self) -> int:
        return int(self.offsets[-1])

    def shard_name(self, shard: int) -> str:
        """What errors call this shard."""
        name = self.files[int(self.file_of_shard[shard])].name
        return name if self.shard_format == "tar" else f"{name}, row group {int(self.row_group_of_shard[shard])}"

    def blob(self, file: int) -> Blob:
        """A file of shards as an object behind its URL."""
        path, about = self.paths[file], self.files[file]
        return self.blobs.get(path) or Blob(url=path, size=about.bytes, xxh3=about.xxh3)

    def idx_blob(self, file: int) -> Blob:
        """The `.idx` of a tar as an object behind its URL."""
        return Blob(url=self.idx_paths[file], xxh3=self.files[file].index_xxh3)

    def objects(self, shard: int) -> tuple[Cached, ...]:
        """What has to be fetched before a shard can be read; empty for a local one."""
        file = int(self.file_of_shard[shard])
        if self.cache is None or not is_url(self.paths[file]):
            return ()
        tar = (Cached(self.cache, self.blob(file)),)
        behind = bool(self.idx_paths) and is_url(self.idx_paths[file])
        return (Cached(self.cache, self.idx_blob(file)), *tar) if behind else tar

    @property
    def caches(self) -> tuple[Cache, ...]:
        """What shards behind URLs are read through."""
        return () if self.cache is None else (self.cache,)

    @cached_property
    def digest(self) -> str:
        """XXH3-64 over what the samples and their numbering depend on; not over where the files lie."""
        state = xxhash.xxh3_64()
        state.update(self.shard_format.encode())
        for name, samples, size, xxh3, _, row_groups in self.files:
            name = name.rpartition("/")[2]
            state.update(f"{name}\0{samples}\0{size}\0{xxh3}\0{row_groups}\n".encode())
        return state.hexdigest()


def join(indexes: Iterable[Index]) -> Index:
    """One index of several, in their order.

    Raises:
        ShardIndexError: none given, formats that differ, or fields that do not fit (see `merge_fields`).
    """
    parts = list(indexes)
    if not parts:
        raise ShardIndexError("an empty list of shards; pass at least one")
    first = parts[0]
    for other in parts[1:]:
        if other.shard_format != first.shard_format:
            raise ShardIndexError(f"cannot join {first.shard_format} and {other.shard_format} shards; use fastload.Mix")
    return Index(
        shard_format=first.shard_format,
        fields=merge_fields(
            first.shard_format, ((part.paths[0] if part.paths else "an empty index", part.fields) for part in parts)
        ),
        files=tuple(file for part in parts for file in part.files),
        paths=tuple(path for part in parts for path in part.paths),
        idx_paths=tuple(path for part in parts for path in part.idx_paths),
        cache=next((part.cache for part in parts if part.cache is not None), None),
        blobs={url: blob for part in parts for url, blob in part.blobs.items()},
    )


def merge_fields(
    shard_format: ShardFormat, parts: Iterable[tuple[str, Mapping[str, FieldInfo]]], tensors: Collection[str] = ()
) -> dict[str, FieldInfo]:
    """The fields of shards that are read as one; each part is (what errors call it, its fields).

    All must have the same fields of the same kinds; names of classes, where given, must be the same too, or those of
    one go on where the other's end, as after appending. Where tensor shapes or extensions differ, the result says
    None; where dtypes differ, the wider one of the same sort of number. Rows of integers are tokens where the tars
    together have several lengths, even if each has one and takes them for tensors. Tokens in Parquet do not say their
    dtype with each row, so that it must be the same in all.

    Args:
        tensors: fields that are known to be tensors, whatever their lengths.

    Raises:
        ShardIndexError: a field that one lacks, or that has another kind, classes or sort of number in it.
    """
    (first_name, first), *others = parts if shard_format == "parquet" else _as_in_one_tar(list(parts), tensors)
    merged = dict(first)
    for name, fields in others:
        if fields == merged:
            continue
        for field_name in sorted(merged.keys() ^ fields.keys()):
            has, lacks = (first_name, name) if field_name in merged else (name, first_name)
            raise ShardIndexError(f"field {field_name!r} is in {has} and not in {lacks}; all shards must have the same")
        for field_name, info in merged.items():
            merged[field_name] = _merge_field(field_name, info, fields[field_name], f"{name}, unlike {first_name}")
            if info.kind == "tokens" and shard_format == "parquet" and info.dtype != fields[field_name].dtype:
                other = fields[field_name].dtype
                raise ShardIndexError(f"{field_name!r} is {other} in {name} and {info.dtype} in {first_name}; cast one")
    return merged


def _as_in_one_tar(
    parts: list[tuple[str, Mapping[str, FieldInfo]]], tensors: Collection[str]
) -> list[tuple[str, Mapping[str, FieldInfo]]]:
    """The parts, with tokens for what a scan would find tokens if all samples were in one tar: rows of integers of
    several lengths. Alone, a tar whose rows happen to be equally long looks like one of tensors."""
    first = parts[0][1] if parts else {}
    if all(fields == first for _, fields in parts):
        return parts
    seen: dict[str, set[FieldInfo]] = {}
    for _, fields in parts:
        for name, info in fields.items():
            seen.setdefault(name, set()).add(info)
    ragged = {
        name
        for name, infos in seen.items()
        if name not in tensors and all(map(_is_rows_of_integers, infos)) and _are_ragged(infos)
    }

    def told(name: str, info: FieldInfo) -> FieldInfo:
        return replace(info, kind="tokens", shape=None) if name in ragged else info

    return [(part, {name: told(name, info) for name, info in fields.items()}) for part, fields in parts]


def _are_ragged(infos: Collection[FieldInfo]) -> bool:
    """Whether rows of integers have several lengths; tensors of several dtypes stay, whose wider one is known."""
    if all(info.kind == "tensor" for info in infos):
        return len({info.shape for info in infos}) > 1 and len({info.dtype for info in infos}) == 1
    return any(info.kind == "tensor" for info in infos)


def _is_rows_of_integers(info: FieldInfo) -> bool:
    if info.kind == "tokens":
        return True
    row = info.kind == "tensor" and info.shape is not None and len(info.shape) == 1
    return row and info.dtype is not None and np.dtype(info.dtype).kind in "iu"


def _merge_field(name: str, a: FieldInfo, b: FieldInfo, place: str) -> FieldInfo:
    if a == b:
        return a
    if a.kind != b.kind:
        raise ShardIndexError(f"field {name!r} has another kind ({b.kind}, not {a.kind}) in {place}")
    shorter, longer = sorted((a.classes or (), b.classes or ()), key=len)
    if longer[: len(shorter)] != shorter:
        raise ShardIndexError(
            f"field {name!r} has other classes in {place}; pack them as one, with one list of classes"
        )
    dtype = a.dtype if a.dtype == b.dtype else None
    if a.dtype is not None and b.dtype is not None and a.kind != "tokens":
        dtype = np.result_type(a.dtype, b.dtype).name
        if len({np.dtype(d).kind.replace("u", "i") for d in (a.dtype, b.dtype, dtype)}) > 1:
            raise ShardIndexError(f"field {name!r} is {b.dtype}, not {a.dtype}, in {place}")
    return FieldInfo(
        kind=a.kind,
        dtype=dtype,
        shape=a.shape if a.shape == b.shape else None,
        classes=longer or None,
        extension=a.extension if a.extension == b.extension else None,
    )
