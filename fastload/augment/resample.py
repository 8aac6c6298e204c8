"""Pixels by matrix, a whole batch at once and each sample by its own: three ways, from cheap to general.

take     rows and columns picked by number: flips and crops. Exact, in any dtype.
cut      the same as whole rows of memory, for a CPU
resize   rows and columns weighted: antialiased, as torchvision's `resize(antialias=True)` and Pillow weigh them.
warp     one grid_sample, bilinear or nearest.

All take the matrix from output to input of `fastload.augment.matrices`.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F

from fastload.augment.keyed import constant
from fastload.augment.matrices import Size
from fastload.augment.operation import is_channels_last

Mode = Literal["bilinear", "nearest"]
Padding = Literal["zeros", "border", "reflection"]

_SAME_BITS = {torch.uint16: torch.int16}  # indexing does not know uint16; it moves the same bits


def centres(count: int, device: torch.device) -> torch.Tensor:
    """float32 [count], whatever torch makes by default: the middle of each pixel along a side."""
    return torch.arange(count, dtype=torch.float32, device=device) + 0.5


def axes(matrix: torch.Tensor, out: Size) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows int64 [B, out height] and columns [B, out width] of the input that the output's centres fall on, for a
    matrix that keeps axes apart. They may lie outside of the input."""
    y, x = centres(out[0], matrix.device), centres(out[1], matrix.device)
    at_y = matrix[:, 1, 1:2] * y + matrix[:, 1, 2:3]
    at_x = matrix[:, 0, 0:1] * x + matrix[:, 0, 2:3]
    return at_y.floor().to(torch.int64), at_x.floor().to(torch.int64)


def take(images: torch.Tensor, y: torch.Tensor, x: torch.Tensor, fill: float | None) -> torch.Tensor:
    """Pixels by row and column: images [B, C, H, W], and y, x int64 that broadcast to [B, out height, out width].

    Args:
        fill: value outside of the input; None where nothing lies outside.
    """
    dtype = images.dtype
    source = images.view(_SAME_BITS[dtype]) if dtype in _SAME_BITS else images
    height, width = images.shape[-2:]
    at_y, at_x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    batch = torch.arange(len(images), device=images.device)
    if is_channels_last(images):
        taken = source.permute(0, 2, 3, 1)[batch[:, None, None], at_y, at_x].permute(0, 3, 1, 2)
    else:
        channels = torch.arange(images.shape[1], device=images.device)[:, None, None]
        taken = source[batch[:, None, None, None], channels, at_y[:, None], at_x[:, None]]
    if fill is not None:
        inside = ((at_y == y) & (at_x == x))[:, None]
        taken = torch.where(inside, taken, _same_bits(fill, dtype, taken))
    return taken.view(dtype) if dtype in _SAME_BITS else taken


def _same_bits(value: float, dtype: torch.dtype, like: torch.Tensor) -> torch.Tensor:
    """A value of `dtype` as a tensor [] like `like`, which may hold the same bits as another dtype."""
    if dtype == torch.uint16 and value > 32767:
        value -= 1 << 16
    return torch.full((), value, dtype=like.dtype, device=like.device)


def paste(inside: torch.Tensor, over: torch.Tensor | float, images: torch.Tensor) -> torch.Tensor:
    """`over` where bool `inside` (broadcasting), else the images; of any dtype."""
    dtype = images.dtype
    source = images.view(_SAME_BITS[dtype]) if dtype in _SAME_BITS else images
    if not isinstance(over, torch.Tensor):
        over = _same_bits(over, dtype, source)
    elif dtype in _SAME_BITS:
        over = over.view(_SAME_BITS[dtype])
    pasted = torch.where(inside, over, source)
    return pasted.view(dtype) if dtype in _SAME_BITS else pasted


def rows(images: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    """images[of], int64 [N], of any dtype."""
    return images.view(_SAME_BITS[images.dtype])[of].view(images.dtype) if images.dtype in _SAME_BITS else images[of]


def cut(images: torch.Tensor, y: torch.Tensor, x: torch.Tensor, fill: float | None) -> torch.Tensor:
    """What `take` gives for crops and flips, by copying rows of memory instead of pixels: where to look at what was
    drawn costs no wait. Takes a tenth of the time.

    Args:
        images: [B, C, H, W]. y, x: int64 [B or 1, out height] and [B or 1, out width], each row counting up or down
            by one.
    """
    source = images.permute(0, 2, 3, 1) if is_channels_last(images) else images
    if not source.is_contiguous() or not images.numel() or not y.numel() or not x.numel():
        return take(images, y[:, :, None], x[:, None, :], fill)
    y, x = y.expand(len(images), -1), x.expand(len(images), -1)
    mirrored = x[:, 0] > x[:, -1]
    left = torch.minimum(x[:, 0], x[:, -1])
    if fill is not None:
        images, y, left = _padded(images, y, left, x.shape[1], fill)
    height, width = images.shape[-2:]
    plain = torch.arange(height, device=y.device)
    if x.shape[1] == width and y.shape[1] == height and bool((y == plain).all()):
        windows = images.clone()
    else:
        windows = _windows(images, y, left, x.shape[1])
    _mirror(windows, mirrored.nonzero()[:, 0])
    return windows


def _mirror(images: torch.Tensor, rows: torch.Tensor) -> None:
    """Turn some images left to right where they lie: int64 [N] of [B, C, H, W], contiguous or channels last."""
    if not len(rows):
        return
    last = is_channels_last(images)
    whole = images.view(_SAME_BITS.get(images.dtype, images.dtype))
    memory = whole.permute(0, 2, 3, 1) if last else whole  # whole images are copied, not pixels
    chosen = memory.index_select(0, rows)
    # torch turns bytes in vectors where it knows them to be channels last
    turned = chosen.permute(0, 3, 1, 2).flip(-1).permute(0, 2, 3, 1) if last else chosen.flip(-1)
    memory.index_copy_(0, rows, turned)


def _padded(
    images: torch.Tensor, y: torch.Tensor, left: torch.Tensor, wide: int, fill: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images with as much of `fill` around them as the windows reach out, and the windows' places in them."""
    height, width = images.shape[-2:]
    above, before = max(0, -int(y.min())), max(0, -int(left.min()))
    below, after = max(0, int(y.max()) + 1 - height), max(0, int(left.max()) + wide - width)
    if not (above or before or below or after):
        return images, y, left
    shape = (len(images), images.shape[1], above + height + below, before + width + after)
    memory = torch.channels_last if is_channels_last(images) else torch.contiguous_format
    padded = torch.empty(shape, dtype=images.dtype, device=images.device, memory_format=memory)
    padded.fill_(fill)
    padded[:, :, above : above + height, before : before + width] = images
    return padded, y + above, left + before


def _windows(images: torch.Tensor, y: torch.Tensor, left: torch.Tensor, wide: int) -> torch.Tensor:
    """Rows int64 [B, out height] of each image, from column int64 [B] on: [B, C, out height, wide]."""
    batch, channels, height, width = images.shape
    dtype, last = images.dtype, is_channels_last(images)
    source = images.view(_SAME_BITS[dtype]) if dtype in _SAME_BITS else images
    image = torch.arange(batch, device=y.device)[:, None]
    if last:  # a row is all channels of its pixels
        starts, step = ((image * height + y) * width + left[:, None]) * channels, channels
        memory = source.permute(0, 2, 3, 1).reshape(-1)
    else:
        plane = image[:, None] * channels + torch.arange(channels, device=y.device)[:, None]  # [B, C, 1]
        starts, step = (plane * height + y[:, None]) * width + left[:, None, None], 1
        memory = source.reshape(-1)
    copied = memory.unfold(0, wide * step, 1).index_select(0, starts.flatten())  # a view of all rows there could be
    if last:
        found = copied.view(batch, y.shape[1], wide, channels).permute(0, 3, 1, 2)
    else:
        found = copied.view(batch, channels, y.shape[1], wide)
    return found.view(dtype) if dtype in _SAME_BITS else found


def axis_weights(matrix: torch.Tensor, axis: int, size: int, out: int) -> torch.Tensor:
    """Weights float32 [B, out, size] of one axis (0 for x, 1 for y) that resize the part of the input that the output
    covers: a triangle as wide as the step, its sum 1, nothing from outside of that part.

    Pillow's `ImagingResample` and torch's `_upsample_bilinear2d_aa` weigh the same way.
    """
    scale, shift = matrix[:, axis, axis, None, None], matrix[:, axis, 2, None, None]
    center = scale * centres(out, matrix.device)[:, None] + shift  # [B, out, 1]
    pixel = centres(size, matrix.device)  # [size]
    one, other = shift, shift + scale * out
    low, high = torch.minimum(one, other).round().clamp(min=0), torch.maximum(one, other).round().clamp(max=size)
    weights = (1 - (pixel - center).abs() / scale.abs().clamp(min=1)).clamp_(min=0)
    weights = weights * ((pixel > low) & (pixel < high))
    return weights / weights.sum(-1, keepdim=True)


def resize(images: torch.Tensor, weights_y: torch.Tensor, weights_x: torch.Tensor) -> torch.Tensor:
    """float [B, C, H, W] by weights [B or 1, out height, H] and [B or 1, out width, W]."""
    batch, channels, height, width = images.shape
    weights_y, weights_x = weights_y.to(images.dtype), weights_x.to(images.dtype).transpose(1, 2)
    if len(weights_x) == 1:
        across = torch.matmul(images, weights_x[0])
    else:  # one product a sample: broadcasting would copy the weights for each channel
        across = torch.bmm(images.reshape(batch, channels * height, width), weights_x)
        across = across.reshape(batch, channels, height, weights_x.shape[2])  # no -1: a batch may be empty
    return torch.matmul(weights_y[0] if len(weights_y) == 1 else weights_y[:, None], across)


def grid(matrix: torch.Tensor, size: Size, out: Size, *, projective: bool) -> torch.Tensor:
    """Where each output pixel lies in the input, float32 [B, out height, out width, 2] as grid_sample counts:
    -1 and 1 are the outer edges."""
    scale = constant((2 / size[1], 2 / size[0]), matrix.dtype, matrix.device)[:, None]
    numerator = matrix[:, :2] * scale - matrix[:, 2:3]  # [B, 2, 3]: 2 x / w - 1 over one denominator
    x, y = centres(out[1], matrix.device), centres(out[0], matrix.device)
    along_x = numerator[:, None, :, 0] * x[:, None]  # [B, out width, 2]
    along_y = numerator[:, None, :, 1] * y[:, None] + numerator[:, None, :, 2]  # [B, out height, 2]
    top = along_y[:, :, None] + along_x[:, None]
    if not projective:
        return top
    bottom = matrix[:, 2, 0, None, None] * x + matrix[:, 2, 1, None, None] * y[:, None] + matrix[:, 2, 2, None, None]
    return top / bottom[..., None]


def warp(
    images: torch.Tensor,
    matrix: torch.Tensor,
    out: Size,
    *,
    mode: Mode = "bilinear",
    padding: Padding = "zeros",
    fill: float = 0.0,
    projective: bool = False,
) -> torch.Tensor:
    """float [B, C, H, W] resampled to [B, C, *out], one grid_sample.

    Args:
        fill: value outside of the input, with padding="zeros".
        projective: the matrix has a last row other than (0, 0, 1).
    """
    height, width = images.shape[-2:]
    at = grid(matrix.to(torch.float32), (height, width), out, projective=projective)
    at = at.expand(len(images), -1, -1, -1).to(images.dtype)
    if padding == "zeros" and fill:
        return F.grid_sample(images - fill, at, mode, padding, align_corners=False) + fill
    return F.grid_sample(images, at, mode, padding, align_corners=False)


def nearest(
    images: torch.Tensor, matrix: torch.Tensor, out: Size, *, fill: float = 0.0, projective: bool = False
) -> torch.Tensor:
    """[B, C, H, W] of any dtype: the pixel that each output centre falls on. For masks."""
    height, width = images.shape[-2:]
    at = grid(matrix.to(torch.float32), (height, width), out, projective=projective)
    x = ((at[..., 0] + 1) * (width / 2)).floor().to(torch.int64)
    y = ((at[..., 1] + 1) * (height / 2)).floor().to(torch.int64)
    return take(images, y, x, fill)
