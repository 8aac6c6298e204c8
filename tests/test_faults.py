"""Masked samples: counted once over processes and epochs, and listed in a file."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import samples
import torch.utils.data
from samples import key

import fastload
from fastload.errors import ConfigError, DecodeError, SourceError
from fastload.faults import Counted, Fault, FaultLog

FIELDS = {"image": fastload.Image(8), "label": fastload.Scalar()}
BAD = (1, 2, 5, 6)
Stock = torch.utils.data.DataLoader


def fault(shard: str = "a", row: int = 3, epoch: int = 0) -> Fault:
    return Fault(epoch=epoch, shard=shard, row=row, key="k", field="image", error="why")


def damaged(folder: Path) -> Path:
    return samples.make(folder / "d", "tar", [3, 5], replace={i: {"image": b"junk"} for i in BAD})


def masking(data: Path, **options: Any) -> fastload.StreamingDataset:
    return fastload.StreamingDataset(data, fields=FIELDS, on_error="mask", **options)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_fault_log_counts_distinct_samples() -> None:
    log = FaultLog(1)
    log.add(fault())
    log.add(fault(epoch=1))
    assert log.faults == [fault()]
    with pytest.raises(DecodeError, match=r"shard 'b', row 3 \('k'\): 2 samples could not be read, .* 'image': why"):
        log.add(fault("b"))


def test_logs_of_several_processes_count_together() -> None:
    counted = Counted(3)
    one, other = FaultLog(2, None, counted), FaultLog(2, None, counted)
    for log in (one, other):
        for row in (3, 4):
            log.add(fault(row=row))
    assert one.faults == other.faults == [fault(), fault(row=4)]
    with pytest.raises(DecodeError, match="3 samples could not be read, more than max_errors=2"):
        other.add(fault(row=5))
    with pytest.raises(DecodeError, match="3 samples could not be read"):
        one.add(fault(row=6))  # there is no place for it


def test_a_full_table_finds_what_it_has() -> None:
    counted = Counted(50)
    assert [counted.add("a", row) for row in range(50)] == [(True, row + 1) for row in range(50)]
    assert [counted.add("a", row) for row in range(50)] == [(False, 50)] * 50
    assert counted.add("b", 0) == (True, 50)


def test_torchs_default_device_does_not_matter() -> None:
    with torch.device("meta"):
        counted = Counted(3)
        assert counted.add("a", 1) == (True, 1)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda counted: pickle.loads(pickle.dumps(counted))])
def test_a_copy_counts_by_itself(duplicate: Callable[[Counted], Counted]) -> None:
    counted = Counted(4)
    counted.add("a", 1)
    other = duplicate(counted)
    assert other.add("a", 1) == (True, 1)
    assert counted.add("a", 2) == (True, 2)


@pytest.mark.parametrize("kind", [fastload.DataLoader, Stock])
def test_all_workers_count_and_list_together(tmp_path: Path, kind: Callable[..., Any]) -> None:
    data, listed = damaged(tmp_path), tmp_path / "bad.jsonl"
    run = kind(masking(data, max_errors=len(BAD), errors_file=listed), 2, num_workers=2)
    for _ in range(4):  # the workers of a stock loader are others in each, and take other samples
        assert sum(len(batch["label"]) for batch in run) == 8
    found = lines(listed)
    assert sorted(line["key"] for line in found) == [key(i) for i in BAD]
    for line in found:
        i = int(line["key"])
        assert line["shard"] == f"train/shard-{i // 3 if i < 3 else 1:06d}.tar"
        assert line["row"] == (i if i < 3 else i - 3)
        assert line["field"] == "image"
        assert "junk" in line["error"]
        assert line["epoch"] in range(4)
    with pytest.raises(DecodeError, match="4 samples could not be read, more than max_errors=3"):
        list(kind(masking(data, max_errors=3), 2, num_workers=2))


@pytest.mark.parametrize("fields", ["merged", "separate"])
def test_a_mixture_lists_what_its_sources_would(tmp_path: Path, fields: Any) -> None:
    data, listed = damaged(tmp_path), tmp_path / "bad.jsonl"
    sources = {"a": masking(data, errors_file=listed), "b": masking(data, errors_file=listed)}
    list(fastload.DataLoader(fastload.Mix(sources, fields=fields), 4))
    assert sorted((line["shard"].split(": ")[0], line["key"]) for line in lines(listed)) == [
        (name, key(i)) for name in "ab" for i in BAD
    ]
    other = masking(data)
    with pytest.raises(ConfigError, match=r"Mix: errors_file is .*; pass the same in all sources"):
        fastload.Mix({"a": sources["a"], "b": other}, fields=fields)


def test_a_file_that_can_no_longer_be_written_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "lists"
    folder.mkdir()
    run = fastload.DataLoader(masking(damaged(tmp_path), errors_file=folder / "bad.jsonl"), 4, num_workers=2)
    (folder / "bad.jsonl").unlink()
    folder.rmdir()
    with pytest.raises(SourceError, match=r"errors_file='.*bad.jsonl' cannot be written: No such file"):
        list(run)
