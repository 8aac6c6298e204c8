"""The loader's promises on real shards: shares, counts, order, what is in a batch, and what is refused."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import conformance
import pytest
import samples
import torch
from loading import EVERY, SIZES, SMALL, Counting, as_ids, loader, run_ranks
from samples import FORMATS, content, freeze, ids

import fastload
from fastload.augment import Normalize, RandomHorizontalFlip, TrivialAugmentWide
from fastload.errors import ConfigError, EngineError
from fastload.loader import DataLoader
from fastload.shards.read import Rows

Packed = Callable[..., Path]


@pytest.mark.parametrize("shard_format", FORMATS)
@pytest.mark.parametrize(("n", "batch_size"), [(0, 4), (1, 4), (3, 1), (23, 4), (23, 7)])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_each_sample_comes_once_an_epoch_in_equally_many_batches(
    packed: Packed, shard_format: str, n: int, batch_size: int, world_size: int
) -> None:
    data = packed(shard_format, SIZES[n])
    for last_batch in ("partial", "pad") if world_size == 1 else ("auto", "pad"):
        options = {"batch_size": batch_size, "last_batch": last_batch, "passes": 2}
        ranks = run_ranks(data, world_size, num_workers=0, **options)
        conformance.assert_equal_batches(ranks)
        per_epoch = len(ranks[0]) // 2
        assert per_epoch == -(-n // (world_size * batch_size))
        for epoch in range(2):
            part = [batches[epoch * per_epoch :][:per_epoch] for batches in ranks]
            conformance.assert_exactly_once(conformance.flat(as_ids(part)), n)
        if n == 23 and last_batch != "partial":
            assert all(batch.rows == batch_size for batches in ranks for batch in batches)
            assert as_ids(ranks)[0][:per_epoch] != as_ids(ranks)[0][per_epoch:], "two epochs in the same order"
        with_threads = run_ranks(data, world_size, num_workers=2, **options)
        assert [[content(b) for b in r] for r in with_threads] == [[content(b) for b in r] for r in ranks]


@pytest.mark.parametrize("shard_format", FORMATS)
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_drop_loses_less_than_a_global_batch(
    packed: Packed, shard_format: str, world_size: int, batch_size: int
) -> None:
    data = packed(shard_format, SIZES[23])
    ranks = run_ranks(data, world_size, batch_size=batch_size, last_batch="drop", num_workers=2)
    conformance.assert_equal_batches(ranks)
    conformance.assert_loses_less_than(conformance.flat(as_ids(ranks)), 23, world_size * batch_size)
    assert all(batch.valid is not None and batch.valid.all() for batches in ranks for batch in batches)


@pytest.mark.parametrize("shard_format", FORMATS)
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_size", [2, 7, 30])
def test_wrap_runs_on_over_the_edge(packed: Packed, shard_format: str, world_size: int, batch_size: int) -> None:
    data = packed(shard_format, SIZES[23])
    ranks = run_ranks(data, world_size, passes=3, batch_size=batch_size, last_batch="wrap", num_workers=1)
    assert all(batch.valid is not None and batch.valid.all() for batches in ranks for batch in batches)
    stream = [one for batch in conformance.global_batches(as_ids(ranks)) for one in batch]
    assert len(stream) >= 3 * 23
    for epoch in range(len(stream) // 23):
        conformance.assert_exactly_once(stream[epoch * 23 :][:23], 23)


@pytest.mark.parametrize("shard_format", FORMATS)
@pytest.mark.parametrize("last_batch", ["pad", "drop", "wrap"])
def test_the_same_global_batches_at_any_world_size(packed: Packed, shard_format: str, last_batch: str) -> None:
    data = packed(shard_format, SIZES[23])
    runs = [
        as_ids(run_ranks(data, world, passes=2, batch_size=4 // world, last_batch=last_batch, num_workers=workers))
        for world, workers in ((1, 0), (2, 3), (4, 1))
    ]
    conformance.assert_same_global_batches(runs[0], runs[1])
    conformance.assert_same_global_batches(runs[0], runs[2])


def test_lanes_leave_global_batches_and_padding_as_they_are(packed: Packed) -> None:
    def start(rank: int, world_size: int, last_batch: str) -> DataLoader:
        return loader(
            packed("tar", SIZES[23]), 8 // world_size, last_batch=last_batch, lanes=2, rank=rank, world_size=world_size
        )

    for last_batch in ("pad", "drop", "wrap"):
        alone = list(start(0, 1, last_batch))
        for world_size in (2, 4, 8):
            ranks = [start(rank, world_size, last_batch) for rank in range(world_size)]
            batches = [list(run) for run in ranks]
            conformance.assert_equal_batches(as_ids(batches))
            assert {batch.rows for of_rank in batches for batch in of_rank} == {8 // world_size}
            for of_all, expected in zip(zip(*batches, strict=True), alone, strict=True):
                assert sorted(i for batch in of_all for i in ids(batch)) == sorted(ids(expected))
                assert {batch.state["consumed"] for batch in of_all} == {expected.state["consumed"]}  # type: ignore[index]
            for run in ranks:
                run.load_state_dict(alone[0].state)  # type: ignore[arg-type]
            rest = sorted(i for run in ranks for batch in run for i in ids(batch))
            assert rest == sorted(i for batch in alone[1:] for i in ids(batch))


@pytest.mark.parametrize("shard_format", FORMATS)
def test_batches_are_bit_equal_for_any_number_of_workers_and_prefetch(packed: Packed, shard_format: str) -> None:
    data = packed(shard_format, SIZES[23], samples.FIELDS)
    fields = {
        **SMALL,
        "audio": fastload.Audio(samples.SAMPLE_RATE, 0.02, crop="random"),
        "tokens": fastload.Tokens(3),
        "tensor": fastload.Tensor((3,)),
        "text": fastload.Text(),
    }
    options = {"fields": fields, "batch_size": 5, "augment": [RandomHorizontalFlip()]}
    expected = [content(batch) for batch in loader(data, num_workers=0, **options)]
    assert len(expected) == 5
    for workers, prefetch in ((1, 1), (2, 2), (3, 5), (3, 50)):
        run = loader(data, num_workers=workers, prefetch_factor=prefetch, **options)
        assert [content(batch) for batch in run] == expected, (workers, prefetch)


@pytest.mark.parametrize("workers", [0, 2])
def test_torchs_default_device_changes_nothing(packed: Packed, workers: int) -> None:
    """All is made on the CPU, and stays there. A tensor of "meta" has no content, and mixes with no other."""

    def run() -> list[Any]:
        data = fastload.StreamingDataset(packed("tar", SIZES[23]), fields=SMALL, on_error="mask")
        batches = DataLoader(data, 4, num_workers=workers, augment=[TrivialAugmentWide(8)], last_batch="pad")
        return [content(batch) for batch in batches] + [freeze(list(sample.values())) for sample in data]

    expected = run()
    with torch.device("meta"):
        assert run() == expected


def test_tar_and_parquet_give_the_same_batches(packed: Packed) -> None:
    tar, parquet = (
        [content(batch) for batch in loader(packed(name, SIZES[23], samples.FIELDS), fields=None)] for name in FORMATS
    )
    assert tar == parquet


def test_what_is_in_a_batch(packed: Packed) -> None:
    data = packed("tar", SIZES[3], samples.FIELDS)
    fields = {**SMALL, "tokens": fastload.Tokens(3, pad=-1), "weight": fastload.Scalar(), "text": fastload.Text()}
    batch = next(iter(loader(data, fields=fields, shuffle=False, last_batch="pad", batch_size=5)))
    assert list(batch) == ["image", "label", "tokens", "tokens_length", "weight", "text", "__key__"]
    assert batch["image"].shape == (5, 3, 8, 8)
    assert batch["image"].dtype == torch.uint8
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    assert batch["label"].tolist() == [0, 1, 2, 0, 0]
    assert batch["tokens"].tolist() == [[0, -1, -1], [1, 2, -1], [2, 3, 4], [-1] * 3, [-1] * 3]
    assert batch["tokens_length"].tolist() == [1, 2, 3, 0, 0]
    assert batch["weight"].dtype == torch.float32
    assert batch["weight"].tolist() == [0, 0.25, 0.5, 0, 0]
    assert batch["text"] == ["text of sample 0", "text of sample 1", "text of sample 2", None, None]
    assert batch["__key__"] == ["000000", "000001", "000002", "", ""]
    assert batch.valid is not None
    assert batch.valid.tolist() == [True] * 3 + [False] * 2
    assert not batch["image"][3:].any()


# What is given as tuples, and what is refused.


def test_tuples(packed: Packed) -> None:
    data = packed("tar", SIZES[23], ("image", "tokens", "label"))
    names = ("image", "label", "tokens", "tokens_length", "valid", "__key__")
    run = loader(data, fields={**SMALL, "tokens": fastload.Tokens(2)}, as_tuple=names)
    for image, label, tokens, length, valid, keys in run:
        assert tokens[:, 0].tolist() == label.tolist()
        assert length.tolist() == [min(2, 1 + i % 5) for i in label.tolist()]
        assert keys == [samples.key(i) for i in label.tolist()]
        assert valid.all()
        assert image.shape[1:] == (3, 8, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"batch_size": 2.0}, "batch_size=2.0: must be an integer, not float"),
        ({"batch_size": True}, "batch_size=True: must be an integer, not bool"),
        ({"shuffle": "no"}, "shuffle='no': pass True or False"),
        ({"sampler": "label"}, "sampler='label': pass one of fastload.samplers, e.g. ClassBalanced('label')"),
        ({"sampler": fastload.samplers.Stratified}, "pass one of fastload.samplers"),
        ({"num_workers": -1}, "num_workers=-1: must be at least 0"),
        ({"prefetch_factor": 0}, "prefetch_factor=0: must be at least 1"),
        ({"timeout": 0}, "timeout=0: must be positive seconds, or None to wait for ever"),
        ({"timeout": float("nan")}, "timeout=nan: must be positive"),
        ({"timeout": "5"}, "timeout='5': must be positive seconds, or None to wait for ever"),
        ({"timeout": True}, "timeout=True: must be positive seconds"),
        ({"window": -1}, "window=-1: must be at least 0"),
        ({"window": "some"}, "window='some': pass a number of shards from 0, 'all', or None for 64"),
        ({"window": 2.5}, "window=2.5: pass a number of shards"),
        ({"shuffle": False, "window": 8}, "shuffle=False with window=8: drop one of the two"),
        ({"lanes": 0}, "lanes=0: must be at least 1"),
        ({"seed": 1.5}, "seed=1.5: must be an integer"),
        ({"on_error": "masks"}, "on_error='masks': pass 'raise' or 'mask'"),
        ({"max_errors": -1}, "max_errors=-1: must be at least 0"),
        ({"on_error": "mask", "max_errors": 1.5}, "max_errors=1.5: must be an integer"),
        ({"errors_file": "bad.jsonl"}, "errors_file='bad.jsonl' with on_error='raise': pass on_error='mask'"),
        ({"on_error": "mask", "errors_file": "/proc/none"}, "errors_file='/proc/none' cannot be written: No such file"),
        ({"fields": {"imge": fastload.Image(8)}}, "it has 'image', 'label'; did you mean 'image'"),
        ({"fields": {"zebra": fastload.Image(8)}}, "no field 'zebra' in the data; it has 'image', 'label'"),
        ({"fields": {"image": fastload.Audio()}}, "is Audio, and the data holds image there; pass Image(...)"),
        ({"fields": {"label": fastload.Image(8)}}, "is Image, and the data holds scalar there; pass Scalar(...)"),
        ({"fields": {"image": fastload.Image}}, "pass a kind such as fastload.Image(224)"),
        ({"fields": ["image"]}, "fields=['image']: pass a dict of kinds"),
        ({"fields": {"label": fastload.Scalar("S3")}}, "Scalar(dtype='S3'), and the data holds int64"),
        ({"world_size": 2}, "rank=None, world_size=2: pass both or neither"),
        ({"rank": 0}, "rank=0, world_size=None: pass both or neither"),
        ({"rank": 2, "world_size": 2}, "rank=2: must be in [0, 2), the world size"),
        ({"rank": -1, "world_size": 2}, "rank=-1: must be in [0, 2)"),
        ({"rank": 0, "world_size": 0}, "world_size=0: must be at least 1"),
        ({"rank": 0, "world_size": 2, "last_batch": "partial"}, "last_batch='partial' on 2 ranks would give them"),
        ({"last_batch": "keep"}, "last_batch='keep': pass 'auto', 'partial', 'pad', 'drop' or 'wrap'"),
        ({"batch_size": 24, "last_batch": "drop"}, "would drop everything: 23 samples, and a global batch of 24"),
        ({"device": "gpu"}, "device='gpu'"),
        ({"as_tuple": ("image", "lable")}, "names 'lable'; the batch has 'image', 'label', 'valid' and '__key__'"),
        ({"as_tuple": ("label_length",)}, "as_tuple names 'label_length'"),
        ({"as_tuple": "image"}, "as_tuple='image': pass a tuple of field names, e.g. ('image',)"),
        ({"augment": 5}, "augment=5: pass a list of operations"),
        ({"augment": ["flip"]}, "augment: 'flip' cannot be called"),
        ({"colour": 1}, "DataLoader: got an unexpected keyword argument 'colour'"),
        ({"split": "val"}, "no split 'val'"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused_when_the_loader_is_made(
    packed: Packed, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(fastload.FastloadError) as caught:
        loader(packed("tar", SIZES[23]), **options)
    assert message in str(caught.value)


def test_cuda_devices_that_are_not_there_are_refused(packed: Packed) -> None:
    here = torch.cuda.device_count()
    cases: list[tuple[dict[str, Any], str]] = [({"device": "cuda:99"}, f"there are {here} CUDA devices here")]
    if not here:
        message = "torch sees no CUDA device here"
        cases = [({"device": "cuda"}, message), ({"device": "cuda:3"}, message), ({"pin_memory": True}, message)]
    for options, message in cases:
        with pytest.raises(ConfigError, match=message):
            loader(packed("tar", SIZES[23]), **options)


def test_arguments_of_a_dataset_beside_a_dataset_are_refused(packed: Packed) -> None:
    dataset = fastload.StreamingDataset(packed("tar", SIZES[23]))
    with pytest.raises(
        ConfigError, match="seed, shuffle: pass these to the StreamingDataset and not to the DataLoader"
    ):
        DataLoader(dataset, 4, seed=1, shuffle=False)
    assert len(DataLoader(dataset, 4)) == 6


def test_the_set_epoch_of_a_negative_or_broken_number_is_refused(packed: Packed) -> None:
    run = loader(packed("tar", SIZES[23]))
    for epoch, message in ((-1, "epoch=-1: must be at least 0"), (1.5, "epoch=1.5: must be an integer")):
        with pytest.raises(ConfigError, match=message):
            run.set_epoch(epoch)  # type: ignore[arg-type]


def hanging(run: DataLoader, release: threading.Event) -> None:
    """Every read of this loader waits."""

    class Hanging(Counting):
        def read(self, shards: Any, rows: Any) -> Rows:
            release.wait(20)
            return super().read(shards, rows)

    recipe = run.dataset.recipe
    run.dataset._recipe = (os.getpid(), dataclasses.replace(recipe, reader=Hanging(recipe.reader)))


def join_threads() -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("fastload-"):
            thread.join(20)


@pytest.mark.parametrize("shard_format", FORMATS)
@pytest.mark.parametrize("field", ["image", "text", "label", "tensor"])
def test_a_read_that_hangs_is_an_error_that_names_its_shards(packed: Packed, shard_format: str, field: str) -> None:
    data = packed(shard_format, SIZES[23], ("image", "text", "label", "tensor"))
    run, release = loader(data, fields={field: EVERY[field]}, num_workers=2, timeout=0.2), threading.Event()
    hanging(run, release)
    begun = time.monotonic()
    with pytest.raises(EngineError, match=r"no progress for 0.2 s: .* \(batch of 4 rows from train/(shard|part)-00000"):
        next(iter(run))
    assert time.monotonic() - begun < 10, "it waits for no thread that hangs"
    release.set()
    join_threads()


@pytest.mark.parametrize("field", ["text", "label", "tensor"])
def test_a_timeout_changes_no_batch(packed: Packed, field: str) -> None:
    data, fields = packed("tar", SIZES[23], ("image", "text", "label", "tensor")), {field: EVERY[field]}
    plain, watched = (loader(data, fields=fields, num_workers=2, timeout=timeout) for timeout in ("auto", 60))
    assert plain.timeout == 300
    assert [content(batch) for batch in watched] == [content(batch) for batch in plain]


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("p", [0.0, 0.3, 0.5, 1.0])
def test_a_flip_at_the_head_of_a_chain_is_done_while_decoding(
    packed: Packed, monkeypatch: pytest.MonkeyPatch, native: bool, p: float
) -> None:
    """The same pixels as the operation gives on the batch, by either way of decoding."""
    if not native:
        monkeypatch.setattr("fastload.decode.native.available", lambda: False)
    data, flip = packed("tar", SIZES[23]), RandomHorizontalFlip(p)
    plain, ahead = loader(data, seed=3), loader(data, seed=3, augment=[flip], num_workers=2)
    assert not ahead._chain  # nothing is left to do on the batch
    for before, after in zip(plain, ahead, strict=True):
        assert torch.equal(flip(before)["image"], after["image"])


def test_a_flip_that_stands_twice_or_later_stays_in_the_chain(packed: Packed) -> None:
    for augment in ([RandomHorizontalFlip(), RandomHorizontalFlip()], [Normalize(), RandomHorizontalFlip()]):
        made = loader(packed("tar", SIZES[23]), augment=augment)
        assert made._chain
        assert not made._head_start.flips
