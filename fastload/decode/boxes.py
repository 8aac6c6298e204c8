"""Where to crop: boxes (x, y, width, height) in whole pixels, and EXIF orientation as arithmetic on them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from fastload.order import hashing

Box = tuple[int, int, int, int]

_ATTEMPTS = 10  # torchvision's
_DRAWS = 4  # per attempt: area, ratio, y, x

# orientation -> (swap the axes first, then mirror left-right, then mirror top-bottom); EXIF 2.3, tag 0x0112
_ORIENTATIONS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}


def random_box(width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float], key: int) -> Box:
    """A box of random area and aspect, after torchvision's RandomResizedCrop.get_params.

    Ten attempts at an area uniform in `scale` times the picture's and an aspect (width/height) log-uniform in
    `ratio`; if none fits inside the picture, its largest central box with an aspect in `ratio`.

    Args:
        width, height: of the picture, at least 1.
        key: the sample's, from `order.hashing.sample_keys`; the same key gives the same box.
    """
    log_low, log_high = math.log(ratio[0]), math.log(ratio[1])
    for attempt in range(_ATTEMPTS):
        area, shape, down, right = (
            hashing.draw(key, hashing.OP_IMAGE_CROP, _DRAWS * attempt + number) for number in range(_DRAWS)
        )
        target = width * height * (scale[0] + area * (scale[1] - scale[0]))
        aspect = math.exp(log_low + shape * (log_high - log_low))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(right * (width - w + 1)), int(down * (height - h + 1)), w, h
    w, h = width, height
    if width < height * ratio[0]:
        h = min(height, max(1, round(width / ratio[0])))
    elif width > height * ratio[1]:
        w = min(width, max(1, round(height * ratio[1])))
    return (width - w) // 2, (height - h) // 2, w, h


def center_box(width: int, height: int, out_width: int, out_height: int, fraction: float) -> Box:
    """The central box of the output's aspect: `fraction` of the largest inside the picture, to the nearest pixel."""
    step = fraction * min(width / out_width, height / out_height)
    w = min(width, max(1, round(out_width * step)))
    h = min(height, max(1, round(out_height * step)))
    return (width - w) // 2, (height - h) // 2, w, h


def swaps_axes(orientation: int) -> bool:
    """Whether the picture as shown is as wide as the stored one is high."""
    return _ORIENTATIONS[orientation][0]


def stored_box(box: Box, width: int, height: int, orientation: int) -> Box:
    """The box in the stored picture that shows `box` of the picture as shown, which is `width` x `height`."""
    x, y, w, h = box
    swap, mirror_x, mirror_y = _ORIENTATIONS[orientation]
    if mirror_x:
        x = width - x - w
    if mirror_y:
        y = height - y - h
    return (y, x, h, w) if swap else (x, y, w, h)


def orient(pixels: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Stored pixels [H, W, ...] as they are to be shown: a view."""
    swap, mirror_x, mirror_y = _ORIENTATIONS[orientation]
    if swap:
        pixels = np.swapaxes(pixels, 0, 1)
    if mirror_x:
        pixels = pixels[:, ::-1]
    return pixels[::-1] if mirror_y else pixels
