"""Folders of files as tables: pictures, sounds or texts, their class from the folder or from the file's name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from fastload.errors import PackError
from fastload.pack.classes import ClassNaming, class_names
from fastload.pack.joined import joined_table
from fastload.pack.listing import KINDS, Listing, list_files
from fastload.pack.npyfiles import array_field
from fastload.pack.table import Column, Table, Values, check_keys, class_table, label_info, with_extensions
from fastload.shards.index import FieldInfo, Kind
from fastload.shards.members import KIND_OF_EXTENSION, sample_keys

FolderKind = Literal["image", "audio", "text", "tensor"]


def folder_table(source: Path, kind: FolderKind | None, naming: ClassNaming) -> Table:
    """The samples of a folder.

    Files that have their name up to the first dot in common are one sample (`joined.py`), unless `kind` is given. Else
    each file is one.

    Args:
        source: the folder; hidden files and folders in it are ignored, links are followed.
        kind: which files are samples, each on its own; None: whichever kind is there.
        naming: where a sample's class stands.

    Files of arrays (.npy) are samples where there is nothing else.

    Raises:
        PackError: no files of the kind, several kinds that are not joined, a zero-byte file, an empty class folder,
            files beside class folders, names that clash or do not match.
    """
    found, ignored = list_files(source)
    if kind is None:
        table = joined_table(source, found, naming)
        if table is not None:
            return replace(table, ignored_files=ignored)
    kind = kind or _detect(found, source)
    listing = found.pop(kind, None)
    if listing is None:
        raise PackError(
            f"{source} has no {kind} files ({', '.join('.' + e for e, k in KIND_OF_EXTENSION.items() if k == kind)})"
        )
    ignored += sum(len(other.paths) for other in found.values())
    files = listing.column(source)
    keys = sample_keys(listing.paths)
    check_keys(keys, listing.paths.__getitem__)
    columns: dict[str, Column] = {kind: files}
    fields: dict[str, FieldInfo] = {kind: FieldInfo(kind=kind)}
    if kind == "tensor":
        fields[kind] = array_field(files, kind, lambda row: str(source / listing.paths[row]))
    names = class_names(source, listing.paths, naming)
    if names is not None:
        classes, labels = class_table(names)
        columns["label"], fields["label"] = Values(values=labels), label_info(classes)
    return Table(keys=keys, columns=columns, fields=with_extensions(columns, fields), ignored_files=ignored)


def _detect(found: dict[Kind, Listing], source: Path) -> FolderKind:
    media: list[FolderKind] = [kind for kind in ("image", "audio") if kind in found]
    if len(media) == 2:
        counts = " and ".join(f"{len(found[kind].paths)} {kind} files" for kind in media)
        raise PackError(f"{source} has {counts}; pass kind='image' or kind='audio', or a manifest that pairs them")
    if media:
        return media[0]
    if "text" in found or "tensor" in found:
        return "text" if "text" in found else "tensor"
    raise PackError(f"{source} has no image, audio or text files ({', '.join('.' + ending for ending in KINDS)})")
