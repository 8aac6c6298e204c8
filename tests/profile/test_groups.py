"""Rows of Parquet that are decoded in vain: the arithmetic against what a reader opens, and what is advised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import samples

import fastload
from fastload.loader import DataLoader
from fastload.profile import groups, profile
from fastload.profile.groups import decoded_rows, fewer_rows
from fastload.profile.rig import Rig
from fastload.samplers import LengthBuckets, Subset
from fastload.shards import read_parquet
from fastload.shards.index import IndexFile
from fastload.shards.parquet import ParquetShardWriter

LABEL = {"label": fastload.Scalar()}
SHARED = {"rank": 0, "world_size": 4}
TENTH: dict[str, Any] = {"sampler": Subset(np.arange(0, 240, 10))}
BUCKETS: dict[str, Any] = {"sampler": LengthBuckets("label", max_tokens=10_000, pool=120)}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 row groups of 10 rows; of similar labels, each is in another."""
    folder, name = tmp_path_factory.mktemp("groups"), "train/part-000000.parquet"
    (folder / "train").mkdir()
    infos = {name: samples.FIELDS[name] for name in ("bytes", "label")}
    writer = ParquetShardWriter(folder / name, infos, row_group_bytes=80)
    for i in range(240):
        writer.add(samples.key(i), {"bytes": ("bin", b"8 bytes.")}, {"label": 1 + 7 * i % 240}, {})
    files = (writer.finish()._replace(name=name),)
    IndexFile(shard_format="parquet", fields=infos, shards=files, splits={"train": (0, 1)}).save(folder)
    assert files[0].row_groups == (10,) * 24
    return folder


def loader(data: Path, window: int = 2, **options: Any) -> DataLoader:
    return DataLoader(fastload.StreamingDataset(data, fields=LABEL, window=window, **options), 10)


@pytest.mark.parametrize(
    ("options", "more"),
    [({}, False), (SHARED, True), ({"lanes": 4}, True), (TENTH, True), (BUCKETS, True)],
    ids=["alone", "ranks", "lanes", "subset", "buckets"],
)
def test_rows_are_decoded_as_often_as_the_reader_opens_their_row_groups(
    data: Path, options: dict[str, Any], more: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []
    load = read_parquet._Opener.__call__

    def counted(opener: Any, shard: int) -> Any:
        opened.append(shard)
        return load(opener, shard)

    monkeypatch.setattr(read_parquet._Opener, "__call__", counted)
    run = loader(data, **options)
    found = decoded_rows(run.dataset, run._share())  # type: ignore[arg-type]
    taken = sum(int(batch.valid.sum()) for batch in run)
    assert found == pytest.approx(sum(run.dataset.index.sizes[opened]) / taken, rel=0.05)  # type: ignore[attr-defined]
    assert found > 2 if more else found == 1


def test_ranks_are_advised_lanes_of_their_own(data: Path) -> None:
    (first, *_) = fewer_rows(Rig(loader(data, **SHARED)))
    assert (first.change, first.stage, first.bound) == ("lanes=4, from 1", "read", True)
    assert first.factor == pytest.approx(1 / 4, rel=0.1)
    assert " rows are decoded for each that a batch takes, 1.0 then; another order" in first.why


def test_batches_that_draw_from_more_row_groups_than_are_kept_are_advised_a_wider_window(data: Path) -> None:
    (wider,) = fewer_rows(Rig(loader(data, **BUCKETS)))
    assert wider.change == "window=16, from 2", "of which 12 make a pool"
    assert wider.factor < 0.5
    assert " of row groups in memory" in wider.why


def test_few_rows_of_large_row_groups_are_advised_smaller_ones(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = fastload.StreamingDataset(data).index.files[0]
    assert not [each for each in fewer_rows(Rig(loader(data, **TENTH))) if "row groups of" in each.change]
    monkeypatch.setattr(groups, "ROW_GROUP_BYTES", 2 * file.bytes // file.samples + 1)
    (smaller,) = [each for each in fewer_rows(Rig(loader(data, **TENTH))) if "row groups of" in each.change]
    assert smaller.factor == pytest.approx(2 / 10), "rows are decoded for the one that is wanted"
    assert "(fastload convert --format parquet)" in smaller.change


def test_nothing_is_advised_where_nothing_is_decoded_in_vain(data: Path, tmp_path: Path) -> None:
    assert fewer_rows(Rig(loader(data))) == []
    assert fewer_rows(Rig(loader(data, window=30, **SHARED))) == [], "all stay in memory"
    assert fewer_rows(Rig(loader(samples.make(tmp_path / "tar", "tar", [20] * 12), **SHARED))) == []


def test_where_reading_limits_it_is_advised(data: Path) -> None:
    found = profile(loader(data, **SHARED), seconds=0.3).verdict
    (advice,) = [each for each in found.advice if each.change == "lanes=4, from 1"]
    assert (found.limit, advice.stage, advice.bound) == ("read", "read", True)
    assert advice.gain > 1.5
