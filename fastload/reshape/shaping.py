"""Samples written as the shards of a new data set: cut where they were, or at a size; an interrupted run goes on.

parts of each split --> records --> shards, one after the other, each recorded in the journal --> index.json
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

from fastload.errors import CorruptError, FastloadError, PackError
from fastload.pack.journal import Finished, Journal, unwritable
from fastload.pack.plan import SHARD_NAMES
from fastload.reshape.records import Record
from fastload.shards.files import fsync_directory
from fastload.shards.idx import Idx, idx_path
from fastload.shards.index import FieldInfo, ShardFile, ShardFormat, merge_fields
from fastload.shards.members import content_extension, member_prefixes, scalar_bytes, split_member
from fastload.shards.parquet import ParquetShardWriter
from fastload.shards.parquetscan import hash_file
from fastload.shards.tar import TarShardWriter
from fastload.shards.ustar import BLOCK, END_MARKER, fits, long_header

OnShard = Callable[[int, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Samples that belong together, such as those of one shard of a source.

    Attributes:
        name: what errors call it.
        samples: how many.
        read: gives them from a row on; a run that goes on begins in the middle.
    """

    name: str
    samples: int
    read: Callable[[int], Iterator[Record]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What shards are to look like.

    Attributes:
        shard_format: "tar" or "parquet".
        fields: of all samples.
        shard_bytes: most bytes of a shard; None: one shard for each part.
        infer: find out the extensions of members that `fields` does not say.
        facts: "<field>.<what>", of all samples that have the field.
        types: fields of bytes whose file types Parquet has to keep.
    """

    shard_format: ShardFormat
    fields: dict[str, FieldInfo]
    shard_bytes: int | None = None
    infer: bool = True
    facts: tuple[str, ...] = ()
    types: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shaped:
    """What was written: as `IndexFile` has it."""

    files: tuple[ShardFile, ...]
    splits: dict[str, tuple[int, int]]
    fields: dict[str, FieldInfo]


def write_shaped(
    out: Path, journal: Journal, splits: Mapping[str, Sequence[Part]], shape: Shape, progress: OnShard | None = None
) -> Shaped:
    """Write the shards that the journal does not have; the same parts and shape give the same bytes.

    Args:
        out: the folder.
        journal: of this run.
        splits: name -> its samples.
        shape: of the shards.
        progress: called with parts done, parts in all, and bytes written.

    Raises:
        PackError: a sample that does not fit the fields or the format, or a folder that cannot be written.
        CorruptError: a part that has fewer samples than it says, or whatever its `read` raises.
    """
    try:
        return _write_shaped(out, journal, splits, shape, progress)
    except FastloadError:
        raise
    except OSError as error:
        raise unwritable(error, out, f"{len(journal.finished)} shards are finished and kept") from error


def _write_shaped(
    out: Path, journal: Journal, splits: Mapping[str, Sequence[Part]], shape: Shape, progress: OnShard | None
) -> Shaped:
    journal.remove_leftovers()
    total, before = sum(len(parts) for parts in splits.values()), 0
    files: list[ShardFile] = []
    spans = {}
    for split, parts in splits.items():
        first, done = len(files), 0
        stream = None
        while (rest := _remaining(parts, done)) is not None:
            name = f"{split}/{SHARD_NAMES[shape.shard_format].format(len(files) - first)}"
            file = _finished(out, journal, name)
            if file is None:
                stream = stream or _Stream(parts, done)
                file = _write(out, journal, name, stream, rest, shape)
            else:
                stream = None  # it would begin before this shard
            files.append(file)
            done += file.samples
            if progress is not None:
                progress(before + _parts_within(parts, done), total, sum(f.bytes for f in files))
        before += len(parts)
        spans[split] = (first, len(files))
    return Shaped(files=tuple(files), splits=spans, fields=_written_fields(out, files, shape))


def _remaining(parts: Sequence[Part], done: int) -> int | None:
    """Samples of the part that is next, None after the last."""
    for part in parts:
        if done < part.samples:
            return part.samples - done
        done -= part.samples
    return None


def _parts_within(parts: Sequence[Part], done: int) -> int:
    whole = 0
    for part in parts:
        done -= part.samples
        whole += done >= 0
    return whole


def _finished(out: Path, journal: Journal, name: str) -> ShardFile | None:
    """A shard that an earlier run finished and that is still what it was."""
    known = journal.finished.get(name)
    if known is None:
        return None
    wanted = [(out / name, known.file.xxh3)]
    if known.file.index_xxh3 is not None:
        wanted.append((Path(idx_path(str(out / name))), known.file.index_xxh3))
    if all(path.is_file() and hash_file(path) == digest for path, digest in wanted):
        return known.file
    journal.forget(name)
    return None


class _Stream:
    """The samples of parts, one after the other, from one on; taken shard by shard."""

    def __init__(self, parts: Sequence[Part], start: int) -> None:
        self._records = _from(parts, start)
        self._next: Record | None = None

    def take(self, shape: Shape, rest: int) -> Iterator[Record]:
        """Those of one shard: as long as they fit, at least one; or the `rest` of a part."""
        if shape.shard_bytes is None:
            yield from islice(self._records, rest)
            return
        tar, prefixes = shape.shard_format == "tar", member_prefixes(shape.fields)
        size = 0
        for record in self._records if self._next is None else chain([self._next], self._records):
            self._next = None
            more = _bytes_in_tar(record, shape.fields, prefixes) if tar else _bytes(record)
            if size and size + more + len(END_MARKER) * tar > shape.shard_bytes:
                self._next = record
                return
            size += max(more, 1)
            yield record


def _write(out: Path, journal: Journal, name: str, stream: _Stream, rest: int, shape: Shape) -> ShardFile:
    path = out / name
    if not path.parent.exists():
        path.parent.mkdir(parents=True)
        fsync_directory(out)
    file = _write_one(path, stream.take(shape, rest), shape)._replace(name=name)
    journal.record(name, Finished(digest="", file=file))
    return file


def _from(parts: Sequence[Part], start: int) -> Iterator[Record]:
    """All samples from one on.

    Raises: CorruptError for a part that does not have as many as it says.
    """
    for part in parts:
        if start < part.samples:
            count = start
            for record in part.read(start):
                count += 1
                yield record
            if count != part.samples:
                said = f"{part.name} has {count} samples, and its index says {part.samples}"
                raise CorruptError(f"{said}; see `fastload verify`")
        start = max(start - part.samples, 0)


def _bytes(record: Record) -> int:
    return sum(len(content) for _, content in record.contents.values())


def _bytes_in_tar(record: Record, fields: Mapping[str, FieldInfo], prefixes: Mapping[str, str]) -> int:
    """Headers, contents and padding of one sample."""
    members = chain(
        ((name, kind, len(content)) for name, (kind, content) in record.contents.items()),
        ((name, "", len(scalar_bytes(value))) for name, value in record.scalars.items()),
    )
    total = 0
    for name, kind, size in members:
        member = f"{record.key}.{prefixes[name]}{content_extension(fields[name], kind)}".encode()
        total += (BLOCK if fits(member) else len(long_header(member, size))) - (-size // BLOCK) * BLOCK
    return total


def _write_one(path: Path, records: Iterator[Record], shape: Shape) -> ShardFile:
    writer: TarShardWriter | ParquetShardWriter
    if shape.shard_format == "tar":
        writer = TarShardWriter(path, shape.fields, infer=shape.infer)
    else:
        writer = ParquetShardWriter(path, shape.fields, types=shape.types, facts=shape.facts)
    try:
        for record in records:
            if shape.shard_format == "tar":
                # the index of a tar has a fact for every sample: 0 where it lacks the field
                facts = {name: record.facts.get(name, 0) for name in shape.facts}
                writer.add(tar_key(record.key), record.contents, record.scalars, facts)
            else:
                writer.add(record.key, record.contents, record.scalars, record.facts)
        return writer.finish()
    except BaseException:
        writer.abort()
        raise


def tar_key(key: str) -> str:
    """The key as members of a tar can have it: no dot in its last part, and no first folder like "__x__".

    Raises: PackError for a key that nothing can be made of.
    """
    folder, slash, base = key.rpartition("/")
    name = folder + slash + base.replace(".", "_")
    for choice in (name, name[1:]):
        if "\0" not in name and split_member(f"{choice}.x") == (choice, "x"):
            return choice
    raise PackError(f"the key {key!r} cannot name files in a tar; write Parquet, or rename the sample", key=key)


def _written_fields(out: Path, files: Sequence[ShardFile], shape: Shape) -> dict[str, FieldInfo]:
    """The fields as the shards have them: in tars with the extensions that all members share."""
    if shape.shard_format == "parquet":
        return {name: replace(info, extension=None) for name, info in shape.fields.items()}
    if not shape.infer:
        return shape.fields
    return merge_fields("tar", ((file.name, Idx(idx_path(str(out / file.name))).fields) for file in files))
