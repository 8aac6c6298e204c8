"""The JPEG kernel in C (_jpeg*.c), where it is built: a chunk of rows in one call, the GIL released once.

Measured on 500 ImageNet files of about 110 kB, RandomResizedCrop 224, per second of processor time: crop-seekable files
(`seekable`) 2.5 times as fast as whole decoding through simplejpeg and torch (2,070 to 830 pictures), plain files 1.8
times; without the kernel, crop-seekable files 1.4 times. That was before Huffman entries held their values, which made
the kernel 1.1 to 1.6 times as fast. The pixels are the same. Nearly half of its time is Huffman decoding, a quarter
libjpeg's transform, upsampling and colours, an eighth the resize across.

A few lines of a picture are in memory at a time; of a progressive one all coefficients, 2 bytes of each component's
samples: 6 bytes a pixel where colours are whole (4:4:4), 3 where they are halved (4:2:0), at most 0.54 GB a thread for
the largest picture that is taken (`headers.MAX_PIXELS`).

What the kernel does not take (other formats, CMYK, files that are damaged or odd) it leaves to the caller, whose own
path then decodes it or says what is wrong.
"""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastload.decode.base import Raw
from fastload.decode.boxes import Box
from fastload.fields import Image

try:
    _jpeg: Any = importlib.import_module("fastload.decode._jpeg")  # has no Python file that could be imported by name
except ImportError as error:
    _jpeg = None
    _REASON = str(error)

DECODED = 0  # status of a row that is done
DAMAGED = 2  # of a file that libjpeg refuses
_CROPS = {None: 0, "random": 1, "center": 2}
_MASK64 = (1 << 64) - 1


def available() -> bool:
    """Whether the kernel is built and loads. Says once, as a warning, that it is not."""
    return _jpeg is not None or _say_missing()


@functools.cache
def _say_missing() -> bool:
    logging.getLogger(__name__).warning(
        "the native JPEG kernel is not built (%s): pictures are decoded at about half the speed, and JPEGs are "
        "packed as they are; install a C compiler and libjpeg-turbo's headers and install fastload again",
        _REASON,
    )
    return False


def transcode(raw: Raw, min_pixels: int, max_pixels: int) -> tuple[int, bytes | None, str]:
    """(status, a crop-seekable JPEG or None, why not); see `seekable.make_seekable`."""
    result: tuple[int, bytes | None, str] = _jpeg.transcode(raw, min_pixels, max_pixels)
    return result


def cut(raw: Raw, box: Box) -> tuple[bytes, int, int] | None:
    """A baseline JPEG of the tiles that `box` needs, and where its upper left pixel is in the picture.

    None if `raw` is not crop-seekable. Same as `seekable.cut`, in a hundredth of its time.

    Raises: ValueError for a box that is not inside the picture.
    """
    result: tuple[bytes, int, int] | None = _jpeg.cut(raw, *box)
    return result


def decode_rows(
    field: Image,
    raws: Sequence[Raw | None],
    out: npt.NDArray[np.uint8],
    keys: Sequence[int],
    max_pixels: int,
    *,
    flips: npt.NDArray[np.bool_] | None = None,
    portable: bool = False,
) -> bytes:
    """Decode, crop and resize JPEGs into the rows of a batch.

    Args:
        field: with a size, and of mode "RGB" or "L".
        raws: one per row; None leaves its row as it is.
        out: C-contiguous uint8 [k, H, W, C]. Of rows that are not DECODED, any bytes may be written.
        keys: of the samples, for random crops.
        max_pixels: pictures of more are left to the caller.
        flips: bool [k], rows to mirror left-right.
        portable: do without the processor's special instructions; for tests.

    Returns: a status per row, DECODED or what the caller's own path is to find out.
    """
    height, width = field.height_width
    spec = (
        _CROPS[field.crop], field.scale, field.ratio, field.center_fraction,
        height, width, field.channels, max_pixels, portable,
    )  # fmt: skip
    statuses: bytes = _jpeg.decode_rows(raws, [key & _MASK64 for key in keys], out, flips, spec)
    return statuses


def header(raw: Raw) -> tuple[int, int, int, int] | None:
    """Stored width and height, EXIF orientation, number of components; None where the kernel is in doubt."""
    result: tuple[int, int, int, int] | None = _jpeg.header(raw)
    return result


def box(field: Image, width: int, height: int, key: int) -> Box:
    """The crop box that the kernel draws in a picture of this size."""
    spec = (_CROPS[field.crop], field.scale, field.ratio, field.center_fraction, *field.height_width, 3, 1, False)
    result: Box = _jpeg.box(spec, width, height, key & _MASK64)
    return result
