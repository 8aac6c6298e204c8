"""JPEG to pixels, through libjpeg-turbo (simplejpeg), which runs without the GIL.

Measured on 60 ImageNet files of about 110 kB, one thread, 1.09 ms each: fastdct saves 1.6% and costs quality (39 dB
against the exact transform), fastupsample saves nothing (37 dB), so both are off and the pixels are those that Pillow
and torchvision give. Decoding at a reduced scale (libjpeg's scaled DCT) when the crop is more than twice the target
saves 30%, and comes out 29 to 47 dB against an antialiased resize of the whole, so it is not used.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg

from fastload.decode.base import Raw
from fastload.decode.headers import MAX_PIXELS, PictureHeader
from fastload.errors import DecodeError

# As in _jpeg.h. A scan can cost a pass over all coefficients for a few bytes.
MAX_SCANS = 500
MAX_SCANNED_PIXELS = 20 * MAX_PIXELS

_COLORSPACES = {"RGB": "RGB", "L": "GRAY"}
_SCAN, _END = b"\xff\xda", b"\xff\xd9"
# With a length behind it, or the end: no stuffed 0xFF, no restart, none of those that libjpeg passes over.
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")


def decode_jpeg(raw: Raw, header: PictureHeader, mode: str) -> npt.NDArray[np.uint8]:
    """The pixels as stored, orientation not applied: uint8 [H, W, 3] for mode "RGB", [H, W, 1] for "L".

    Grey pictures are repeated over three channels; the luma of colour pictures is what the file holds as such; CMYK
    and YCCK become RGB as Pillow makes them, without a colour profile.

    Raises: DecodeError if the data ends early, or libjpeg reports that it is corrupt, even where it could go on with
    grey pixels; or for more scans than MAX_SCANS, or than make MAX_SCANNED_PIXELS.
    """
    most = min(MAX_SCANS, MAX_SCANNED_PIXELS // (header.width * header.height))
    if bytes(raw).count(_SCAN) > most and (scans := _scans(bytes(raw))) > most:
        raise DecodeError(
            f"JPEG has {scans} scans of {header.width} x {header.height} pixels, more than any encoder writes: a "
            "decompression bomb; leave it out, or save it anew"
        )
    if header.components == 4:
        return _from_cmyk(_decode(raw, "CMYK"), mode)
    return _decode(raw, _COLORSPACES[mode])


def _scans(raw: bytes) -> int:
    """Scans up to the end of the picture: the same two bytes stand in thumbnails, and in films behind pictures."""
    scans, position = 0, 2
    while (found := _MARKER.search(raw, position)) and found[0] != _END:
        scans += found[0] == _SCAN
        position = found.end() + int.from_bytes(raw[found.end() : found.end() + 2], "big")
    return scans


def _decode(raw: Raw, colorspace: str) -> npt.NDArray[np.uint8]:
    try:
        pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(raw, colorspace=colorspace, strict=True)
    except (ValueError, RuntimeError) as error:
        if "remature end of JPEG" in str(error):
            raise DecodeError(f"JPEG ends after {len(raw)} bytes, before its end marker") from error
        raise DecodeError(f"JPEG of {len(raw)} bytes does not decode: {error}") from error
    return pixels


def _from_cmyk(inks: npt.NDArray[np.uint8], mode: str) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, 4] to [H, W, 3] or [H, W, 1]: each colour is what its ink and black let through.

    Inks are stored inverted, 255 for none: Adobe began it, and libjpeg and Pillow take it for granted.
    """
    light = inks.astype(np.uint32)
    rgb: npt.NDArray[Any] = (light[..., :3] * light[..., 3:] + 127) // 255  # [H, W, 3]
    if mode == "L":  # ITU-R 601-2 luma in Pillow's fixed point
        rgb = ((rgb * np.array([19595, 38470, 7471], np.uint32)).sum(axis=2, keepdims=True) + 0x8000) >> 16
    pixels: npt.NDArray[np.uint8] = rgb.astype(np.uint8)
    return pixels
