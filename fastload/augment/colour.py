"""Operations on colour that are linear in a pixel's channels: each is a 3x4 matrix per sample, so that a chain of them,
and the normalisation after it, is one pass over the pixels.

Grey is 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), as in Pillow and Kornia; torchvision rounds the first to 0.2989.
One-channel images are grey already: what only concerns colour leaves them as they are.

The pass over the pixels is a batched matrix product: where the user lets torch compute those in TF32
(torch.backends.cuda.matmul), colours are rounded to about one part in 1000, a quarter of a level of 255.
"""

from __future__ import annotations

import dataclasses
import os
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch

from fastload.augment import keyed
from fastload.augment.operation import (
    ImageOperation,
    Operation,
    Params,
    Span,
    check_p,
    check_pixels,
    is_channels_last,
    span,
    top_of,
    working,
)
from fastload.errors import ConfigError
from fastload.shards.index import IndexFile
from fastload.statistics import Indexed, channels_of

# Mean and standard deviation of ImageNet's pixels in [0, 1]: what torchvision's pretrained models expect.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Linear(ImageOperation):
    """An operation given by a matrix [B, 3, 4] on (R, G, B, 1), pixels in [0, 1]; results are cut to [0, 1]."""

    @property
    def needs_mean(self) -> bool:
        """Whether the matrix depends on the mean colour of the image."""
        return False

    @abstractmethod
    def matrix(self, params: Params, mean: torch.Tensor | None) -> torch.Tensor:
        """float32 [B, 3, 4]; `mean` is float32 [B, 3], of the image that the operation is given."""

    def change(self, images: torch.Tensor, params: Params) -> torch.Tensor:
        mean = mean_colour(images) if self.needs_mean else None
        return transform(images, self.matrix(params, mean)).clamp_(0, 1)


def mean_colour(images: torch.Tensor) -> torch.Tensor:
    """float32 [B, 3]: the mean of each channel; of one-channel images the same three times."""
    check_channels(images)
    return images.mean((2, 3)).to(torch.float32).expand(-1, 3)


def check_channels(images: torch.Tensor) -> None:
    if images.shape[1] not in (1, 3):
        raise ConfigError(
            f"colour operations and policies need images of 3 channels, or 1; these have {images.shape[1]}; "
            f'decode them as such, e.g. fastload.Image(224, mode="RGB")'
        )


def mix_colours(factor: torch.Tensor, saturation: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """[B, 3, 4]: factor * (saturation * colour + (1 - saturation) * grey) + offset, all [B]."""
    device = factor.device
    eye = keyed.constant((1, 0, 0, 0, 1, 0, 0, 0, 1), torch.float32, device).reshape(3, 3)
    grey = keyed.constant(GREY, torch.float32, device).expand(3, 3)
    mixed = saturation[:, None, None] * eye + (1 - saturation)[:, None, None] * grey
    return torch.cat([factor[:, None, None] * mixed, offset[:, None, None].expand(-1, 3, 1)], 2)


def compose(after: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """[B, 3, 4]: first `before`, then `after`. Written out, so that TF32 cannot round it."""
    linear = (after[:, :, :3, None] * before[:, None]).sum(2)  # [B, 3, 4]
    return torch.cat([linear[..., :3], linear[..., 3:] + after[..., 3:]], 2)


def transform(images: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """float [B, C, H, W] times [B, 3, 4], C being 3 or 1; a new tensor in the same memory format.

    Raises:
        ConfigError: another number of channels.
    """
    batch, channels, height, width = images.shape
    check_channels(images)
    matrix = matrix.to(images.dtype)
    if channels == 1:
        return torch.addcmul(matrix[:, 0, 3, None, None, None], images, matrix[:, 0, :3].sum(1)[:, None, None, None])
    weights, offset = matrix[..., :3], matrix[..., 3:]
    if is_channels_last(images):
        pixels = images.permute(0, 2, 3, 1).reshape(batch, height * width, 3)
        mixed = torch.baddbmm(offset.transpose(1, 2), pixels, weights.transpose(1, 2))
        return mixed.reshape(batch, height, width, 3).permute(0, 3, 1, 2)
    mixed = torch.baddbmm(offset, weights, images.reshape(batch, 3, height * width))
    return mixed.reshape(images.shape)


@dataclass(frozen=True)
class ColorJitter(Linear):
    """Brightness, contrast, saturation and hue by random amounts, as torchvision's and Kornia's, with probability `p`.

    Without a cut to [0, 1] in between, brightness, contrast and saturation commute, so that the three are one matrix
    and their order is not drawn; the result is cut once. Where pixels would have been cut on the way, it differs from
    an implementation that cuts after each. Hue comes last; it is not linear, and costs a pass of its own.

    Args:
        brightness, contrast, saturation: a factor between these two; a number f stands for (max(0, 1 - f), 1 + f).
        hue: a turn between these two, 1 being the whole circle; a number h stands for (-h, h), at most 0.5.
    """

    brightness: Span = 0.0
    contrast: Span = 0.0
    saturation: Span = 0.0
    hue: Span = 0.0
    p: float = 1.0

    def __post_init__(self) -> None:
        check_p(self, self.p)
        for name in ("brightness", "contrast", "saturation"):
            span(self, name, getattr(self, name), 1.0, 0.0)
        low, high = span(self, "hue", self.hue, 0.0)
        self.check(low >= -0.5 and high <= 0.5, "hue must lie in [-0.5, 0.5]")

    @property
    def draws(self) -> int:
        return 5

    @property
    def needs_mean(self) -> bool:
        return span(self, "contrast", self.contrast, 1.0, 0.0) != (1.0, 1.0)

    @property
    def turns_hue(self) -> bool:
        return span(self, "hue", self.hue, 0.0) != (0.0, 0.0)

    def params(self, u: torch.Tensor) -> Params:
        """`brightness`, `contrast`, `saturation`: factors, `hue`: turns; float32 [B], neutral where `p` left a sample
        out."""
        factors = ("brightness", "contrast", "saturation")
        spans = [span(self, name, getattr(self, name), 1.0, 0.0) for name in factors]
        spans.append(span(self, "hue", self.hue, 0.0, -0.5))
        drawn = keyed.spread(u[:, 1:], spans, u[:, 0] < self.p, (1.0, 1.0, 1.0, 0.0))
        return dict(zip((*factors, "hue"), drawn, strict=True))

    def matrix(self, params: Params, mean: torch.Tensor | None) -> torch.Tensor:
        return jitter(params["brightness"], params["contrast"], params["saturation"], mean)

    def change(self, images: torch.Tensor, params: Params) -> torch.Tensor:
        changed = super().change(images, params)
        return turn_hue(changed, params["hue"]) if self.turns_hue else changed


def jitter(
    brightness: torch.Tensor, contrast: torch.Tensor, saturation: torch.Tensor, mean: torch.Tensor | None
) -> torch.Tensor:
    """[B, 3, 4] of all three. Contrast draws towards the mean grey of the image as the others leave it."""
    if mean is None:
        offset = torch.zeros_like(contrast)
    else:
        grey = (mean * keyed.constant(GREY, mean.dtype, mean.device)).sum(1)
        offset = (1 - contrast) * brightness * grey
    return mix_colours(brightness * contrast, saturation, offset)


def turn_hue(images: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """float [B, 3, H, W] in [0, 1], hue turned by [B] (1 is the whole circle), through HSV and back.

    Back as in "HSL and HSV" (Wikipedia, alternative formula): channel n in (5, 3, 1) is
    v - v * s * clip(min(k, 4 - k), 0, 1) with k = (n + 6 h) mod 6.
    """
    check_channels(images)
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    high, low = images.amax(1), images.amin(1)
    spread = high - low
    safe = torch.where(spread == 0, 1, spread)
    from_green, from_blue = (blue - red) / safe + 2, (red - green) / safe + 4
    hue = torch.where(high == red, (green - blue) / safe, torch.where(high == green, from_green, from_blue))
    hue = hue + 6 * turns.to(images.dtype)[:, None, None]
    sectors = keyed.constant((5, 3, 1), images.dtype, images.device)[:, None, None]
    k = torch.remainder(hue[:, None] + sectors, 6)
    turned = high[:, None] - spread[:, None] * torch.minimum(k, 4 - k).clamp_(0, 1)
    return torch.where((turns == 0)[:, None, None, None], images, turned)


@dataclass(frozen=True)
class RandomGrayscale(Linear):
    """All channels become grey with probability `p`; three stay three."""

    p: float = 0.1

    def __post_init__(self) -> None:
        check_p(self, self.p)

    @property
    def draws(self) -> int:
        return 1

    def params(self, u: torch.Tensor) -> Params:
        """`grey`: bool [B]."""
        return {"grey": u[:, 0] < self.p}

    def matrix(self, params: Params, mean: torch.Tensor | None) -> torch.Tensor:
        colour = 1 - params["grey"].to(torch.float32)
        return mix_colours(torch.ones_like(colour), colour, torch.zeros_like(colour))


@dataclass(frozen=True)
class RandomInvert(Linear):
    """1 - x with probability `p`."""

    p: float = 0.5

    def __post_init__(self) -> None:
        check_p(self, self.p)

    @property
    def draws(self) -> int:
        return 1

    def params(self, u: torch.Tensor) -> Params:
        """`invert`: bool [B]."""
        return {"invert": u[:, 0] < self.p}

    def matrix(self, params: Params, mean: torch.Tensor | None) -> torch.Tensor:
        invert = params["invert"].to(torch.float32)
        return mix_colours(1 - 2 * invert, torch.ones_like(invert), invert)


@dataclass(frozen=True)
class Normalize(Operation):
    """Makes images float and standardises each channel: (x - mean) / std. uint8 and uint16 are scaled to [0, 1] first.

    Args:
        mean, std: per channel, of pixels in [0, 1]. The default is ImageNet's.
        dtype: of the result: torch.float32, float16 or bfloat16.
    """

    field: str = dataclasses.field(default="image", kw_only=True)
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD
    dtype: torch.dtype = dataclasses.field(default=torch.float32, kw_only=True)

    def __post_init__(self) -> None:
        lists = all(hasattr(each, "__len__") and getattr(each, "ndim", 1) == 1 for each in (self.mean, self.std))
        fits = lists and len(self.mean) == len(self.std) > 0 and all(s > 0 for s in self.std)
        self.check(fits, "pass mean and std as lists, a number a channel, as many of both, and each std above 0")
        self.check(self.dtype.is_floating_point, "pass a floating-point dtype")
        for name in ("mean", "std"):  # tensors are no keys to find constants by
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))

    @classmethod
    def from_index(
        cls,
        data: str | os.PathLike[str] | IndexFile | Indexed,
        *,
        split: str = "train",
        field: str = "image",
        channels: int = 3,
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """With the mean and standard deviation of all pixels of a packed data set (`fastload.pack(statistics=True)`).

        Args:
            data: a packed folder, a split in it, its index.json, what `fastload.pack` gave back, or a data set of it.
            split: whose pixels; that of training, also for what validates.
            field: of the pictures.
            channels: 3, or 1 for grey pictures that are loaded with mode "L".
            dtype: of the result.

        Raises:
            ConfigError: the data has no such statistics, and what to do; or a channel of one colour throughout.
        """
        mean, std = channels_of(data, split, field, channels)
        return cls(mean, std, field=field, dtype=dtype)

    def params(self, u: torch.Tensor) -> Params:
        return {}

    def apply(self, value: torch.Tensor, params: Params) -> torch.Tensor:
        check_pixels(self, value)
        return self.scaled(value, top_of(value.dtype))

    def scaled(self, images: torch.Tensor, top: float) -> torch.Tensor:
        """The same for numbers whose white is `top`, computed in float32 and rounded once."""
        scale, shift = self.scale_and_shift(images, top)
        return torch.addcmul(shift[:, None, None], working(images), scale[:, None, None]).to(self.dtype)

    def scale_and_shift(self, images: torch.Tensor, top: float) -> tuple[torch.Tensor, torch.Tensor]:
        """[C] each, float32.

        Raises:
            ConfigError: as many channels as neither mean nor std has.
        """
        if images.shape[1] != len(self.mean):
            raise ConfigError(
                f"Normalize: {images.shape[1]} channels in field {self.field!r}, and {len(self.mean)} in mean and std"
            )
        dtype = torch.float64 if images.dtype == torch.float64 else torch.float32
        scale = tuple(1 / (top * s) for s in self.std)
        shift = tuple(-m / s for m, s in zip(self.mean, self.std, strict=True))
        return keyed.constant(scale, dtype, images.device), keyed.constant(shift, dtype, images.device)


@dataclass(frozen=True)
class Mixing:
    """A matrix on colours, and what it is cut to.

    Attributes:
        matrix: float [B, 3, 4] on (R, G, B, 1).
        low, high: float [C] each; None for 0 and 1.
    """

    matrix: torch.Tensor
    low: torch.Tensor | None
    high: torch.Tensor | None


def mixing_of(
    operations: Sequence[Linear],
    params: Sequence[Params],
    mean: torch.Tensor | None,
    images: torch.Tensor,
    top: float,
    normalize: Normalize | None = None,
) -> Mixing:
    """Several operations, and a normalisation after them, as one: from pixels of white `top` to [0, 1], or to
    normalised ones. Cut to [0, 1] once, after all operations.

    Args:
        mean: float32 [B, 3], the mean colour of the images in [0, 1]; None where no operation needs it.
        images: whose channels, dtype and device count.
    """
    total: torch.Tensor | None = None
    for operation, drawn in zip(operations, params, strict=True):
        now = mean
        if operation.needs_mean and mean is not None and total is not None:  # of what the ones before it made
            now = (total[..., :3] * mean[:, None]).sum(2) + total[..., 3]
        step = operation.matrix(drawn, now)
        total = step if total is None else compose(step, total)
    assert total is not None
    total = torch.cat([total[..., :3] / top, total[..., 3:]], 2)
    if normalize is None:
        return Mixing(total, None, None)
    scale, shift = normalize.scale_and_shift(images, 1.0)
    normalised = torch.cat([total[..., :3], total[..., 3:]], 2) * scale[:, None]
    normalised[..., 3] += shift
    return Mixing(normalised, shift, scale + shift)  # where 0 and 1 go


def apply_linear(
    operations: list[Linear],
    params: list[Params],
    images: torch.Tensor,
    top: float,
    normalize: Normalize | None = None,
) -> torch.Tensor:
    """`mixing_of` them applied to images, which become float32 (float64 stays), or the dtype of `normalize`."""
    images = working(images)
    mean = mean_colour(images) / top if any(operation.needs_mean for operation in operations) else None
    found = mixing_of(operations, params, mean, images, top, normalize)
    mixed = transform(images, found.matrix)
    if found.low is None or found.high is None or normalize is None:
        return mixed.clamp_(0, 1)
    return mixed.clamp_(found.low[:, None, None], found.high[:, None, None]).to(normalize.dtype)
