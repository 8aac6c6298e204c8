"""Chains that are ready for use."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fastload.augment.chain import Compose
from fastload.augment.colour import IMAGENET_MEAN, IMAGENET_STD, Normalize
from fastload.augment.filters import RandomErasing
from fastload.augment.geometry import CenterCrop, RandomHorizontalFlip, RandomResizedCrop, Resize
from fastload.augment.operation import Operation
from fastload.augment.policies import TrivialAugmentWide

# torchvision's evaluation recipe: Resize(256), CenterCrop(224)
RESIZE_TO_CROP = 256 / 224


def train_classification(
    size: int | None = 224,
    *,
    trivial: bool = True,
    erasing: float = 0.1,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    dtype: torch.dtype = torch.float32,
    field: str = "image",
) -> Compose:
    """Random resized crop, flip, TrivialAugmentWide, normalisation, erasing: torchvision's recipe of 2021 for ResNet-50
    (pytorch.org/blog/how-to-train-state-of-the-art-models-using-torchvision-latest-primitives).

    Args:
        size: of the result in pixels. None: images are cropped already, as by fastload.Image(224, crop="random").
        trivial: with TrivialAugmentWide.
        erasing: probability of erasing a box.
    """
    operations: list[Operation] = [] if size is None else [RandomResizedCrop(size, field=field)]
    operations += [RandomHorizontalFlip(field=field)]
    if trivial:
        operations += [TrivialAugmentWide(size or 224, field=field)]
    operations += [Normalize(tuple(mean), tuple(std), dtype=dtype, field=field)]
    if erasing:
        operations += [RandomErasing(erasing, field=field)]
    return Compose(operations, field=field)


def eval_classification(
    size: int = 224,
    *,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    dtype: torch.dtype = torch.float32,
    field: str = "image",
) -> Compose:
    """The shorter side to 8/7 of `size`, the centre of `size`, normalisation: the field's usual evaluation."""
    return Compose(
        [
            Resize(round(size * RESIZE_TO_CROP), field=field),
            CenterCrop(size, field=field),
            Normalize(tuple(mean), tuple(std), dtype=dtype, field=field),
        ],
        field=field,
    )
