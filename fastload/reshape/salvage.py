"""What can be kept of one shard: looked at, and written anew beside it under a temporary name.

whole                        nothing to do
tar whole, .idx not          the .idx is made again (trust.py says which .idx is believed)
.idx whole, tar not          samples that are cut off go, damaged ones if asked, the end marker is put back
neither                      samples up to the first fault that the tar shows; an index as for a tar of others
Parquet with bad pages       row groups without a fault, if asked
missing, Parquet cut off     nothing: the shard goes, if asked
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from fastload.errors import CorruptError, FastloadError, ShardIndexError
from fastload.reshape.records import read_records, typed_fields
from fastload.reshape.rescan import Rescanned, Walked, find_samples, rescan, rescan_foreign
from fastload.reshape.trust import believed_idx
from fastload.shards.files import PARTIAL_SUFFIX, write_atomic
from fastload.shards.idx import Idx, IdxColumns, idx_path, write_idx
from fastload.shards.index import FieldInfo, Index, ShardFile
from fastload.shards.parquet import ParquetShardWriter
from fastload.shards.parquetscan import fact_names, hash_file, open_parquet, read_through, scan_parquet
from fastload.shards.ustar import END_MARKER
from fastload.source import map_file

Bools = npt.NDArray[np.bool_]
NEW_SUFFIX = ".repaired" + PARTIAL_SUFFIX


@dataclass(frozen=True, slots=True, kw_only=True)
class Salvage:
    """What one shard becomes.

    Attributes:
        name: of the shard.
        file: as index.json is to have it; None: it is to be dropped.
        fields: what its own index says of them; None where that is not known.
        what: what is done; empty if nothing is.
        lost: keys of samples that go; those that are not known are counted only.
        lost_samples: how many go.
        left: what is wrong and stays so.
        write: files to be written anew, by path; `salvage` wrote them with NEW_SUFFIX unless it was a rehearsal.
    """

    name: str
    file: ShardFile | None
    fields: dict[str, FieldInfo] | None = None
    what: str = ""
    lost: tuple[str, ...] = ()
    lost_samples: int = 0
    left: tuple[str, ...] = ()
    write: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is known of a shard, and what may be done.

    Attributes:
        about: what index.json says; None where there is none.
        fields: of the data set; None where they are not known.
        own: fastload packed it.
        drop: samples that are damaged go.
        rehearse: nothing is written.
        others: the other shards by their checksums: files that were swapped are not to be dropped.
    """

    about: ShardFile | None
    fields: dict[str, FieldInfo] | None
    own: bool
    drop: bool
    rehearse: bool
    others: Mapping[str, str] = field(default_factory=dict)


def salvage(root: Path, name: str, wanted: Wanted) -> Salvage:
    """Look at one shard, and write what it is to become.

    Raises: OSError where files cannot be read or written.
    """
    if not (root / name).is_file():
        return _gone(name, wanted, "is missing")
    try:
        return _looked_at(root, name, wanted)
    except OSError as error:
        error.filename = error.filename or str(root / name)  # a disk that is full does not say of which file
        raise


def _looked_at(root: Path, name: str, wanted: Wanted) -> Salvage:
    digest = hash_file(root / name) if wanted.others else None
    own = wanted.about is not None and wanted.about.xxh3 == digest  # another may be a copy of it
    other = wanted.others.get(digest) if digest is not None and not own else None
    if other is not None:
        swapped = f"holds the bytes of {other}: give the files their names back"
        return Salvage(name=name, file=wanted.about, left=(swapped,))
    return _parquet(root, name, wanted) if name.endswith(".parquet") else _tar(root, name, wanted)


def _gone(name: str, wanted: Wanted, why: str) -> Salvage:
    if wanted.about is None or not wanted.drop:
        return Salvage(name=name, file=wanted.about, left=(why,))
    return Salvage(name=name, file=None, what=f"{why}: dropped", lost_samples=wanted.about.samples)


def _tar(root: Path, name: str, wanted: Wanted) -> Salvage:
    path, about = root / name, wanted.about
    found = ShardFile(name=name, samples=0, bytes=path.stat().st_size, xxh3=hash_file(path))
    if found.bytes == 0:
        return _gone(name, wanted, "is empty")
    idx = believed_idx(root / idx_path(name), path, about, found, wanted.fields)
    same = about is not None and (found.bytes, found.xxh3) == (about.bytes, about.xxh3)
    if idx is not None and idx.tar_xxh3 == found.xxh3 and _whole(path, idx).all():
        known = about if same and about is not None else _described(name, idx)
        file = known._replace(index_xxh3=hash_file(Path(idx.path)))
        return Salvage(name=name, file=file, fields=idx.fields, what="" if about in (file, None) else "is whole")
    return _by_itself(root, name, wanted, found) if idx is None else _by_idx(root, name, wanted, idx)


def _described(name: str, idx: Idx) -> ShardFile:
    return ShardFile(name=name, samples=idx.samples, bytes=idx.tar_bytes, xxh3=idx.tar_xxh3)


def _by_idx(root: Path, name: str, wanted: Wanted, idx: Idx) -> Salvage:
    """A tar that is not what its `.idx` says, sample by sample."""
    path = root / name
    view = map_file(str(path), path.stat().st_size)
    stops = idx.offsets + idx.sizes
    there, whole = stops <= len(view), _whole(path, idx)
    if not whole.any():
        return _gone(name, wanted, "none of its samples is what its index says")
    kept = whole if wanted.drop else there
    damaged = tuple(_key_text(idx, row) for row in np.flatnonzero(there & ~whole).tolist())
    lost = np.flatnonzero(~kept)
    counts = {"cut off": int((~there).sum()), "damaged": len(damaged)}
    parts = " and ".join(f"{count:,} samples {text}" for text, count in counts.items() if count)
    what = f"{parts or 'its end differs'}, of {idx.samples:,}: written anew with {int(kept.sum()):,}"
    left = () if wanted.drop else damaged
    if left and there.all() and _ends_well(view, int(stops[-1])):
        return Salvage(name=name, file=wanted.about or _described(name, idx), fields=idx.fields, left=left)
    file = (wanted.about or _described(name, idx))._replace(samples=int(kept.sum()))
    if not wanted.rehearse:
        file = _cut(path, view, idx, kept)
    return Salvage(
        name=name,
        file=file._replace(name=name),
        fields=idx.fields,
        what=what,
        lost=tuple(idx.keys(lost)),
        lost_samples=len(lost),
        left=left,
        write=(name, idx_path(name)),
    )


def _whole(path: Path, idx: Idx) -> Bools:
    """Which samples are what the `.idx` says, bool [n]."""
    view = map_file(str(path), path.stat().st_size)
    rows = zip(idx.offsets.tolist(), (idx.offsets + idx.sizes).tolist(), idx.xxh3.tolist(), strict=True)
    taken = xxhash.xxh3_64_intdigest
    fits = (stop <= len(view) and taken(view[start:stop]) == digest for start, stop, digest in rows)
    return np.fromiter(fits, np.bool_, idx.samples)


def _key_text(idx: Idx, row: int) -> str:
    return f"offset {int(idx.offsets[row])}, sample {idx.key(row)!r}: its bytes are not those that were packed"


def _ends_well(view: memoryview, end: int) -> bool:
    return bytes(view[end : end + len(END_MARKER)]) == END_MARKER and len(view) >= end + len(END_MARKER)


def _cut(path: Path, view: memoryview, idx: Idx, kept: Bools) -> ShardFile:
    """Write the tar with some of its samples, and its `.idx`."""
    rows = np.flatnonzero(kept)
    first = int(idx.offsets[0])
    pieces = [(0, first)] + [(int(idx.offsets[row]), int(idx.offsets[row] + idx.sizes[row])) for row in rows]
    sizes = np.asarray(idx.sizes, np.int64)[rows]
    offsets = first + np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)[:-1]])
    shard = _write_tar(path, (view[a:b] for a, b in pieces), len(rows))
    names = [name for name in idx.fields if f"{name}.offset" in idx]
    columns = IdxColumns(
        keys=idx.keys(rows),
        offsets=offsets,
        sizes=sizes,
        xxh3=idx.xxh3[rows],
        spans={n: (idx.column(f"{n}.offset")[rows], idx.column(f"{n}.length")[rows]) for n in names},
        scalars={n: idx.column(n)[rows] for n in idx.numbers if n in idx.fields},
        facts={n: idx.column(n)[rows] for n in idx.numbers if n not in idx.fields},
    )
    digest = write_idx(_new(Path(idx_path(str(path)))), columns, shard, idx.fields)
    return shard._replace(index_xxh3=digest)


def _write_tar(path: Path, pieces: Iterator[memoryview], samples: int) -> ShardFile:
    state, size = xxhash.xxh3_64(), 0
    with open(_new(path), "wb") as file:
        for piece in (*pieces, memoryview(END_MARKER)):
            file.write(piece)
            state.update(piece)
            size += len(piece)
    return ShardFile(name=path.name, samples=samples, bytes=size, xxh3=state.hexdigest())


def _new(path: Path) -> Path:
    return path.with_name(path.name + NEW_SUFFIX)


def _by_itself(root: Path, name: str, wanted: Wanted, found: ShardFile) -> Salvage:
    """A tar without an `.idx` that can be trusted."""
    path = root / name
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            walked = find_samples(data, name)
        except FastloadError as error:
            return _gone(name, wanted, error.message)
        if not walked.samples:
            return _gone(name, wanted, walked.fault or "has no sample")
        shard = found._replace(samples=len(walked.samples))
        torn = walked.fault is not None
        if torn and not wanted.rehearse:
            with memoryview(data) as view:
                stop = walked.samples[-1].stop
                padding = memoryview(bytes(max(0, stop - len(view))))  # after its last content
                shard = _write_tar(path, iter([view[:stop], padding]), shard.samples)
    return _indexed(root, name, wanted, walked, shard._replace(name=name))


def _indexed(root: Path, name: str, wanted: Wanted, walked: Walked, shard: ShardFile) -> Salvage:
    """The `.idx` of a tar that was found to be whole, or was cut."""
    torn, idx = walked.fault is not None, root / idx_path(name)
    lost = max(0, wanted.about.samples - shard.samples) if wanted.about is not None else 0
    what = f"{walked.fault}: cut after {shard.samples:,} samples, its " if torn else "its "
    what += "index is made again"
    if torn and wanted.rehearse:
        return Salvage(name=name, file=shard, fields=wanted.fields, what=what, lost_samples=lost)
    try:
        made = _rescanned(_new(root / name) if torn else root / name, shard, wanted, torn)
    except FastloadError as error:
        _new(root / name).unlink(missing_ok=True)
        return _gone(name, wanted, str(error))
    there = idx.is_file() and hash_file(idx) == made.shard.index_xxh3
    if there and not torn:  # the checksum in index.json is what was damaged
        what = "" if wanted.about in (made.shard, None) else "is whole"
        return Salvage(name=name, file=made.shard, fields=made.fields, what=what, left=made.faults)
    if not wanted.rehearse:
        write_atomic(_new(idx), made.content)
    return Salvage(
        name=name,
        file=made.shard,
        fields=made.fields,
        what=what,
        lost_samples=lost,
        left=made.faults,
        write=(name, idx_path(name)) if torn else (idx_path(name),),
    )


def _rescanned(tar: Path, shard: ShardFile, wanted: Wanted, torn: bool) -> Rescanned:
    """The index of a whole tar; without index.json, that of one of others where the fields do not fit it."""
    expected = wanted.about.index_xxh3 if wanted.about is not None and not torn else None
    if wanted.own and wanted.fields is not None:
        try:
            return rescan(tar, shard, wanted.fields, expected)
        except ShardIndexError:
            if wanted.about is not None:
                raise
    return rescan_foreign(tar, shard.name)


def _parquet(root: Path, name: str, wanted: Wanted) -> Salvage:
    path, about = root / name, wanted.about
    try:
        scanned, fields = scan_parquet(path, checksum=True)
    except CorruptError as error:
        return _gone(name, wanted, error.message)
    file = scanned._replace(name=name)
    bad = _bad_groups(path)
    if not bad:
        same = about is not None and file._replace(xxh3=about.xxh3) == about
        if about is None or (same and about.xxh3 in (None, file.xxh3)):
            return Salvage(name=name, file=about or file, fields=fields)
        return Salvage(
            name=name, file=about, fields=fields, left=("all its pages are whole; its footer or a page header differs",)
        )
    groups = tuple(f"row group {group}: {why}" for group, why in bad.items())
    if not wanted.drop:
        return Salvage(name=name, file=about or file, fields=fields, left=groups)
    kept = sum(rows for group, rows in enumerate(file.row_groups) if group not in bad)
    lost = file.samples - kept
    if kept == 0:
        return _gone(name, replace(wanted, about=about or file), "no row group can be read")
    file = file._replace(samples=kept)
    if not wanted.rehearse:
        file = _rewrite(path, scanned, fields, set(bad))._replace(name=name)
    what = f"{len(bad):,} of {len(scanned.row_groups):,} row groups damaged: written anew with {kept:,} samples"
    return Salvage(name=name, file=file, fields=fields, what=what, lost_samples=lost, write=(name,))


def _bad_groups(path: Path) -> dict[int, str]:
    """Row groups that cannot be read, or whose pages have another checksum, and why."""
    parquet = open_parquet(path, verify_pages=True)
    bad = {}
    for group in range(parquet.metadata.num_row_groups):
        try:
            read_through(parquet, group)
        except (pa.ArrowException, OSError) as error:
            bad[group] = str(error)
    return bad


def _rewrite(path: Path, file: ShardFile, fields: Mapping[str, FieldInfo], bad: set[int]) -> ShardFile:
    """A Parquet file with its row groups that are whole."""
    parquet = open_parquet(path)
    writer = ParquetShardWriter(_new(path), fields, types=typed_fields(parquet), facts=fact_names(parquet))
    about = file._replace(bytes=path.stat().st_size)
    index = Index(shard_format="parquet", fields=dict(fields), files=(about,), paths=(str(path),))
    start = 0
    try:
        for group, rows in enumerate(file.row_groups):
            if group not in bad:
                for _, record in zip(range(rows), read_records(index, 0, start), strict=False):
                    writer.add(record.key, record.contents, record.scalars, record.facts)
            start += rows
        return writer.finish()
    except BaseException:
        writer.abort()
        raise
