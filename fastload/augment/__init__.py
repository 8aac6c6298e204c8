"""Augmentation of whole batches where they are."""

from fastload.augment.audio import (
    AddBankNoise,
    AddNoise,
    RandomClipping,
    RandomGain,
    RandomPolarity,
    RandomReverb,
    RandomShift,
)
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
from fastload.augment.rate import HighPass, LowPass, PitchShift, SpeedPerturbation, TimeStretch
from fastload.augment.spectrogram import MFCC, MelSpectrogram, SpecAugment
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
    "MFCC",
    "AddBankNoise",
    "AddNoise",
    "AugMix",
    "AutoAugment",
    "CenterCrop",
    "ColorJitter",
    "Compose",
    "CutMix",
    "GaussianBlur",
    "GaussianNoise",
    "HighPass",
    "LowPass",
    "MelSpectrogram",
    "MixUp",
    "Normalize",
    "On",
    "PitchShift",
    "RandAugment",
    "RandomAffine",
    "RandomAutocontrast",
    "RandomClipping",
    "RandomCrop",
    "RandomEqualize",
    "RandomErasing",
    "RandomGain",
    "RandomGamma",
    "RandomGrayscale",
    "RandomHorizontalFlip",
    "RandomInvert",
    "RandomPerspective",
    "RandomPolarity",
    "RandomPosterize",
    "RandomResizedCrop",
    "RandomReverb",
    "RandomRotation",
    "RandomSharpness",
    "RandomShift",
    "RandomSolarize",
    "RandomVerticalFlip",
    "Resize",
    "SpecAugment",
    "SpeedPerturbation",
    "TimeStretch",
    "TrivialAugmentWide",
    "eval_classification",
    "train_classification",
]
