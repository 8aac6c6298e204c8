"""Mix on real shards: whose rows are whose, ratios on every rank and worker, resume, nesting, separate batches."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import samples
import torch
import torch.utils.data
from conformance import assert_equal_batches, assert_exactly_once, assert_resumes
from loading import resuming
from samples import FORMATS, content, flip_byte, ids

import fastload
from fastload.augment import RandomHorizontalFlip
from fastload.batch import Batch
from fastload.errors import ConfigError, CorruptError, StateError
from fastload.loader import DataLoader
from fastload.samplers import LengthBuckets, Stratified, Weighted
from fastload.stream import Streamed

Packed = Callable[..., Path]
SIZES = {"a": [5, 1, 9, 8], "b": [7, 4], "c": [20]}  # 23, 11 and 20 samples
SMALL = {"image": fastload.Image(8, crop="random"), "label": fastload.Scalar()}


def source(packed: Packed, name: str, shard_format: str = "tar", **options: Any) -> fastload.StreamingDataset:
    return fastload.StreamingDataset(packed(shard_format, SIZES[name]), **{"fields": SMALL, **options})


def mixture(packed: Packed, names: str = "ab", weights: list[float] | None = None, **options: Any) -> fastload.Mix:
    """The sources a, b, ..., the second of them in Parquet."""
    sources = {name: source(packed, name, FORMATS[number % 2], seed=number) for number, name in enumerate(names)}
    return fastload.Mix(sources, weights, **options)


def rows(batch: Batch) -> list[tuple[int, int]]:
    """(source, label) of the valid rows."""
    assert batch.valid is not None
    return list(zip(batch["source"][batch.valid].tolist(), ids(batch), strict=True))


@pytest.mark.parametrize("workers", [0, 3])
def test_each_row_is_what_its_source_gives_by_itself(packed: Packed, workers: int) -> None:
    fields = {"image": fastload.Image(8), "label": fastload.Scalar()}  # whole pictures: nothing about them is drawn
    sources = {name: source(packed, name, kind, fields=fields) for name, kind in zip("ab", FORMATS, strict=True)}
    mix = fastload.Mix(sources, [2, 1], stop="all")
    alone = {}
    for number, one in enumerate(mix.sources.values()):
        for batch in DataLoader(one, 1):
            alone[number, ids(batch)[0]] = batch
    seen = []
    for batch in DataLoader(mix, 6, num_workers=workers):
        assert list(batch) == ["image", "label", "source", "__key__"]
        for row, which in enumerate(rows(batch)):
            assert batch["__key__"][row] == alone[which]["__key__"][0]
            assert batch["image"][row].equal(alone[which]["image"][0])
        seen += rows(batch)
    assert {which for which in seen if which[0] == 1} == {(1, i) for i in range(11)}
    assert_exactly_once(seen[: 22 + 11], set(seen[: 22 + 11]))
    assert {which for which in seen if which[0] == 0} == {(0, i) for i in range(23)}


def test_each_source_keeps_its_own_order(packed: Packed) -> None:
    mix = mixture(packed, "abc", [3, 1, 2], stop=200)
    seen = [one for batch in DataLoader(mix, 7) for one in rows(batch)]
    for number, one in enumerate(mix.sources.values()):
        run = DataLoader(one, 1)
        own = [label for _ in range(12) for batch in run for label in ids(batch)]
        mine = [label for which, label in seen if which == number]
        assert mine == own[: len(mine)]


@pytest.mark.parametrize("weights", [None, [0.7, 0.3], [3, 1]])
@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [1, 5, 8])
def test_every_batch_of_every_rank_keeps_the_ratios_within_one(
    packed: Packed, weights: list[float] | None, world_size: int, batch_size: int
) -> None:
    share = (weights or [1, 1])[0] / sum(weights or [1, 1])
    ranks = []
    for rank in range(world_size):
        mix = mixture(packed, "ab", weights, stop="all", rank=rank, world_size=world_size)
        run = DataLoader(mix, batch_size, last_batch="wrap")
        batches = [batch for _ in range(2) for batch in run]
        for batch in batches:
            assert abs(batch["source"].tolist().count(0) - share * batch_size) < 1
        ranks.append([rows(batch) for batch in batches])
    assert_equal_batches(ranks)
    read = [one for step in zip(*ranks, strict=True) for part in step for one in part]
    alone = DataLoader(mixture(packed, "ab", weights, stop="all"), world_size * batch_size, last_batch="wrap")
    expected = [one for _ in range(2) for batch in alone for one in rows(batch)]
    assert sorted(read) == sorted(expected)


def test_a_quota_is_met_in_every_batch(packed: Packed) -> None:
    for batch in DataLoader(mixture(packed, "abc", [4, 1, 3], stop=80), 8):
        assert np.bincount(batch["source"]).tolist() == [4, 1, 3]


def test_round_robin_on_as_many_ranks_as_sources_gives_each_all_of_them(packed: Packed) -> None:
    for rank in (0, 1):
        mix = mixture(packed, "ab", stop=200, rank=rank, world_size=2)
        got = [one[0] for batch in DataLoader(mix, 1) for one in rows(batch)]
        assert 30 < sum(got) < 70  # of 100; by turns it would be all or none


@pytest.mark.parametrize("batch_size", [None, 8])
def test_under_a_stock_loader_every_worker_has_all_sources(packed: Packed, batch_size: int | None) -> None:
    mix = mixture(packed, "ab", stop=64, batch_size=batch_size)
    labels = []
    for batch in torch.utils.data.DataLoader(mix, batch_size=8, num_workers=2):
        assert abs(int(batch["source"].sum()) - 4) <= 1
        labels += list(zip(batch["source"].tolist(), batch["label"].tolist(), strict=True))
    expected = [one for batch in DataLoader(mixture(packed, "ab", stop=64), 8) for one in rows(batch)]
    assert sorted(labels) == sorted(expected)


def nested(packed: Packed, **options: Any) -> fastload.Mix:
    inner = mixture(packed, "ab", stop="all", weights=[2, 1])
    return fastload.Mix({"inner": inner, "c": source(packed, "c", window=1)}, [2, 1], stop="all", **options)


def test_a_mix_of_a_mix(packed: Packed) -> None:
    labels: list[list[int]] = [[], []]
    run = DataLoader(mixture(packed, "ab", [2, 1], stop="all"), 33)
    inner = [label for _ in range(3) for batch in run for label in ids(batch)]
    for rank in (0, 1):
        for batch in DataLoader(nested(packed, rank=rank, world_size=2), 9, last_batch="wrap"):
            assert list(batch) == ["image", "label", "source", "__key__"]
            assert abs(batch["source"].tolist().count(0) - 6) < 1
            for number, label in rows(batch):
                labels[number].append(label)
    assert set(labels[1]) == set(range(20))
    assert sorted(labels[0]) == sorted(inner[: len(labels[0])])


RESUMED: dict[str, Callable[..., fastload.Mix]] = {
    "two": lambda packed, **o: mixture(packed, "ab", [2, 1], **o),
    "three": lambda packed, **o: mixture(packed, "abc", [0.5, 0.3, 0.2], stop="all", **o),
    "separate": lambda packed, **o: mixture(packed, "ab", fields="separate", **o),
    "nested": nested,
    "both": lambda packed, **o: fastload.Mix(
        {"in": mixture(packed, "ab", fields="separate"), "c": source(packed, "c")}, fields="separate", stop=50, **o
    ),
    "sampled": lambda packed, **o: fastload.Mix(
        {
            "a": source(packed, "a", sampler=Weighted(np.arange(23), samples=30)),
            "b": source(packed, "b", sampler=Stratified("label")),
        },
        **o,
    ),
}


def frozen(batch: Batch) -> Any:
    """A batch as one value, of separate ones each."""
    return (
        tuple((k, frozen(v)) for k, v in batch.items())
        if isinstance(next(iter(batch.values())), Batch)
        else content(batch)
    )


@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_run_is_bit_equal_at_every_batch_and_again(packed: Packed, name: str) -> None:
    def make() -> DataLoader:
        augment = [] if name in ("separate", "both") else [RandomHorizontalFlip()]
        return DataLoader(RESUMED[name](packed), 5, num_workers=2, augment=augment)

    assert_resumes(resuming(make, frozen), 2 * len(make()) + 2, stride=2)


def test_resumed_at_another_world_size_the_union_is_exact(packed: Packed) -> None:
    read, state = [], None
    for world_size, batch_size, batches in ((2, 3, 2), (3, 2, 2), (1, 100, 1)):
        states = []
        for rank in range(world_size):
            mix = mixture(packed, "ab", [2, 1], stop="first", rank=rank, world_size=world_size)
            run = DataLoader(mix, batch_size)
            if state is not None:
                run.load_state_dict(state)
            for _, batch in zip(range(batches), run, strict=False):
                read += rows(batch)
            states.append(run.state_dict())
        assert states == [states[0]] * world_size
        state = states[0]
        assert len(json.dumps(state)) < 1000
    assert sorted(read) == sorted(
        one for b in DataLoader(mixture(packed, "ab", [2, 1], stop="first"), 9) for one in rows(b)
    )


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda p: mixture(p, "ab", [1, 2]), "other weights or another stopping rule"),
        (lambda p: mixture(p, "ab", [2, 1], stop=30), "other weights or another stopping rule"),
        (lambda p: mixture(p, "ac", [2, 1]), "other weights or another|a mixture of other sources"),
        (lambda p: mixture(p, "ba", [1, 2]), "other weights or another|a mixture of other sources"),
        (lambda p: mixture(p, "ab", [2, 1], seed=1), "saved with seed=0, and this loader has seed=1"),
        (lambda p: source(p, "a"), "belongs to another data set"),
    ],
)
def test_states_of_other_mixtures_are_refused(
    packed: Packed, other: Callable[[Packed], Streamed], message: str
) -> None:
    state = DataLoader(mixture(packed, "ab", [2, 1]), 4).state_dict()
    with pytest.raises(StateError, match=message):
        DataLoader(other(packed), 4).load_state_dict(state)


def test_the_order_of_sources_and_their_names_are_part_of_the_state(packed: Packed) -> None:
    a, b = source(packed, "a"), source(packed, "a", seed=1)
    state = DataLoader(fastload.Mix({"a": a, "b": b}), 4).state_dict()
    with pytest.raises(StateError, match="a mixture of other sources"):
        DataLoader(fastload.Mix({"b": b, "a": a}), 4).load_state_dict(state)


# Separate.


def test_separate_batches_are_those_of_merged_taken_apart(packed: Packed) -> None:
    weights = [2.0, 1.0]
    together = [
        [[label for which, label in rows(batch) if which == number] for number in (0, 1)]
        for batch in DataLoader(mixture(packed, "ab", weights, stop="all"), 6, last_batch="pad")
    ]
    apart = mixture(packed, "ab", weights, stop="all", fields="separate")
    for workers in (0, 3):
        run = DataLoader(apart, 6, last_batch="pad", num_workers=workers)
        assert len(run) == len(together)
        for batch, expected in zip(run, together, strict=True):
            assert list(batch) == ["a", "b"]
            assert [ids(part) for part in batch.values()] == expected
            assert batch.valid is not None
            assert int(batch.valid.sum()) == sum(map(len, expected))
            assert len(batch.valid) == batch.rows == 6
            assert all(part.valid.all() and part.state is None for part in batch.values())


def test_sources_of_separate_batches_declare_what_they_like(packed: Packed) -> None:
    fields = {"a": SMALL, "b": {"text": fastload.Text(), "tokens": fastload.Tokens(4)}}
    sources = {
        name: fastload.StreamingDataset(
            packed("tar", SIZES[name], samples.FIELDS), fields=fields[name], on_error=on_error
        )
        for name, on_error in (("a", "raise"), ("b", "mask"))
    }
    mix = fastload.Mix(sources, [9, 1], fields="separate")
    empty = False
    for batch in DataLoader(mix, 4, as_tuple=("b", "a", "valid")):
        b, a, valid = batch
        assert list(a) == ["image", "label", "__key__"]
        assert list(b) == ["text", "tokens", "tokens_length", "__key__"]
        assert a["image"].shape == (len(a["__key__"]), 3, 8, 8)
        assert b["tokens"].shape == (len(b["text"]), 4)
        assert a.rows + b.rows == int(valid.sum())
        empty = empty or not b.rows
    assert empty  # a batch may have no row of a source


def test_separate_batches_go_to_a_device_with_all_they_hold(packed: Packed) -> None:
    batch = next(iter(DataLoader(mixture(packed, "ab", fields="separate"), 4, device="meta")))
    assert batch["a"]["image"].device.type == "meta"
    assert batch["b"].valid.device.type == "meta"


def test_augmentation_of_separate_batches_is_a_function_of_the_whole(packed: Packed) -> None:
    def brighten(batch: Batch) -> Batch:
        return batch.replaced({"a": batch["a"].replaced({"image": batch["a"]["image"] | 255})})

    batch = next(iter(DataLoader(mixture(packed, "ab", fields="separate"), 4, augment=[brighten])))
    assert (batch["a"]["image"] == 255).all()
    assert (batch["b"]["image"] != 255).any()


# Damage, masks, and what is refused.


def test_a_damaged_sample_is_named_with_its_source(tmp_path: Path, packed: Packed) -> None:
    bad = samples.make(tmp_path / "bad", "tar", SIZES["b"])
    flip_byte(bad / "train/shard-000001.tar", 600)
    for fields in ("merged", "separate"):
        broken = fastload.Mix(
            {"a": source(packed, "a"), "b": fastload.StreamingDataset(bad, fields=SMALL)}, fields=fields
        )  # type: ignore[arg-type]
        with pytest.raises(CorruptError, match=r"shard 'b: train/shard-000001.tar', row 0 \('000007'\): field 'image'"):
            list(DataLoader(broken, 4))
        sources = {
            "a": source(packed, "a", on_error="mask", max_errors=2),
            "b": fastload.StreamingDataset(bad, fields=SMALL, on_error="mask"),
        }
        run = DataLoader(fastload.Mix(sources, fields=fields), 4)  # type: ignore[arg-type]
        list(run)
        assert [(fault.shard, fault.key) for fault in run.faults] == [("b: train/shard-000001.tar", "000007")]


@pytest.mark.parametrize("fields", ["merged", "separate"])
def test_a_null_number_is_masked_or_named_with_its_source(tmp_path: Path, fields: Any) -> None:
    for name, numbers in (("a", [1, 2, 3, 4]), ("b", [5, None, 7, 8])):
        pq.write_table(pa.table({"x": pa.array(numbers)}), tmp_path / f"{name}.parquet")

    def load(**options: Any) -> DataLoader:
        sources = {name: fastload.StreamingDataset(tmp_path / f"{name}.parquet", **options) for name in "ab"}
        return DataLoader(fastload.Mix(sources, fields=fields), 8)

    with pytest.raises(CorruptError, match=r"b: b.parquet, row group 0', row 1 .*'x' \(null\)"):
        list(load())
    masking = load(on_error="mask")
    (batch,) = masking
    assert [(f.shard, f.row, f.field) for f in masking.faults] == [("b: b.parquet, row group 0", 1, "x")]
    parts = [batch] if fields == "merged" else [batch["a"], batch["b"]]
    found = [(x, valid) for part in parts for x, valid in zip(part["x"].tolist(), part.valid.tolist(), strict=True)]
    assert sorted(found) == [(0, False), *((x, True) for x in (1, 2, 3, 4, 5, 7, 8))]


def test_token_rows_stored_in_several_dtypes_are_mixed_right(tmp_path: Path) -> None:
    sources = {}
    for dtype in ("int32", "int64", "uint16", "uint8"):
        kind = pa.list_(pa.type_for_alias(dtype))
        column = pa.array([[i, i + 1, i + 2, i + 3] for i in range(6)], kind)
        pq.write_table(pa.table({"tokens": column, "label": list(range(6))}), tmp_path / f"{dtype}.parquet")
        fields = {"tokens": fastload.Tokens(4), "label": fastload.Scalar()}
        sources[dtype] = fastload.StreamingDataset(tmp_path / f"{dtype}.parquet", fields=fields)
        assert sources[dtype].index.fields["tokens"].dtype == dtype
    for batch in DataLoader(fastload.Mix({name: sources[name] for name in ("int32", "int64", "uint16")}), 6):
        assert batch["tokens"].tolist() == [[i, i + 1, i + 2, i + 3] for i in batch["label"].tolist()]
    with pytest.raises(
        ConfigError, match="'tokens' has bytes as tokens True in 'uint8' and False in 'int32'; declare it"
    ):
        fastload.Mix({name: sources[name] for name in ("int32", "uint8")})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: fastload.Mix({}), "Mix: no sources; pass a dict of StreamingDatasets"),
        (lambda p: fastload.Mix([source(p, "a")]), "Mix: no sources; pass a dict"),  # type: ignore[arg-type]
        (lambda p: fastload.Mix({"a": p("tar", SIZES["a"])}), "Mix: 'a' is a .*Path; pass a StreamingDataset or a Mix"),  # type: ignore[dict-item]
        (
            lambda p: fastload.Mix({"a": source(p, "a"), "b": source(p, "b", fields={"label": fastload.Scalar()})}),
            "Mix: 'b' declares .* and 'a' .*; declare the same fields in all, or pass fields='separate'",
        ),
        (
            lambda p: fastload.Mix({"a": source(p, "a"), "b": source(p, "b", on_error="mask")}),
            "Mix: on_error of 'b' and 'a' differ; pass the same in all",
        ),
        (lambda p: mixture(p, fields="some"), r"Mix\(fields='some'\): pass 'merged' or 'separate'"),
        (lambda p: mixture(p, weights=[1]), "2 sources and 1 weights; pass one weight for each"),
        (lambda p: mixture(p, weights=0.5), r"Mix\(weights=0.5\): pass a list, one number for each of a, b"),
        (lambda p: mixture(p, weights={"a": 1, "b": 2}), r"Mix\(weights=\{'a': 1, 'b': 2\}\): pass a list"),
        (
            lambda p: fastload.Mix({"a": source(p, "a"), "no": fastload.StreamingDataset(p("tar", []), fields=SMALL)}),
            "Mix: 'no' has no samples; leave it out",
        ),
        (lambda p: mixture(p, weights=[1, 0]), r"Mix: weights \[1, 0\]; pass a positive number for each source"),
        (lambda p: mixture(p, stop="never"), r"Mix\(stop='never'\): pass 'first', 'all', or a number of samples"),
        (
            lambda p: fastload.Mix({"a": source(p, "a", sampler=LengthBuckets("label", max_tokens=99))}),
            "Mix: 'a' has LengthBuckets, which plans whole batches; stream it by itself",
        ),
        (
            lambda p: fastload.Mix({"m": mixture(p, fields="separate"), "c": source(p, "c")}),
            "Mix: 'm' has fields='separate'; pass it to this one too",
        ),
        (
            lambda p: iter(mixture(p, fields="separate")),
            r"Mix\(fields='separate'\) gives batches of batches; use fastload.DataLoader",
        ),
        (
            lambda p: DataLoader(mixture(p, fields="separate"), 4, as_tuple=("image",)),
            "as_tuple names 'image'; the batch has 'a', 'b', 'valid' and '__key__'",
        ),
    ],
)
def test_what_cannot_be_mixed_is_refused(packed: Packed, make: Callable[[Packed], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(packed)


def test_a_field_of_the_name_that_mix_adds_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"source": [1, 2], "x": [3, 4]}), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match="Mix adds a field 'source', and 'a' has one; leave it out of fields="):
        fastload.Mix({"a": fastload.StreamingDataset(tmp_path / "a.parquet")})


def test_arrays_of_other_dtypes_are_refused(tmp_path: Path) -> None:
    sources = {}
    for dtype in ("float32", "float64"):
        kind = pa.list_(pa.type_for_alias(dtype))
        pq.write_table(pa.table({"x": pa.array([[1.0], [2.0, 3.0]], kind)}), tmp_path / f"{dtype}.parquet")
        sources[dtype] = fastload.StreamingDataset(tmp_path / f"{dtype}.parquet", fields={"x": fastload.Tensor()})
    with pytest.raises(
        ConfigError, match="Mix: 'x' has dtype float64 in 'float64' and float32 in 'float32'; declare it"
    ):
        fastload.Mix(sources)
    declared = {
        name: fastload.StreamingDataset(one.index.paths, fields={"x": fastload.Tensor(dtype="float64")})
        for name, one in sources.items()
    }
    for batch in DataLoader(fastload.Mix(declared), 4):
        assert {str(row.dtype) for row in batch["x"]} == {"torch.float64"}


def test_integers_that_only_64_bits_hold_stay_exact(tmp_path: Path) -> None:
    values = {"a": [5, 2**53 + 1], "b": [2**63 + 1, 7]}
    sources = {}
    for (name, some), shard_format in zip(values.items(), FORMATS, strict=True):
        data = samples.make_numbers(tmp_path / name, shard_format, "uint64", [some])
        sources[name] = fastload.StreamingDataset(data, fields={"x": fastload.Scalar("uint64")}, shuffle=False)
    batch = next(iter(DataLoader(fastload.Mix(sources), 4)))
    assert sorted(batch["x"].tolist()) == [5, 7, 2**53 + 1, 2**63 + 1]


@pytest.mark.parametrize("swapped", [False, True])
def test_numbers_of_the_index_and_texts_that_hold_numbers_are_not_mixed(tmp_path: Path, swapped: bool) -> None:
    sources = {}
    for name, labels in (("numbers", [1, 2]), ("texts", ["1", "2"])):
        pq.write_table(pa.table({"label": labels}), tmp_path / f"{name}.parquet")
        sources[name] = fastload.StreamingDataset(tmp_path / f"{name}.parquet", fields={"label": fastload.Scalar()})
    sources = dict(sorted(sources.items(), reverse=swapped))
    message = "Mix: 'label' is a number of the index in 'numbers' and content of the shards in 'texts'; repack one, or"
    with pytest.raises(ConfigError, match=message):
        fastload.Mix(sources)
    batch = next(iter(DataLoader(fastload.Mix(sources, fields="separate"), 4)))
    assert [sorted(part["label"].tolist()) for part in batch.values()] == [[1, 2], [1, 2]]
