"""All pixels of an encoded picture, of whatever kind it is. No torch here: the packer looks at pictures too."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fastload.decode.base import Raw
from fastload.decode.boxes import swaps_axes
from fastload.decode.headers import PictureHeader
from fastload.decode.jpeg import decode_jpeg
from fastload.decode.pillow import decode_with_pillow
from fastload.errors import DecodeError


def decode_pixels(raw: Raw, header: PictureHeader, mode: str, *, numbers: bool = False) -> npt.NDArray[Any]:
    """The pixels as stored, [H, W, C] in `mode`; `header.orientation` is still to be applied.

    Args:
        numbers: pixels are class numbers, see `fields.Image.interpolation`.

    Raises: DecodeError if they are not as many as the header says, or do not decode.
    """
    if header.kind == "jpeg":
        pixels: npt.NDArray[Any] = decode_jpeg(raw, header, "RGB" if mode == "RGB" else "L")
        if mode == "I;16":
            pixels = pixels.astype(np.uint16) * np.uint16(1 if numbers else 257)
    else:
        pixels = decode_with_pillow(raw, header, mode, numbers=numbers)
    height, width = pixels.shape[:2]
    if swaps_axes(header.orientation):
        height, width = width, height
    if (width, height) != (header.width, header.height):
        raise DecodeError(
            f"{header.kind.upper()} holds {width} x {height} pixels, and says {header.width} x {header.height}"
        )
    return pixels
