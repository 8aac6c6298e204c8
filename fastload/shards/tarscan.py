"""Reading a foreign WebDataset tar once: members, samples, checksums, kinds of fields."""

from __future__ import annotations

import io
import mmap
import os
import tokenize
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from fastload.errors import CorruptError, ShardIndexError, SourceError
from fastload.shards.idx import IdxColumns, idx_path, write_idx
from fastload.shards.index import FieldInfo, ShardFile
from fastload.shards.members import field_of_extension, split_member
from fastload.shards.ustar import BLOCK, checksum_fits, member_name, number, pax_records

REGULAR = b"0\x007"  # POSIX, old and contiguous files
WITHOUT_CONTENT = b"123456"  # links, devices, folders, pipes: their size field counts no bytes
LONG_NAME, LONG_LINK, PAX_NEXT, PAX_GLOBAL, SPARSE = b"LKxgS"
HASH_CHUNK = 4 << 20
_COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ": ("xz", "unxz"),
    b"(\xb5/\xfd": ("zstd", "unzstd"),
}
_NPY_HEADERS = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Member:
    """One regular file in a tar: where its header and content begin, bytes of content, name."""

    header: int  # first byte of its header, a long name's or PAX record's included
    content: int
    size: int
    name: str


@dataclass(slots=True)
class _Found:
    """What the pass over the tar collects."""

    keys: list[str] = field(default_factory=list)
    offsets: array[int] = field(default_factory=lambda: array("q"))
    rows: array[int] = field(default_factory=lambda: array("q"))  # of each member: its sample
    kinds: array[int] = field(default_factory=lambda: array("q"))  # its extension, as a number
    starts: array[int] = field(default_factory=lambda: array("q"))  # its content's first byte
    sizes: array[int] = field(default_factory=lambda: array("q"))
    extensions: dict[str, int] = field(default_factory=dict)
    end: int = 0  # the end marker's first byte


def scan_tar(path: Path, idx: Path | None = None) -> tuple[ShardFile, dict[str, FieldInfo]]:
    """Read a WebDataset tar of any writer (USTAR, PAX, GNU) once and write its `.idx`.

    Samples are what webdataset's `group_by_keys` makes of it: neighbouring members with one key. Directories, links and
    members called like `__name__` are skipped. Fields: the first image extension becomes "image", "cls" the scalar
    "label", "seg.png" the image "seg", and so on (`members.field_of_extension`). A "cls" that some samples lack, or
    that holds no integer, is text.

    Args:
        path: of the tar.
        idx: where the index goes; None: beside the tar.

    Returns: the shard, named by its base name, and its fields.

    Raises:
        SourceError: missing or unreadable.
        ShardIndexError: compressed, or without a single sample.
        CorruptError: cut off, a header with a wrong checksum, data after the end marker, or two members with one name
            in a sample.
    """
    shard, columns, fields = read_tar(path)
    digest = write_idx(idx or Path(idx_path(str(path))), columns, shard, fields)
    return shard._replace(index_xxh3=digest), fields


def read_tar(path: Path) -> tuple[ShardFile, IdxColumns, dict[str, FieldInfo]]:
    """What `scan_tar` finds, without writing it."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise CorruptError("the tar is empty (0 bytes); copy or pack it again", shard=path.name)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                data.madvise(mmap.MADV_SEQUENTIAL)
                return _Scan(data, path.name).run()
    except FileNotFoundError:
        raise SourceError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} cannot be read: {error}") from error


def walk(data: mmap.mmap, name: str) -> Iterator[Member]:
    """The regular members of a mapped tar in order, as far as it is whole.

    Args:
        data: the tar.
        name: what errors call it.

    Raises: as `scan_tar`, after what is before the fault.
    """
    return _Scan(data, name)._members(_Found())


class _Scan:
    """One pass over one mapped tar."""

    def __init__(self, data: mmap.mmap, name: str) -> None:
        self._data = data
        self._name = name
        self._length = len(data)
        self._last = ""  # the member before, for errors
        for magic, (what, tool) in _COMPRESSED.items():
            if data[: len(magic)] == magic:
                raise ShardIndexError(
                    f"{name} is compressed with {what}, so no sample can be read without the ones before it; decompress"
                    f" it first: {tool} {name} (images and audio hardly shrink anyway)"
                )

    def run(self) -> tuple[ShardFile, IdxColumns, dict[str, FieldInfo]]:
        found, hashes, whole = self._collect()
        if not found.keys:
            raise ShardIndexError(
                f"{self._name} has no sample: no regular member with a name like key.extension; move it out of the"
                " folder, or leave it out of the list of shards"
            )
        offsets = np.array(found.offsets, np.int64)
        columns_of = _Fields(self._data, found, self._name).infer()
        spans, scalars, fields = {}, {}, {}
        for name, (info, starts, sizes, values) in columns_of.items():
            if values is not None:
                scalars[name] = values
            else:
                spans[name] = (np.where(starts > 0, starts - offsets, 0), sizes)
            fields[name] = info
        columns = IdxColumns(
            keys=found.keys,
            offsets=offsets,
            sizes=np.diff(offsets, append=found.end),
            xxh3=hashes,
            spans=spans,
            scalars=scalars,
            facts={},
        )
        shard = ShardFile(name=self._name, samples=len(found.keys), bytes=self._length, xxh3=whole)
        return shard, columns, fields

    def _collect(self) -> tuple[_Found, list[int], str]:
        found, hashes, whole = _Found(), [], xxhash.xxh3_64()
        view, hashed, key, in_sample = memoryview(self._data), 0, "", set[int]()
        try:
            for member in self._members(found):
                split = split_member(member.name)
                if split is None:
                    continue
                if not found.keys or split[0] != key:
                    if found.keys:
                        hashes.append(xxhash.xxh3_64_intdigest(view[found.offsets[-1] : member.header]))
                    whole.update(view[hashed : member.header])
                    key, hashed, in_sample = split[0], member.header, set()
                    found.keys.append(key)
                    found.offsets.append(member.header)
                number_of = found.extensions.setdefault(split[1], len(found.extensions))
                if number_of in in_sample:
                    raise CorruptError(f"two members are called {member.name!r}; rename one", shard=self._name, key=key)
                in_sample.add(number_of)
                for column, value in (
                    (found.rows, len(found.keys) - 1), (found.kinds, number_of),
                    (found.starts, member.content), (found.sizes, member.size),
                ):  # fmt: skip
                    column.append(value)
            if found.keys:
                hashes.append(xxhash.xxh3_64_intdigest(view[found.offsets[-1] : found.end]))
            whole.update(view[hashed:])
        finally:
            view.release()
        return found, hashes, whole.hexdigest()

    def _members(self, found: _Found) -> Iterator[Member]:
        """Regular members in order; sets `found.end`. Raises CorruptError for whatever a whole tar does not have."""
        at, first, pending = 0, 0, dict[str, bytes]()
        while True:
            header = self._header(at)
            if header is None:
                found.end = at
                return self._check_end(at)
            kind, name = header[156], pending.get("path", member_name(header))
            size = int(pending["size"]) if "size" in pending else number(header[124:136])
            content = at + BLOCK
            label = name.decode("utf-8", "surrogateescape")
            if size < 0 or kind == SPARSE or any(k.startswith("GNU.sparse") for k in pending):
                raise CorruptError(
                    f"member {label!r} at byte {at} is sparse; make the tar without --sparse", shard=self._name
                )
            if kind in (LONG_NAME, LONG_LINK, PAX_NEXT, PAX_GLOBAL):
                self._check_content(at, number(header[124:136]), self._last)
                value = self._data[content : content + number(header[124:136])]
                pending |= self._extended(kind, value, at)
                at = content + -(-len(value) // BLOCK) * BLOCK
                continue
            stored = 0 if kind in WITHOUT_CONTENT else size
            self._check_content(at, stored, label)
            if kind in REGULAR and not (kind == 0 and label.endswith("/")):
                self._last = label
                self._check_name(label, at)
                yield Member(first, content, size, label)
            at = first = content + -(-stored // BLOCK) * BLOCK
            pending = {}

    def _header(self, at: int) -> bytes | None:
        """The header at `at`, or None for the end marker."""
        header = self._data[at : at + BLOCK]
        after = f" after {self._last!r}" if self._last else ""
        if len(header) < BLOCK:
            what = "has no end marker" if not header else f"is cut off inside a header ({len(header)} of {BLOCK} bytes)"
            raise CorruptError(
                f"the tar {what} at byte {at}{after}: its end is missing; copy or pack it again", shard=self._name
            )
        if header.count(0) == BLOCK:
            return None
        if not checksum_fits(header):
            raise CorruptError(
                f"the header at byte {at}{after} has a wrong checksum: the file is damaged, or no tar", shard=self._name
            )
        return header

    def _extended(self, kind: int, value: bytes, at: int) -> dict[str, bytes]:
        if kind == LONG_NAME:
            return {"path": value.split(b"\0", 1)[0]}
        if kind == PAX_NEXT:
            try:
                records = pax_records(value)
                int(records.get("size", b"0"))
            except ValueError as error:
                raise CorruptError(f"the PAX header at byte {at} is damaged: {error}", shard=self._name) from error
            return records
        return {}

    def _check_content(self, at: int, size: int, name: str) -> None:
        if at + BLOCK + size > self._length:
            raise CorruptError(
                f"the tar is cut off: {name!r} at byte {at} has {size} bytes, of which {self._length - at - BLOCK} are"
                " there; copy or pack it again",
                shard=self._name,
                key=(split_member(name) or (None,))[0],
            )

    def _check_name(self, name: str, at: int) -> None:
        if not name.isascii() and any("\udc80" <= c <= "\udcff" for c in name):
            raise CorruptError(f"the name {name!r} at byte {at} is not UTF-8; make the tar again", shard=self._name)

    def _check_end(self, at: int) -> None:
        while at < self._length:
            chunk = self._data[at : at + HASH_CHUNK]
            if chunk.count(0) != len(chunk):
                raise CorruptError(
                    f"data after the end marker, from byte {at} on: if these are several tars in one file, join them"
                    " with tar -A, not with cat",
                    shard=self._name,
                )
            at += len(chunk)


_Column = tuple[FieldInfo, Int64s, Int64s, npt.NDArray[np.int64] | None]


class _Fields:
    """Members sorted into fields, and what each field holds."""

    def __init__(self, data: mmap.mmap, found: _Found, shard: str) -> None:
        self._data = data
        self._found = found
        self._shard = shard
        self._rows, self._kinds = np.array(found.rows, np.int64), np.array(found.kinds, np.int64)
        self._starts, self._sizes = np.array(found.starts, np.int64), np.array(found.sizes, np.int64)

    def infer(self) -> dict[str, _Column]:
        columns: dict[str, _Column] = {}
        for name, extensions in self._grouped().items():
            starts, sizes = np.zeros((2, len(self._found.keys)), np.int64)
            members = np.isin(self._kinds, [self._found.extensions[e] for e in extensions])
            starts[self._rows[members]], sizes[self._rows[members]] = self._starts[members], self._sizes[members]
            columns[name] = self._column(extensions, starts, sizes)
        return columns

    def _grouped(self) -> dict[str, list[str]]:
        """Field name -> its extensions; two extensions share a field unless some sample has both."""
        groups: dict[str, list[str]] = {}
        samples: dict[str, npt.NDArray[np.bool_]] = {}
        for extension, number_of in self._found.extensions.items():
            present = np.zeros(len(self._found.keys), np.bool_)
            present[self._rows[self._kinds == number_of]] = True
            name, own = field_of_extension(extension)[0], extension.replace(".", "_")
            while name in groups and (samples[name] & present).any():
                name = own if name != own and own not in groups else name + "_"
            if name in groups and not self._same_kind(groups[name][0], extension):
                name = own + "_" * (own in groups)
            groups.setdefault(name, []).append(extension)
            samples[name] = samples.get(name, present) | present
        return groups

    def _same_kind(self, one: str, other: str) -> bool:
        return field_of_extension(one)[1] == field_of_extension(other)[1]

    def _column(self, extensions: list[str], starts: Int64s, sizes: Int64s) -> _Column:
        kind = field_of_extension(extensions[0])[1]
        extension = extensions[0] if len(extensions) == 1 else None
        if kind == "scalar":
            values = self._integers(starts, sizes)
            if values is not None:
                return FieldInfo(kind="scalar", dtype="int64", extension=extension), starts, sizes, values
            return FieldInfo(kind="text", extension=extension), starts, sizes, None
        if kind == "tensor":
            return self._arrays(starts, sizes, extension), starts, sizes, None
        return FieldInfo(kind=kind, extension=extension), starts, sizes, None

    def _integers(self, starts: Int64s, sizes: Int64s) -> npt.NDArray[np.int64] | None:
        if not starts.all() or sizes.max() > 64:
            return None
        try:
            return np.array(
                [int(self._data[a : a + n]) for a, n in zip(starts.tolist(), sizes.tolist(), strict=True)], np.int64
            )
        except (ValueError, OverflowError):
            return None

    def _arrays(self, starts: Int64s, sizes: Int64s, extension: str | None) -> FieldInfo:
        """Tokens if all are rows of integers of several lengths, else a tensor; bytes if one is no array of numbers."""
        seen: set[tuple[tuple[int, ...], str]] = set()
        for start, size in zip(starts.tolist(), sizes.tolist(), strict=True):
            if start:
                about = npy_header(self._data[start : start + min(size, 4096)])
                if about is None:
                    return FieldInfo(kind="bytes", extension=extension)
                seen.add(about)
        dtypes, shapes = {dtype for _, dtype in seen}, {shape for shape, _ in seen}
        dtype = next(iter(dtypes)) if len(dtypes) == 1 else None
        rows = all(len(shape) == 1 for shape in shapes) and all(np.dtype(d).kind in "iu" for d in dtypes)
        if rows and len(shapes) > 1:
            return FieldInfo(kind="tokens", dtype=dtype, extension=extension)
        shape = next(iter(shapes)) if len(shapes) == 1 else None
        return FieldInfo(kind="tensor", dtype=dtype, shape=shape, extension=extension)


def npy_header(content: bytes) -> tuple[tuple[int, ...], str] | None:
    """Shape and dtype name of a .npy file from its first bytes; None if it is none, or does not hold numbers."""
    try:
        file = io.BytesIO(content)
        version = np.lib.format.read_magic(file)
        shape, _, dtype = _NPY_HEADERS[version[0]](file)
    except (ValueError, KeyError, TypeError, tokenize.TokenError):
        return None
    return (tuple(shape), dtype.name) if dtype.kind in "biufc" else None
