"""A shard written alone, from start to end, is the one that many runs of many workers make."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow.parquet as pq
import pytest
from pack_sources import jpeg, photo, png, tree
from syncing import Disk

from fastload.pack import job, pack
from fastload.pack.cluster import work_of
from fastload.pack.encode import Encoder, is_whole
from fastload.pack.tasks import Task, Tell, WholeShard
from fastload.pack.workers import Done
from fastload.shards import parquet
from fastload.shards.index import FieldInfo, ShardFormat
from fastload.shards.parquet import ParquetShardWriter


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Rows with files of two types, texts, tokens and numbers."""
    rows = []
    for i in range(24):
        name = f"{i}.{'png' if i % 3 == 0 else 'jpg'}"
        (tmp_path / name).write_bytes(png(i) if i % 3 == 0 else photo(i) if i % 2 else jpeg(i))
        rows.append({"image": name, "note": "ü" * i, "tokens": list(range(i)), "label": "ab"[i % 2], "x": i / 2})
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "lines.txt"
    path.write_text("".join(f"line {i}\n" for i in range(200)))
    return path


class AlonePool:
    """Carries out whole shards, each as if on another machine, and all of them twice, as after a loss."""

    whole_shards = True

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.partials: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def run(self, tasks: Iterator[Task], done: Done, tell: Tell) -> None:
        for task in tasks:
            work = pickle.dumps(work_of(self._encoder, task))
            here = os.getcwd()
            os.chdir("/")
            results = [pickle.loads(work)(lambda samples, written: None) for _ in range(2)]
            os.chdir(here)
            self.partials += [result.partial for result in results if isinstance(result, WholeShard)]
            assert not done(task, results[-1])


@pytest.mark.parametrize("shard_format", ["tar", "parquet"])
@pytest.mark.parametrize("what", ["manifest", "lines"])
def test_a_shard_alone(
    what: str,
    shard_format: ShardFormat,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source: Path = request.getfixturevalue(what)
    options: dict[str, Any] = {"format": shard_format, "shard_size": 30_000, "split": "a=0.7,b=0.3"}
    monkeypatch.chdir(source.parent)  # a source that is named relative to the folder that packing is started in
    index = pack(source.name, "out", workers=2, **options)
    pools: list[AlonePool] = []

    def alone(encoder: Encoder, *arguments: Any, **options: Any) -> AlonePool:
        pools.append(AlonePool(encoder))
        return pools[-1]

    monkeypatch.setattr(job, "RayPool", alone)
    disk = Disk(monkeypatch, tmp_path / "alone")
    assert pack(source.name, "alone", engine="ray", **options) == index
    assert len(set(pools[0].partials)) == 2 * len(index.shards) >= 4  # a file of its own for each attempt
    assert disk.records == len(index.shards)
    assert tree(tmp_path / "alone") == tree(tmp_path / "out")  # and none is left


def test_a_shard_that_is_not_what_was_written_is_noticed(lines: Path, tmp_path: Path) -> None:
    file = pack(lines, tmp_path / "out", workers=1).shards[0]
    shard, idx = tmp_path / "out" / file.name, (tmp_path / "out" / file.name).with_suffix(".idx")
    assert is_whole(shard, file)
    for path in (idx, shard):
        raw = path.read_bytes()
        for damage in (raw[:-1] + bytes([raw[-1] ^ 1]), raw[:-1], b""):
            path.write_bytes(damage)
            assert not is_whole(shard, file)
        os.remove(path)
        assert not is_whole(shard, file)
        path.write_bytes(raw)
        assert is_whole(shard, file)


def test_a_worker_does_not_hold_its_shard(tmp_path: Path) -> None:
    """A run of 4 MiB and a map of as much, of a tar of 64 MiB."""
    big_arrays(tmp_path / "source")
    assert peak(lambda: pack(tmp_path / "source", tmp_path / "out", workers=1)) < 40 << 20
    assert [path.stat().st_size >> 20 for path in tmp_path.glob("out/train/*.tar")] == [64]


def test_a_worker_holds_a_row_group_of_a_parquet_shard_of_any_size(tmp_path: Path) -> None:
    big_arrays(tmp_path / "source")

    def packed(shard_size: str) -> int:
        def run() -> None:
            pack(tmp_path / "source", tmp_path / shard_size, workers=1, format="parquet", shard_size=shard_size)

        return peak(run)

    small, large = packed("17MiB"), packed("1GiB")
    assert len(list(tmp_path.glob("17MiB/train/*.parquet"))) == 4
    assert len(list(tmp_path.glob("1GiB/train/*.parquet"))) == 1
    assert large < small + (24 << 20)


def test_samples_of_numbers_alone_fill_row_groups_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows_of_group = 1 << 14
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", rows_of_group)

    def write(rows: int) -> None:
        path = tmp_path / f"{rows}.parquet"
        writer = ParquetShardWriter(path, {"a": FieldInfo(kind="scalar", dtype="int64")})
        for row in range(rows):
            writer.add(f"{row:09d}", {}, {"a": row}, {})
        writer.finish()

    few, many = (peak(partial(write, rows_of_group * groups)) for groups in (1, 8))
    assert many < few + (36 << 20)  # twice that if all were kept
    assert pq.read_metadata(tmp_path / f"{8 * rows_of_group}.parquet").num_row_groups == 8


def big_arrays(folder: Path) -> None:
    """64 of 1 MiB each."""
    folder.mkdir()
    for i in range(64):
        np.save(folder / f"{i}.npy", np.full(1 << 18, i, np.float32))


def peak(work: Callable[[], object]) -> int:
    """Bytes of memory that a forked process takes at most beyond what it began with."""
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def run() -> None:
        before = status("VmRSS")
        work()
        sender.send(status("VmHWM") - before)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join()
    assert process.exitcode == 0
    return int(receiver.recv())


def status(name: str) -> int:
    """Bytes of memory of this process: VmRSS now, VmHWM at most so far."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) << 10
