"""Folders of files as tables: pictures, sounds or texts, their class from the folder or from the file's name."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Literal

import numpy as np

from fastload.errors import ConfigError, PackError
from fastload.pack.table import Column, Files, Table, Values, check_keys, class_table, label_info, one_or_all
from fastload.shards.index import FieldInfo
from fastload.shards.members import AUDIO_EXTENSIONS, IMAGE_EXTENSIONS, content_extension, sample_key

FolderKind = Literal["image", "audio", "text"]
_KINDS: dict[str, FolderKind] = {
    **dict.fromkeys(IMAGE_EXTENSIONS, "image"),
    **dict.fromkeys(AUDIO_EXTENSIONS, "audio"),
    "txt": "text",
}
_SPELLINGS = {"jpeg": "jpg", "jpe": "jpg", "jfif": "jpg", "tiff": "tif", "oga": "ogg"}
_TYPES = {ending: (kind, _SPELLINGS.get(ending, ending)) for ending, kind in _KINDS.items()}


@dataclass(slots=True)
class _Listing:
    """Files of one kind, in order of folder and name."""

    paths: list[str] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    mtimes: list[int] = field(default_factory=list)

    def add(self, path: str, file_type: str, about: os.stat_result) -> None:
        self.paths.append(path)
        self.types.append(file_type)
        self.sizes.append(about.st_size)
        self.mtimes.append(about.st_mtime_ns)


def folder_table(source: Path, kind: FolderKind | None, label_regex: str | None) -> Table:
    """The samples of a folder.

    Args:
        source: the folder; hidden files and folders in it are ignored, links are followed.
        kind: which files count; None: whichever kind is there.
        label_regex: its first group, searched in each file's name, is the class. None: the folder on the first level
            is; without such folders there is no label.

    Raises:
        PackError: no files of the kind, several kinds, a zero-byte file, an empty class folder, files beside class
            folders, names that clash or do not match.
        ConfigError: a regular expression that is none, or has no group.
    """
    pattern = _compile(label_regex)
    found: defaultdict[str, _Listing] = defaultdict(_Listing)
    ignored = _list_into(found, source)
    kind = kind or _detect(found, source)
    listing = found.pop(kind, None)
    if listing is None:
        raise PackError(f"{source} has no {kind} files ({', '.join('.' + e for e, k in _KINDS.items() if k == kind)})")
    ignored += sum(len(other.paths) for other in found.values())
    _check_sizes(listing, source)
    keys = [sample_key(path) for path in listing.paths]
    check_keys(keys, listing.paths.__getitem__)
    if kind != "text" and "text" in found:
        _refuse_captions(keys, found["text"], kind)
    types = one_or_all(listing.types)
    columns: dict[str, Column] = {
        kind: Files(
            root=str(source),
            paths=listing.paths,
            sizes=np.array(listing.sizes, np.int64),
            mtimes=np.array(listing.mtimes, np.int64),
            types=types,
        )
    }
    info = FieldInfo(kind=kind)
    fields: dict[str, FieldInfo] = {
        kind: FieldInfo(kind=kind, extension=content_extension(info, types) if isinstance(types, str) else None)
    }
    names = _labels(source, listing.paths, pattern)
    if names is not None:
        classes, labels = class_table(names)
        columns["label"], fields["label"] = Values(values=labels), label_info(classes)
    return Table(keys=keys, columns=columns, fields=fields, ignored_files=ignored)


def _compile(label_regex: str | None) -> re.Pattern[str] | None:
    if label_regex is None:
        return None
    try:
        pattern = re.compile(label_regex)
    except re.error as error:
        raise ConfigError(f"label_regex={label_regex!r} is no regular expression: {error}") from error
    if not pattern.groups:
        raise ConfigError(f"label_regex={label_regex!r} has no group; put the class in brackets, as in r'^(\\d)_'")
    return pattern


def _list_into(found: defaultdict[str, _Listing], source: Path) -> int:
    """Sort the files below `source` into `found` by kind; returns how many are of no kind."""
    ignored = 0
    # path below source, and the real paths of the folders it is in
    waiting: list[tuple[str, tuple[str, ...]]] = [("", (os.path.realpath(source),))]
    while waiting:
        prefix, parents = waiting.pop()
        below = []
        # entries of a descriptor are looked up in their folder, not along the whole path: 25% off listing's time
        descriptor = _open_folder(os.path.join(source, prefix))
        try:
            for entry in _entries(descriptor):
                name = entry.name
                ending = name.rpartition(".")[2]
                known = _TYPES.get(ending) or _TYPES.get(ending.lower())
                if entry.is_file():
                    if known is None:
                        ignored += 1
                    else:
                        found[known[0]].add(prefix + name, known[1], entry.stat())
                elif entry.is_dir():
                    below.append(_below(source, prefix, parents, entry))
                elif known is not None:
                    what = "a broken link" if entry.is_symlink() else "no regular file"
                    raise PackError(f"{source / prefix / entry.name} is {what}; remove or mend it")
        except OSError as error:
            raise PackError(f"{source / prefix} cannot be listed: {error.strerror}") from error
        finally:
            os.close(descriptor)
        waiting += reversed(below)
    return ignored


def _open_folder(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise PackError(f"{path} cannot be listed: {error.strerror}") from error


def _entries(descriptor: int) -> list[os.DirEntry[str]]:
    """What is in one folder, sorted by name, hidden entries left out."""
    with os.scandir(descriptor) as scan:
        entries = [entry for entry in scan if entry.name[0] != "."]
    return sorted(entries, key=attrgetter("name"))


def _below(source: Path, prefix: str, parents: tuple[str, ...], entry: os.DirEntry[str]) -> tuple[str, tuple[str, ...]]:
    path = source / prefix / entry.name
    real = os.path.realpath(path) if entry.is_symlink() else os.path.join(parents[-1], entry.name)
    if real in parents:
        raise PackError(f"{path} links to a folder that it is in; remove the link")
    return f"{prefix}{entry.name}/", (*parents, real)


def _detect(found: dict[str, _Listing], source: Path) -> FolderKind:
    media: list[FolderKind] = [kind for kind in ("image", "audio") if kind in found]
    if len(media) == 2:
        counts = " and ".join(f"{len(found[kind].paths)} {kind} files" for kind in media)
        raise PackError(f"{source} has {counts}; pass kind='image' or kind='audio', or a manifest that pairs them")
    if media:
        return media[0]
    if "text" in found:
        return "text"
    raise PackError(f"{source} has no image, audio or text files ({', '.join('.' + ending for ending in _KINDS)})")


def _check_sizes(listing: _Listing, source: Path) -> None:
    empty = [path for path, size in zip(listing.paths, listing.sizes, strict=True) if size == 0]
    if empty:
        more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
        raise PackError(f"{source / empty[0]}{more}: the file is empty (0 bytes); remove it or copy it again")


def _refuse_captions(keys: list[str], texts: _Listing, kind: str) -> None:
    """Texts named like the samples are captions that a folder cannot say what to do with."""
    known = set(keys)
    for path in texts.paths:
        if sample_key(path) in known:
            raise PackError(
                f"{path} has the name of a sample: to pack texts with their {kind} files, write a manifest (CSV or JSON"
                " Lines) with a column for each"
            )


def _labels(source: Path, paths: list[str], pattern: re.Pattern[str] | None) -> list[str] | None:
    if pattern is not None:
        return [_match(pattern, path) for path in paths]
    names = [path.partition("/")[0] for path in paths]
    loose = [name for name, path in zip(names, paths, strict=True) if len(name) == len(path)]
    if len(loose) == len(paths):
        return None
    if loose:
        raise PackError(
            f"{source} has files beside its class folders ({loose[0]!r} is one of {len(loose)});"
            " move them into a class folder, or pass label_regex"
        )
    present = set(names)
    for folder in sorted(os.listdir(source)):
        if folder[0] != "." and folder not in present and (source / folder).is_dir():
            raise PackError(f"the class folder {folder!r} of {source} has no samples; fill it or remove it")
    return names


def _match(pattern: re.Pattern[str], path: str) -> str:
    match = pattern.search(path.rpartition("/")[2])
    if match is None or match.group(1) is None:
        raise PackError(f"label_regex={pattern.pattern!r} does not match the file name of {path!r}")
    return match.group(1)
