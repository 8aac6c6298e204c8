"""`repair`: a damaged packed folder made whole again, as far as its files allow; what is whole is never touched.

OUT/.fastload-repair/001/    of one repair; hidden, so that readers pass it over
    originals/               every file that was changed or dropped, as it was
    report.json              what was done and lost; written last

A file is written under a temporary name, the original is put away, and the new one gets its name; index.json comes
last. Without report.json a repair was interrupted: the next one puts the originals back first, and begins anew.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from fastload.errors import ShardIndexError
from fastload.pack.locking import held
from fastload.reshape.salvage import NEW_SUFFIX, Salvage, Wanted, salvage
from fastload.reshape.trust import agreed_fields
from fastload.reshape.unite import class_statistics
from fastload.shards.files import PARTIAL_SUFFIX, fsync_directory, write_atomic
from fastload.shards.foreign import (
    names_below,
    one_format,
    refuse_unfinished,
    refuse_url,
    shards_among,
    splits_among,
)
from fastload.shards.idx import idx_path
from fastload.shards.index import INDEX_NAME, IndexFile, ShardFile, merge_fields

REPAIR_NAME, ORIGINALS_NAME, REPORT_NAME = ".fastload-repair", "originals", "report.json"
OnShard = Callable[[int, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mended:
    """One thing that was repaired, or would be.

    Attributes:
        name: of the file.
        what: what was wrong, and what became of it.
        lost: keys of samples that are gone, as far as they are known.
        lost_samples: how many.
    """

    name: str
    what: str
    lost: tuple[str, ...] = ()
    lost_samples: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """What `repair` did, or would do.

    Attributes:
        mended: what was repaired.
        left: what is wrong still, as "file: what".
        samples: in the folder now.
        backup: folder with the originals and report.json; None if nothing was changed.
    """

    mended: tuple[Mended, ...]
    left: tuple[str, ...]
    samples: int
    backup: Path | None

    @property
    def lost_samples(self) -> int:
        return sum(one.lost_samples for one in self.mended)


def repair(
    out: str | os.PathLike[str],
    *,
    drop_damaged: bool = False,
    dry_run: bool = False,
    progress: OnShard | None = None,
) -> Repair:
    """Repair a packed folder: index.json and `.idx` made again, tars that were cut off cut to whole samples.

    What is whole is not touched, and whatever is changed is kept beside it (`Repair.backup`). Samples go only where
    their bytes are not there any more, or where `drop_damaged` says so.

    Args:
        out: the folder.
        drop_damaged: samples whose bytes are not those that were packed go, and so do shards that are missing or that
            nothing can be read of. Of Parquet, whole row groups go.
        dry_run: say what would be done, and do nothing.
        progress: called with shards looked at, shards in all, and bytes of these.

    Raises:
        ConfigError: a URL.
        ShardIndexError: no folder, no shards, or a packing run that was not finished: run `fastload pack` again.
        PackError: another process repairs the folder, or appends to it.
        OSError: files cannot be read or written.
    """
    refuse_url(out, "files behind URLs are never changed; repair the folder that was uploaded, and upload it again")
    root = Path(os.path.abspath(out))
    if not root.is_dir():
        raise ShardIndexError(f"{root} is no folder; pass the one that was packed")
    refuse_unfinished(root)
    if dry_run:
        return _repair(root, None, drop_damaged, progress)
    with held(root, "appending to or repairing"):
        (root / REPAIR_NAME).mkdir(exist_ok=True)
        try:
            _put_back(root)
            return _repair(root, _next_folder(root), drop_damaged, progress)
        except BaseException:
            _put_back(root)
            raise
        finally:
            if not os.listdir(root / REPAIR_NAME):
                (root / REPAIR_NAME).rmdir()


def _next_folder(root: Path) -> Path:
    numbers = [int(path.name) for path in (root / REPAIR_NAME).iterdir() if path.name.isdigit()]
    return root / REPAIR_NAME / f"{max(numbers, default=0) + 1:03d}"


def _put_back(root: Path) -> None:
    """Undo a repair that was interrupted: originals get their names back, what was written and not used goes."""
    for folder in sorted(path for path in (root / REPAIR_NAME).iterdir() if path.name.isdigit()):
        originals = folder / ORIGINALS_NAME
        if (folder / REPORT_NAME).exists():
            continue
        for path in sorted(originals.rglob("*")):
            if path.is_file():
                os.replace(path, root / path.relative_to(originals))
        shutil.rmtree(folder)
    for name in names_below(root):
        if NEW_SUFFIX in name:
            (root / name).unlink()


def _repair(root: Path, backup: Path | None, drop: bool, progress: OnShard | None) -> Repair:
    """Repair, or with `backup` None rehearse it."""
    before = _index_before(root)
    present = shards_among(names_below(root))
    partial = [name for name in names_below(root) if name.endswith(PARTIAL_SUFFIX)]
    unfinished = sorted(name for name in partial if NEW_SUFFIX not in name)
    abouts = dict.fromkeys(present) if before is None else {file.name: file for file in before.shards}
    if not abouts:
        raise ShardIndexError(f"{root} has no {INDEX_NAME} and no shards; there is nothing to repair")
    found = _salvaged(root, before, abouts, drop, backup is None, progress)
    after = _index_after(root, before, found)
    mended = [
        *(Mended(name=name, what="left by a run that was not finished: removed") for name in unfinished),
        *(Mended(name=s.name, what=s.what, lost=s.lost, lost_samples=s.lost_samples) for s in found if s.what),
    ]
    if before is None or after != before:
        mended.append(Mended(name=INDEX_NAME, what="is made again" if before is None else "says what is there now"))
    left = [f"{one.name}: {what}" for one in found for what in one.left]
    if before is not None:
        left += [
            f"{name}: is not in {INDEX_NAME}; delete it, or run `fastload index`"
            for name in present
            if name not in abouts
        ]
    if backup is not None and mended:
        after = replace(after, statistics=_statistics(root, before, after, found))
        _apply(root, backup, found, unfinished)
        if before is None or after != before:
            _save_index(root, backup, after)
        write_atomic(backup / REPORT_NAME, _report(mended, left))
    return Repair(
        mended=tuple(mended),
        left=tuple(left),
        samples=sum(file.samples for file in after.shards),
        backup=backup if mended else None,
    )


def _index_before(root: Path) -> IndexFile | None:
    """index.json, None where it is missing or damaged."""
    try:
        return IndexFile.load(root / INDEX_NAME)
    except ShardIndexError as error:
        if "newer" in error.message:
            raise
        return None


def _salvaged(
    root: Path,
    before: IndexFile | None,
    abouts: dict[str, ShardFile] | dict[str, None],
    drop: bool,
    rehearse: bool,
    progress: OnShard | None,
) -> list[Salvage]:
    """What becomes of each shard; new files are written beside them, unless it is a rehearsal."""
    own = before is None or before.packed.get("by") != "fastload index"
    fields = before.fields if before is not None else agreed_fields(root, abouts)
    by_content = {} if before is None else {file.xxh3: file.name for file in before.shards if file.xxh3 is not None}

    def look(name: str, about: ShardFile | None) -> Salvage:
        wanted = Wanted(
            about=about,
            fields=fields,
            own=own,
            drop=drop,
            rehearse=rehearse,
            others={digest: other for digest, other in by_content.items() if other != name},
        )
        return salvage(root, name, wanted)

    found: list[Salvage] = []
    size = 0
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for done, one in enumerate(pool.map(look, abouts, abouts.values()), 1):
            found.append(one)
            size += one.file.bytes if one.file is not None else 0
            if progress is not None:
                progress(done, len(abouts), size)
    return found


def _index_after(root: Path, before: IndexFile | None, found: Sequence[Salvage]) -> IndexFile:
    """What index.json is to say; statistics come when the shards are in place."""
    kept = {one.name: one.file for one in found if one.file is not None}
    if not kept:
        raise ShardIndexError("nothing is left of any shard; restore them from where they came, or pack again")
    if before is None:
        described = [(one.name, one.fields) for one in found if one.name in kept and one.fields is not None]
        shard_format = one_format(list(kept))
        splits = splits_among(list(kept), root)
        return IndexFile(
            shard_format=shard_format,
            fields=merge_fields(shard_format, described) if described else {},
            shards=tuple(kept[name] for names in splits.values() for name in names),
            splits=_spans(splits.values(), splits),
            packed={"by": "fastload repair"},
        )
    parts = [[s.name in kept for s in before.shards[a:b]].count(True) for a, b in before.splits.values()]
    starts = [0, *accumulate(parts)]
    spans = {split: span for split, span in zip(before.splits, pairwise(starts), strict=True) if span[0] < span[1]}
    lost = sum(one.lost_samples for one in found)
    packed = before.packed
    if lost:
        packed = {**packed, "samples_lost": packed.get("samples_lost", 0) + lost}
    return replace(before, shards=tuple(kept.values()), splits=spans, packed=packed)


def _spans(parts: Iterable[Sequence[str]], names: Iterable[str]) -> dict[str, tuple[int, int]]:
    return dict(zip(names, pairwise([0, *accumulate(map(len, parts))]), strict=True))


def _statistics(root: Path, before: IndexFile | None, after: IndexFile, found: Sequence[Salvage]) -> dict[str, Any]:
    """What was counted; after a loss only the classes, counted anew in the files as they are to be."""
    if before is not None and not any(one.lost_samples for one in found):
        return before.statistics
    written = {str(root / name) for one in found for name in one.write}
    indexes = {}
    for split in after.splits:
        index = after.split(split, str(root))
        paths, idx_paths = (
            tuple(path + NEW_SUFFIX if path in written else path for path in some)
            for some in (index.paths, index.idx_paths)
        )
        indexes[split] = replace(index, paths=paths, idx_paths=idx_paths)
    classes = class_statistics(indexes)
    return {"classes": classes} if classes else {}


def _apply(root: Path, backup: Path, found: Sequence[Salvage], unfinished: Sequence[str]) -> None:
    """Put originals away, and give the new files their names."""
    originals = backup / ORIGINALS_NAME
    originals.mkdir(parents=True)
    for name in unfinished:
        _keep(root, originals, name, move=True)
    for one in found:
        if one.file is None and one.what:  # what cannot be read and is not to be dropped stays
            for name in (one.name, idx_path(one.name)):
                if (root / name).exists():
                    _keep(root, originals, name, move=True)
        for name in reversed(one.write):  # the `.idx` before its tar
            if (root / name).exists():
                _keep(root, originals, name, move=False)
            new = root / (name + NEW_SUFFIX)
            with open(new, "rb") as file:
                os.fsync(file.fileno())
            os.replace(new, root / name)
            fsync_directory((root / name).parent)


def _keep(root: Path, originals: Path, name: str, *, move: bool) -> None:
    """Put a file away; without `move` its name stays until another takes it."""
    place = originals / name
    place.parent.mkdir(parents=True, exist_ok=True)
    if move:
        os.replace(root / name, place)
    else:
        os.link(root / name, place)
    for folder in place.relative_to(root).parents:  # each may be new, and is in the one above it
        fsync_directory(root / folder)


def _save_index(root: Path, backup: Path, index: IndexFile) -> None:
    if (root / INDEX_NAME).exists():
        _keep(root, backup / ORIGINALS_NAME, INDEX_NAME, move=False)
    index.save(root)


def _report(mended: Sequence[Mended], left: Sequence[str]) -> bytes:
    done = [
        {"name": one.name, "what": one.what, "lost_samples": one.lost_samples, "lost": list(one.lost)} for one in mended
    ]
    return (json.dumps({"mended": done, "left": list(left)}, indent=1, ensure_ascii=False) + "\n").encode()
