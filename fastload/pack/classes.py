"""Where a file's class stands: in the folders that it is in, or in its name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastload.errors import ConfigError, PackError


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassNaming:
    """Where the class of a file stands.

    Attributes:
        level: the class is the path of the first so many folders: 1 "dog", 2 "dog/poodle"; 0: of all that the file is
            in. As it is the path, folders of the same name below others are classes of their own.
        regex: instead, the first group of a regular expression, searched in the file's name.

    Raises:
        ConfigError: a level below 0, both, a regular expression that is none or has no group.
    """

    level: int = 1
    regex: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.level, bool) or not isinstance(self.level, int) or self.level < 0:
            raise ConfigError(f"label_level={self.level!r}: pass 1 for the first folder, 2 for two, ...; 0 for all")
        if self.regex is not None:
            if self.level != 1:
                raise ConfigError("label_regex takes the class from the file's name: leave label_level out")
            _compile(self.regex)


def class_names(source: Path, paths: Sequence[str], naming: ClassNaming) -> list[str] | None:
    """The class of each file, [n]; None where all files are in no folder.

    Raises:
        PackError: files that are not as deep as others, a name that does not match, a class folder without samples.
    """
    if naming.regex is not None:
        pattern = _compile(naming.regex)
        return [_match(pattern, path) for path in paths]
    if not any("/" in path for path in paths):
        return None
    parents = [path.rpartition("/")[0] for path in paths]
    classes = {folder: "/".join(folder.split("/")[: naming.level or None]) for folder in set(parents)}
    shallow = {folder for folder in classes if not folder or folder.count("/") + 1 < naming.level}
    loose = [path for path, folder in zip(paths, parents, strict=True) if folder in shallow] if shallow else []
    if loose:
        where = "its class folders" if naming.level < 2 else f"the class folders of level {naming.level}"
        raise PackError(
            f"{source} has files beside {where} ({loose[0]!r} is one of {len(loose)});"
            " move them into a class folder, or pass label_regex"
        )
    _refuse_empty(source, set(classes.values()), naming.level)
    return [classes[folder] for folder in parents]


def _refuse_empty(source: Path, present: set[str], level: int) -> None:
    if level == 0:
        return
    for path in sorted(source.glob("/".join("*" * level))):
        name = path.relative_to(source).as_posix()
        if name not in present and not any(part[0] == "." for part in name.split("/")) and path.is_dir():
            raise PackError(f"the class folder {name!r} of {source} has no samples; fill it or remove it")


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
