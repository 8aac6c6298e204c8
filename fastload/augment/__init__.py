"""Augmentation of whole batches where they are. `augment=[...]` of fastload.DataLoader takes any of these, in order.

Randomness belongs to the sample: parameters are drawn from (seed, epoch, sample) and the operation's name, for the
whole batch at once. Every operation has `draw(keys) -> params`, `apply(tensor, params)` and `replay(batch, params)`.
Nothing loops over samples but for boxes and keypoints that come as lists of B tensors, and EachText, whose strings are
no tensors. Nothing makes the host wait for a GPU. Only where torch is told to be deterministic
(torch.use_deterministic_algorithms) do its scatters on CUDA wait: those of the policies and RandomEqualize, which count
levels, and of DeleteTokens, InsertTokens, InfillText and CorruptSpans, which move tokens together.

On CUDA, matrix products are in TF32 where torch is told so (torch.set_float32_matmul_precision("high")), and a GPU then
rounds to about 1 part in 1000 what a CPU does not: colours and Normalize, Resize, RandomResizedCrop, GaussianBlur,
SpeedPerturbation, MelSpectrogram and MFCC.

images [B, C, H, W], uint8, uint16 or floats in [0, 1] (modules geometry, warps, colour, tone, filters)
    RandomHorizontalFlip, RandomVerticalFlip, RandomCrop, CenterCrop     exact
    Resize, RandomResizedCrop                                            antialiased
    RandomAffine, RandomRotation, RandomPerspective                      one warp for all that stand together
    ColorJitter, RandomGrayscale, RandomInvert, Normalize                one 3x4 matrix for all that stand together
    RandomGamma, RandomSolarize, RandomPosterize, RandomAutocontrast, RandomEqualize
    RandomSharpness, GaussianBlur, GaussianNoise, RandomErasing
    RandAugment, TrivialAugmentWide, AutoAugment, AugMix                 each sample its own operations
    MixUp, CutMix                                                        pairs of samples, soft labels
sound [B, C, T] and `<field>_length` (audio, rate), spectrograms [B, ..., bands, frames] (spectrogram)
    RandomGain, RandomPolarity, AddNoise, AddBankNoise, RandomReverb, RandomShift, RandomClipping
    SpeedPerturbation, TimeStretch, PitchShift, LowPass, HighPass
    MelSpectrogram, MFCC, SpecAugment
tokens [B, T] and `<field>_length` (text, spans)
    MaskTokens (BERT), CorruptSpans (T5), InfillText (BART)              with labels and attention_mask
    ReplaceTokens, InsertTokens, DeleteTokens, SwapTokens, MakeAttentionMask
strings (strings)
    EachText("field", eda), EachText("field", aeda)     WordNet: synonyms for eda (wordnet)
chains (chain, presets)
    Compose([...], masks=, boxes=, keypoints=)        fused; other fields follow the geometry
    train_classification(224), eval_classification(224)
others' modules
    kornia and torchaudio modules      run on the image or audio field, seeded from the batch's place in the run
    On("field", module)                any module on a field of your choice
    any function Batch -> Batch
"""

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
from fastload.augment.spans import CorruptSpans, InfillText
from fastload.augment.spectrogram import MFCC, MelSpectrogram, SpecAugment
from fastload.augment.strings import EachText, aeda, eda
from fastload.augment.text import (
    DeleteTokens,
    InsertTokens,
    MakeAttentionMask,
    MaskTokens,
    ReplaceTokens,
    SwapTokens,
)
from fastload.augment.tone import (
    RandomAutocontrast,
    RandomEqualize,
    RandomGamma,
    RandomPosterize,
    RandomSolarize,
)
from fastload.augment.warps import RandomAffine, RandomPerspective, RandomRotation
from fastload.augment.wordnet import WordNet

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
    "CorruptSpans",
    "CutMix",
    "DeleteTokens",
    "EachText",
    "GaussianBlur",
    "GaussianNoise",
    "HighPass",
    "InfillText",
    "InsertTokens",
    "LowPass",
    "MakeAttentionMask",
    "MaskTokens",
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
    "ReplaceTokens",
    "Resize",
    "SpecAugment",
    "SpeedPerturbation",
    "SwapTokens",
    "TimeStretch",
    "TrivialAugmentWide",
    "WordNet",
    "aeda",
    "eda",
    "eval_classification",
    "train_classification",
]
