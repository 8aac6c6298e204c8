from __future__ import annotations

import gc
import os
import pickle
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from samples import FORMATS, content, freeze

import fastload
from fastload.batch import Batch, BufferPool, Column, tensors_in
from fastload.decode import Spec
from fastload.loader import DataLoader

Packed = Callable[..., Path]
FLOATS = np.dtype(np.float32)


def batch() -> Batch:
    return Batch(
        {"x": torch.arange(6).reshape(3, 2), "ragged": [torch.ones(1), None], "text": ["a", "b"], "none": []},
        valid=torch.tensor([True, True, False]),
        sample_keys=torch.tensor([5, 6, 0]),
        state={"version": 1, "consumed": 3},
    )


def test_a_batch_is_a_dict_with_rows_and_a_state() -> None:
    one = batch()
    assert isinstance(one, dict)
    assert (one.rows, one.state) == (3, {"version": 1, "consumed": 3})
    assert Batch({"x": torch.zeros(4, 2)}).rows == 4
    assert Batch().rows == Batch({"size": 1, "mean": torch.tensor(2.0)}).rows == 0
    assert Batch({"size": 1, "x": torch.zeros(4, 2)}).rows == 4
    assert Batch({"x": torch.zeros(4)}).valid is None


@pytest.mark.parametrize("copy", [lambda b: pickle.loads(pickle.dumps(b)), Batch.copy], ids=["pickle", "copy"])
def test_a_copy_keeps_everything(copy: Callable[[Batch], Batch]) -> None:
    one, other = batch(), copy(batch())
    assert type(other) is Batch
    assert content(other) == content(one)
    assert other.state == one.state
    other["new"] = 1
    assert "new" not in one


def test_fields_are_replaced_in_a_new_batch() -> None:
    one = batch()
    other = one.replaced({"x": torch.zeros(3)}, valid=torch.tensor([False] * 3))
    assert list(other) == list(one)
    assert one["x"].shape == (3, 2)
    assert other.valid is not None
    assert not other.valid.any()
    assert other["text"] is one["text"]
    assert (other.sample_keys is one.sample_keys, other.state) == (True, one.state)


def test_a_batch_moves_with_all_its_tensors() -> None:
    moved = batch().to("meta")
    assert moved["x"].device.type == moved["ragged"][0].device.type == "meta"
    assert moved["ragged"][1] is None
    assert moved["text"] == ["a", "b"]
    assert moved["none"] == []
    assert moved.valid is not None
    assert moved.sample_keys is not None
    assert moved.valid.device.type == moved.sample_keys.device.type == "meta"
    assert moved.state == batch().state
    late = Batch({"ragged": [None, torch.ones(1), None]}).to("meta")["ragged"]
    assert [None if each is None else each.device.type for each in late] == [None, "meta", None]


class Pair(NamedTuple):
    x: torch.Tensor
    name: str


def test_tensors_inside_of_fields_move_too() -> None:
    """As others' samples are collated: to dicts and tuples, or, for detection, as a tuple of each sample's own dict."""
    names = ["a"] * 20
    found = Batch(
        {
            "target": {"boxes": torch.ones(2, 4), "of": [names, (torch.ones(2), 3)], "name": names},
            "targets": ({"boxes": torch.ones(1, 4)}, {"boxes": torch.ones(3, 4)}),
            "sorted": OrderedDict(x=torch.ones(2)),
            "pair": Pair(torch.ones(2), "a"),
            "json": (whole := [{"numbers": [[1, 2], [3]], "none": None}] * 20),
        }
    )
    moved = found.to("meta")
    assert moved["target"]["boxes"].device == moved["target"]["of"][1][0].device == torch.device("meta")
    assert moved["target"]["of"][0] is moved["target"]["name"] is names
    assert moved["target"]["of"][1][1] == 3
    assert [each["boxes"].device.type for each in moved["targets"]] == ["meta", "meta"]
    assert isinstance(moved["sorted"], OrderedDict)
    assert moved["sorted"]["x"].is_meta
    assert isinstance(moved["pair"], Pair)
    assert (moved["pair"].x.device.type, moved["pair"].name) == ("meta", "a")
    assert moved["json"] is whole
    assert len(list(tensors_in(moved))) == len(list(tensors_in(found))) == 6
    assert all(each.device.type == "cpu" for each in tensors_in(found)), "what was given stays as it was"


def test_keys_are_known_on_the_host_without_asking_the_device() -> None:
    """A tensor of the device "meta" has no content that it could be asked for."""
    one = batch()
    assert one.host_keys is one.sample_keys
    moved = one.to("meta").replaced({"x": 1})
    assert moved.host_keys is one.sample_keys
    moved.sample_keys = torch.tensor([1, 2, 3])
    assert moved.host_keys is moved.sample_keys
    assert Batch().to("meta").host_keys is None


# Buffers.


def test_a_buffer_is_used_again_when_nobody_holds_it() -> None:
    pool = BufferPool()
    first = pool.take((4, 2), FLOATS)
    address = first.ctypes.data
    assert pool.take((4, 2), FLOATS) is not first
    tensor = torch.from_numpy(first)
    del first
    gc.collect()
    assert pool.take((4, 2), FLOATS).ctypes.data != address, "a tensor holds it"
    del tensor
    assert pool.take((4, 2), FLOATS).ctypes.data == address


@pytest.mark.parametrize(
    "view",
    [
        lambda t: t[1:2, 1],
        lambda t: t.permute(1, 0),
        lambda t: t.numpy(),
        lambda t: t.detach().view(8),
        lambda t: t.untyped_storage(),
        lambda t: memoryview(t.numpy()),
    ],
)
def test_any_view_of_a_tensor_keeps_its_buffer(view: Callable[[torch.Tensor], object]) -> None:
    pool = BufferPool()
    tensor = torch.from_numpy(pool.take((4, 2), FLOATS))
    address = tensor.data_ptr()
    kept = view(tensor)
    del tensor
    assert pool.take((4, 2), FLOATS).ctypes.data != address
    del kept
    assert pool.take((4, 2), FLOATS).ctypes.data == address


def test_buffers_of_other_shapes_and_dtypes_are_apart() -> None:
    pool = BufferPool()
    address = pool.take((4, 2), FLOATS).ctypes.data
    for shape, dtype in (((2, 4), np.float32), ((4, 2), np.int32)):
        other = pool.take(shape, np.dtype(dtype))
        assert (other.shape, other.dtype) == (shape, dtype)
        assert other.ctypes.data != address
    assert pool.take((4, 2), FLOATS).ctypes.data == address


def test_buffers_that_the_user_keeps_are_forgotten_and_freed_with_the_batches() -> None:
    pool = BufferPool(limit=3)
    kept = [pool.take((4,), FLOATS) for _ in range(10)]
    gone = [weakref.ref(array) for array in kept]
    assert len({array.ctypes.data for array in kept}) == 10
    del kept
    assert sum(ref() is not None for ref in gone) == 3


def test_a_pool_is_made_anew_in_a_process_that_was_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that stayed behind may have its lock, and arrays."""
    pool, found = BufferPool(), []
    first = pool.take((4, 2), FLOATS)
    with pool._lock:
        monkeypatch.setattr(os, "getpid", lambda: -1)
        thread = threading.Thread(target=lambda: found.append(pool.take((4, 2), FLOATS)), daemon=True)
        thread.start()
        thread.join(20)
    assert len(found) == 1
    assert found[0] is not first


def test_a_pool_is_safe_in_several_threads() -> None:
    pool, found = BufferPool(limit=100), []

    def take() -> None:
        found.extend(pool.take((2,), FLOATS) for _ in range(50))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({array.ctypes.data for array in found}) == 200


@pytest.mark.parametrize("shard_format", FORMATS)
@pytest.mark.parametrize("workers", [0, 3])
def test_a_batch_that_was_handed_over_is_never_written_again(packed: Packed, shard_format: str, workers: int) -> None:
    fields = {"image": fastload.Image(8, crop="random"), "tokens": fastload.Tokens(4), "label": fastload.Scalar()}
    data = packed(shard_format, [9, 9, 9], ("image", "tokens", "label"))
    run = DataLoader(data, 4, fields=fields, num_workers=workers, prefetch_factor=3)
    kept, then = [], []
    for _ in range(3):
        for batch in run:
            kept.append(batch)
            then.append(content(batch))
    assert [content(batch) for batch in kept] == then
    parts = [batch["image"][1:2, 0] for batch in kept]  # views alone keep it too
    before = [freeze(part) for part in parts]
    del kept, batch
    for _ in run:
        pass
    assert [freeze(part) for part in parts] == before


@pytest.mark.parametrize("workers", [0, 2])
def test_dropped_batches_give_their_memory_to_the_next(packed: Packed, workers: int) -> None:
    data = packed("tar", [9, 9, 9])
    run = DataLoader(data, 3, fields={"image": fastload.Image(8)}, num_workers=workers, prefetch_factor=2)
    addresses = set()
    for _ in range(5):
        for batch in run:
            addresses.add(batch["image"].data_ptr())
            del batch
    assert len(addresses) <= 2 + 2, "45 batches, of which two are in work and one or two in hand at a time"


# Columns.


def test_a_column_of_pictures_is_a_channels_last_view() -> None:
    column = Column(Spec(shape=(2, 3, 4), dtype=np.dtype(np.uint8), channels_last=True), 5, BufferPool())
    assert column.array is not None
    column.array[...] = np.arange(120).reshape(5, 2, 3, 4)
    tensor = column.finish()
    assert isinstance(tensor, torch.Tensor)
    assert tensor.shape == (5, 4, 2, 3)
    assert int(tensor[1, 3, 1, 2]) == 24 + 12 + 8 + 3
    assert tensor.data_ptr() == column.array.ctypes.data


def test_a_blank_row_holds_the_fill_and_no_length() -> None:
    column = Column(Spec(shape=(3,), dtype=np.dtype(np.int64), has_length=True, fill=-7), 4, BufferPool())
    assert column.array is not None
    assert column.lengths is not None
    column.array[...] = 1
    column.lengths[...] = 3
    column.blank(1, 3)
    assert column.array.tolist() == [[1] * 3, [-7] * 3, [-7] * 3, [1] * 3]
    assert column.lengths.tolist() == [3, 0, 0, 3]


def test_a_column_of_a_list() -> None:
    column = Column(Spec(), 3, BufferPool())
    column.values[:] = [np.arange(2), np.arange(3), np.arange(1)]
    column.blank(1, 2)
    values = column.finish()
    assert [None if v is None else v.tolist() for v in values] == [[0, 1], None, [0]]
    column.values[:] = ["a", None, "b"]
    assert column.finish() == ["a", None, "b"]


def test_arrays_become_tensors_once_when_they_are_asked_for() -> None:
    valid, keys = np.array([True, False]), np.array([1, 1 << 63], np.uint64)
    batch = Batch({"x": [1, 2]}, valid=valid, sample_keys=keys)
    assert batch.rows == 2
    assert batch.valid is not None
    assert batch.sample_keys is not None
    assert (batch.valid.tolist(), batch.sample_keys.tolist()) == ([True, False], [1, -(1 << 63)])
    assert batch.valid is batch.valid
    assert batch.copy().valid is batch.valid
    batch.valid = torch.zeros(3, dtype=torch.bool)
    assert batch.rows == 3
