"""The files below a folder that can be contents of samples, by the kind that their names say."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path

import numpy as np

from fastload.errors import PackError
from fastload.pack.files import modified, stat_files
from fastload.pack.table import Files, LeftOut, Table, one_or_all
from fastload.shards.index import Kind
from fastload.shards.members import AUDIO_EXTENSIONS, IMAGE_EXTENSIONS, KIND_OF_EXTENSION, file_extension, sample_key

# what is a sample on its own; the rest of KIND_OF_EXTENSION only belongs to one
KINDS: dict[str, Kind] = {
    **dict.fromkeys(IMAGE_EXTENSIONS, "image"),
    **dict.fromkeys(AUDIO_EXTENSIONS, "audio"),
    "txt": "text",
}
ALONE = ("image", "audio", "text")
_TYPES = {ending: (kind, file_extension(f"a.{ending}")) for ending, kind in {**KIND_OF_EXTENSION, **KINDS}.items()}


@dataclass(slots=True)
class Listing:
    """Files, in order of folder and name: paths below the source, file types, bytes, times in nanoseconds."""

    paths: list[str] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    mtimes: list[int] = field(default_factory=list)

    def measure(self, folder: int, prefix: str) -> None:
        """Look up the sizes and times of what was listed last, of one folder: a descriptor, and its path and slash.

        The size of a link is -1 if it leads nowhere, in a circle, or to where one may not look.
        """
        names = [path[len(prefix) :] for path in self.paths[len(self.sizes) :]]
        sizes, times = stat_files(folder, names)
        self.sizes += sizes.tolist()
        self.mtimes += times.tolist()
        for name in names[len(sizes) :]:
            try:
                about = os.stat(name, dir_fd=folder)
            except OSError as error:
                if not isinstance(error, FileNotFoundError) and not _is_link(name, folder):
                    raise
                self.sizes.append(-1)
                self.mtimes.append(0)
            else:
                self.sizes.append(about.st_size)
                self.mtimes.append(modified(about))

    def pick(self, rows: Sequence[int]) -> Listing:
        """Some of the files, in another order."""
        lists = (self.paths, self.types, self.sizes, self.mtimes)
        return Listing(*([values[row] for row in rows] for values in lists))  # type: ignore[arg-type]

    def column(self, source: Path) -> Files:
        """The files as a column."""
        return Files(
            root=str(source),
            paths=self.paths,
            sizes=np.array(self.sizes, np.int64),
            mtimes=np.array(self.mtimes, np.int64),
            types=one_or_all(self.types),
        )


@dataclass(slots=True)
class Found:
    """What is below a folder.

    Attributes:
        kinds: the files by kind.
        ignored: paths of files of no kind.
        irregular: what is named as a file, and is a pipe, a device or a socket.
    """

    kinds: dict[Kind, Listing] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    irregular: list[LeftOut] = field(default_factory=list)

    def others(self, kind: Kind) -> list[str]:
        """Paths of all files that are not of one kind."""
        return [*self.ignored, *(path for name, one in self.kinds.items() if name != kind for path in one.paths)]


def list_files(source: Path, faulty: bool = False) -> Found:
    """The files below a folder; hidden ones are left out, links are followed.

    Args:
        source: the folder.
        faulty: what is no regular file is no error.

    Raises:
        PackError: a folder that cannot be listed, a link to a folder that it is in, a name that is no regular file's.
    """
    everything = Found()
    found = everything.kinds
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
                plain, is_folder = _kind(entry)
                if is_folder:
                    below.append(_below(source, prefix, parents, entry))
                elif known is not None and (plain or entry.is_symlink()):
                    kind, file_type = known
                    if kind not in found:
                        found[kind] = Listing()
                    found[kind].paths.append(prefix + name)
                    found[kind].types.append(file_type)
                elif plain:
                    everything.ignored.append(prefix + name)
                elif known is not None:
                    if not faulty:
                        raise PackError(f"{source / prefix / name} is no regular file; remove or mend it")
                    key, why = sample_key(prefix + name), "is no regular file"
                    everything.irregular.append(LeftOut(key=key, place=prefix + name, why=why, reason="unreadable"))
            for listing in found.values():
                listing.measure(descriptor, prefix)
        except OSError as error:
            raise PackError(f"{source / prefix} cannot be listed: {error.strerror}") from error
        finally:
            os.close(descriptor)
        waiting += reversed(below)
    return everything


def refuse_faulty(table: Table) -> None:
    """Raise PackError for a table with files that are empty or not there."""
    for column in table.columns.values():
        if isinstance(column, Files):
            bad = np.flatnonzero(column.sizes <= 0)
            if len(bad):
                path = os.path.join(column.root, column.paths[bad[0]])
                more = f" and {len(bad) - 1:,} more" if len(bad) > 1 else ""
                broken = column.sizes[bad[0]] < 0
                what = f"{path} is a broken link" if broken else f"{path}{more}: the file is empty (0 bytes)"
                raise PackError(
                    f"{what}; remove it or copy it again, or leave such out with on_error='skip' (--on-error skip)"
                )


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


def _kind(entry: os.DirEntry[str]) -> tuple[bool, bool]:
    """Whether an entry is a regular file, and whether it is a folder; neither, where a link leads to nothing."""
    try:
        plain = entry.is_file()
        return plain, not plain and entry.is_dir()
    except OSError:  # a link in a circle, or to where one may not look
        if not entry.is_symlink():
            raise
        return False, False


def _is_link(name: str, folder: int) -> bool:
    return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)


def _below(source: Path, prefix: str, parents: tuple[str, ...], entry: os.DirEntry[str]) -> tuple[str, tuple[str, ...]]:
    path = source / prefix / entry.name
    real = os.path.realpath(path) if entry.is_symlink() else os.path.join(parents[-1], entry.name)
    if real in parents:
        raise PackError(f"{path} links to a folder that it is in; remove the link")
    return f"{prefix}{entry.name}/", (*parents, real)
