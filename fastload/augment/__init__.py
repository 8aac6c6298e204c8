"""Augmentation of whole batches where they are."""

from fastload.augment.chain import Compose, On
from fastload.augment.colour import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ColorJitter,
    Normalize,
    RandomGrayscale,
    RandomInvert,
)
from fastload.augment.filters import GaussianBlur, GaussianNoise, RandomErasing, RandomSharpness
from fastload.augment.geometry import (
    CenterCrop,
    RandomCrop,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomVerticalFlip,
    Resize,
)
from fastload.augment.mix import CutMix, MixUp
from fastload.augment.policies import AugMix, AutoAugment, RandAugment, TrivialAugmentWide
from fastload.augment.presets import eval_classification, train_classification
from fastload.augment.tone import (
    RandomAutocontrast,
    RandomEqualize,
    RandomGamma,
    RandomPosterize,
    RandomSolarize,
)
from fastload.augment.warps import RandomAffine, RandomPerspective, RandomRotation

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "AugMix",
    "AutoAugment",
    "CenterCrop",
    "ColorJitter",
    "Compose",
    "CutMix",
    "GaussianBlur",
    "GaussianNoise",
    "MixUp",
    "Normalize",
    "On",
    "RandAugment",
    "RandomAffine",
    "RandomAutocontrast",
    "RandomCrop",
    "RandomEqualize",
    "RandomErasing",
    "RandomGamma",
    "RandomGrayscale",
    "RandomHorizontalFlip",
    "RandomInvert",
    "RandomPerspective",
    "RandomPosterize",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomSharpness",
    "RandomSolarize",
    "RandomVerticalFlip",
    "Resize",
    "TrivialAugmentWide",
    "eval_classification",
    "train_classification",
]
