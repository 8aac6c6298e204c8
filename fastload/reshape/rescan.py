"""The `.idx` of a tar made again from the tar, as the packer made it: fields as index.json has them, facts anew."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import xxhash

from fastload.errors import CorruptError, DecodeError, FastloadError, ShardIndexError
from fastload.pack.checks import FACTS, inspector
from fastload.shards.idx import IdxColumns, idx_content
from fastload.shards.index import FieldInfo, ShardFile
from fastload.shards.members import (
    AUDIO_EXTENSIONS,
    IMAGE_EXTENSIONS,
    content_extension,
    field_of_extension,
    member_prefixes,
    split_member,
)
from fastload.shards.tarscan import read_tar, walk


@dataclass(slots=True)
class Found:
    """One sample in a tar: its key, first byte, first byte after it, and by extension where contents are."""

    key: str
    start: int
    stop: int = 0
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Walked:
    """The samples of a tar up to its end or its first fault, and what that is."""

    samples: list[Found]
    fault: str | None


def find_samples(data: mmap.mmap, name: str) -> Walked:
    """The whole samples of a tar that may be cut off or damaged; nothing after the first fault is looked at.

    The last sample before a fault counts only if it has every field that those before it have among them: what it
    lacks may have been behind the fault.
    """
    samples: list[Found] = []
    fault = None
    try:
        for member in walk(data, name):
            split = split_member(member.name)
            if split is None:
                continue
            if not samples or samples[-1].key != split[0]:
                samples.append(Found(key=split[0], start=member.header))
            samples[-1].spans[split[1]] = (member.content, member.size)
            samples[-1].stop = member.content + -(-member.size // 512) * 512
    except FastloadError as error:
        fault = error.message
    if fault is not None and samples:
        fields = [{field_of_extension(extension)[0] for extension in one.spans} for one in samples]
        if len(samples) == 1 or not set.union(*fields[:-1]) <= fields[-1]:
            samples.pop()
    for one, after in pairwise(samples):
        one.stop = after.start  # what is skipped between them belongs to the first
    return Walked(samples=samples, fault=fault)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescanned:
    """The index of a tar, made again.

    Attributes:
        content: of the `.idx`.
        shard: the tar, with the checksum of its `.idx`.
        fields: as the `.idx` has them.
        faults: contents that are not what their fields say.
    """

    content: bytes
    shard: ShardFile
    fields: dict[str, FieldInfo]
    faults: tuple[str, ...] = ()


def rescan(path: Path, shard: ShardFile, fields: Mapping[str, FieldInfo], expected: str | None) -> Rescanned:
    """Make the `.idx` of a whole tar that fastload packed.

    Args:
        path: of the tar.
        shard: the tar: samples, bytes, checksum.
        fields: of the data set.
        expected: checksum that the `.idx` had; decides whether it had facts.

    Raises:
        ShardIndexError: a member that is none of the fields.
        CorruptError: a number that is none, or another tar than `shard` says.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        walked = find_samples(data, path.name)
        if walked.fault is not None or len(walked.samples) != shard.samples:
            raise CorruptError(walked.fault or f"{len(walked.samples)} samples, not {shard.samples}", shard=path.name)
        with memoryview(data) as view:
            columns, faults = sample_columns(view, walked.samples, fields, path.name)
    with_facts, bare = (idx_content(some, shard, fields) for some in (columns, replace(columns, facts={})))
    content = bare if xxhash.xxh3_64_hexdigest(bare) == expected else with_facts
    return _rescanned(content, shard, dict(fields), faults)


def rescan_foreign(path: Path, name: str) -> Rescanned:
    """Make the `.idx` of a tar of others.

    Raises: as `scan_tar`.
    """
    shard, columns, fields = read_tar(path)
    return _rescanned(idx_content(columns, shard, fields), shard._replace(name=name), fields)


def _rescanned(content: bytes, shard: ShardFile, fields: dict[str, FieldInfo], faults: Sequence[str] = ()) -> Rescanned:
    about = shard._replace(index_xxh3=xxhash.xxh3_64_hexdigest(content))
    return Rescanned(content=content, shard=about, fields=fields, faults=tuple(faults))


def sample_columns(
    view: memoryview, samples: list[Found], fields: Mapping[str, FieldInfo], shard: str
) -> tuple[IdxColumns, list[str]]:
    """What the `.idx` says of some samples; and contents that are not what their fields say."""
    prefixes = member_prefixes(fields)
    known: dict[str, str] = {}
    spans = {n: np.zeros((2, len(samples)), np.int64) for n, info in fields.items() if info.kind != "scalar"}
    scalars = {
        n: np.zeros(len(samples), np.dtype(info.dtype or "int64")) for n, info in fields.items() if n not in spans
    }
    facts = {f"{n}.{what}": np.zeros(len(samples), np.int64) for n in spans for what in FACTS.get(fields[n].kind, ())}
    faults: list[str] = []
    for row, sample in enumerate(samples):
        for extension, (start, size) in sample.spans.items():
            if extension not in known:
                known[extension] = _field_of(extension, fields, prefixes, shard)
            name, content = known[extension], view[start : start + size]
            if name in scalars:
                scalars[name][row] = _number(content, shard, sample.key)
                continue
            spans[name][:, row] = start - sample.start, size
            try:
                found = inspector(fields[name].kind)(content)
            except DecodeError as error:
                faults.append(f"sample {sample.key!r}, field {name!r}: {error.message}")
            else:
                for what, value in zip(FACTS.get(fields[name].kind, ()), found, strict=True):
                    facts[f"{name}.{what}"][row] = value
            finally:
                content.release()
    starts = [sample.start for sample in samples]
    columns = IdxColumns(
        keys=[sample.key for sample in samples],
        offsets=starts,
        sizes=[sample.stop - sample.start for sample in samples],
        xxh3=[xxhash.xxh3_64_intdigest(view[sample.start : sample.stop]) for sample in samples],
        spans={name: (both[0], both[1]) for name, both in spans.items()},
        scalars=scalars,
        facts=facts,
    )
    return columns, faults


def _field_of(extension: str, fields: Mapping[str, FieldInfo], prefixes: Mapping[str, str], shard: str) -> str:
    """The field that members with this extension belong to."""
    front, dot, last = extension.rpartition(".")
    for name, info in fields.items():
        if info.extension == extension:
            return name
    for name, info in fields.items():
        if info.extension is None and prefixes[name] == front + dot and last in _endings(info, last):
            return name
    known = ", ".join(fields)
    raise ShardIndexError(f"members with the ending {extension!r} are none of the fields {known}", shard=shard)


def _endings(info: FieldInfo, last: str) -> Iterator[str]:
    """The endings that contents of a field may have."""
    match info.kind:
        case "image":
            yield from (*IMAGE_EXTENSIONS, "bin")
        case "audio":
            yield from (*AUDIO_EXTENSIONS, "bin")
        case "bytes":
            yield last
        case _:
            yield content_extension(info)


def _number(content: memoryview, shard: str, key: str) -> float | int:
    text = bytes(content[:64])
    try:
        return int(text) if text.strip().lstrip(b"+-").isdigit() else float(text)
    except ValueError:
        raise CorruptError(f"{text!r} is no number", shard=shard, key=key) from None
