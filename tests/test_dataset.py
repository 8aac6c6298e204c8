"""Data sets under the stock torch DataLoader, in real worker processes, and sample by sample."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import conformance
import numpy as np
import pytest
import samples
import torch
import torch.utils.data
from samples import FORMATS, Leftovers, freeze, key

import fastload
from fastload import IndexedDataset, StreamingDataset
from fastload.dataset import detect_rank
from fastload.errors import ConfigError, CorruptError
from fastload.shards.read import TarReader

# torch warns of more workers than processors
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes:UserWarning")

Packed = Callable[..., Path]
Stock = torch.utils.data.DataLoader
SIZES = [5, 1, 9, 8]
LABEL = {"label": fastload.Scalar()}
FIELDS = {"image": fastload.Image(8, crop="random"), "text": fastload.Text(), **LABEL}


def labels(batches: Iterable[Any]) -> list[list[int]]:
    """The valid samples of each batch of a stock DataLoader."""
    found = []
    for batch in batches:
        valid = batch.get("__valid__", torch.ones(len(batch["label"]), dtype=torch.bool))
        found.append(batch["label"][valid].tolist())
    return found


def flat(batches: list[list[int]]) -> list[int]:
    return [one for batch in batches for one in batch]


# One rank.


@pytest.mark.parametrize("shard_format", FORMATS)
@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.parametrize("planned", [False, True], ids=["by sample", "by batch"])
def test_each_sample_once_an_epoch_and_epochs_go_on(
    packed: Packed, shard_format: str, workers: int, planned: bool
) -> None:
    dataset = StreamingDataset(packed(shard_format, SIZES), fields=LABEL, batch_size=4 if planned else None)
    loader = Stock(dataset, batch_size=4, num_workers=workers)
    epochs = [labels(loader) for _ in range(3)]
    for batches in epochs:
        conformance.assert_exactly_once(flat(batches), 23)
    assert len({tuple(flat(batches)) for batches in epochs}) == 3, "each epoch has its own order"
    if planned:
        run = fastload.DataLoader(StreamingDataset(packed(shard_format, SIZES), fields=LABEL), 4)
        assert epochs == [[batch["label"].tolist() for batch in run] for _ in range(3)]


@pytest.mark.parametrize("workers", [1, 2])
def test_epochs_go_on_with_workers_that_stay(packed: Packed, workers: int) -> None:
    dataset = StreamingDataset(packed("tar", SIZES), fields=LABEL, batch_size=4)
    loader = Stock(dataset, batch_size=4, num_workers=workers, persistent_workers=True)
    run = fastload.DataLoader(packed("tar", SIZES), 4, fields=LABEL)
    expected = [[batch["label"].tolist() for batch in run] for _ in range(8)]
    assert [labels(loader) for _ in range(2)] == expected[:2]
    dataset.set_epoch(6)
    assert [labels(loader) for _ in range(2)] == expected[6:]
    dataset.set_epoch(1)
    for batch in loader:  # breaking out abandons the epoch
        assert batch["label"].tolist() == expected[1][0]
        break
    assert labels(loader) == expected[2]


def test_set_epoch_before_each_pass_as_trainers_do(packed: Packed) -> None:
    dataset = StreamingDataset(packed("tar", SIZES), fields=LABEL)
    loader = Stock(dataset, batch_size=4, num_workers=2)
    passes = []
    for epoch in (0, 1, 0):
        dataset.set_epoch(epoch)
        passes.append(labels(loader))
    assert passes[0] == passes[2] != passes[1]
    with pytest.raises(ConfigError, match="epoch=-1: must be at least 0"):
        dataset.set_epoch(-1)


def test_loaders_of_other_numbers_of_workers_do_not_disturb_each_other(packed: Packed) -> None:
    dataset = StreamingDataset(packed("tar", SIZES), fields=LABEL)
    for workers in (2, 0, 3, 1, 3, 2):
        conformance.assert_exactly_once(flat(labels(Stock(dataset, batch_size=4, num_workers=workers))), 23)


@pytest.mark.parametrize("how", ["as made", "pickled", "copied"])
def test_any_copy(packed: Packed, how: str) -> None:
    dataset = StreamingDataset(packed("parquet", SIZES), fields=LABEL, seed=3)
    list(dataset)  # opens shards, which do not travel
    dataset.set_epoch(0)
    if how != "as made":
        dataset = pickle.loads(pickle.dumps(dataset)) if how == "pickled" else copy.deepcopy(dataset)
    loader = Stock(dataset, batch_size=4, num_workers=1, multiprocessing_context="fork")
    epochs = [flat(labels(loader)) for _ in range(2)]
    run = fastload.DataLoader(packed("parquet", SIZES), 4, fields=LABEL, seed=3)
    assert epochs == [[i for batch in run for i in batch["label"].tolist()] for _ in range(2)]


def test_a_sample_is_the_same_as_in_a_batch_of_the_own_loader(packed: Packed) -> None:
    data = packed("tar", SIZES, ("image", "text", "label"))
    run = fastload.DataLoader(data, 5, fields=FIELDS)
    dataset = StreamingDataset(data, fields=FIELDS)
    for _ in range(2):
        own = {
            k: (freeze(image), text)
            for batch in run
            for k, image, text in zip(batch["__key__"], batch["image"], batch["text"], strict=True)
        }
        single = {one["__key__"]: (freeze(one["image"]), one["text"]) for one in dataset}
        assert single == own


@pytest.mark.parametrize("shard_format", FORMATS)
def test_padded_bytes_under_a_stock_loader(packed: Packed, shard_format: str) -> None:
    data = packed(shard_format, SIZES, ("image", "text", "label"))
    fields = {"text": fastload.Bytes(64), **LABEL}
    found = {}
    for batch in Stock(StreamingDataset(data, fields=fields), batch_size=4, num_workers=1):
        for label, row, length in zip(batch["label"], batch["text"], batch["text_length"], strict=True):
            found[int(label)] = row[:length].numpy().tobytes()
            assert not row[length:].any()
    whole = StreamingDataset(data, fields={"text": fastload.Bytes(), **LABEL})
    assert found == {int(sample["label"]): sample["text"] for sample in whole}


def test_contents_that_are_cut_are_not_copied_whole(packed: Packed) -> None:
    data = packed("tar", SIZES, ("image", "text"))

    def views_from(field: fastload.Bytes) -> int:
        reader = StreamingDataset(data, fields={"image": field, "text": field}).recipe.reader
        assert isinstance(reader, TarReader)
        return reader._bytes_below

    assert views_from(fastload.Bytes(8)) < views_from(fastload.Bytes())


def test_the_length_is_the_number_of_samples(packed: Packed) -> None:
    data = packed("tar", SIZES)
    assert len(StreamingDataset(data)) == 23
    for world_size, batch_size, expected in ((2, None, 12), (3, None, 8), (2, 4, 12), (3, 4, 8), (2, 5, 15)):
        for rank in range(world_size):
            dataset = StreamingDataset(data, fields=LABEL, rank=rank, world_size=world_size, batch_size=batch_size)
            assert len(dataset) == len(list(dataset)) == expected


def test_workers_leave_nothing_behind(packed: Packed) -> None:
    before = Leftovers()
    dataset = StreamingDataset(packed("tar", SIZES), fields=LABEL)
    for batch in Stock(dataset, batch_size=4, num_workers=2):
        assert len(batch["label"]) == 4
        break
    list(dataset)
    del dataset, batch
    before.assert_none(patience_seconds=30)  # torch's queues are told to end, and not waited for


def test_workers_may_be_forked_while_threads_of_the_same_dataset_read(packed: Packed) -> None:
    dataset = StreamingDataset(packed("tar", SIZES, ("image", "text", "label")), fields=FIELDS)
    run = fastload.DataLoader(dataset, 2, num_workers=2, prefetch_factor=4)
    for number, _ in enumerate(run):
        if number < 4:
            conformance.assert_exactly_once(flat(labels(Stock(dataset, batch_size=4, num_workers=1, timeout=60))), 23)
    assert number == 11


# Several ranks.


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("planned", [False, True], ids=["by sample", "by batch"])
def test_ranks_get_equally_many_samples_and_no_sample_twice(
    packed: Packed, world_size: int, workers: int, planned: bool
) -> None:
    data = packed("tar", SIZES, ("image", "text", "label"))
    ranks, counts = [], set()
    for rank in range(world_size):
        dataset = StreamingDataset(
            data, fields=FIELDS, rank=rank, world_size=world_size, batch_size=4 if planned else None
        )
        batches = list(Stock(dataset, batch_size=4, num_workers=workers))
        ranks.append(labels(batches))
        counts.add(tuple(len(batch["label"]) for batch in batches))
        for batch in batches:
            assert batch["__valid__"].dtype == torch.bool
            expected = [f"text of sample {i}" if i >= 0 else "" for i in _or_minus(batch)]
            assert batch["text"] == expected, "padding collates with the rest"
            assert not batch["image"][~batch["__valid__"]].any()
    assert len(counts) == 1
    conformance.assert_exactly_once(conformance.flat(ranks), 23)


def _or_minus(batch: dict[str, Any]) -> list[int]:
    return torch.where(batch["__valid__"], batch["label"], -1).tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("how", ["own", "by sample", "by batch", "by worker"])
@pytest.mark.parametrize("shard_format", FORMATS)
def test_lanes_give_each_node_its_own_shards(packed: Packed, shard_format: str, how: str) -> None:
    """Of two nodes with two ranks each, which torchrun numbers 0, 1 and 2, 3."""
    nodes: tuple[set[int], set[int]] = set(), set()
    read: list[int] = []
    for rank in range(4):
        dataset = StreamingDataset(
            packed(shard_format, [10] * 8),
            fields=LABEL,
            lanes=2,
            rank=rank,
            world_size=4,
            batch_size=3 if how == "by batch" else None,
        )
        if how == "by worker":
            steps = [step for worker in range(3) for step in dataset._sample_steps(0, rank, 4, worker, 3)]
            pairs = [pair for step in steps for pair in zip(step.shards.tolist(), step.rows.tolist(), strict=True)]
            rows = [10 * shard + row for shard, row in pairs]
        elif how == "own":
            rows = [i for batch in fastload.DataLoader(dataset, 3) for i in samples.ids(batch)]
        else:
            rows = flat(labels(Stock(dataset, batch_size=3)))
        nodes[rank // 2].update(i // 10 for i in rows)
        read += rows
    conformance.assert_exactly_once(read, 80)
    assert len(nodes[0]) == len(nodes[1]) == 4
    assert nodes[0].isdisjoint(nodes[1])


def test_more_ranks_than_samples(packed: Packed) -> None:
    data = packed("tar", [2, 1])
    found = []
    for rank in range(4):
        one = list(StreamingDataset(data, fields=LABEL, rank=rank, world_size=4))
        assert len(one) == 1
        found += [sample["label"].item() for sample in one if sample["__valid__"]]
    conformance.assert_exactly_once(found, 3)


def test_rank_and_world_size_come_from_the_environment(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    data = packed("tar", SIZES)
    monkeypatch.setenv("WORLD_SIZE", "2")
    seen: list[int] = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        dataset = StreamingDataset(data, fields=LABEL)
        batches = labels(Stock(dataset, batch_size=4, num_workers=2))
        assert len(dataset) == 12
        seen += flat(batches)
        assert len(fastload.DataLoader(dataset, 4)) == 3
    conformance.assert_exactly_once(seen, 23)


def test_drop_last_drops_less_than_a_batch_where_the_batch_size_is_known(packed: Packed) -> None:
    dataset = StreamingDataset(packed("tar", SIZES), fields=LABEL, batch_size=4)
    batches = labels(Stock(dataset, batch_size=4, num_workers=3, drop_last=True))
    assert [len(batch) for batch in batches] == [4] * 5
    conformance.assert_loses_less_than(flat(batches), 23, 4)


@pytest.mark.parametrize("make", [lambda data: fastload.DataLoader(data, 4), lambda data: Stock(data, batch_size=4)])
def test_several_ranks_and_none_of_them_is_refused_at_the_first_batch(
    packed: Packed, monkeypatch: pytest.MonkeyPatch, make: Callable[[StreamingDataset], Any]
) -> None:
    """Lightning sets WORLD_SIZE alone, and initialises torch.distributed after the loaders are made."""
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    data = packed("tar", SIZES)
    run = make(StreamingDataset(data, fields=LABEL))
    assert len(run)
    with pytest.raises(ConfigError, match="WORLD_SIZE=2 in the environment and no RANK: every process would take"):
        next(iter(run))
    assert len(list(make(StreamingDataset(data, fields=LABEL, rank=0, world_size=2)))) == 3
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert len(list(make(StreamingDataset(data, fields=LABEL)))) == 6


def test_detect_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert detect_rank(None, None) == (0, 1)
    assert detect_rank(np.int64(1), 3) == (1, 3)  # type: ignore[arg-type]
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(ConfigError, match=r"rank=1: must be in \[0, 1\), the world size"):
        detect_rank(None, None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert detect_rank(None, None) == (1, 2)
    assert detect_rank(0, 1) == (0, 1), "arguments count more"
    monkeypatch.setenv("RANK", "one")
    with pytest.raises(ConfigError, match="RANK='one' and WORLD_SIZE='2' in the environment are not numbers; unset"):
        detect_rank(None, None)
    with pytest.raises(ConfigError, match="rank=1, world_size=None: pass both or neither"):
        detect_rank(1, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"batch_size": 1.5}, "batch_size=1.5: must be an integer"),
        ({"rank": 3, "world_size": 2}, r"rank=3: must be in \[0, 2\)"),
        ({"fields": {"label": fastload.Tensor(dtype="S3")}}, "the data holds scalar there"),
    ],
)
def test_bad_arguments_are_refused_at_once(packed: Packed, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        StreamingDataset(packed("tar", SIZES), **options)


# Faults.


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_a_worker_names_the_sample(tmp_path: Path, workers: int) -> None:
    data = samples.make(tmp_path / "d", "tar", [3, 5], replace={5: {"image": b"junk"}})
    dataset = StreamingDataset(data, fields={"image": fastload.Image(8)}, shuffle=False)
    with pytest.raises(fastload.FastloadError, match=r"shard 'train/shard-000001.tar', row 2 \('000005'\)"):
        list(Stock(dataset, batch_size=4, num_workers=workers))


def test_masked_samples_are_marked(tmp_path: Path) -> None:
    data = samples.make(
        tmp_path / "d", "tar", [3, 5], ("image", "text", "label"), replace={5: {"image": b"junk"}, 6: {"text": None}}
    )
    dataset = StreamingDataset(data, fields=FIELDS, shuffle=False, on_error="mask")
    found = list(Stock(dataset, batch_size=4, num_workers=1))
    assert labels(found) == [[0, 1, 2, 3], [4, 7]]
    assert found[1]["__valid__"].tolist() == [True, False, False, True]
    assert found[1]["text"] == ["text of sample 4", "", "", "text of sample 7"]


# Sample by sample.


@pytest.mark.parametrize("shard_format", FORMATS)
def test_samples_by_index(packed: Packed, shard_format: str) -> None:
    dataset = IndexedDataset(packed(shard_format, SIZES, samples.FIELDS))
    assert len(dataset) == 23
    for i in (0, 4, 5, 6, 14, 15, 22, -1, -23, np.int64(3), torch.tensor(7)):
        sample, number = dataset[i], int(i) % 23  # type: ignore[index]
        assert sample["label"].item() == number
        assert sample["__key__"] == key(number)
        assert sample["text"] == f"text of sample {number}"
        assert sample["tokens"].tolist() == samples.tokens(number).tolist()
        assert sample["json"] == {"i": number}
        assert sample["image"].shape == (3, samples.HEIGHT, samples.WIDTH)
        assert "__valid__" not in sample


def test_several_samples_at_once_come_in_the_order_asked_for(packed: Packed) -> None:
    dataset = IndexedDataset(packed("tar", SIZES), fields=LABEL)
    for rows in ([3, 22, 3, 0, -1], range(20, 23), [], np.array([5, 1]), torch.tensor([2, 8])):
        found = [sample["label"].item() for sample in dataset.__getitems__(rows)]  # type: ignore[arg-type]
        assert found == [int(row) % 23 for row in rows]


@pytest.mark.parametrize("row", [23, -24, 10**12])
def test_a_sample_out_of_range_is_refused(packed: Packed, row: int) -> None:
    dataset = IndexedDataset(packed("tar", SIZES), fields=LABEL)
    with pytest.raises(IndexError, match=f"sample {row} of 23: out of range"):
        dataset[row]
    with pytest.raises(IndexError, match="out of range"):
        dataset.__getitems__([1, row])


@pytest.mark.parametrize("row", [1.5, slice(0, 3), "1", None])
def test_what_is_no_index_is_refused(packed: Packed, row: object) -> None:
    dataset = IndexedDataset(packed("tar", SIZES), fields=LABEL)
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        dataset[row]  # type: ignore[index]


def test_iterating_by_index_ends(packed: Packed) -> None:
    dataset = IndexedDataset(packed("tar", SIZES), fields=LABEL)
    assert [dataset[i]["label"].item() for i in range(len(dataset))] == list(range(23))
    assert [sample["label"].item() for sample in dataset] == list(range(23))  # type: ignore[attr-defined]


def test_an_empty_data_set_by_index(packed: Packed) -> None:
    dataset = IndexedDataset(packed("tar", []))
    assert len(dataset) == 0
    assert list(StreamingDataset(packed("tar", []))) == []
    with pytest.raises(IndexError, match="sample 0 of 0"):
        dataset[0]


@pytest.mark.parametrize("shard_format", FORMATS)
@pytest.mark.parametrize("workers", [0, 2])
def test_any_sampler_of_torch(packed: Packed, shard_format: str, workers: int) -> None:
    dataset = IndexedDataset(packed(shard_format, SIZES), fields={"image": fastload.Image(8), **LABEL})
    generator = torch.Generator().manual_seed(0)
    shuffled = torch.utils.data.RandomSampler(dataset, generator=generator)  # type: ignore[arg-type]
    conformance.assert_exactly_once(
        flat(labels(Stock(dataset, batch_size=4, sampler=shuffled, num_workers=workers))), 23
    )
    weights = [float(i in (3, 17)) for i in range(23)]
    weighted = torch.utils.data.WeightedRandomSampler(weights, 40, generator=generator)
    found = flat(labels(Stock(dataset, batch_size=8, sampler=weighted, num_workers=workers)))
    assert len(found) == 40
    assert set(found) == {3, 17}
    batches = torch.utils.data.BatchSampler(torch.utils.data.SequentialSampler(dataset), 7, drop_last=True)
    assert labels(Stock(dataset, batch_sampler=batches, num_workers=workers)) == [
        list(range(start, start + 7)) for start in (0, 7, 14)
    ]


def test_random_crops_belong_to_seed_epoch_and_sample(packed: Packed) -> None:
    data = packed("tar", SIZES)
    crop = {"image": fastload.Image(8, crop="random")}
    one, other = IndexedDataset(data, fields=crop), IndexedDataset(data, fields=crop, seed=1)
    first = [freeze(one[i]["image"]) for i in range(5)]
    assert [freeze(s["image"]) for s in one.__getitems__([4, 3, 2, 1, 0])] == first[::-1]
    assert [freeze(other[i]["image"]) for i in range(5)] != first
    one.set_epoch(1)
    assert [freeze(one[i]["image"]) for i in range(5)] != first
    one.set_epoch(0)
    assert [freeze(one[i]["image"]) for i in range(5)] == first
    run = fastload.DataLoader(data, 5, fields=crop, shuffle=False)
    assert [freeze(image) for image in next(iter(run))["image"]] == first


def test_an_indexed_data_set_pickles(packed: Packed) -> None:
    dataset = IndexedDataset(packed("tar", SIZES), fields=LABEL)
    dataset[3]
    assert pickle.loads(pickle.dumps(dataset))[7]["label"].item() == 7


def test_damage_is_named_by_index_too(tmp_path: Path) -> None:
    data = samples.make(tmp_path / "d", "tar", [3, 5], ("text", "label"), replace={5: {"text": None}})
    with pytest.raises(CorruptError, match=r"shard 'train/shard-000001.tar', row 2 \('000005'\): field 'text'"):
        IndexedDataset(data)[5]
