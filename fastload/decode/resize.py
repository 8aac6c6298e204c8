"""Resizing with antialiasing, straight into a row of the batch buffer.

8-bit pixels go through the kernel behind torch.nn.functional.interpolate(mode="bilinear", antialias=True), which
torchvision's transforms use. Measured for 380x300 to 224x224, one thread: this kernel 0.16 ms, interpolate itself
0.24 ms (it allocates and copies), Pillow's resize 0.71 ms. On x86 with AVX2 the kernel runs on the calling thread
alone, provided that its input is contiguous: a strided crop would be copied by torch's own pool of threads (two cores
busy, as measured), hence the copy by numpy (0.01 ms). On processors without AVX2 torch's portable kernel uses that
pool in any case.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from fastload.decode.boxes import Box

_bilinear_antialiased = torch.ops.aten._upsample_bilinear2d_aa.out


def resize_into(pixels: npt.NDArray[Any], box: Box, out: npt.NDArray[Any]) -> None:
    """Resize `box` of `pixels` into `out`, by a triangle filter that widens with the reduction.

    Args:
        pixels: uint8 [H, W, C], C at most 4, or uint16 [H, W, 1].
        box: (x, y, width, height) inside `pixels`.
        out: C-contiguous [h, w, C] of the same dtype; every element is written.
    """
    x, y, width, height = box
    crop = np.ascontiguousarray(pixels[y : y + height, x : x + width])
    if crop.dtype == np.uint16:
        _resize_grey16(crop, out)
        return
    _bilinear_antialiased(_channels_first(crop), list(out.shape[:2]), False, out=_channels_first(out))


def pick_into(pixels: npt.NDArray[Any], box: Box, out: npt.NDArray[Any]) -> None:
    """The pixels of `box` nearest to those of `out`, as Pillow's NEAREST takes them; see `resize_into`."""
    x, y, width, height = box
    rows, columns = (
        (2 * np.arange(n) + 1) * size // (2 * n) for n, size in zip(out.shape, (height, width), strict=False)
    )
    np.take(pixels[y + rows], x + columns, axis=1, out=out)


def _channels_first(pixels: npt.NDArray[Any]) -> torch.Tensor:
    """[H, W, C] as a channels-last tensor [1, C, H, W] on the same memory."""
    return torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)


def _resize_grey16(crop: npt.NDArray[np.uint16], out: npt.NDArray[np.uint16]) -> None:
    height, width = out.shape[:2]
    picture = Image.fromarray(crop[..., 0].astype(np.float32))
    resized = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))  # float32 [h, w]
    out[..., 0] = np.rint(resized).clip(0, 0xFFFF)
