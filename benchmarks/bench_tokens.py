"""Rows of 2,048 int32 tokens, shuffled, in batches of 32 and of 256, against rows of a memory map stacked (as nanoGPT
reads them), in the caller's thread alone and with one that copies ahead (torch.stack may use all of torch's); and
documents packed into such rows. fastload checks the checksum of every row it reads."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

import fastload
from fastload.loader import DataLoader
from fastload.samplers import PackSequences
from fastload.shards.index import FieldInfo, IndexFile, ShardFile, ShardFormat
from fastload.shards.parquet import ParquetShardWriter
from fastload.shards.tar import TarShardWriter

LENGTH, SHARDS, ROWS = 2048, 64, 512  # 256 MiB of tokens
VOCABULARY = 50_257


def write_set(folder: Path, shard_format: ShardFormat, lengths: npt.NDArray[np.int64]) -> Path:
    """Documents of these lengths, [shards, rows], of random tokens."""
    fields = {"tokens": FieldInfo(kind="tokens", dtype="int32")}
    (folder / "train").mkdir(parents=True)
    rng, written = np.random.default_rng(0), []
    for number, of_shard in enumerate(lengths.tolist()):
        writer: Any
        if shard_format == "tar":
            writer = TarShardWriter(folder / f"train/shard-{number:06d}.tar", fields)
        else:
            writer = ParquetShardWriter(folder / f"train/part-{number:06d}.parquet", fields)
        for row, length in enumerate(of_shard):
            content = io.BytesIO()
            np.save(content, rng.integers(0, VOCABULARY, length, np.int32))
            writer.add(f"{number:04d}{row:06d}", {"tokens": ("npy", content.getvalue())}, {}, {"tokens.count": length})
        file = writer.finish()
        written.append(ShardFile.from_json(file.to_json() | {"name": f"train/{file.name}"}))
    splits = {"train": (0, len(written))}
    IndexFile(shard_format=shard_format, fields=fields, shards=tuple(written), splits=splits).save(folder)
    return folder


def run_through(loader: DataLoader) -> Callable[[], None]:
    def run() -> None:
        for _ in loader:
            pass

    return run


def stacked_rows(folder: Path, batch_size: int, count: int = SHARDS * ROWS) -> Callable[[], None]:
    """nanoGPT's get_batch: rows of a memory map as int64, stacked."""
    np.random.default_rng(0).integers(0, VOCABULARY, count * LENGTH, np.int32).tofile(folder / "tokens.bin")
    data = np.memmap(folder / "tokens.bin", np.int32, "r")
    starts = np.random.default_rng(1).permutation(count) * LENGTH

    def run() -> None:
        for at in range(0, len(starts), batch_size):
            rows = [torch.from_numpy(data[i : i + LENGTH].astype(np.int64)) for i in starts[at : at + batch_size]]
            torch.stack(rows)

    return run


@pytest.mark.parametrize(("batch_size", "dtype"), [(32, "int64"), (32, "int32"), (256, "int64")])
@pytest.mark.parametrize(("shard_format", "workers"), [("tar", 0), ("tar", 1), ("parquet", 0)])
def test_rows_of_one_length(
    tmp_path: Path,
    shard_format: ShardFormat,
    workers: int,
    batch_size: int,
    dtype: str,
    paired: Callable[..., float],
) -> None:
    folder = write_set(tmp_path / "set", shard_format, np.full((SHARDS, ROWS), LENGTH))
    fields = {"tokens": fastload.Tokens(LENGTH, dtype=dtype)}
    loader = DataLoader(folder, batch_size=batch_size, num_workers=workers, fields=fields)
    paired(
        run_through(loader),
        stacked_rows(tmp_path, batch_size),
        items=SHARDS * ROWS * LENGTH,
        unit="tokens",
        rounds=9,
        reference_name="memory map and torch.stack",
    )


@pytest.mark.parametrize("shard_format", ["tar", "parquet"])
def test_packed_documents(
    tmp_path: Path, shard_format: ShardFormat, paired: Callable[..., float], benchmark: Any, capsys: Any
) -> None:
    lengths = np.random.default_rng(2).lognormal(5.8, 1.1, (SHARDS, ROWS)).astype(np.int64) + 1
    folder = write_set(tmp_path / "set", shard_format, lengths)
    data = fastload.StreamingDataset(
        folder, fields={"tokens": fastload.Tokens(LENGTH)}, sampler=PackSequences("tokens", LENGTH)
    )
    fill: float = data.order.fill  # type: ignore[attr-defined]
    benchmark.extra_info.update(fill=round(fill, 4))
    with capsys.disabled():
        print(f"\n  rows are {fill:.2%} full")
    paired(
        run_through(DataLoader(data, batch_size=32)),
        stacked_rows(tmp_path, 32, data.samples),
        items=data.samples * LENGTH,
        unit="tokens",
        reference_name="memory map and torch.stack of rows without bounds, positions and segments",
    )
