"""Shards that take longer than the others, and threads that do less than fewer would; of rigs, without a profile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import samples
import torch
from samples import make as write
from slowed import SHARDS, SLOW_SHARD, Slowed, make

import fastload
from fastload.loader import DataLoader
from fastload.profile import suspects
from fastload.profile.capacity import Capacity
from fastload.profile.rig import Rig
from fastload.profile.suspects import ROWS_LOOKED_AT, slow_shards

Packed = Callable[..., Path]


def test_a_shard_that_is_read_slowly_is_found_with_what_it_takes(packed: Packed) -> None:
    (found,) = slow_shards(Rig(make(packed("tar", SHARDS), "shard")), seconds=20)
    assert found.name == f"train/shard-{SLOW_SHARD:06d}.tar"
    assert found.times > 20
    assert found.share == pytest.approx(found.excess["read"], rel=0.2)
    assert 0.5 < found.share < 1


@pytest.mark.parametrize(
    ("slower", "queued_share", "named"),
    [
        ((2,) * 5, 0.3, True),
        ((2, 2, 0.5, 2, 2), 0.3, True),
        ((9, 9, 0.9, 9, 0.9), 0.0, False),
        ((1.3,) * 5, 0.3, False),
    ],
    ids=["every time", "but once", "but twice", "as others may have done"],
)
def test_a_crowd_is_named_where_measurements_agree(
    packed: Packed, monkeypatch: pytest.MonkeyPatch, slower: tuple[float, ...], queued_share: float, named: bool
) -> None:
    rig = Rig(make(packed("tar", SHARDS), "", workers=2))
    alone = Capacity(stage="decode", threads=(1, 2), rates=(20.0, 10.0), cpu_ms=1.0)
    rates = iter([rate for times in slower for rate in (times, 1.0)])
    monkeypatch.setattr(suspects, "_rate", lambda *_: next(rates))
    recording: Any = None
    found = suspects.crowd(rig, recording, [alone], "decode", queued_share, 1.0)
    assert (found is not None) == named
    if found:
        assert (found.threads, found.gain) == (1, 2)


def test_a_shard_of_large_pictures_is_found_in_decoding(tmp_path: Path) -> None:
    large = samples.simplejpeg.encode_jpeg(samples.np.zeros((1500, 1500, 3), samples.np.uint8) + 99)
    data = write(tmp_path / "data", "parquet", [8] * 6, replace={i: {"image": large} for i in range(16, 24)})
    loader = DataLoader(data, 8, fields={"image": fastload.Image(8)})
    (found,) = slow_shards(Rig(loader), seconds=20)
    assert found.name == "train/part-000002.parquet, row group 0"
    assert found.excess["decode"] > 0.5 > found.excess["read"]


def test_where_time_runs_out_the_largest_were_looked_at(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[int] = []

    def cost(rig: Rig, shard: int, size: int) -> tuple[float, float]:
        looked_at.append(shard)
        return (0.1 if shard == SLOW_SHARD else 0.001), 0.0

    monkeypatch.setattr(suspects, "_cost", cost)  # times of a machine that does something else as well are any
    rig = Rig(DataLoader(packed("tar", [ROWS_LOOKED_AT] * 4 + [40] * 5), 8))  # of which the slow one is small
    assert slow_shards(rig, seconds=1e-9) == []
    assert set(looked_at) == {4, 5, 6}
    (found,) = slow_shards(rig, seconds=1e9)
    assert found.name == f"train/shard-{SLOW_SHARD:06d}.tar"
    assert set(looked_at) == set(range(9))


def test_what_has_no_rows_of_shards_is_not_looked_at(packed: Packed) -> None:
    data = packed("tar", SHARDS)
    mixture = fastload.Mix({"a": Slowed(data, "shard"), "b": Slowed(data, "")})
    other = torch.utils.data.TensorDataset(torch.arange(100))
    for loader in (make(data, "assemble"), DataLoader(mixture, 4), DataLoader(other, 4)):
        assert slow_shards(Rig(loader), seconds=1) == []
    two = DataLoader(packed("tar", [30, 30]), 4)
    assert slow_shards(Rig(two), seconds=1) == [], "of two, nobody can say which is slow"
