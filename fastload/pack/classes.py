"""Where a file's class and split stand: in the folders that it is in, or in its name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastload.errors import ConfigError, PackError
from fastload.pack.table import LeftOut
from fastload.shards.foreign import SPLIT_NAMES


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassNaming:
    """Where the class of a file stands.

    Attributes:
        level: the class is the path of the first so many folders: 1 "dog", 2 "dog/poodle"; 0: of all that the file is
            in. As it is the path, folders of the same name below others are classes of their own. None: 1, below the
            folders of splits, if there are such (`own_splits`).
        regex: instead, the first group of a regular expression, searched in the file's name.

    Raises:
        ConfigError: a level below 0, both, a regular expression that is none or has no group.
    """

    level: int | None = None
    regex: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.level, bool) or not isinstance(self.level, int | None) or (self.level or 0) < 0:
            raise ConfigError(f"label_level={self.level!r}: pass 1 for the first folder, 2 for two, ...; 0 for all")
        if self.regex is not None:
            if self.level not in (None, 1):
                raise ConfigError("label_regex takes the class from the file's name: leave label_level out")
            _compile(self.regex)


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """What the names of files say.

    Attributes:
        classes: of each file, [n]; None where all files are in no folder.
        splits: of each file, [n]; None where names say nothing of splits.
        empty: class folders without samples.
    """

    classes: list[str] | None
    splits: list[str] | None
    empty: tuple[LeftOut, ...] = ()


def own_splits(paths: Sequence[str], naming: ClassNaming) -> list[str] | None:
    """The split of each file, [n]: its first folder, where every first folder is called as splits are (train, test).

    None where they are not, or `naming` says what the folders are.
    """
    first = [path.partition("/")[0] if "/" in path else "" for path in paths]
    return first if naming.level is None and set(first) <= set(SPLIT_NAMES) else None


def read_names(source: Path, paths: Sequence[str], naming: ClassNaming, faulty: bool) -> Named:
    """What folders and names say of files.

    Args:
        source: the folder.
        paths: below it, [n].
        naming: where the classes stand.
        faulty: class folders may be empty.

    Raises:
        PackError: files that are not as deep as others, a name that does not match, a class folder without samples.
    """
    splits = own_splits(paths, naming)
    if naming.regex is not None:
        pattern = _compile(naming.regex)
        return Named(classes=[_match(pattern, path) for path in paths], splits=splits)
    below = paths if splits is None else [path.partition("/")[2] for path in paths]
    if not any("/" in path for path in below):
        return Named(classes=None, splits=splits)
    level = 1 if naming.level is None else naming.level
    parents = [path.rpartition("/")[0] for path in below]
    classes = {folder: "/".join(folder.split("/")[: level or None]) for folder in set(parents)}
    shallow = {folder for folder in classes if not folder or folder.count("/") + 1 < level}
    loose = [path for path, folder in zip(paths, parents, strict=True) if folder in shallow] if shallow else []
    if loose:
        where = "its class folders" if level < 2 else f"the class folders of level {level}"
        raise PackError(
            f"{source} has files beside {where} ({loose[0]!r} is one of {len(loose)});"
            " move them into a class folder, or pass label_regex"
        )
    found = [classes[folder] for folder in parents]
    roots = [""] * len(paths) if splits is None else splits
    present = {split: {name for name, root in zip(found, roots, strict=True) if root == split} for split in set(roots)}
    empty = [left for split in sorted(present) for left in _empty(source / split, present[split], level)]
    if empty and not faulty:
        raise PackError(f"{empty[0].why}; fill it or remove it")
    return Named(classes=found, splits=splits, empty=tuple(empty))


def _empty(source: Path, present: set[str], level: int) -> Iterator[LeftOut]:
    """The class folders without samples."""
    if level == 0:
        return
    for path in sorted(source.glob("/".join("*" * level))):
        name = path.relative_to(source).as_posix()
        if name not in present and not any(part[0] == "." for part in name.split("/")) and path.is_dir():
            why = f"the class folder {name!r} of {source} has no samples"
            yield LeftOut(key=name, place=str(path), why=why, reason="empty_class")


def _compile(label_regex: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(label_regex)
    except re.error as error:
        raise ConfigError(f"label_regex={label_regex!r} is no regular expression: {error}") from error
    if not pattern.groups:
        raise ConfigError(f"label_regex={label_regex!r} has no group; put the class in brackets, as in r'^(\\d)_'")
    return pattern


def _match(pattern: re.Pattern[str], path: str) -> str:
    match = pattern.search(path.rpartition("/")[2])
    if match is None or match.group(1) is None:
        raise PackError(f"label_regex={pattern.pattern!r} does not match the file name of {path!r}")
    return match.group(1)
