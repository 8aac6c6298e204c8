"""Operations on a pixel's neighbourhood, noise, and erased boxes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from fastload.augment import keyed, operation
from fastload.augment.operation import (
    ImageOperation,
    Params,
    check_fill,
    check_images,
    check_p,
    column,
    like,
    pixel,
    span,
)
from fastload.augment.resample import paste, resize

ERASING_TRIES = 10  # as torchvision's RandomErasing


@dataclass(frozen=True)
class RandomSharpness(ImageOperation):
    """Blends with a 3x3 smoothing of the image: factor 0 is smooth, 1 the image, 2 twice as sharp; the outermost
    pixels stay. Pillow's and torchvision's `adjust_sharpness`, with probability `p`.

    Args:
        factor: lower and upper bound, at least 0.
    """

    factor: tuple[float, float] = (0.5, 1.5)
    p: float = 1.0

    def __post_init__(self) -> None:
        check_p(self, self.p)
        span(self, "factor", self.factor, None, 0.0)

    @property
    def draws(self) -> int:
        return 2

    def params(self, u: torch.Tensor) -> Params:
        """`factor`: float32 [B], 1 where `p` left a sample out."""
        return {"factor": torch.where(u[:, 0] < self.p, keyed.between(u[:, 1], *self.factor), 1.0)}

    def change(self, images: torch.Tensor, params: Params) -> torch.Tensor:
        return sharpen(images, params["factor"])


def sharpen(images: torch.Tensor, factor: torch.Tensor, top: float = 1.0) -> torch.Tensor:
    """float [B, C, H, W] in [0, top], sharpened by [B] and cut to that. Images under 3 pixels stay."""
    if min(images.shape[-2:]) < 3:
        return images
    inner = images[..., 1:-1, 1:-1]
    smooth = (_sum_of_nine(images) + inner * 4) / 13  # weights 1, and 5 in the middle, of 13
    change = (inner - smooth) * (column(factor, images) - 1)
    return (images + F.pad(change, (1, 1, 1, 1))).clamp_(0, top)


def _sum_of_nine(images: torch.Tensor) -> torch.Tensor:
    """[B, C, H - 2, W - 2]: of each pixel and those around it. torch's pooling is one kernel on a GPU, and on a CPU
    takes twice as long as four sums."""
    if not operation.by_rows(images):
        return F.avg_pool2d(images, 3, 1) * 9
    rows = images[..., :-2] + images[..., 1:-1]
    rows += images[..., 2:]
    total = rows[..., :-2, :] + rows[..., 1:-1, :]
    total += rows[..., 2:, :]
    return total


@dataclass(frozen=True)
class GaussianBlur(ImageOperation):
    """Blurs by a Gaussian of random width, edges reflected, with probability `p`; torchvision's `gaussian_blur`.

    Rows and columns are weighted by a matrix per sample, so that each has its own width in two products.

    Args:
        kernel_size: pixels that the kernel spans, odd. 23 at 224 pixels is SimCLR's.
        sigma: standard deviation in pixels, lower and upper bound.
    """

    kernel_size: int = 23
    sigma: tuple[float, float] = (0.1, 2.0)
    p: float = 0.5

    def __post_init__(self) -> None:
        check_p(self, self.p)
        span(self, "sigma", self.sigma, None, 1e-6)
        good = isinstance(self.kernel_size, int) and self.kernel_size >= 1 and self.kernel_size % 2 == 1
        self.check(good, f"kernel_size={self.kernel_size!r}: kernel_size must be odd, one whole number from 1")

    @property
    def draws(self) -> int:
        return 2

    def params(self, u: torch.Tensor) -> Params:
        """`sigma`: float32 [B] in pixels, 0 where `p` left a sample out."""
        return {"sigma": torch.where(u[:, 0] < self.p, keyed.between(u[:, 1], *self.sigma), 0.0)}

    def change(self, images: torch.Tensor, params: Params) -> torch.Tensor:
        reach = self.kernel_size // 2
        self.check(
            reach < min(images.shape[-2:]), f"kernel_size must be below twice the image's {list(images.shape[-2:])}"
        )
        weights = [_blur_weights(params["sigma"], size, reach) for size in images.shape[-2:]]
        return like(images, resize(images, *weights))


def _blur_weights(sigma: torch.Tensor, size: int, reach: int) -> torch.Tensor:
    """float32 [B, size, size]: the Gaussian around each pixel, what lies beyond the edges folded back in."""
    offsets = torch.arange(-reach, reach + 1, device=sigma.device)
    safe = torch.where(sigma > 0, sigma, 1)[:, None]
    kernel = torch.where(sigma[:, None] > 0, torch.exp(-0.5 * (offsets / safe) ** 2), (offsets == 0).to(sigma.dtype))
    kernel = kernel / kernel.sum(1, keepdim=True)
    # windows[:, i, x] is the kernel's value at an offset of x + i - last; it is the same to either side
    last = 2 * (size - 1)
    windows = F.pad(kernel, (last - reach, last - reach)).unfold(1, size, 1)  # [B, 3 * size - 2, size], a view
    weights = windows[:, size - 1 : last + 1].flip(1)  # of pixel x in row y, x - y away
    weights[..., 1:] += windows[:, last:, 1:]  # reflected at the left edge, x + y away; pixel 0 has no reflection
    weights[..., :-1] += windows[:, :size, :-1]  # at the right edge, last - x - y away
    return weights


@dataclass(frozen=True)
class GaussianNoise(ImageOperation):
    """Adds normal noise, drawn for each pixel from the sample's key, with probability `p`; cut to [0, 1].

    Args:
        sigma: standard deviation, lower and upper bound, of pixels in [0, 1].
    """

    sigma: tuple[float, float] = (0.05, 0.1)
    mean: float = 0.0
    p: float = 0.5

    def __post_init__(self) -> None:
        check_p(self, self.p)
        span(self, "sigma", self.sigma, None, 0.0)
        good = self.sigma[1] <= 1 and abs(self.mean) <= 1
        self.check(good, f"sigma={self.sigma!r}, mean={self.mean!r}: pass fractions of the range, 1.0 is white")

    @property
    def draws(self) -> int:
        return 4

    def params(self, u: torch.Tensor) -> Params:
        """`sigma`: float32 [B]; `chosen`: bool [B]; `noise`: int64 [B], keys of the pixels' noise."""
        chosen = u[:, 2] < self.p
        sigma = torch.where(chosen, keyed.between(u[:, 3], *self.sigma), 0.0)
        return {"sigma": sigma, "chosen": chosen, "noise": keyed.seeds(u)}

    def change(self, images: torch.Tensor, params: Params) -> torch.Tensor:
        noise = keyed.normals(params["noise"], math.prod(images.shape[1:])).reshape(images.shape).to(images.dtype)
        shift = self.mean * column(params["chosen"].to(images.dtype), images)
        return torch.addcmul(images + shift, noise, column(params["sigma"], images)).clamp_(0, 1)


@dataclass(frozen=True)
class RandomErasing(ImageOperation):
    """Fills a random box with `value`, with probability `p` (Zhong et al., "Random Erasing Data Augmentation", 2017).

    The box is drawn as torchvision draws it: the first of ten that fits; a sample none of whose ten fits stays.

    Args:
        scale: the box's area as a fraction of the image's.
        ratio: its height/width, log-uniform.
        value: of erased pixels, a fraction of the range; after Normalize, 0 is the mean.
    """

    p: float = 0.5
    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)
    value: float = 0.0

    def __post_init__(self) -> None:
        check_p(self, self.p)
        span(self, "scale", self.scale, None, 0.0)
        span(self, "ratio", self.ratio, None, 1e-6)
        check_fill(self, "value", self.value)

    @property
    def draws(self) -> int:
        return 2 * ERASING_TRIES + 3

    def params(self, u: torch.Tensor) -> Params:
        """`area`, `ratio`: float32 [B, 10], the tries; `top`, `left`: float32 [B] in [0, 1); `chosen`: bool [B]."""
        tries = u[:, 3:]
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        return {
            "chosen": u[:, 0] < self.p,
            "top": u[:, 1],
            "left": u[:, 2],
            "area": keyed.between(tries[:, :ERASING_TRIES], *self.scale),
            "ratio": torch.exp(keyed.between(tries[:, ERASING_TRIES:], low, high)),
        }

    def box(self, params: Params, size: tuple[int, int]) -> tuple[torch.Tensor, ...]:
        """top, left, height, width of each box in whole pixels, float32 [B]; height 0 where nothing is erased."""
        height, width = size
        area = params["area"] * (height * width)
        high, wide = torch.sqrt(area * params["ratio"]).round(), torch.sqrt(area / params["ratio"]).round()
        fits = (high < height) & (wide < width)
        first = fits.to(torch.int8).argmax(1, keepdim=True)
        high, wide = high.gather(1, first)[:, 0], wide.gather(1, first)[:, 0]
        top = (params["top"] * (height - high + 1)).floor()
        left = (params["left"] * (width - wide + 1)).floor()
        return top, left, torch.where(params["chosen"] & fits.any(1), high, 0), wide

    def apply(self, value: torch.Tensor, params: Params) -> torch.Tensor:
        check_images(self, value)
        return self.erase(value, params)

    def change(self, images: torch.Tensor, params: Params) -> torch.Tensor:
        return self.erase(images, params)

    def erase(self, images: torch.Tensor, params: Params, white: float = 1.0) -> torch.Tensor:
        """In any dtype, normalised images too; `white` is that of floats."""
        top, left, high, wide = (v[:, None] for v in self.box(params, (images.shape[2], images.shape[3])))
        y = torch.arange(images.shape[2], device=images.device)
        x = torch.arange(images.shape[3], device=images.device)
        inside = ((y >= top) & (y < top + high))[:, None, :, None] & ((x >= left) & (x < left + wide))[:, None, None]
        return paste(inside, pixel(self, "value", self.value, images.dtype, white), images)
