"""A shard written alone, from start to end, is the one that many runs of many workers make."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from pack_sources import jpeg, photo, png

from fastload.pack import pack
from fastload.pack.encode import Encoder, is_whole
from fastload.pack.inputs import open_source
from fastload.pack.plan import make_plan
from fastload.pack.prepare import Prepare, prepared
from fastload.pack.splitting import parse_splitting, share_out
from fastload.pack.table import Table
from fastload.pack.tasks import WholeShard, WriteShard
from fastload.shards.index import ShardFormat


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
    index = pack(source, tmp_path / "out", format=shard_format, shard_size=30_000, split="a=0.7,b=0.3", workers=2)
    monkeypatch.chdir(source.parent)  # a source that is named relative to the folder that packing is started in
    table = open_source(Path(source.name))
    assert isinstance(table, Table)
    table, recipes = prepared(table, Prepare(), jpeg="seekable", pixels=False)
    sharing = share_out(table, parse_splitting("a=0.7,b=0.3"), seed=0)
    plan = make_plan(table, sharing, shard_format=shard_format, shard_size=30_000, seed=0, shuffle=True)
    assert len(plan.shards) >= 2
    for name in plan.splits:
        (tmp_path / "alone" / name).mkdir(parents=True)
    alone = [Encoder(plan.alone(number), tmp_path / "alone", recipes) for number in range(len(plan.shards))]
    alone = pickle.loads(pickle.dumps(alone))
    monkeypatch.chdir("/")
    names, told = set(), 0

    def tell(samples: int, written: int) -> None:
        nonlocal told
        told += samples

    for encoder, file in zip(alone, index.shards, strict=True):
        for _ in range(2):  # another attempt has a file of its own
            result = encoder.carry_out(WriteShard(shard=0), tell)
            assert isinstance(result, WholeShard)
            assert result.file == replace(file, index_xxh3=None)
            names.add(result.partial)
            assert (tmp_path / "alone" / result.partial).read_bytes() == (tmp_path / "out" / file.name).read_bytes()
    assert len(names) == 2 * len(plan.shards)
    assert told == 2 * len(plan.order)


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
