"""Folders of files as tables: pictures, sounds or texts, their class from the folder or from the file's name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from fastload.errors import PackError
from fastload.pack.classes import ClassNaming, read_names
from fastload.pack.joined import joined_table
from fastload.pack.listing import KINDS, Listing, list_files
from fastload.pack.missing import Lenience
from fastload.pack.npyfiles import array_field
from fastload.pack.table import Column, Table, Values, class_table, label_info, settled, with_extensions
from fastload.shards.index import FieldInfo, Kind
from fastload.shards.members import KIND_OF_EXTENSION, sample_keys

FolderKind = Literal["image", "audio", "text", "tensor"]


def folder_table(source: Path, kind: FolderKind | None, naming: ClassNaming, lenience: Lenience) -> Table:
    """The samples of a folder.

    Files that have their name up to the first dot in common are one sample (`joined.py`), unless `kind` is given. Else
    each file is one.

    Args:
        source: the folder; hidden files and folders in it are ignored, links are followed.
        kind: which files are samples, each on its own; None: whichever kind is there.
        naming: where a sample's class stands.
        lenience: which faults are no errors.

    Files of arrays (.npy) are samples where there is nothing else.

    Raises:
        PackError: no files of the kind, several kinds that are not joined, a zero-byte file, an empty class folder,
            files beside class folders, names that clash or do not match.
    """
    found = list_files(source, lenience.faulty)
    if kind is None:
        table = joined_table(source, found, naming, lenience)
        if table is not None:
            return replace(table, ignored=found.ignored)
    kind = kind or _detect(found.kinds, source)
    listing = found.kinds.get(kind)
    if listing is None:
        raise PackError(
            f"{source} has no {kind} files ({', '.join('.' + e for e, k in KIND_OF_EXTENSION.items() if k == kind)})"
        )
    files = listing.column(source)
    keys = sample_keys(listing.paths)
    columns: dict[str, Column] = {kind: files}
    fields: dict[str, FieldInfo] = {kind: FieldInfo(kind=kind)}
    if kind == "tensor":
        fields[kind] = array_field(files, kind, lambda row: str(source / listing.paths[row]), lenience.faulty)
    named = read_names(source, listing.paths, naming, lenience.faulty)
    if named.classes is not None:
        classes, labels = class_table(named.classes)
        columns["label"], fields["label"] = Values(values=labels), label_info(classes)
    table = Table(
        keys=keys,
        columns=columns,
        fields=with_extensions(columns, fields),
        ignored=found.others(kind),
        left_out=(*found.irregular, *named.empty) or None,
        splits=named.splits,
    )
    return settled(table, listing.paths.__getitem__, lenience.faulty)


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
