"""The plan: every sample in one place, shards within their size, sizes as they will be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pack_sources import Stopped, stop_after, tree

from fastload.errors import ConfigError, PackError
from fastload.pack import pack
from fastload.pack.plan import Plan, make_plan
from fastload.pack.splitting import Splitting, share_out
from fastload.pack.table import Inline, Table, Values
from fastload.shards.index import FieldInfo
from fastload.sizes import parse_size

FIELDS = {"text": FieldInfo(kind="text"), "label": FieldInfo(kind="scalar", dtype="int64")}


def plan_of(sizes: list[int], shard_size: int, ratios: dict[str, float], shuffle: bool = True) -> Plan:
    table = Table(
        keys=[f"k{i}" for i in range(len(sizes))],
        columns={
            "text": Inline(contents=[bytes(size) for size in sizes]),
            "label": Values(values=np.arange(len(sizes))),
        },
        fields=FIELDS,
    )
    sharing = share_out(table, Splitting(shares=ratios), seed=3)
    return make_plan(table, sharing, shard_format="tar", shard_size=shard_size, seed=3, shuffle=shuffle)


sizes = st.lists(st.integers(0, 9000), min_size=1, max_size=120)


@given(sizes=sizes, shard_size=st.integers(1, 60_000), shuffle=st.booleans())
def test_every_sample_once_and_shards_within_their_size(sizes: list[int], shard_size: int, shuffle: bool) -> None:
    plan = plan_of(sizes, shard_size, {"train": 1.0}, shuffle)
    assert sorted(plan.order.tolist()) == list(range(len(sizes)))
    assert shuffle or plan.order.tolist() == list(range(len(sizes)))
    bounds = [(shard.start, shard.stop) for shard in plan.shards]
    assert [start for start, _ in bounds] == [0, *(stop for _, stop in bounds[:-1])]
    assert bounds[-1][1] == len(sizes)
    for shard in plan.shards:
        expected = sum(2 * 512 + -(-sizes[row] // 512) * 512 + 512 for row in plan.order[shard.start : shard.stop])
        assert shard.bytes == expected + 1024
        assert shard.bytes <= shard_size or shard.samples == 1


@given(sizes=sizes, shard_size=st.integers(20_000, 200_000))
def test_shards_are_as_few_as_their_size_allows_and_about_equal(sizes: list[int], shard_size: int) -> None:
    plan = plan_of(sizes, shard_size, {"train": 1.0})
    largest = int(plan.sample_bytes.max())
    fewest = -(-int(plan.sample_bytes.sum()) // (shard_size - 1024))
    assert len(plan.shards) <= -(-int(plan.sample_bytes.sum()) // (shard_size - 1024 - largest))
    if len(plan.shards) == fewest:
        even = int(plan.sample_bytes.sum()) / fewest
        assert all(shard.bytes - 1024 <= even + largest + 1 for shard in plan.shards)


@given(sizes=sizes)
def test_runs_cover_a_shard(sizes: list[int]) -> None:
    plan = plan_of([size * 500 for size in sizes], 1 << 40, {"train": 1.0})
    runs = list(plan.runs(plan.shards[0]))
    assert [start for start, _ in runs] == [0, *(stop for _, stop in runs[:-1])]
    assert runs[-1][1] == len(sizes)


def test_splits_follow_each_other() -> None:
    plan = plan_of([100] * 200, 20_000, {"train": 0.7, "val": 0.3})
    assert list(plan.splits) == ["train", "val"]
    first, last = plan.splits["train"]
    assert (first, last) == (0, plan.splits["val"][0])
    assert plan.splits["val"][1] == len(plan.shards)
    assert plan.shards[last].name == "val/shard-000000.tar"
    assert 110 < sum(shard.samples for shard in plan.shards[:last]) < 170


def test_a_split_that_gets_nothing_is_an_error() -> None:
    with pytest.raises(PackError, match="the split 'val' gets none of 2 samples"):
        plan_of([1, 1], 10_000, {"train": 0.999, "val": 0.001})


def test_contents_that_are_all_empty_make_one_shard() -> None:
    table = Table(keys=["a", "b"], columns={"text": Inline(contents=[b"", b""])}, fields={"text": FIELDS["text"]})
    sharing = share_out(table, Splitting(), seed=3)
    plan = make_plan(table, sharing, shard_format="parquet", shard_size=1, seed=3, shuffle=False)
    assert [(shard.start, shard.stop, shard.bytes) for shard in plan.shards] == [(0, 2, 0)]
    assert list(plan.runs(plan.shards[0])) == [(0, 2)]


def test_the_digest_changes_with_what_is_packed() -> None:
    digests = {plan_of(sizes, 1 << 20, {"train": 1.0}).digest(plan_of(sizes, 1 << 20, {"train": 1.0}).shards[0])
               for sizes in ([5, 5], [5, 6], [5, 5, 5])}  # fmt: skip
    assert len(digests) == 3


def test_files_that_change_places_are_packed_anew(tmp_path: Path) -> None:
    """Of one size and time, so that only their names tell them apart; keys come from elsewhere."""
    for i in range(4):
        np.save(tmp_path / f"{i}.npy", np.full(3, i))
        os.utime(tmp_path / f"{i}.npy", ns=(1, 1))

    def run(name: str, files: list[int], **options: Any) -> Path:
        rows = "".join(f"k{key},{file}.npy\n" for key, file in enumerate(files))
        (tmp_path / "m.csv").write_text(f"key,array\n{rows}")
        pack(tmp_path / "m.csv", tmp_path / name, shard_size=2000, shuffle=False, workers=1, **options)
        return tmp_path / name

    clean, out = run("clean", [1, 0, 3, 2]), tmp_path / "out"
    assert len(list(clean.rglob("*.tar"))) == 4
    with pytest.raises(Stopped):
        run("out", [0, 1, 2, 3], progress=stop_after(out, 1))
    assert tree(run("out", [1, 0, 3, 2])) == tree(clean)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (1000, 1000),
        ("256MiB", 1 << 28),
        ("1GB", 10**9),
        ("64 kB", 64_000),
        ("1.5gib", 3 << 29),
        ("7", 7),
        ("8m", 8_000_000),
    ],
)
def test_sizes(text: int | str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "big", "-1MB", 0, -5, True, 1.5, "1 PB", "MiB"])
def test_bad_sizes_are_named(text: object) -> None:
    with pytest.raises(ConfigError, match=r"shard_size=.*(pass bytes|at least 1 byte)"):
        parse_size(text)  # type: ignore[arg-type]
