"""Small packed data sets of every kind of field, for tests of reading: sample i of any of them has label i.

make(folder, "tar", [5, 3])      two shards of 5 and 3 samples, with an index
ids(batch)                       the labels of its valid rows
content(batch)                   all that it holds, as one value that can be compared with ==
"""

from __future__ import annotations

import io
import json
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch

from fastload.batch import Batch
from fastload.shards.index import FieldInfo, IndexFile, ShardFile, ShardFormat
from fastload.shards.parquet import ParquetShardWriter
from fastload.shards.tar import TarShardWriter

HEIGHT, WIDTH = 20, 28
SAMPLE_RATE = 8000
FRAMES = 160

FIELDS = {
    "image": FieldInfo(kind="image"),
    "audio": FieldInfo(kind="audio"),
    "text": FieldInfo(kind="text"),
    "tokens": FieldInfo(kind="tokens", dtype="int32"),
    "tensor": FieldInfo(kind="tensor", dtype="float32", shape=(3,)),
    "json": FieldInfo(kind="json"),
    "bytes": FieldInfo(kind="bytes"),
    "label": FieldInfo(kind="scalar", dtype="int64"),
    "weight": FieldInfo(kind="scalar", dtype="float64"),
}
FORMATS: tuple[ShardFormat, ...] = ("tar", "parquet")


def pixels(i: int) -> npt.NDArray[np.uint8]:
    """The picture of sample i before it is encoded, uint8 [20, 28, 3]: smooth, so that JPEG keeps it, and its own."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    planes = [x * 9, y * 12, x * 4 + y * 4 + i * 11]
    return (np.stack(planes, -1) % 256).astype(np.uint8)


def jpeg(i: int) -> bytes:
    return bytes(simplejpeg.encode_jpeg(pixels(i), quality=95, colorspace="RGB", colorsubsampling="444"))


def wav(i: int) -> bytes:
    """16-bit PCM, one channel, 8 kHz; sample i has 160 + i frames."""
    wave = (np.sin(np.arange(FRAMES + i) * 0.05 * (1 + i % 5)) * 20000).astype("<i2").tobytes()
    head = b"WAVEfmt " + np.array([16], "<u4").tobytes() + np.array([1, 1], "<u2").tobytes()
    head += np.array([SAMPLE_RATE, 2 * SAMPLE_RATE], "<u4").tobytes() + np.array([2, 16], "<u2").tobytes()
    return b"RIFF" + np.array([len(head) + 8 + len(wave)], "<u4").tobytes() + head + b"data" + chunk(wave)


def chunk(content: bytes) -> bytes:
    return np.array([len(content)], "<u4").tobytes() + content


def npy(array: npt.ArrayLike) -> bytes:
    out = io.BytesIO()
    np.save(out, np.asarray(array))
    return out.getvalue()


def grey_png(numbers: npt.NDArray[Any], bits: int) -> bytes:
    """A PNG of [H, W] numbers with 1, 2 or 4 bits each, which Pillow does not write."""

    def part(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = numbers.shape
    flat = np.unpackbits(numbers.astype(np.uint8)[..., None], axis=2)[..., 8 - bits :].reshape(height, width * bits)
    rows = b"".join(b"\0" + row.tobytes() for row in np.packbits(flat, axis=1))
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(rows)) + part(b"IEND", b"")


def tokens(i: int) -> npt.NDArray[np.int32]:
    """1 to 5 tokens."""
    return np.arange(i, i + 1 + i % 5, dtype=np.int32)


STORED: dict[str, Callable[[int], tuple[str, bytes]]] = {
    "image": lambda i: ("jpg", jpeg(i)),
    "audio": lambda i: ("wav", wav(i)),
    "text": lambda i: ("txt", f"text of sample {i}".encode()),
    "tokens": lambda i: ("npy", npy(tokens(i))),
    "tensor": lambda i: ("npy", npy(np.array([i, i / 2, -i], np.float32))),
    "json": lambda i: ("json", json.dumps({"i": i}).encode()),
    "bytes": lambda i: ("bin", b"raw %d" % i),
}
SCALARS: dict[str, Callable[[int], int | float]] = {"label": lambda i: i, "weight": lambda i: i / 4}


def key(i: int) -> str:
    return f"{i:06d}"


def make(
    folder: Path,
    shard_format: ShardFormat,
    sizes: Sequence[int],
    fields: Iterable[str] = ("image", "label"),
    *,
    replace: dict[int, dict[str, bytes | None]] | None = None,
    row_group_bytes: int = 8 << 20,
) -> Path:
    """Pack one file for each of `sizes`; returns the folder, which holds one split.

    Args:
        replace: sample -> field -> other stored bytes, or None to leave the field out.
        row_group_bytes: of a Parquet file; 1 makes a row group of each sample.
    """
    infos = {name: FIELDS[name] for name in fields}
    (folder / "train").mkdir(parents=True)
    files: list[ShardFile] = []
    i = 0
    for number, size in enumerate(sizes):
        writer: TarShardWriter | ParquetShardWriter
        if shard_format == "tar":
            writer = TarShardWriter(folder / f"train/shard-{number:06d}.tar", infos)
        else:
            path = folder / f"train/part-{number:06d}.parquet"
            writer = ParquetShardWriter(path, infos, row_group_bytes=row_group_bytes)
        for _ in range(size):
            stored = {name: STORED[name](i) for name in infos if name in STORED}
            for name, other in (replace or {}).get(i, {}).items():
                kind = stored.pop(name)[0]
                if other is not None:
                    stored[name] = (kind, other)
            writer.add(key(i), stored, {name: SCALARS[name](i) for name in infos if name in SCALARS}, {})
            i += 1
        file = writer.finish()
        files.append(
            ShardFile(
                name=f"train/{file.name}",
                samples=file.samples,
                bytes=file.bytes,
                xxh3=file.xxh3,
                index_xxh3=file.index_xxh3,
                row_groups=file.row_groups,
            )
        )
    index = IndexFile(shard_format=shard_format, fields=infos, shards=tuple(files), splits={"train": (0, len(files))})
    index.save(folder)
    return folder


def make_numbers(folder: Path, shard_format: str, dtype: str, shards: Sequence[Sequence[float]]) -> Path:
    """One file for each of `shards`, with its numbers in the field x; returns the folder."""
    folder.mkdir(exist_ok=True)
    fields = {"x": FieldInfo(kind="scalar", dtype=dtype)}
    for number, values in enumerate(shards):
        writer: TarShardWriter | ParquetShardWriter
        if shard_format == "tar":
            writer = TarShardWriter(folder / f"{number}.tar", fields)
        else:
            writer = ParquetShardWriter(folder / f"{number}.parquet", fields)
        for row, value in enumerate(values):
            writer.add(f"{number}-{row}", {}, {"x": value}, {})
        writer.finish()
    return folder


def flip_byte(path: Path, at: int) -> None:
    """Change one byte of a file in place."""
    with open(path, "r+b") as file:
        file.seek(at)
        old = file.read(1)[0]
        file.seek(at)
        file.write(bytes([old ^ 0xFF]))


def ids(batch: Batch) -> list[int]:
    """The samples of the batch's valid rows."""
    assert batch.valid is not None
    labels: list[int] = batch["label"][batch.valid].tolist()
    return labels


def content(batch: Batch) -> tuple[Any, ...]:
    """Everything in a batch, as one value that can be compared."""
    parts = {**batch, "valid": batch.valid, "sample_keys": batch.sample_keys}
    return tuple((name, freeze(value)) for name, value in parts.items())


def freeze(value: Any) -> Any:
    """A tensor as (dtype, shape, bytes); lists and tuples of them likewise; the rest as it is."""
    if isinstance(value, torch.Tensor):
        return (
            str(value.dtype),
            tuple(value.shape),
            value.contiguous().view(torch.uint8).numpy().tobytes() if value.ndim else repr(value),
        )
    if isinstance(value, list | tuple):
        return tuple(map(freeze, value))
    if isinstance(value, dict):
        return json.dumps(value, sort_keys=True)
    return value


def own_memory() -> int:
    """Bytes of this process, without files that it has mapped: of libraries a process is said to have the more, the
    fewer others use them, and what is mapped and unused comes and goes."""
    rollup = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in rollup if line.startswith(("Pss_Anon:", "Pss_Shmem:")))


class Leftovers:
    """Threads and descriptors of this process, to be compared before and after. Nothing may wait for the collector of
    cycles, so it is not run."""

    def __init__(self) -> None:
        self.threads = {thread.name for thread in threading.enumerate()}
        self.descriptors = sorted(_descriptors())

    def assert_none(self, *, patience_seconds: float = 0.0) -> None:
        """Nothing is there now that was not there when this was made; or not for longer than `patience_seconds`, for
        what ends by itself once it has been told to."""
        until, now = time.monotonic() + patience_seconds, Leftovers()
        while time.monotonic() < until and not (
            now.threads <= self.threads and set(now.descriptors) <= set(self.descriptors)
        ):
            time.sleep(0.01)
            now = Leftovers()
        assert now.threads <= self.threads, f"threads left behind: {now.threads - self.threads}"
        new = set(now.descriptors) - set(self.descriptors)
        assert not new, f"descriptors left behind: {new}"


def _descriptors() -> list[tuple[str, str]]:
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append((number, os.readlink(f"/proc/self/fd/{number}")))
        except FileNotFoundError:  # the one that listed the folder
            continue
    return found
