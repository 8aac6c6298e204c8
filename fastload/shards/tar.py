"""Tar shards: written so that any tool reads them and the same samples give the same bytes; foreign ones scanned once.

    add -> a run of samples is laid out in a buffer -> hashed, written -> ... -> end marker, sync -> .idx -> final name

`TarRun` is the arithmetic of that layout: all headers of a run at once, contents copied or read straight into place.
`TarShardWriter` streams runs into one file; the packer also writes the runs of one shard from several processes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from fastload.errors import PackError
from fastload.shards.files import PARTIAL_SUFFIX, publish
from fastload.shards.idx import IdxColumns, idx_path, write_idx
from fastload.shards.index import FieldInfo, ShardFile
from fastload.shards.members import content_extension, member_prefixes, scalar_bytes
from fastload.shards.tarscan import scan_tar
from fastload.shards.ustar import BLOCK, END_MARKER, NAME_BYTES, SIZE_LIMIT, fits, headers, long_header, padded

__all__ = ["TarRun", "TarShardWriter", "join_columns", "layout", "publish_tar", "scan_tar", "write_all"]

SUFFIX = ".tar"
RUN_BYTES = 4 << 20  # contents per run: stays in the processor's cache while it is filled, hashed and written
RUN_SAMPLES = 8192
# bytes per call of write: with 4 MiB ext4 takes large folios for its cache, which in a virtual machine are memory that
# the host has yet to give: 540 MB took 1.4 s of processor time at the median, 0.19 s in these pieces (7 rounds each)
PIECE_BYTES = 256 << 10
ABSENT = -1  # size of a field that a sample lacks

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class TarRun:
    """Consecutive samples of one tar in memory, headers and padding in place; contents go to `starts`.

    Attributes:
        buffer: uint8 [bytes + 1]; the last byte is spare, so that a read may ask for one byte more than it expects.
        bytes: of the run, a multiple of 512.
        offsets: first byte of each sample, int64 [n + 1]; the last entry is `bytes`.
        starts: field -> first byte of its content, int64 [n].
        sizes: field -> bytes of its content, int64 [n]; -1 where the sample lacks it.
    """

    buffer: npt.NDArray[np.uint8]
    bytes: int
    offsets: Int64s
    starts: Mapping[str, Int64s]
    sizes: Mapping[str, Int64s]

    def columns(self, facts: Mapping[str, npt.ArrayLike], scalars: Mapping[str, npt.ArrayLike | None]) -> IdxColumns:
        """The run's part of the `.idx`, without keys; hashes the samples, so the contents must be in place.

        Args:
            facts: as `IdxColumns` has them.
            scalars: field -> its values, or None where the caller adds them; these fields get no spans.
        """
        view, cuts = self.buffer.data, self.offsets.tolist()
        digest = xxhash.xxh3_64_intdigest
        spans = {
            name: (np.where(self.sizes[name] < 0, 0, starts - self.offsets[:-1]), np.maximum(self.sizes[name], 0))
            for name, starts in self.starts.items()
            if name not in scalars
        }
        return IdxColumns(
            keys=(),
            offsets=self.offsets[:-1],
            sizes=np.diff(self.offsets),
            xxh3=np.array([digest(view[a:b]) for a, b in pairwise(cuts)], np.uint64),
            spans=spans,
            scalars={name: values for name, values in scalars.items() if values is not None},
            facts=facts,
        )


def header_sizes(keys: Sequence[str], ending: str | Sequence[str], sizes: Int64s) -> Int64s:
    """Bytes of the header blocks of one field's members, int64 [n].

    Args:
        keys: of the samples.
        ending: what follows the key and the dot ("mask.png"), for all or for each.
        sizes: bytes of the contents; 0 header bytes where negative.
    """
    longest = max(map(len, keys), default=0) + 1 + (len(ending) if isinstance(ending, str) else max(map(len, ending)))
    result = np.where(sizes < 0, 0, BLOCK)
    if longest <= NAME_BYTES and sizes.max(initial=0) < SIZE_LIMIT and all(map(str.isascii, keys)):
        return result
    for row, name in enumerate(_names(keys, ending)):
        if sizes[row] >= SIZE_LIMIT or (sizes[row] >= 0 and not fits(name)):
            result[row] = len(long_header(name, int(sizes[row])))
    return result


def layout(
    keys: Sequence[str],
    endings: Mapping[str, str | Sequence[str]],
    sizes: Mapping[str, Int64s],
    buffer: npt.NDArray[np.uint8] | None = None,
) -> TarRun:
    """Place samples one after the other and write their headers.

    Args:
        keys: of the samples, [n].
        endings: field -> what follows the key and the dot, for all samples or for each; in the order of the members.
        sizes: field -> bytes of the content, int64 [n]; -1 where a sample lacks it.
        buffer: uint8 memory to use if it is large enough; what it holds does not matter.
    """
    count = len(keys)
    head = np.stack([header_sizes(keys, ending, sizes[name]) for name, ending in endings.items()], 1)  # [n, fields]
    body = np.stack([padded(np.maximum(sizes[name], 0)) for name in endings], 1)
    ends = np.cumsum((head + body).reshape(-1)).reshape(count, -1)
    total = int(ends[-1, -1]) if count else 0
    if buffer is None or len(buffer) <= total:
        buffer = np.empty(total + BLOCK, np.uint8)
    blocks = buffer[:total].reshape(-1, BLOCK)
    starts = {}
    for at, (name, ending) in enumerate(endings.items()):
        begin = ends[:, at] - body[:, at]
        starts[name] = begin
        blocks[(ends[body[:, at] > 0, at] // BLOCK) - 1] = (
            0  # the padding; contents overwrite the rest of their last block
        )
        _place_headers(blocks, _names(keys, ending), sizes[name], head[:, at], begin)
    offsets = np.concatenate([np.zeros(1, np.int64), ends[:, -1]])
    return TarRun(buffer=buffer, bytes=total, offsets=offsets, starts=starts, sizes=dict(sizes))


def _names(keys: Sequence[str], ending: str | Sequence[str]) -> list[bytes]:
    if isinstance(ending, str):
        tail = "." + ending
        return [(key + tail).encode() for key in keys]
    return [f"{key}.{end}".encode() for key, end in zip(keys, ending, strict=True)]


def _place_headers(
    blocks: npt.NDArray[np.uint8], names: list[bytes], sizes: Int64s, head: Int64s, begin: Int64s
) -> None:
    if (head == BLOCK).all() and max(map(len, names)) <= NAME_BYTES and all(map(bytes.isascii, names)):
        blocks[begin // BLOCK - 1] = headers(names, sizes)
        return
    short = np.array([fits(name) for name in names]) & (head == BLOCK)
    rows = np.flatnonzero(short)
    blocks[begin[rows] // BLOCK - 1] = headers([names[row] for row in rows], sizes[rows])
    for row in np.flatnonzero(~short & (head > 0)):
        content = np.frombuffer(long_header(names[row], int(sizes[row])), np.uint8).reshape(-1, BLOCK)
        blocks[(begin[row] - head[row]) // BLOCK : begin[row] // BLOCK] = content


class TarShardWriter:
    """Writes one tar and its `.idx` under temporary names; `finish` gives them their own.

    Args:
        path: of the finished tar.
        fields: what its samples have; every content and scalar that is added must be among them.
        infer: note the extension that all members of a field share, where `fields` says none; False: it is known to
            vary over the data set.
    """

    def __init__(self, path: Path, fields: Mapping[str, FieldInfo], *, infer: bool = True) -> None:
        self.path = path
        self.fields = dict(fields)
        self._infer = infer
        self._prefixes = member_prefixes(fields)
        self._partial = path.with_name(path.name + PARTIAL_SUFFIX)
        self._file = open(self._partial, "wb", buffering=0)  # noqa: SIM115 - closed by finish and abort
        self._hash = xxhash.xxh3_64()
        self._written = 0
        self._keys: list[str] = []
        self._runs: list[IdxColumns] = []
        self._seen: dict[str, set[str]] = {name: set() for name in fields}
        self._clear()

    def _clear(self) -> None:
        self._pending: list[tuple[str, dict[str, tuple[str, bytes]]]] = []
        self._pending_bytes = 0
        self._scalars: dict[str, list[Any]] = {}
        self._facts: dict[str, list[Any]] = {}

    def add(
        self,
        key: str,
        contents: Mapping[str, tuple[str, bytes]],
        scalars: Mapping[str, int | float | bool],
        facts: Mapping[str, int],
    ) -> None:
        """Append one sample.

        Args:
            key: its key.
            contents: field -> (file type such as "jpg", stored bytes); the type counts for images, audio, bytes only.
            scalars: field -> value; every sample must have them all.
            facts: "<field>.<what>" -> value; the same names for every sample.

        Raises:
            PackError: a field that was not declared, or a scalar or fact that some samples have and some lack.
        """
        for name in (*contents, *scalars):
            if name not in self.fields:
                raise PackError(
                    f"field {name!r} is not among the declared {', '.join(map(repr, self.fields))}", key=key
                )
        values = {**contents, **{name: ("", scalar_bytes(value)) for name, value in scalars.items()}}
        row = len(self._pending)
        tables: tuple[dict[str, list[Any]], dict[str, list[Any]]] = (self._scalars, self._facts)
        for table, given in zip(tables, (scalars, facts), strict=True):
            for name, value in given.items():
                table.setdefault(name, []).append(value)
        self._pending.append((key, values))
        lacking = [n for t in tables for n, column in t.items() if len(column) != row + 1]
        if lacking or (self._runs and row == 0 and self._changed()):
            raise PackError(
                f"{', '.join(lacking) or 'a scalar or fact'}: some samples have it and some lack it", key=key
            )
        self._pending_bytes += sum(len(content) for _, content in values.values()) + BLOCK * len(values)
        if self._pending_bytes >= RUN_BYTES or len(self._pending) >= RUN_SAMPLES:
            self._flush()

    def finish(self) -> ShardFile:
        """Write the end marker, sync, write the `.idx`, rename. The name in the result is the file's own.

        `fields` then has the extension of each field whose members share one.
        """
        self._flush()
        self._write(memoryview(END_MARKER))
        os.fsync(self._file.fileno())
        self._file.close()
        for name, endings in self._seen.items():
            if self._infer and len(endings) == 1 and self.fields[name].extension is None:
                self.fields[name] = replace(self.fields[name], extension=next(iter(endings)))
        shard = ShardFile(
            name=self.path.name, samples=len(self._keys), bytes=self._written, xxh3=self._hash.hexdigest()
        )
        return publish_tar(self.path, join_columns(self._keys, self._runs), shard, self.fields)

    def abort(self) -> None:
        """Close and remove the temporary file."""
        self._file.close()
        self._partial.unlink(missing_ok=True)

    def _changed(self) -> bool:
        last = self._runs[-1]
        return set(last.scalars) != set(self._scalars) or set(last.facts) != set(self._facts)

    def _flush(self) -> None:
        if not self._pending:
            return
        keys = [key for key, _ in self._pending]
        endings: dict[str, list[str]] = {}
        sizes = {}
        for name, info in self.fields.items():
            given = [values.get(name) for _, values in self._pending]
            tails = {v[0]: self._prefixes[name] + content_extension(info, v[0]) for v in given if v is not None}
            self._seen[name].update(tails.values())
            endings[name] = [tails[v[0]] if v is not None else "" for v in given]
            sizes[name] = np.array([len(v[1]) if v is not None else ABSENT for v in given], np.int64)
        run = layout(keys, endings, sizes)
        view = run.buffer.data
        for name, starts in run.starts.items():
            for start, (_, values) in zip(starts.tolist(), self._pending, strict=True):
                if name in values:
                    content = values[name][1]
                    view[start : start + len(content)] = content
        columns = run.columns(
            {name: np.array(v, np.int64) for name, v in self._facts.items()},
            {name: np.array(v, self.fields[name].dtype) for name, v in self._scalars.items()},
        )
        self._runs.append(replace(columns, offsets=np.asarray(columns.offsets) + self._written))
        self._keys += keys
        self._write(view[: run.bytes])
        self._clear()

    def _write(self, content: memoryview) -> None:
        write_all(self._file.fileno(), content, self._written)
        self._hash.update(content)
        self._written += len(content)


def write_all(descriptor: int, content: memoryview, offset: int) -> None:
    """Write all of `content` at `offset`, in pieces that end at multiples of PIECE_BYTES in the file."""
    while len(content):
        written = os.pwrite(descriptor, content[: PIECE_BYTES - offset % PIECE_BYTES], offset)
        content, offset = content[written:], offset + written


def join_columns(keys: Sequence[str], runs: Sequence[IdxColumns]) -> IdxColumns:
    """One table of several runs; their offsets must be those in the tar already."""

    def joined(parts: Sequence[Any], dtype: type) -> npt.NDArray[Any]:
        return np.concatenate(parts) if parts else np.zeros(0, dtype)

    first = runs[0] if runs else IdxColumns(keys=(), offsets=(), sizes=(), xxh3=(), spans={}, scalars={}, facts={})
    return IdxColumns(
        keys=keys,
        offsets=joined([run.offsets for run in runs], np.int64),
        sizes=joined([run.sizes for run in runs], np.int64),
        xxh3=joined([run.xxh3 for run in runs], np.uint64),
        spans={n: tuple(joined([run.spans[n][i] for run in runs], np.int64) for i in (0, 1)) for n in first.spans},  # type: ignore[misc]
        scalars={name: joined([run.scalars[name] for run in runs], np.int64) for name in first.scalars},
        facts={name: joined([run.facts[name] for run in runs], np.int64) for name in first.facts},
    )


def publish_tar(
    path: Path, columns: IdxColumns, shard: ShardFile, fields: Mapping[str, FieldInfo], partial: Path | None = None
) -> ShardFile:
    """Write the `.idx` of a tar that is complete and synced under its temporary name, then give the tar its own.

    In this order a crash never leaves a tar with its final name that lacks its index. `partial` is the temporary name
    where it is not `path`'s own. Returns `shard` with `index_xxh3`.
    """
    idx = Path(idx_path(str(path)))
    digest = write_idx(idx, columns, shard, fields)
    publish(partial or path.with_name(path.name + PARTIAL_SUFFIX), path)
    return shard._replace(index_xxh3=digest)
