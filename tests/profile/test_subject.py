"""What a report says of its data."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import fastload
from fastload.describe import describe
from fastload.loader import DataLoader
from fastload.profile import subject
from fastload.shards.index import ShardFormat

Packed = Callable[..., Path]


@pytest.mark.parametrize("shard_format", ["tar", "parquet"])
def test_stored_is_what_describe_has_of_the_split(tmp_path: Path, shard_format: ShardFormat) -> None:
    rows = [{"key": f"k{i}", "text": "long " * (i + 1), "label": ("a", "b", "b")[i % 3]} for i in range(12)]
    fastload.pack(rows, tmp_path / "data", format=shard_format, split={"train": 0.5, "val": 0.5})
    splits = describe(tmp_path / "data")["splits"]
    for split, about in splits.items():
        found = subject.stored(fastload.StreamingDataset(tmp_path / "data", split=split))
        assert found == {str(tmp_path / "data" / split): about}
        assert set(about["fields"]["text"]["bytes"]) >= {"min", "mean", "max", "histogram"}


def test_what_is_not_a_number_does_not_lose_the_rest(tmp_path: Path) -> None:
    rows = [{"key": f"k{i}", "score": math.nan if i == 3 else i / 2} for i in range(8)]
    fastload.pack(rows, tmp_path / "data")
    (about,) = subject.stored(fastload.StreamingDataset(tmp_path / "data")).values()
    assert about["fields"]["score"]["numbers"]["value"]["count"] == 7


def test_sources_of_a_mixture_are_told_apart_and_other_data_has_nothing(packed: Packed) -> None:
    sources = {"a": fastload.StreamingDataset(packed("tar", [12])), "b": fastload.StreamingDataset(packed("tar", [9]))}
    found = subject.stored(fastload.Mix(sources))
    assert {name: each["samples"] for name, each in found.items()} == {"a": 12, "b": 9}
    other = torch.utils.data.TensorDataset(torch.arange(4))
    assert subject.stored(DataLoader(other, 2).dataset) == {}


def test_of_very_many_samples_files_that_are_spread_over_all_are_told(
    packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "MOST_SAMPLES", 25)
    (found,) = subject.stored(fastload.StreamingDataset(packed("tar", [10] * 5))).values()
    assert (found["files"], found["samples"]) == (3, 30)


def test_a_url_is_named_without_what_may_be_secret() -> None:
    class Behind:
        samples = 1
        index = SimpleNamespace(paths=["http://me:secret@host/a/b.tar?token=1/2"], sizes=[1], files=[])

    assert subject.data_of(Behind())["data"] == "http://host/a"
