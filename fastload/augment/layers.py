"""One of fifteen operations for each sample of a batch: a layer of an automatic policy.

On a GPU, instead of sorting samples by operation, which would make the host wait for the device, a layer is four passes
over the whole batch with neutral parameters where a sample drew something else: one warp (shear, translate, rotate),
one 3x4 colour matrix (brightness, colour, contrast, invert), one sharpening, and one table of 256 levels per sample and
channel (posterize, solarize, autocontrast, equalize). So the work does not depend on what was drawn, and it is four
passes instead of fifteen. On a CPU, where nothing waits, each pass runs on the rows that drew it, plane by plane.
"""

from __future__ import annotations

import torch

from fastload.augment import keyed, matrices, operation, resample
from fastload.augment.colour import check_channels, jitter, mean_colour, transform
from fastload.augment.filters import sharpen
from fastload.augment.operation import column, is_channels_last, top_of
from fastload.augment.tone import LEVELS, equalizing, histogram, look_up, stretching

NAMES = (
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
    "Invert",
)
NUMBER = {name: number for number, name in enumerate(NAMES)}
_GEOMETRY = tuple(NUMBER[name] for name in ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"))
_COLOUR = tuple(NUMBER[name] for name in ("Brightness", "Color", "Contrast", "Invert"))
_TABLES = tuple(NUMBER[name] for name in ("Posterize", "Solarize", "AutoContrast", "Equalize"))
SIGNED = tuple(float(1 <= number <= 9) for number in range(len(NAMES)))  # of which the sign is drawn too


def layer(images: torch.Tensor, number: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """One operation for each sample.

    Args:
        images: float [B, C, H, W] in [0, 1]; on a CPU also uint8.
        number: int64 [B], which of NAMES.
        value: float32 [B], its strength with sign: shear as a slope, translation as a fraction of the side, degrees,
            factor - 1, bits to keep, threshold in [0, 1].
    """
    check_channels(images)  # whatever was drawn: what is refused depends on no batch
    if not operation.by_rows(images):
        for _, change in _PASSES:
            images = change(images, number, value, 1.0)
        return images
    if images.dtype == torch.uint8 and is_channels_last(images):
        return _layer_of_bytes(images, number, value)
    top = top_of(images.dtype)
    changed = images.clone()
    for numbers, change in _PASSES:
        of = _drew(number, numbers)
        if len(of):
            part = images[of] if top == 1 else images[of].to(torch.float32)
            found = change(part, number[of], value[of], top)
            changed[of] = found if top == 1 else found.round_().to(images.dtype)
    return changed


def _drew(number: torch.Tensor, numbers: tuple[int, ...]) -> torch.Tensor:
    """int64 [N]: samples that drew one of these operations."""
    return torch.isin(number, keyed.constant(numbers, torch.int64, number.device)).nonzero()[:, 0]


def _layer_of_bytes(images: torch.Tensor, number: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The same of uint8 channels last, the loader's own layout: whole images are copied, warps and tables move bytes,
    and the rest is computed plane by plane, which takes a CPU a tenth of the time that whole pixels take."""
    changed = images.clone()
    memory, into = images.permute(0, 2, 3, 1), changed.permute(0, 2, 3, 1)  # [B, H, W, C], contiguous
    small = (images.shape[2] + 2) * (images.shape[3] + 2) < 1 << 24  # pixels that float32 can number
    for numbers, change in _PASSES:
        of = _drew(number, numbers)
        if not len(of):
            continue
        part, drew, strength = memory.index_select(0, of), number[of], value[of]
        if change is _warp and small:
            found = _warp_of_bytes(part, drew, strength)
        elif change is _tables:
            found = _tables_of_bytes(part, drew, strength)
        else:
            planes = part.permute(0, 3, 1, 2).contiguous().to(torch.float32)
            found = change(planes, drew, strength, 255.0).round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        into.index_copy_(0, of, found)
    return changed


# Each takes float images of white `top`, what was drawn, and gives a new tensor.


def _warp(images: torch.Tensor, number: torch.Tensor, value: torch.Tensor, top: float) -> torch.Tensor:
    """Shear, translate and rotate."""
    size = images.shape[2], images.shape[3]
    return resample.warp(images, movement(number, value, size), size, mode="nearest")


def _recolour(images: torch.Tensor, number: torch.Tensor, value: torch.Tensor, top: float) -> torch.Tensor:
    """Brightness, colour, contrast and invert."""
    one = torch.ones_like(value)
    invert = (number == NUMBER["Invert"]).to(value.dtype)
    brightness = _where(number, "Brightness", one + value, one) * (1 - 2 * invert)
    contrast, colour = (_where(number, name, one + value, one) for name in ("Contrast", "Color"))
    matrix = jitter(brightness, contrast, colour, mean_colour(images))
    matrix[..., 3] += top * invert[:, None]
    return transform(images, matrix).clamp_(0, top)


def _sharpen(images: torch.Tensor, number: torch.Tensor, value: torch.Tensor, top: float) -> torch.Tensor:
    return sharpen(images, _where(number, "Sharpness", 1 + value, 1.0), top)


def _tables(images: torch.Tensor, number: torch.Tensor, value: torch.Tensor, top: float) -> torch.Tensor:
    """Posterize, solarize, autocontrast and equalize."""
    found = (images * (255 / top) if top != 255 else images).round().clamp_(0, 255).to(torch.int64)
    table = _table(histogram(found), number, value)
    chosen = (number >= NUMBER["Posterize"]) & (number <= NUMBER["Equalize"])
    return torch.where(column(chosen, images), look_up(found, table * (top / 255)).to(images.dtype), images)


def _table(counts: torch.Tensor, number: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """float32 [B, C, 256]: what becomes of each level, from how often each occurs."""
    level = torch.arange(LEVELS, dtype=torch.float32, device=number.device)
    of, strength = number[:, None, None], value[:, None, None]
    step = torch.exp2(8 - strength)
    table = torch.where(of == NUMBER["Posterize"], torch.floor(level / step) * step, level)
    table = torch.where((of == NUMBER["Solarize"]) & (level >= strength * 255), 255 - level, table)
    table = torch.where(of == NUMBER["AutoContrast"], stretching(counts), table)
    return torch.where(of == NUMBER["Equalize"], equalizing(counts).to(torch.float32), table)


# The two that need no arithmetic on pixels, uint8 [B, H, W, C] to the same.


def _warp_of_bytes(images: torch.Tensor, number: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The pixels that `grid_sample` takes to the nearest, by their number in an image with a black pixel around it."""
    (batch, height, width, channels), device = images.shape, images.device
    padded = torch.zeros(batch, height + 2, width + 2, channels, dtype=torch.uint8, device=device)
    padded[:, 1:-1, 1:-1] = images
    matrix = movement(number, value, (height, width))
    x, y = resample.centres(width, device), resample.centres(height, device)
    along_x = matrix[:, :2, 0, None] * x + (matrix[:, :2, 2, None] - 0.5)  # [B, 2, W]
    along_y = matrix[:, :2, 1, None] * y  # [B, 2, H]
    at_x = (along_x[:, 0, None] + along_y[:, 0, :, None]).round_().clamp_(-1, width)
    at_y = (along_x[:, 1, None] + along_y[:, 1, :, None]).round_().clamp_(-1, height)
    pixel = at_y.mul_(width + 2).add_(at_x).to(torch.int64)
    pixel += (torch.arange(batch, device=device) * ((height + 2) * (width + 2)) + width + 3)[:, None, None]
    return padded.view(-1, channels).index_select(0, pixel.flatten()).view(images.shape)


def _tables_of_bytes(images: torch.Tensor, number: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    batch, channels, device = len(images), images.shape[3], images.device
    entry = (images.to(torch.int64) + LEVELS * torch.arange(channels, device=device)).flatten(1)  # [B, H * W * C]
    counts = torch.zeros(batch, channels * LEVELS, dtype=torch.int32, device=device)
    counts.scatter_add_(1, entry, torch.ones((), dtype=torch.int32, device=device).expand(entry.shape))
    table = _table(counts.view(batch, channels, LEVELS), number, value).round_().to(torch.uint8)
    return table.flatten(1).gather(1, entry).view(images.shape)


def _where(number: torch.Tensor, name: str, value: torch.Tensor, neutral: torch.Tensor | float) -> torch.Tensor:
    return torch.where(number == NUMBER[name], value, neutral)


def movement(number: torch.Tensor, value: torch.Tensor, size: matrices.Size) -> torch.Tensor:
    """The matrix float32 [B, 3, 3] of each sample: shear and translation from the upper left corner, rotation about the
    centre; of all else the identity."""
    height, width = size
    zero = torch.zeros_like(value)
    shear_x, shear_y = _where(number, "ShearX", value, 0.0), _where(number, "ShearY", value, 0.0)
    left = -(_where(number, "TranslateX", value, 0.0) * width).trunc()
    top = -(_where(number, "TranslateY", value, 0.0) * height).trunc()
    moved = matrices.rows(1, shear_x, left, shear_y, 1, top, 0, 0, 1, like=value)
    turned = matrices.affine(-value, (zero, zero), zero + 1, (zero, zero), size)
    return torch.where((number == NUMBER["Rotate"])[:, None, None], turned, moved)


_PASSES = (
    (_GEOMETRY, _warp),
    (_COLOUR, _recolour),
    ((NUMBER["Sharpness"],), _sharpen),
    (_TABLES, _tables),
)
