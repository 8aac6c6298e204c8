"""Operations on each pixel's value that are not linear, or depend on the image's histogram.

Where a sample is left out, its parameter is neutral (or its result the input), so that the whole batch takes one path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fastload.augment import keyed
from fastload.augment.operation import ImageOperation, Params, check_p, column, span

LEVELS = 256


@dataclass(frozen=True)
class RandomGamma(ImageOperation):
    """gain * x ** gamma, cut to [0, 1], with probability `p`."""

    gamma: tuple[float, float] = (0.7, 1.5)
    gain: tuple[float, float] = (1.0, 1.0)
    p: float = 1.0

    def __post_init__(self) -> None:
        check_p(self, self.p)
        span(self, "gamma", self.gamma, None, 0.0)
        span(self, "gain", self.gain, None, 0.0)

    @property
    def draws(self) -> int:
        return 3

    def params(self, u: torch.Tensor) -> Params:
        """`gamma`, `gain`: float32 [B], 1 where `p` left a sample out."""
        chosen = u[:, 0] < self.p
        return {
            "gamma": torch.where(chosen, keyed.between(u[:, 1], *self.gamma), 1.0),
            "gain": torch.where(chosen, keyed.between(u[:, 2], *self.gain), 1.0),
        }

    def change(self, images: torch.Tensor, params: Params) -> torch.Tensor:
        powered = torch.pow(images.clamp(0, 1), column(params["gamma"], images))
        return (powered * column(params["gain"], images)).clamp_(0, 1)


@dataclass(frozen=True)
class RandomSolarize(ImageOperation):
    """1 - x where x is at least a threshold, drawn between two (a number t stands for (t, t)), with probability `p`."""

    threshold: float | Sequence[float] = 0.5
    p: float = 0.5

    def __post_init__(self) -> None:
        check_p(self, self.p)
        _, high = span(self, "threshold", self._span, None, 0.0)
        self.check(
            high <= 1, f"threshold={self.threshold!r}: pass a fraction of the range, 1.0 is white (255 of uint8)"
        )

    @property
    def _span(self) -> Sequence[float]:
        return self.threshold if isinstance(self.threshold, Sequence) else (self.threshold, self.threshold)

    @property
    def draws(self) -> int:
        return 2

    def params(self, u: torch.Tensor) -> Params:
        """`threshold`: float32 [B], 2 (above every pixel) where `p` left a sample out."""
        return {"threshold": torch.where(u[:, 0] < self.p, keyed.between(u[:, 1], *self._span), 2.0)}

    def change(self, images: torch.Tensor, params: Params) -> torch.Tensor:
        return torch.where(images >= column(params["threshold"], images), 1 - images, images)


@dataclass(frozen=True)
class RandomPosterize(ImageOperation):
    """Keeps the first `bits` of the 8 of each pixel, a number between two (both possible), with probability `p`."""

    bits: int | Sequence[int] = 4
    p: float = 0.5

    def __post_init__(self) -> None:
        check_p(self, self.p)
        good = len(self._span) == 2 and all(isinstance(bits, int) for bits in self._span)
        good = good and 0 <= self._span[0] <= self._span[1] <= 8
        self.check(good, "bits must lie in [0, 8]; pass a whole number, or the least and the most")

    @property
    def _span(self) -> Sequence[int]:
        return self.bits if isinstance(self.bits, Sequence) else (self.bits, self.bits)

    @property
    def draws(self) -> int:
        return 2

    def params(self, u: torch.Tensor) -> Params:
        """`bits`: int64 [B], 8 where `p` left a sample out."""
        low, high = self._span
        bits = keyed.below(u[:, 1], high - low + 1) + low
        return {"bits": torch.where(u[:, 0] < self.p, bits, 8)}

    def change(self, images: torch.Tensor, params: Params) -> torch.Tensor:
        return posterize(images, params["bits"])


def posterize(images: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """Pixels in [0, 1] cut to `bits` [B] of 8; untouched where that is 8."""
    step = column(torch.exp2(8.0 - bits), images)
    cut = torch.floor(levels(images).to(images.dtype) / step) * step / 255
    return torch.where(column(bits, images) == 8, images, cut)


@dataclass(frozen=True)
class RandomAutocontrast(ImageOperation):
    """Stretches each channel so that its darkest pixel is 0 and its lightest 1, with probability `p`."""

    p: float = 0.5

    def __post_init__(self) -> None:
        check_p(self, self.p)

    @property
    def draws(self) -> int:
        return 1

    def params(self, u: torch.Tensor) -> Params:
        """`chosen`: bool [B]."""
        return {"chosen": u[:, 0] < self.p}

    def change(self, images: torch.Tensor, params: Params) -> torch.Tensor:
        low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
        change = column(params["chosen"], images) & (high > low)
        scale = torch.where(change, 1 / torch.where(high > low, high - low, 1), 1)
        return torch.addcmul(torch.where(change, -low * scale, 0), images, scale)


@dataclass(frozen=True)
class RandomEqualize(ImageOperation):
    """Spreads each channel's 256 levels evenly, as Pillow and torchvision do, with probability `p`. Floats are cut to
    256 levels first."""

    p: float = 0.5

    def __post_init__(self) -> None:
        check_p(self, self.p)

    @property
    def draws(self) -> int:
        return 1

    def params(self, u: torch.Tensor) -> Params:
        """`chosen`: bool [B]."""
        return {"chosen": u[:, 0] < self.p}

    def change(self, images: torch.Tensor, params: Params) -> torch.Tensor:
        found = levels(images)
        table = equalizing(histogram(found))
        return torch.where(column(params["chosen"], images), look_up(found, table).to(images.dtype) / 255, images)


# Levels and tables.


def levels(images: torch.Tensor) -> torch.Tensor:
    """int64 [B, C, H, W] in [0, 255] of pixels in [0, 1], rounded to nearest."""
    return (images * 255).round().clamp_(0, 255).to(torch.int64)


def histogram(found: torch.Tensor) -> torch.Tensor:
    """Counts int32 [B, C, 256] of levels; exact, and so the same in every order of summing up."""
    flat = found.flatten(2)
    counts = torch.zeros(*flat.shape[:2], LEVELS, dtype=torch.int32, device=found.device)
    return counts.scatter_add_(2, flat, torch.ones((), dtype=torch.int32, device=found.device).expand(flat.shape))


def equalizing(counts: torch.Tensor) -> torch.Tensor:
    """The table int64 [B, C, 256] that equalizes a histogram: Pillow's `ImageOps.equalize`.

    A step is the pixels below the lightest level / 255; a level becomes the pixels darker than it, and half a step,
    in whole steps. Without a step of at least 1, nothing changes.
    """
    counts = counts.to(torch.int64)
    level = torch.arange(LEVELS, device=counts.device)
    lightest = torch.where(counts > 0, level, 0).amax(-1, keepdim=True)
    step = (counts.sum(-1, keepdim=True) - counts.gather(-1, lightest)) // 255
    darker = counts.cumsum(-1) - counts
    table = ((darker + step // 2) // step.clamp(min=1)).clamp_(0, 255)
    return torch.where(step == 0, level, table)


def stretching(counts: torch.Tensor) -> torch.Tensor:
    """The table float32 [B, C, 256] of autocontrast, from a histogram."""
    level = torch.arange(LEVELS, dtype=torch.float32, device=counts.device)
    high = torch.where(counts > 0, level, 0).amax(-1, keepdim=True)
    low = torch.where(counts > 0, level, LEVELS - 1).amin(-1, keepdim=True)
    stretched = (level - low) * (255.0 / (high - low).clamp(min=1))
    return torch.where(high > low, stretched, level).clamp_(0, 255)


def look_up(found: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """The table's entry [B, C, 256] of each level [B, C, H, W]."""
    return table.gather(2, found.flatten(2)).reshape(found.shape)
