from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as reference
from conformance import chi_squared_z
from samples import key

import fastload
from fastload.augment import IMAGENET_MEAN, IMAGENET_STD, Normalize, RandomHorizontalFlip
from fastload.batch import Batch
from fastload.errors import ConfigError
from fastload.order.hashing import sample_keys

Packed = Callable[..., Path]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
DTYPES = [torch.uint8, torch.uint16, torch.int32, torch.float16, torch.bfloat16, torch.float32]


def keys(count: int) -> torch.Tensor:
    return torch.from_numpy(sample_keys(0, 0, np.arange(count)).view(np.int64))


def images(count: int, dtype: torch.dtype = torch.uint8, channels: int = 3) -> torch.Tensor:
    """[count, channels, 4, 5], channels last in memory; integers over their range, floats in [0, 1)."""
    generator = torch.Generator().manual_seed(0)
    top = {torch.uint8: 256, torch.uint16: 65536, torch.int32: 1000}.get(dtype)
    if top is None:
        values = torch.rand(count, 4, 5, channels, generator=generator).to(dtype)
    else:
        values = torch.randint(0, top, (count, 4, 5, channels), generator=generator).to(dtype)
    return values.permute(0, 3, 1, 2)


def batch(count: int = 64, dtype: torch.dtype = torch.uint8, channels: int = 3) -> Batch:
    fields = {"image": images(count, dtype, channels), "label": torch.arange(count)}
    return Batch(fields, valid=torch.ones(count, dtype=torch.bool), sample_keys=keys(count))


# Flip.


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_some_are_mirrored_and_the_others_untouched(device: str, dtype: torch.dtype) -> None:
    before = batch(dtype=dtype)
    flip = RandomHorizontalFlip()
    after = flip(before.to(device))
    mirrored = flip.draw(keys(64))
    assert 15 < int(mirrored.sum()) < 50
    assert after["image"].dtype == dtype
    assert after["image"].device.type == device
    for one, image in enumerate(before["image"].float().numpy()):
        expected = image[..., ::-1] if mirrored[one] else image
        assert np.array_equal(after["image"][one].cpu().float().numpy(), expected)
    assert after["label"] is not None
    assert before["image"].equal(images(64, dtype)), "the batch that went in is not written to"


def test_flip_probability() -> None:
    assert RandomHorizontalFlip(0).draw(keys(1000)).sum() == 0
    assert RandomHorizontalFlip(1).draw(keys(1000)).sum() == 1000
    for p in (0.1, 0.5, 0.8):
        count = int(RandomHorizontalFlip(p).draw(keys(20_000)).sum())
        assert abs(chi_squared_z([count, 20_000 - count], np.array([p, 1 - p]) * 20_000)) < 4
    for p in (-0.1, 1.5, float("nan")):
        with pytest.raises(ConfigError, match=r"RandomHorizontalFlip\(p=.*\): must be in \[0, 1\]"):
            RandomHorizontalFlip(p)


def test_flips_of_two_fields_are_drawn_apart() -> None:
    one, other = RandomHorizontalFlip(), RandomHorizontalFlip(field="mask")
    assert not one.draw(keys(100)).equal(other.draw(keys(100)))


def test_a_samples_flip_depends_on_seed_epoch_and_sample_alone(packed: Packed) -> None:
    data = packed("tar", [5, 1, 9, 8])
    options: dict[str, Any] = {"fields": {"image": fastload.Image(8), "label": fastload.Scalar()}, "shuffle": True}

    def flipped(**more: Any) -> dict[str, bytes]:
        augment = [RandomHorizontalFlip()]
        return {
            name: image.contiguous().numpy().tobytes()
            for batch in fastload.DataLoader(data, augment=augment, **{**options, **more})  # type: ignore[arg-type]
            for name, image in zip(batch["__key__"], batch["image"], strict=True)
            if name
        }

    expected = flipped(batch_size=5)
    assert len(expected) == 23
    assert flipped(batch_size=23, num_workers=3) == expected
    assert flipped(batch_size=4, window=1) == expected, "another order"
    ranks = [flipped(batch_size=3, rank=rank, world_size=3) for rank in range(3)]
    assert {**ranks[0], **ranks[1], **ranks[2]} == expected
    assert flipped(batch_size=5, seed=1) != expected
    run = fastload.DataLoader(data, 5, augment=[RandomHorizontalFlip()], **options)
    run.set_epoch(1)
    second = {
        name: image.contiguous().numpy().tobytes()
        for batch in run
        for name, image in zip(batch["__key__"], batch["image"], strict=True)
    }
    assert second.keys() == expected.keys()
    assert second != expected
    assert key(0) in second


def test_flip_needs_keys() -> None:
    with pytest.raises(ConfigError, match=r"needs a batch of fastload.DataLoader: this one has no sample_keys"):
        RandomHorizontalFlip()(Batch({"image": images(2)}))


@pytest.mark.parametrize("operation", [RandomHorizontalFlip(), Normalize()], ids=repr)
def test_fields_that_are_no_pictures_are_refused(operation: Callable[[Batch], Batch]) -> None:
    name = type(operation).__name__
    with pytest.raises(ConfigError, match=f"{name}: no field 'image' in the batch, it has 'x'; pass field="):
        operation(Batch({"x": images(2)}, sample_keys=keys(2)))
    for value in (torch.zeros(2, 3), [images(1)[0], images(1)[0]]):
        with pytest.raises(ConfigError, match=rf"{name}: field 'image' is not a tensor \[B, C, H, W\]; declare a size"):
            operation(Batch({"image": value}, sample_keys=keys(2)))


# Normalize.


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float16, torch.float32], ids=str)
def test_normalize_equals_torchvision(device: str, dtype: torch.dtype) -> None:
    before = batch(dtype=dtype)
    after = Normalize()(before.to(device))["image"]
    top = {torch.uint8: 255, torch.uint16: 65535}.get(dtype, 1)
    expected = reference.normalize(before["image"].float() / top, list(IMAGENET_MEAN), list(IMAGENET_STD))
    assert after.dtype == torch.float32
    assert torch.allclose(after.cpu(), expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("out", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_normalize_rounds_once_to_its_dtype(out: torch.dtype) -> None:
    exact = (batch()["image"].double() / 255 - 0.25) / 0.5
    after = Normalize((0.25,) * 3, (0.5,) * 3, dtype=out)(batch())["image"]
    assert after.dtype == out
    bits = {torch.float16: 11, torch.bfloat16: 8}.get(out, 21)
    assert torch.allclose(after.double(), exact, rtol=2.0**-bits, atol=1e-6)


def test_normalize_keeps_the_memory_layout() -> None:
    after = Normalize()(batch())["image"]
    assert after.is_contiguous(memory_format=torch.channels_last)


def test_normalize_one_channel() -> None:
    after = Normalize([0.5], [0.25])(batch(dtype=torch.uint16, channels=1))["image"]
    expected = (batch(dtype=torch.uint16, channels=1)["image"].double() / 65535 - 0.5) / 0.25
    assert torch.allclose(after.double(), expected, atol=1e-6)
    with pytest.raises(ConfigError, match="Normalize: 1 channels in field 'image', and 3 in mean and std"):
        Normalize()(batch(channels=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (0.5,), "std": (0.5, 0.5)}, "as many of both"),
        ({"mean": (), "std": ()}, "as many of both"),
        ({"mean": (0.5,), "std": (0.0,)}, "each std above 0"),
        ({"dtype": torch.uint8}, r"dtype=torch.uint8\): pass a floating-point dtype"),
    ],
)
def test_normalize_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Normalize(**options)
