"""Every image operation by itself, compiled and under autocast."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from made import as_dtype, batch, pictures

from fastload.augment import (
    AugMix,
    AutoAugment,
    CenterCrop,
    ColorJitter,
    Compose,
    CutMix,
    GaussianBlur,
    GaussianNoise,
    MixUp,
    Normalize,
    RandAugment,
    RandomAffine,
    RandomAutocontrast,
    RandomCrop,
    RandomEqualize,
    RandomErasing,
    RandomGamma,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomInvert,
    RandomPerspective,
    RandomPosterize,
    RandomResizedCrop,
    RandomRotation,
    RandomSharpness,
    RandomSolarize,
    RandomVerticalFlip,
    Resize,
    TrivialAugmentWide,
    operation,
)
from fastload.batch import Batch

ALONE: dict[str, Any] = {
    type(o).__name__: o
    for o in (
        RandomHorizontalFlip(), RandomVerticalFlip(), RandomCrop(12, padding=2, fill=0.5), CenterCrop(30), Resize(16),
        RandomResizedCrop(12), RandomAffine(10), RandomRotation(10), RandomPerspective(),
        ColorJitter(0.2, 0.2, 0.2, 0.1),
        RandomGrayscale(), RandomInvert(), Normalize(), RandomGamma(), RandomSolarize(), RandomPosterize(),
        RandomAutocontrast(), RandomEqualize(), RandomSharpness(), GaussianBlur(5), GaussianNoise(),
        RandomErasing(value=0.5), RandAugment(1), TrivialAugmentWide(24), AutoAugment(), AugMix(width=1, depth=1),
        MixUp(5), CutMix(5),
    )
}  # fmt: skip
ALONE["followed"] = Compose(
    [RandomAffine(5), TrivialAugmentWide(), RandomPerspective(), ColorJitter(0.1), Normalize()],
    masks="mask", boxes="boxes", keypoints="points",
)  # fmt: skip


def fields_of_all_kinds(dtype: torch.dtype) -> Batch:
    return batch(
        as_dtype(pictures(8), dtype),
        label=torch.arange(8) % 5,
        mask=torch.ones(8, 20, 24),
        boxes=10 * torch.rand(8, 2, 4, generator=torch.Generator().manual_seed(0)),
        points=torch.ones(8, 3, 2),
    )


@pytest.mark.parametrize("name", ALONE)
def test_every_operation_compiles_as_one_graph(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole call, from batch to batch, with what it draws."""
    torch.compiler.reset()
    given = fields_of_all_kinds(torch.uint8)

    def call(fields: dict[str, Any], valid: torch.Tensor, drawn_from: torch.Tensor) -> dict[str, Any]:
        return dict(ALONE[name](Batch(fields, valid=valid, sample_keys=drawn_from)))

    found = torch.compile(call, fullgraph=True, backend="eager")(dict(given), given.valid, given.sample_keys)
    monkeypatch.setattr(operation, "by_rows", lambda images: False)  # as it runs where it is compiled
    expected = ALONE[name](given)
    assert found.keys() == expected.keys()
    for field, value in expected.items():
        assert found[field].dtype == value.dtype
        assert torch.allclose(found[field].double(), value.double(), rtol=0, atol=1e-5), field


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("name", ALONE)
def test_a_batch_of_no_samples_has_the_shape_of_others(name: str, layout: torch.memory_format) -> None:
    whole = fields_of_all_kinds(torch.uint8)
    whole["image"] = whole["image"].contiguous(memory_format=layout)
    none = Batch({field: value[:0] for field, value in whole.items()}, sample_keys=whole.sample_keys[:0])
    expected, found = ALONE[name](whole), ALONE[name](none)
    for field, value in expected.items():
        assert (len(found[field]), found[field].shape[1:]) == (0, value.shape[1:]), field
        assert found[field].dtype == value.dtype, field


@pytest.mark.parametrize("name", ALONE)
def test_autocast_changes_nothing(name: str) -> None:
    """It is meant for the model: matrix products in half precision would move pixels."""
    given, chain = fields_of_all_kinds(torch.float32), ALONE[name]
    expected = chain(given)
    drawn = chain.draw(given if isinstance(chain, Compose) else given.sample_keys)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, again = chain(given), chain.replay(given, drawn)
    for field, value in expected.items():
        assert found[field].equal(value), field
        assert again[field].equal(value), field


@pytest.mark.parametrize("name", ALONE)
def test_torchs_default_device_changes_nothing(name: str) -> None:
    """All is made where the batch is. A tensor of "meta" has no content, and mixes with no other."""
    given = fields_of_all_kinds(torch.uint8)
    given["image"] = given["image"].contiguous(memory_format=torch.channels_last)
    with torch.device("meta"):
        found = ALONE[name](given)
    for field, value in ALONE[name](given).items():
        assert found[field].equal(value), field


@pytest.mark.parametrize("default", [torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", ALONE)
def test_torchs_default_dtype_changes_nothing(name: str, default: torch.dtype) -> None:
    """Half precision holds no numbers of pixels beyond 256."""
    pixels = (torch.arange(2 * 3 * 300 * 300) % 251).to(torch.uint8).reshape(2, 3, 300, 300)
    boxes = torch.tensor([[[270.5, 20, 290, 281]]]).expand(2, 1, 4)
    points = torch.tensor([[[271.5, 3]]]).expand(2, 1, 2)
    given = batch(pixels, label=torch.arange(2), mask=pixels[:, 0], boxes=boxes, points=points)
    expected = ALONE[name](given)
    torch.set_default_dtype(default)
    try:
        found = ALONE[name](given)
    finally:
        torch.set_default_dtype(torch.float32)
    for field, value in expected.items():
        assert found[field].dtype == value.dtype, field
        assert found[field].equal(value), field
