"""Folders whose samples have several files: by their names, or in folders side by side.

    photos/cat/0001.jpg  0001.mask.png  0001.txt      one sample: image, mask, text and, from its folder, label
    images/a/1.jpg  masks/a/1.png                     with columns={"image": "images", "mask": "masks"}

By name is WebDataset's rule: what files of a folder share up to the first dot is the sample, the rest names the
field. A folder is read so where a file has companions: 0001.jpg and 0001.mask.png or 0001.json; names that merely have
dots (IMG.0001.jpg) have none. Every sample needs the same fields. A .cls file is the label, and folders then are none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from fastload.errors import ConfigError, PackError
from fastload.pack.classes import ClassNaming, Named, own_splits, read_names
from fastload.pack.listing import Found, Listing, list_files
from fastload.pack.missing import Lenience
from fastload.pack.npyfiles import array_field
from fastload.pack.table import (
    Column,
    LeftOut,
    Table,
    Values,
    check_keys,
    class_table,
    label_info,
    settled,
    with_extensions,
)
from fastload.shards.index import FieldInfo, Kind
from fastload.shards.members import DEFAULT_NAMES, field_of_extension, sample_key

_ORDER: tuple[Kind, ...] = ("image", "audio", "text", "scalar", "json", "tensor", "tokens", "bytes")
_NAMED = 3  # samples that an error names
_MEND = "correct or remove it, or leave such out with on_error='skip' (--on-error skip)"


@dataclass(frozen=True, slots=True)
class _File:
    """The file of one field of one sample."""

    kind: Kind
    listing: Listing
    row: int

    @property
    def path(self) -> str:
        return self.listing.paths[self.row]


_Samples = dict[str, dict[str, _File]]  # key -> field -> file


def joined_table(source: Path, everything: Found, naming: ClassNaming, lenience: Lenience) -> Table | None:
    """The samples of a folder in which files belong together by their names; None where none do.

    Raises:
        PackError: a sample that lacks a field, two files of one field, a faulty file.
    """
    found = everything.kinds
    paths = [path for listing in found.values() for path in listing.paths]
    if len(found) == 1 and not any(path.count(".") > 1 and _is_dotted(path) for path in paths):
        return None
    samples: _Samples = {}
    twice: list[tuple[str, str, str]] = []
    for kind, listing in found.items():
        for row, path in enumerate(listing.paths):
            folder, slash, name = path.rpartition("/")
            stem, _, ending = name.partition(".")
            field, _ = field_of_extension(ending.lower())
            of_field = "tokens" if kind == "tensor" and field == DEFAULT_NAMES["tokens"] else kind
            fields = samples.setdefault(folder + slash + stem, {})
            if field in fields:
                twice.append((fields[field].path, path, field))
            fields[field] = _File(of_field, listing, row)
    if not any(_companions(fields) for fields in samples.values()):
        return None
    if twice:
        one, other, field = twice[0]
        raise PackError(f"{one} and {other} are the same field {field!r} of a sample; rename one")
    kinds = [kind for kind in ("image", "audio", "text") if kind in found]
    alone = f", or pass kind={kinds[0]!r} to make each {kinds[0]} file a sample" if kinds else ""
    roots = {field: source for fields in samples.values() for field in fields}
    return _table(roots, samples, source, naming, lenience, alone, everything.irregular)


def _is_dotted(path: str) -> bool:
    return path.rpartition("/")[2].count(".") > 1


def _companions(fields: Mapping[str, _File]) -> bool:
    """Whether one of the files has a plain name, and others belong to it."""
    return len(fields) > 1 and not all(_is_dotted(file.path) for file in fields.values())


def parallel_table(source: Path, columns: Mapping[str, str], naming: ClassNaming, lenience: Lenience) -> Table:
    """The samples of folders side by side: files of the same path in each, up to the last dot.

    Args:
        source: the folder that they are in.
        columns: field -> folder.
        naming: where a sample's class stands, in the paths below each folder.
        lenience: which faults are no errors.

    Raises:
        ConfigError: a folder that is not there.
        PackError: a sample that is not in all folders, a folder with files of several kinds or none.
    """
    samples: _Samples = {}
    irregular: list[LeftOut] = []
    ignored: list[str] = []
    for field, folder in columns.items():
        root = source / folder
        if not root.is_dir():
            raise ConfigError(f"columns: {source} has no folder {folder!r}, which is to hold the field {field!r}")
        everything = list_files(root, lenience.faulty)
        found = everything.kinds
        irregular += everything.irregular
        ignored += [f"{folder}/{path}" for path in everything.ignored]
        if len(found) != 1:
            kinds = " and ".join(f"{len(found[kind].paths)} {kind} files" for kind in found) or "no files of any kind"
            raise PackError(f"{root} has {kinds}; the folder of a field holds files of one kind")
        ((kind, listing),) = found.items()
        keys = [sample_key(path) for path in listing.paths]
        check_keys(keys, lambda row, listing=listing, root=root: str(root / listing.paths[row]))  # type: ignore[misc]
        kind = "tokens" if kind == "tensor" and field == DEFAULT_NAMES["tokens"] else kind
        for row, key in enumerate(keys):
            samples.setdefault(key, {})[field] = _File(kind, listing, row)
    roots = {field: source / folder for field, folder in columns.items()}
    table = _table(roots, samples, source / next(iter(columns.values())), naming, lenience, "", irregular)
    return replace(table, ignored=ignored)


def _table(
    roots: Mapping[str, Path],
    samples: _Samples,
    source: Path,
    naming: ClassNaming,
    lenience: Lenience,
    alone: str,
    irregular: Sequence[LeftOut],
) -> Table:
    """The table of complete samples.

    Args:
        roots: field -> folder that its paths are relative to.
        samples: key -> field -> file.
        source: what classes' folders are in.
        naming: where the classes stand.
        lenience: with `faulty` or `drop`, incomplete samples are left out.
        alone: what else can be done about incomplete samples.
        irregular: what is left out already.
    """
    lacking = {key: roots.keys() - files.keys() for key, files in samples.items() if len(files) < len(roots)}
    if lacking and (len(lacking) == len(samples) or not (lenience.faulty or lenience.drop)):
        raise _incomplete(lacking, samples, alone)
    left_out = [*irregular]
    for key, absent in lacking.items():
        place, why = next(iter(samples[key].values())).path, f"has no {', no '.join(sorted(absent))}"
        left_out.append(LeftOut(key=sample_key(f"{key}.x"), place=place, why=why))
    samples = {key: files for key, files in samples.items() if key not in lacking}
    kinds = _kinds(samples)
    numberless = _numberless(samples, roots) if lenience.faulty else {}
    if len(numberless) < len(samples):  # else the first is an error
        left_out += numberless.values()
        samples = {key: files for key, files in samples.items() if key not in numberless}
    first = min(kinds, key=lambda field: (_ORDER.index(kinds[field]), field != DEFAULT_NAMES[kinds[field]], field))
    ordered = dict(sorted(samples.items(), key=lambda item: item[1][first].row))
    columns: dict[str, Column] = {}
    fields: dict[str, FieldInfo] = {}
    for field in sorted(kinds, key=lambda field: (field != first, _ORDER.index(kinds[field]), field)):
        listing = next(iter(ordered.values()))[field].listing.pick([files[field].row for files in ordered.values()])
        columns[field], fields[field] = _column(listing, kinds[field], roots[field], lenience.faulty)
    keys = [sample_key(f"{stem}.x") for stem in ordered]
    paths = [files[first].path for files in ordered.values()]
    label = DEFAULT_NAMES["scalar"]
    if label in fields:
        named = Named(classes=None, splits=own_splits(paths, naming))
    else:
        named = read_names(source, paths, naming, lenience.faulty)
    if named.classes is not None:
        classes, labels = class_table(named.classes)
        columns[label], fields[label] = Values(values=labels), label_info(classes)
    table = Table(
        keys=keys,
        columns=columns,
        fields=with_extensions(columns, fields),
        left_out=(*left_out, *named.empty),
        splits=named.splits,
    )
    return settled(table, paths.__getitem__, lenience.faulty)


def _incomplete(lacking: Mapping[str, set[str]], samples: _Samples, alone: str) -> PackError:
    named = "; ".join(
        f"{next(iter(samples[key].values())).path!r} has no {', no '.join(sorted(fields))}"
        for key, fields in islice(lacking.items(), _NAMED)
    )
    return PackError(
        f"{len(lacking)} of {len(samples)} samples are incomplete: {named}{'; ...' if len(lacking) > _NAMED else ''};"
        f" add what is missing, remove what is there, or leave such out with on_error='skip' (--on-error skip){alone}"
    )


def _kinds(samples: _Samples) -> dict[str, Kind]:
    """The kind of each field."""
    known: dict[str, _File] = {}
    for files in samples.values():
        for field, file in files.items():
            if known.setdefault(field, file).kind != file.kind:
                raise PackError(
                    f"the field {field!r} is {known[field].kind} in {known[field].path} and {file.kind} in {file.path};"
                    " convert one of them"
                )
    return {field: file.kind for field, file in known.items()}


def _numberless(samples: _Samples, roots: Mapping[str, Path]) -> dict[str, LeftOut]:
    """The samples of which a file that is to hold a number holds none, by key."""
    found = {}
    for key, files in samples.items():
        for field, file in files.items():
            try:
                if file.kind == "scalar":
                    _integer(roots[field] / file.path)
            except PackError as error:
                why = f"{field}: {error.message.partition(';')[0]}"
                found[key] = LeftOut(key=sample_key(f"{key}.x"), place=file.path, why=why, reason="unreadable")
    return found


def _column(listing: Listing, kind: Kind, root: Path, faulty: bool) -> tuple[Column, FieldInfo]:
    if kind == "scalar":
        numbers = [_integer(root / path) for path in listing.paths]
        return Values(values=np.array(numbers, np.int64)), FieldInfo(kind="scalar", dtype="int64")
    files = listing.column(root)
    if kind in ("tensor", "tokens"):
        return files, array_field(files, kind, lambda row: str(root / files.paths[row]), faulty)
    return files, FieldInfo(kind=kind)


def _integer(path: Path) -> int:
    """The number in a file; PackError where there is none."""
    try:
        content = path.read_bytes()
        return int(np.int64(int(content)))
    except OSError as error:
        raise PackError(f"{path} cannot be read: {error.strerror}; {_MEND}") from error
    except (ValueError, OverflowError):
        raise PackError(f"{path} has {content[:20]!r}, which is no integer of 64 bits; {_MEND}") from None
