"""Shards that have no index.json: found in a folder, told apart into splits, and described one by one.

A tar is described by its `.idx`: the one beside it, else one in the cache, else made now by scanning the tar. It counts
only if it is not older than the tar and says the same size. One of another tool stays as it is: ours is then in the
cache. A Parquet file is described by its footer.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import xxhash

from fastload.errors import ConfigError, FastloadError, ShardIndexError, SourceError
from fastload.remote.cache import INDEX_FOLDER_NAME
from fastload.remote.settings import default_cache_dir
from fastload.shards.files import PARTIAL_SUFFIX
from fastload.shards.idx import Idx
from fastload.shards.index import (
    IDX_SUFFIX,
    INDEX_NAME,
    FieldInfo,
    Index,
    ShardFile,
    ShardFormat,
    idx_path,
    merge_fields,
)
from fastload.shards.parquetscan import hash_file, scan_parquet
from fastload.shards.tar import scan_tar

FORMATS: dict[str, ShardFormat] = {".tar": "tar", ".parquet": "parquet"}
JOURNAL_NAME = ".fastload-pack"  # there while a folder is being packed
REJECTED_NAME, SUSPECTS_NAME = "rejected.parquet", "suspects.parquet"  # lists beside index.json, no shards
ONLY_SPLIT = "train"  # what the shards of a folder without subfolders are called
_URL_OR_ITS_PATH = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_COMPRESSED = (".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2")
ARROW_MAGIC = b"ARROW1"
SCAN_THREADS = 8  # scanning waits for the disk, and hashing releases the GIL
SPLIT_NAMES = ("train", "val", "valid", "validation", "dev", "test")
# how the Hugging Face hub names files: train-00000-of-00012.parquet; others: val.tar, val_0001.tar, val-000000.tar
_NAMED_FOR_A_SPLIT = (
    re.compile(r"(?P<split>[A-Za-z][\w.]*)-\d{5}-of-\d{5}"),
    re.compile(rf"(?P<split>{'|'.join(SPLIT_NAMES)})([-_.]\d.*)?\.[a-z]+"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """One file and what is in it; `idx` is the path of its `.idx`, None for Parquet."""

    file: ShardFile
    fields: dict[str, FieldInfo]
    idx: str | None = None


def is_shard(name: str) -> bool:
    """Whether a file name ends as shards do."""
    return os.path.splitext(name)[1] in FORMATS


def natural_key(path: str | Path) -> list[tuple[int, int | str]]:
    """Sorts as people count: shard-2 before shard-10."""
    parts = re.split(r"(\d+)", str(path))
    return [(1, int(part)) if part.isdigit() else (0, part) for part in parts]


def refuse_unfinished(folder: Path) -> None:
    """Raise ShardIndexError if a packing run has begun in this folder, or the one above, and not finished."""
    for place in (folder, folder.parent):
        if (place / JOURNAL_NAME).exists() and not (place / INDEX_NAME).exists():
            raise ShardIndexError(
                f"{place} is incomplete: packing was not finished; run the same `fastload pack` again, and it goes on"
            )


def choose_split(splits: Iterable[str], split: str | None, folder: str | Path) -> str:
    """The split that is asked for, or the only one.

    Raises:
        ShardIndexError: there are several and no choice, or no such split.
    """
    names = list(splits)
    if split is None and len(names) == 1:
        return names[0]
    known = ", ".join(map(repr, names)) or "none"
    if split is None:
        raise ShardIndexError(
            f"{folder} has several splits ({known}); choose one with split=..., or pass {folder}/{names[0]}"
        )
    if split not in names:
        raise ShardIndexError(f"no split {split!r} in {folder}; it has {known}")
    return split


def refuse_url(folder: str | os.PathLike[str], why: str) -> None:
    """Raise ConfigError for a URL where a folder is needed. As a Path, `http://a` has become `http:/a`."""
    if _URL_OR_ITS_PATH.match(os.fspath(folder)):
        raise ConfigError(f"{os.fspath(folder)} is a URL, and a local folder is needed: {why}")


def refuse_compressed(name: str) -> None:
    """Raise ConfigError for a tar that is compressed as a whole."""
    if name.endswith(_COMPRESSED):
        raise ConfigError(f"{name} is compressed and cannot be read at any place; unpack it to a .tar first")


def find_splits(folder: Path) -> dict[str, list[Path]]:
    """All shards below a folder, by split; see `splits_among`.

    Raises:
        ShardIndexError: no shards, an unfinished one, or some in the folder and some in its subfolders.
    """
    names = names_below(folder)
    for name in names:
        final = name.removesuffix(PARTIAL_SUFFIX)
        if final != name and (is_shard(final) or final == INDEX_NAME):
            raise ShardIndexError(f"{folder} is incomplete: {name} was not finished; pack again, or delete that file")
    shards = shards_among(names)
    if not shards:
        raise ShardIndexError(f"{folder} has no {INDEX_NAME} and no {' or '.join('*' + ending for ending in FORMATS)}")
    return {split: [folder / name for name in some] for split, some in splits_among(shards, folder).items()}


def splits_among(shards: Sequence[str], folder: Path) -> dict[str, list[str]]:
    """Shards by split: the subfolder's name; within one folder, what all file names begin with if that is a split's
    name; else all in one. A folder of several that has files of several splits gives "folder/split".

    Args:
        shards: their paths relative to the folder.
        folder: what errors name.

    Raises:
        ShardIndexError: some are in the folder and some in its subfolders.
    """
    parents = sorted({os.path.dirname(name) for name in shards})
    if "" in parents and len(parents) > 1:
        others = ", ".join(parents[1:])
        raise ShardIndexError(
            f"{folder} has shards of its own and others in {others}; keep each split in one subfolder"
        )
    splits: dict[str, list[str]] = {}
    named = [_split_of(os.path.basename(name)) for name in shards]
    in_folder = {
        parent: {split for name, split in zip(shards, named, strict=True) if os.path.dirname(name) == parent}
        for parent in parents
    }
    for name, split in zip(shards, named, strict=True):
        parent = os.path.dirname(name)
        if None in named or split is None or (len(parents) > 1 and len(in_folder[parent]) == 1):
            split = parent or ONLY_SPLIT
        elif len(parents) > 1:
            split = f"{parent}/{split}"
        splits.setdefault(split, []).append(name)
    return splits


def _split_of(name: str) -> str | None:
    """The split that a file is named for."""
    matches = (pattern.match(name) for pattern in _NAMED_FOR_A_SPLIT)
    return next((match["split"] for match in matches if match is not None), None)


def shards_among(names: Iterable[str]) -> list[str]:
    """Those of a folder's files that end as shards do, as people count; lists that packing left beside the folders of
    its splits are none."""
    shards = sorted(filter(is_shard, names), key=natural_key)
    if any(os.path.dirname(name) for name in shards):  # a packed folder
        return [name for name in shards if name not in (REJECTED_NAME, SUSPECTS_NAME)]
    return shards


def names_below(folder: Path) -> list[str]:
    """Paths of all files relative to `folder`, hidden folders left out."""

    def unreadable(error: OSError) -> None:
        raise SourceError(f"{error.filename} cannot be listed: {error.strerror}") from error

    names = []
    for place, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        prefix = os.path.relpath(place, folder)
        names += files if prefix == "." else [f"{prefix}/{name}" for name in files]
    return names


def index_of_files(paths: Sequence[str]) -> Index:
    """The index of files that are read as one, in this order.

    Raises:
        ShardIndexError: tar and Parquet mixed, fields that differ, a `.idx` that is damaged.
        SourceError: a file that is missing or unreadable.
        CorruptError: a file that is not what its name says.
    """
    shard_format = one_format(paths)
    described = describe_all([Path(path) for path in paths])
    names = _relative_names(paths)
    return Index(
        shard_format=shard_format,
        fields=merge_fields(shard_format, ((name, one.fields) for name, one in zip(names, described, strict=True))),
        files=tuple(one.file._replace(name=name) for name, one in zip(names, described, strict=True)),
        paths=tuple(paths),
        idx_paths=tuple(one.idx for one in described if one.idx is not None),
    )


def one_format(paths: Sequence[str]) -> ShardFormat:
    """The format that all files have; an error where they are mixed."""
    by_format = {FORMATS[os.path.splitext(path)[1]]: path for path in paths}
    if len(by_format) > 1:
        raise ShardIndexError(f"tar and Parquet shards mixed: {' and '.join(by_format.values())}; use fastload.Mix")
    return next(iter(by_format))


def _relative_names(paths: Sequence[str]) -> list[str]:
    """What the files are called: their paths from the folder that they all share."""
    common = os.path.commonpath([os.path.dirname(path) for path in paths])
    return [os.path.relpath(path, common) for path in paths]


def describe_all(paths: Sequence[Path]) -> list[Described]:
    """What is in each file; tars that have no current `.idx` are scanned in a few threads."""
    known = [_known(path) for path in paths]
    missing = [path for path, one in zip(paths, known, strict=True) if one is None]
    if not missing:
        return [one for one in known if one is not None]
    with ThreadPoolExecutor(min(SCAN_THREADS, len(missing))) as pool:
        scanned = pool.map(partial(_scan, checksum=False), missing)
        return [one if one is not None else next(scanned) for one in known]


def describe_anew(paths: Sequence[Path], before: Sequence[ShardFile | None]) -> list[Described]:
    """What is in each file, by reading all of it.

    The `.idx` of a tar is made again unless it and its tar are, to the bit, what the index before says: it may hold
    what a scan cannot find, such as facts.

    Raises: as `index_of_files`; ShardIndexError for a `.idx` of another tool's, which is never replaced.
    """
    for path in paths:
        beside = idx_path(str(path))
        if path.suffix == ".tar" and _is_others(Path(beside)):
            raise ShardIndexError(
                f"{beside} is none of fastload's (DALI has such files too), and its index would take that name: move it"
                " elsewhere; or read the shards without index.json, as they are"
            )
    with ThreadPoolExecutor(min(SCAN_THREADS, len(paths))) as pool:
        return list(pool.map(lambda path, file: _intact(path, file) or _scan(path, checksum=True), paths, before))


def _intact(path: Path, before: ShardFile | None) -> Described | None:
    if before is None or before.index_xxh3 is None or path.stat().st_size != before.bytes:
        return None
    try:
        idx = Idx(idx_path(str(path)), before.index_xxh3)
    except FastloadError:
        return None
    fits = (idx.samples, idx.tar_bytes, idx.tar_xxh3) == (before.samples, before.bytes, before.xxh3)
    if not fits or hash_file(path) != before.xxh3:
        return None
    return Described(file=before, fields=idx.fields, idx=idx.path)


def _known(path: Path) -> Described | None:
    """What is known of a file without reading its data; None for a tar that has to be scanned."""
    if path.suffix == ".parquet":
        file, fields = scan_parquet(path)
        return Described(file=file, fields=fields)
    about = _stat(path)
    for place in (Path(idx_path(str(path))), cached_idx(path, about)):
        if place.is_file() and _may_be_ours(place) and place.stat().st_mtime_ns >= about.st_mtime_ns:
            idx = Idx(str(place))
            if idx.tar_bytes == about.st_size:
                file = ShardFile(name=path.name, samples=idx.samples, bytes=idx.tar_bytes, xxh3=idx.tar_xxh3)
                return Described(file=file, fields=idx.fields, idx=str(place))
    return None


def _scan(path: Path, checksum: bool) -> Described:
    if path.suffix == ".parquet":
        file, fields = scan_parquet(path, checksum)
        return Described(file=file, fields=fields)
    beside = Path(idx_path(str(path)))
    if os.access(path.parent, os.W_OK) and not _is_others(beside):
        try:
            return _scan_tar(path, beside)
        except FastloadError:
            raise
        except OSError as error:
            if not _not_allowed(error):
                raise
    cached = cached_idx(path, _stat(path))
    cached.parent.mkdir(parents=True, exist_ok=True)
    return _scan_tar(path, cached)


def _is_others(idx: Path) -> bool:
    """Whether the file beside a tar is another tool's, such as DALI's. One that is empty or all zeros is nobody's: such
    a full disk or a loss of power leaves."""
    return not _may_be_ours(idx) and bool(idx.read_bytes().strip(b"\0"))


def _may_be_ours(idx: Path) -> bool:
    """Whether a file begins as ours do, which are files of Arrow."""
    try:
        with open(idx, "rb") as file:
            return file.read(len(ARROW_MAGIC)) == ARROW_MAGIC
    except OSError:  # there is none, or whoever reads it says why that fails
        return True


def _not_allowed(error: OSError) -> bool:
    return error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR)


def _scan_tar(path: Path, idx: Path) -> Described:
    """Scan into a temporary name of this process and thread: several ranks may open the shards for the first time."""
    own = idx.with_name(f".{idx.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        file, fields = scan_tar(path, own)
        os.replace(own, idx)
    finally:
        own.unlink(missing_ok=True)
    return Described(file=file, fields=fields, idx=str(idx))


def cached_idx(tar: Path, about: os.stat_result) -> Path:
    """Where the `.idx` of a tar in a read-only folder is kept: a name that changes when the tar does."""
    name = xxhash.xxh3_128_hexdigest(f"{os.path.abspath(tar)}\0{about.st_size}\0{about.st_mtime_ns}".encode())
    return Path(default_cache_dir(), INDEX_FOLDER_NAME, name + IDX_SUFFIX)


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except FileNotFoundError:
        raise SourceError(f"{path} does not exist") from None
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}") from error
