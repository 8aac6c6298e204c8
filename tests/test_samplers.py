"""Samplers on real shards, through the loader: columns of the index, tensors, ranks, resume, and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import samples
import torch.utils.data
from conformance import assert_equal_batches, assert_exactly_once, assert_resumes
from loading import resuming
from samples import FORMATS, content, ids

import fastload
from fastload.errors import ConfigError, CorruptError, StateError
from fastload.loader import DataLoader
from fastload.order.cursor import steps
from fastload.order.distribute import Share
from fastload.order.sampler import Base
from fastload.samplers import ClassBalanced, LengthBuckets, PackSequences, Sampler, Stratified, Subset, Weighted
from fastload.shards.columns import read_columns
from fastload.shards.open import open_index

Packed = Callable[..., Path]
SIZES = [5, 1, 9, 8]  # 23 samples with the labels 0 to 22 and weights label / 4
FIELDS = ("image", "label", "weight")
SAMPLERS: dict[str, Sampler] = {
    "subset": Subset(lambda c: c["label"] % 2 == 0, ("label",)),
    "weighted": Weighted("weight", samples=40),
    "balanced": ClassBalanced("label", samples=46),
    "stratified": Stratified("weight"),
    "buckets": LengthBuckets("label", max_tokens=60, pool=10),
    "nested": Subset(range(20), then=LengthBuckets("weight", max_seconds=9)),
}


def data(packed: Packed, shard_format: str, sampler: Sampler | None, **options: Any) -> fastload.StreamingDataset:
    fields = {"image": fastload.Image(8, crop="random"), "label": fastload.Scalar()}
    return fastload.StreamingDataset(packed(shard_format, SIZES, FIELDS), fields=fields, sampler=sampler, **options)


def expected(name: str) -> dict[int, tuple[int, int]]:
    """How often each label may come in an epoch, from and to."""
    match name:
        case "subset":
            return dict.fromkeys(range(0, 23, 2), (1, 1))
        case "weighted":
            return {i: (int(40 * i / 253), int(40 * i / 253) + 1) for i in range(1, 23)}
        case "balanced":
            return dict.fromkeys(range(23), (2, 2))
        case "nested":
            return dict.fromkeys(range(20), (1, 1))
    return dict.fromkeys(range(23), (1, 1))


@pytest.mark.parametrize("shard_format", FORMATS)
@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_what_an_epoch_has_on_any_number_of_ranks(
    packed: Packed, shard_format: str, name: str, world_size: int
) -> None:
    ranks = []
    for rank in range(world_size):
        run = DataLoader(data(packed, shard_format, SAMPLERS[name], rank=rank, world_size=world_size), 4, num_workers=2)
        for _ in range(2):
            left, batches = len(run), list(run)
            assert len(batches) == left
        ranks.append([ids(batch) for batch in batches])
    assert_equal_batches(ranks)
    got = Counter(one for batches in ranks for batch in batches for one in batch)
    for label, (least, most) in expected(name).items():
        assert least <= got.pop(label, 0) <= most
    assert not got


@pytest.mark.parametrize("shard_format", FORMATS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_resumed_run_is_bit_equal_at_every_batch_and_again(packed: Packed, shard_format: str, name: str) -> None:
    def make() -> DataLoader:
        return DataLoader(data(packed, shard_format, SAMPLERS[name], seed=5), 4, num_workers=1)

    assert_resumes(resuming(make, content), 2 * len(make()) + 1, stride=2)


def test_every_sampler_refuses_the_state_of_every_other(packed: Packed) -> None:
    runs = {name: DataLoader(data(packed, "tar", sampler), 4) for name, sampler in {**SAMPLERS, "none": None}.items()}
    for name, run in runs.items():
        state = run.state_dict()
        assert len(json.dumps(state)) < 1000
        for other, another in runs.items():
            if other != name:
                with pytest.raises(
                    StateError, match=r"saved under the sampler .*, and this loader has .*: pass the same"
                ):
                    another.load_state_dict(state)
        again = DataLoader(data(packed, "tar", {**SAMPLERS, "none": None}[name]), 4)
        again.load_state_dict(state)


def test_tar_and_parquet_give_the_same_batches(packed: Packed) -> None:
    for sampler in SAMPLERS.values():
        tar, parquet = ([content(b) for b in DataLoader(data(packed, name, sampler), 4)] for name in FORMATS)
        assert tar == parquet


def test_under_a_stock_loader(packed: Packed) -> None:
    for name in ("subset", "weighted", "balanced", "stratified"):
        stream = data(packed, "tar", SAMPLERS[name])
        for workers in (0, 2):
            loader = torch.utils.data.DataLoader(stream, batch_size=4, num_workers=workers)
            got = Counter(label for batch in loader for label in batch["label"].tolist())
            for label, (least, most) in expected(name).items():
                assert least <= got.pop(label, 0) <= most
            assert not got


# LengthBuckets.


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packed sounds of 160 to 190 frames at 8 kHz."""
    root = tmp_path_factory.mktemp("clips")
    (root / "in/a").mkdir(parents=True)
    for i in range(31):
        (root / f"in/a/{i:02d}.wav").write_bytes(samples.wav(i))
    fastload.pack(root / "in", root / "out", workers=1, shard_size="4KiB")
    return root / "out"


def test_batches_of_sounds_stay_within_their_seconds(clips: Path) -> None:
    second = samples.SAMPLE_RATE
    for world_size in (1, 4):
        seen, counts = [], []
        for rank in range(world_size):
            sampler = LengthBuckets("audio", max_seconds=700 / second, pool=16)
            stream = fastload.StreamingDataset(clips, sampler=sampler, rank=rank, world_size=world_size)
            batches = list(DataLoader(stream, 100))
            counts.append(len(batches))
            for batch in batches:
                lengths = [clip.shape[1] for clip in batch["audio"] if clip is not None]
                assert len(lengths) * max(lengths, default=0) <= 700
                assert max(lengths, default=0) - min(lengths, default=0) <= 16
                seen += [key for key, valid in zip(batch["__key__"], batch.valid, strict=True) if valid]
        assert len(set(counts)) == 1
        assert_exactly_once(seen, {f"a/{i:02d}" for i in range(31)})


def test_batches_of_tokens_stay_within_their_number(tmp_path: Path) -> None:
    rows = [{"tokens": list(range(n))} for n in (5, 9, 3, 3, 12, 1, 7, 7)]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name in FORMATS:
        fastload.pack(tmp_path / "m.jsonl", tmp_path / name, format=name, workers=1)
        run = DataLoader(tmp_path / name, 8, sampler=LengthBuckets("tokens", max_tokens=14))
        batches = [[len(row) for row in batch["tokens"]] for batch in run]
        assert sorted(map(sorted, batches)) == [[1, 3, 3], [5, 7], [7], [9], [12]]


def test_another_batch_size_is_another_order(packed: Packed) -> None:
    state = DataLoader(data(packed, "tar", SAMPLERS["buckets"]), 4).state_dict()
    with pytest.raises(
        StateError, match="saved with batch_size=4, and this loader has batch_size=5; pass batch_size=4"
    ):
        DataLoader(data(packed, "tar", SAMPLERS["buckets"]), 5).load_state_dict(state)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (
            lambda ds: iter(ds),
            "LengthBuckets plans whole batches, which a stock DataLoader cannot take; use fastload.Data",
        ),
        (lambda ds: DataLoader(ds, 4, last_batch="drop"), "last_batch='drop': LengthBuckets plans all batches"),
        (lambda ds: DataLoader(ds, 4, last_batch="wrap"), "last_batch='wrap': LengthBuckets plans all batches"),
        (lambda ds: DataLoader(ds, {0: 4, 8: 8}), "batch_size is a schedule: LengthBuckets sizes its batches itself"),
        (
            lambda ds: fastload.Mix({"a": ds}),
            "Mix: 'a' has LengthBuckets, which plans whole batches; stream it by itself",
        ),
    ],
)
def test_where_buckets_do_not_go(packed: Packed, use: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        use(data(packed, "tar", SAMPLERS["buckets"]))


# Columns.


@pytest.mark.parametrize("shard_format", FORMATS)
def test_columns_of_the_index(packed: Packed, shard_format: str) -> None:
    index = open_index(packed(shard_format, SIZES, FIELDS))
    found = read_columns(index, ["weight", "label", "label", "label.count", "weight.seconds"])
    assert found["label"].tolist() == found["label.count"].tolist() == list(range(23))
    assert found["weight"].tolist() == found["weight.seconds"].tolist() == [i / 4 for i in range(23)]
    assert read_columns(index, []) == {}


@pytest.mark.parametrize(
    ("dtype", "shards"),
    [
        ("uint64", [[2**53, 2**53 + 1], [2**64 - 1]]),
        ("int64", [[-1], [2**53, 2**53 + 1]]),
    ],
)
@pytest.mark.parametrize("shard_format", FORMATS)
def test_columns_of_large_numbers_are_exact(
    tmp_path: Path, shard_format: str, dtype: str, shards: list[list[int]]
) -> None:
    folder = samples.make_numbers(tmp_path / "d", shard_format, dtype, shards)
    found = read_columns(open_index(folder), ["x"])["x"]
    assert found.tolist() == [number for shard in shards for number in shard]


@pytest.mark.parametrize("shard_format", FORMATS)
def test_facts_of_the_packer(clips: Path, tmp_path: Path, shard_format: str) -> None:
    fastload.pack(clips.parent / "in", tmp_path / "out", format=shard_format, workers=1)  # type: ignore[arg-type]
    index = open_index(tmp_path / "out")
    found = read_columns(index, ["audio.seconds", "audio.frames"])
    assert sorted(found["audio.frames"].tolist()) == list(range(160, 191))
    assert found["audio.seconds"].tolist() == (found["audio.frames"] / 8000).tolist()


@pytest.mark.parametrize("shard_format", FORMATS)
@pytest.mark.parametrize(
    ("sampler", "name"),
    [
        (Weighted("nope"), "nope"),
        (Weighted("image"), "image"),
        (Stratified(), None),
        (LengthBuckets("tokens", max_tokens=5), "tokens.count"),
        (LengthBuckets("image", max_seconds=5), "image.seconds"),
        (LengthBuckets("weight.frames", max_seconds=5), "weight.frames.seconds"),
        (Subset(lambda c: c["__key__"] == "a", ("__key__",)), "__key__"),
        (Subset(lambda c: c["offset"] > 0, ("offset",)), "offset"),
        (Weighted("image.length"), "image.length"),
    ],
)
def test_columns_that_are_not_there_are_named(
    packed: Packed, shard_format: str, sampler: Sampler, name: str | None
) -> None:
    if name is None:
        data(packed, shard_format, sampler)
        return
    with pytest.raises(ConfigError, match=rf"no column '{name}'; it has .*'label'.*Facts such as 'audio.frames'"):
        data(packed, shard_format, sampler)


def test_missing_values_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1, None, 3], "s": ["a", "b", "c"]}), tmp_path / "a.parquet")
    with pytest.raises(CorruptError, match=r"shard 'a.parquet': column 'x' has missing values; fill or drop them"):
        fastload.StreamingDataset(tmp_path / "a.parquet", sampler=Weighted("x"))


def test_an_index_of_no_shards_has_empty_columns(packed: Packed) -> None:
    stream = fastload.StreamingDataset(
        packed("tar", [], ("image", "label")), sampler=Subset(lambda c: c["label"] > 0, ("label",))
    )
    assert stream.samples == 0


def test_samplers_read_the_index_and_never_the_data(tmp_path: Path) -> None:
    index = open_index(samples.make(tmp_path / "d", "tar", SIZES, FIELDS))
    for tar in (tmp_path / "d/train").glob("*.tar"):
        tar.unlink()
    base = Base(sizes=index.sizes, seed=0, window=2, lanes=1)
    share = Share(rank=1, world_size=2, batch_size=3, last_batch="pad")
    for sampler in (*SAMPLERS.values(), PackSequences("label", 30)):
        order = sampler.bind(base, read_columns(index, sampler.columns))
        for epoch in (0, 10):
            assert list(steps(order, share, epoch * order.samples))


# Schedules of the batch size.


@pytest.mark.parametrize("last_batch", ["partial", "pad", "wrap", "drop"])
def test_a_batch_size_schedule(packed: Packed, last_batch: str) -> None:
    schedule = {0: 2, 10: 4, 30: 8}

    def start(state: Any) -> Iterator[tuple[Any, Any]]:
        run = DataLoader(data(packed, "tar", None), schedule, last_batch=last_batch)  # type: ignore[arg-type]
        if state is not None:
            run.load_state_dict(state)
        while True:
            left, seen = len(run), 0
            for batch in run:
                seen += 1
                yield content(batch), run.state_dict()
            assert seen == left

    assert_resumes(start, 14)
    run = DataLoader(data(packed, "tar", None), schedule, last_batch=last_batch)  # type: ignore[arg-type]
    consumed = 0
    for _ in range(3):
        for batch in run:
            wanted = 8 if consumed >= 30 else 4 if consumed >= 10 else 2
            assert batch.valid is not None
            assert batch.rows == wanted or (last_batch == "partial" and batch.rows < wanted)
            consumed = run.state_dict()["consumed"]


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_follow_a_schedule_together(packed: Packed, world_size: int) -> None:
    ranks = [
        [ids(batch) for batch in DataLoader(data(packed, "tar", None, rank=rank, world_size=world_size), {0: 1, 12: 3})]
        for rank in range(world_size)
    ]
    assert_equal_batches(ranks)
    assert_exactly_once((one for batches in ranks for batch in batches for one in batch), 23)
    assert [len(batch) for batch in ranks[0]][: 12 // world_size] == [1] * (12 // world_size)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({}, r"batch_size=\{\}: a schedule begins at 0 samples, e.g. \{0: 64, 100_000: 128\}"),
        ({5: 4}, r"batch_size=\{5: 4\}: a schedule begins at 0 samples"),
        ({0: 0}, "batch_size=0: must be at least 1"),
        ({0: 4, -1: 4}, "batch_size=-1: must be at least 0"),
        ({0: 2.5}, "batch_size=2.5: must be an integer"),
    ],
)
def test_schedules_that_are_none_are_refused(packed: Packed, schedule: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DataLoader(data(packed, "tar", None), schedule)


def test_a_schedule_that_would_drop_everything_from_somewhere_on_is_refused(packed: Packed) -> None:
    message = r"drop everything: 23 samples, and a global batch of 24 \(1 ranks x 24\)"
    with pytest.raises(ConfigError, match=message):
        DataLoader(data(packed, "tar", None), {0: 2, 10: 24}, last_batch="drop")
    run = DataLoader(data(packed, "tar", None), {0: 2, 10: 23}, last_batch="drop")
    assert [len(list(run)) for _ in range(3)] == [5, 1, 1]


def test_ranks_that_are_known_late_may_drop_everything_too(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    run = DataLoader(data(packed, "tar", None), 12, last_batch="drop")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="would drop everything: 23 samples, and a global batch of 24"):
        next(iter(run))
