"""Operations that move pixels. Each is a matrix per sample, so that a chain of them is one matrix and one resampling,
and masks, boxes and keypoints follow it (`fastload.augment.Compose`).

Three kinds, by what resampling they need at least: "index" (flips, crops: exact), "resize" (antialiased weights along
each axis), "warp" (grid_sample). Definitions are torchvision's, transforms v2, where both have the operation.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from fastload.augment import keyed, matrices, operation, resample
from fastload.augment.matrices import Size
from fastload.augment.operation import (
    ImageOperation,
    Operation,
    Params,
    check_fill,
    check_images,
    check_p,
    from_working,
    like,
    pixel,
    span,
    working,
)
from fastload.augment.resample import Mode, Padding

Kind = Literal["index", "resize", "warp"]

# torchvision.transforms.RandomResizedCrop's own defaults, and how often it tries before it takes the centre
DEFAULT_SCALE = (0.08, 1.0)
DEFAULT_RATIO = (3 / 4, 4 / 3)
CROP_TRIES = 10


@dataclass(frozen=True)
class Geometric(ImageOperation):
    """An operation given by a matrix from output to input coordinates."""

    projective: ClassVar[bool] = False

    @property
    def kind(self) -> Kind:
        return "warp"

    @property
    def sampling(self) -> tuple[Mode, Padding, float] | None:
        """Interpolation, padding and fill of a warp; None where any will do. Operations are one warp if they agree."""
        return None

    @property
    def fill_outside(self) -> float | None:
        """Value of pixels that the output shows and the input lacks; None where there are none."""
        return None

    def out_size(self, size: Size) -> Size:
        """Height and width of the result, from those of the input."""
        return size

    @abstractmethod
    def matrix(self, params: Params, size: Size) -> torch.Tensor:
        """float32 [B, 3, 3] (or [1, 3, 3]), from the output's coordinates to those of an input of this `size`."""

    def apply(self, value: torch.Tensor, params: Params) -> torch.Tensor:
        check_images(self, value)
        return like(value, from_working(move([self], value, [params]), value.dtype))

    def change(self, images: torch.Tensor, params: Params) -> torch.Tensor:
        return move([self], images, [params])


def steps(
    operations: Sequence[Geometric], params: Sequence[Params], size: Size
) -> tuple[list[torch.Tensor], list[Size]]:
    """The matrices of operations one after another, and the sizes between them, the input's first."""
    found, sizes = [], [size]
    for each, drawn in zip(operations, params, strict=True):
        found.append(each.matrix(drawn, sizes[-1]))
        sizes.append(each.out_size(sizes[-1]))
    return found, sizes


@dataclass(frozen=True)
class Sampling:
    """What one resampling takes from where.

    Attributes:
        matrix: float32 [B or 1, 3, 3], from the output's coordinates to the input's.
        size: of the output.
        mode: "index" takes the pixel that an output's centre falls on.
        fill: outside of the input, in the images' own range; None where nothing lies outside.
        projective: the matrix has a last row other than (0, 0, 1).
    """

    matrix: torch.Tensor
    size: Size
    mode: Literal["index", "nearest", "bilinear"]
    padding: Padding
    fill: float | None
    projective: bool


def sampling_of(
    operations: Sequence[Geometric], params: Sequence[Params], size: Size, dtype: torch.dtype, top: float
) -> Sampling:
    """Of operations that pick pixels or warp, as one; of images of this size and dtype, `top` is white of floats."""
    found, sizes = steps(operations, params, size)
    matrix, first = matrices.product(found), operations[0]
    if all(each.kind == "index" for each in operations):
        fills = [each.fill_outside for each in operations if each.fill_outside is not None]
        fill = pixel(first, "fill", fills[0], dtype, top) if fills else None
        return Sampling(matrix, sizes[-1], "index", "zeros", fill, False)
    mode, padding, outside = next((each.sampling for each in operations if each.sampling), ("bilinear", "zeros", 0.0))
    projective = any(each.projective for each in operations)
    return Sampling(matrix, sizes[-1], mode, padding, pixel(first, "fill", outside, dtype, top), projective)


def move(operations: list[Geometric], images: torch.Tensor, params: list[Params], top: float = 1.0) -> torch.Tensor:
    """Several operations as one resampling: by index if all are exact, by weights if none warps, else by one warp.

    Args:
        images: [B, C, H, W]. By index, the dtype stays; else the result is float (`working`).
        top: white, of floats.
    """
    size = (images.shape[2], images.shape[3])
    if any(each.kind == "resize" for each in operations):
        return _resize(operations, images, params, size, top)
    found = sampling_of(operations, params, size, images.dtype, top)
    if found.mode != "index":
        return resample.warp(
            working(images),
            found.matrix,
            found.size,
            mode=found.mode,
            padding=found.padding,
            fill=found.fill or 0.0,
            projective=found.projective,
        )
    y, x = resample.axes(found.matrix, found.size)
    if operation.by_rows(images):
        return resample.cut(images, y, x, found.fill)
    return resample.take(images, y[:, :, None], x[:, None, :], found.fill)


def _resize(
    operations: list[Geometric], images: torch.Tensor, params: list[Params], size: Size, top: float
) -> torch.Tensor:
    found, sizes = steps(operations, params, size)
    fills = [each.fill_outside for each in operations if each.fill_outside is not None]
    weights = [_weights(*step) for step in zip(operations, found, sizes, sizes[1:], strict=False)]
    y, x = weights[0]
    for further_y, further_x in weights[1:]:
        y, x = torch.matmul(further_y, y), torch.matmul(further_x, x)
    fill = pixel(operations[0], "fill", fills[0], images.dtype, top) if fills else 0.0
    if fill:  # what a crop shows from outside has no weights: 0, which is the fill of images less the fill
        return resample.resize(working(images) - fill, y, x) + fill
    return resample.resize(working(images), y, x)


def _weights(operation: Geometric, matrix: torch.Tensor, size: Size, out: Size) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights of rows and columns of one operation. One that picks pixels has a single 1 a row."""
    if operation.kind == "index":
        y, x = resample.axes(matrix, out)
        rows = torch.arange(size[0], device=matrix.device) == y[..., None]
        columns = torch.arange(size[1], device=matrix.device) == x[..., None]
        return rows.to(matrix.dtype), columns.to(matrix.dtype)
    return (
        resample.axis_weights(matrix, 1, size[0], out[0]),
        resample.axis_weights(matrix, 0, size[1], out[1]),
    )


def _one(params: Params) -> torch.Tensor:
    """float32 [1] on the device of the parameters, for matrices that are the same for all samples."""
    device = next(iter(params.values())).device
    return torch.ones(1, dtype=torch.float32, device=device)


def pair(size: int | tuple[int, int]) -> Size:
    """Height and width, from both or one for both."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _check_size(operation: Operation, size: object) -> None:
    sides = (size, size) if isinstance(size, int) else size
    good = isinstance(sides, Sequence) and len(sides) == 2 and all(isinstance(n, int) and n >= 1 for n in sides)
    operation.check(good, f"size={size!r}: size must be at least 1 pixel; pass (height, width), or one number for both")


@dataclass(frozen=True)
class RandomHorizontalFlip(Geometric):
    """Mirrors each image left to right with probability `p`. Exact, in any dtype."""

    p: float = 0.5

    def __post_init__(self) -> None:
        check_p(self, self.p)

    @property
    def draws(self) -> int:
        return 1

    @property
    def kind(self) -> Kind:
        return "index"

    def params(self, u: torch.Tensor) -> Params:
        """`flip`: bool [B]."""
        return {"flip": u[:, 0] < self.p}

    def matrix(self, params: Params, size: Size) -> torch.Tensor:
        flip = params["flip"].to(torch.float32)
        return matrices.diagonal(1 - 2 * flip, flip * size[1], 1, 0, like=flip)


@dataclass(frozen=True)
class RandomVerticalFlip(RandomHorizontalFlip):
    """Mirrors each image top to bottom with probability `p`. Exact, in any dtype."""

    def matrix(self, params: Params, size: Size) -> torch.Tensor:
        flip = params["flip"].to(torch.float32)
        return matrices.diagonal(1, 0, 1 - 2 * flip, flip * size[0], like=flip)


@dataclass(frozen=True)
class CenterCrop(Geometric):
    """The middle of `size` (height, width; or one number for both). What a smaller image lacks is `fill` in [0, 1]."""

    size: int | tuple[int, int] = 224
    fill: float = 0.0

    def __post_init__(self) -> None:
        _check_size(self, self.size)
        check_fill(self, "fill", self.fill)

    @property
    def kind(self) -> Kind:
        return "index"

    @property
    def fill_outside(self) -> float | None:
        return self.fill

    def out_size(self, size: Size) -> Size:
        return pair(self.size)

    def params(self, u: torch.Tensor) -> Params:
        return {"none": u[:, :0]}

    def matrix(self, params: Params, size: Size) -> torch.Tensor:
        # torchvision's: of an odd rest a larger image is rounded to even, a smaller one has the lesser part before it
        top, left = (
            round((have - want) / 2) if have > want else -((want - have) // 2)
            for have, want in zip(size, pair(self.size), strict=True)
        )
        return matrices.diagonal(1, left, 1, top, like=_one(params))


@dataclass(frozen=True)
class RandomCrop(CenterCrop):
    """A crop of `size` anywhere inside the image, after `padding` pixels of `fill` on each side.

    Raises (when applied):
        ConfigError: an image with its padding is smaller than the crop.
    """

    padding: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(isinstance(self.padding, int) and self.padding >= 0, "padding must be an integer, at least 0")

    @property
    def draws(self) -> int:
        return 2

    @property
    def fill_outside(self) -> float | None:
        return self.fill if self.padding else None

    def params(self, u: torch.Tensor) -> Params:
        """`top`, `left`: float32 [B] in [0, 1): which of all possible places."""
        return {"top": u[:, 0], "left": u[:, 1]}

    def matrix(self, params: Params, size: Size) -> torch.Tensor:
        free = [have + 2 * self.padding - want for have, want in zip(size, pair(self.size), strict=True)]
        self.check(min(free) >= 0, f"images of {size[0]}x{size[1]} pixels are smaller; add padding, or resize before")
        top = keyed.below(params["top"], free[0] + 1).to(torch.float32) - self.padding
        left = keyed.below(params["left"], free[1] + 1).to(torch.float32) - self.padding
        return matrices.diagonal(1, left, 1, top, like=top)


@dataclass(frozen=True)
class Resize(Geometric):
    """Resizes to (height, width); one number is the shorter side, the aspect kept.

    Args:
        antialias: True weighs all pixels that a smaller result covers, as torchvision's default does. False is plain
            bilinear, which fuses with warps into one grid_sample.
    """

    size: int | tuple[int, int] = 256
    antialias: bool = True

    def __post_init__(self) -> None:
        _check_size(self, self.size)

    @property
    def kind(self) -> Kind:
        return "resize" if self.antialias else "warp"

    @property
    def sampling(self) -> tuple[Mode, Padding, float] | None:
        return None if self.antialias else ("bilinear", "border", 0.0)

    def out_size(self, size: Size) -> Size:
        if not isinstance(self.size, int):
            return pair(self.size)
        short, long = min(size), max(size)
        longer = int(self.size * long / short)
        return (self.size, longer) if size[0] <= size[1] else (longer, self.size)

    def params(self, u: torch.Tensor) -> Params:
        return {"none": u[:, :0]}

    def matrix(self, params: Params, size: Size) -> torch.Tensor:
        out = self.out_size(size)
        return matrices.diagonal(size[1] / out[1], 0, size[0] / out[0], 0, like=_one(params))


@dataclass(frozen=True)
class RandomResizedCrop(Resize):
    """A box of random area and aspect, resized to `size`: Inception's crop, drawn as torchvision draws it.

    Args:
        scale: the box's area as a fraction of the image's.
        ratio: its width/height, log-uniform. Of ten draws the first that fits is taken, else the centre.
    """

    size: int | tuple[int, int] = 224
    scale: tuple[float, float] = DEFAULT_SCALE
    ratio: tuple[float, float] = DEFAULT_RATIO

    def __post_init__(self) -> None:
        super().__post_init__()
        span(self, "scale", self.scale, None, 0)
        span(self, "ratio", self.ratio, None, 1e-6)

    @property
    def draws(self) -> int:
        return 2 * CROP_TRIES + 2

    def out_size(self, size: Size) -> Size:
        return pair(self.size)

    def params(self, u: torch.Tensor) -> Params:
        """`area`, `ratio`: float32 [B, 10], the tries; `top`, `left`: float32 [B] in [0, 1), where of all places."""
        area = keyed.between(u[:, :CROP_TRIES], *self.scale)
        ratio = torch.exp(keyed.between(u[:, CROP_TRIES:-2], math.log(self.ratio[0]), math.log(self.ratio[1])))
        return {"area": area, "ratio": ratio, "top": u[:, -2], "left": u[:, -1]}

    def box(self, params: Params, size: Size) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """top, left, height, width of each sample's box in whole pixels, float32 [B]."""
        height, width = size
        area = params["area"] * (height * width)
        wide, high = torch.sqrt(area * params["ratio"]).round(), torch.sqrt(area / params["ratio"]).round()
        fits = (wide > 0) & (wide <= width) & (high > 0) & (high <= height)
        first = fits.to(torch.int8).argmax(1, keepdim=True)  # [B, 1]
        good = fits.any(1)
        if width / height < self.ratio[0]:
            center = (round(width / self.ratio[0]), width)
        elif width / height > self.ratio[1]:
            center = (height, round(height * self.ratio[1]))
        else:
            center = (height, width)
        high = torch.where(good, high.gather(1, first)[:, 0], center[0])
        wide = torch.where(good, wide.gather(1, first)[:, 0], center[1])
        top = torch.where(good, (params["top"] * (height - high + 1)).floor(), (height - center[0]) // 2)
        left = torch.where(good, (params["left"] * (width - wide + 1)).floor(), (width - center[1]) // 2)
        return torch.minimum(top, height - high), torch.minimum(left, width - wide), high, wide

    def matrix(self, params: Params, size: Size) -> torch.Tensor:
        top, left, high, wide = self.box(params, size)
        out = pair(self.size)
        return matrices.diagonal(wide / out[1], left, high / out[0], top, like=top)
