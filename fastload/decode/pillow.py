"""PNG, WebP, GIF, BMP and TIFF to pixels, through Pillow's readers.

Each reader is called by its class and not through Image.open, which would check Pillow's own global pixel limit, warn
through Python's global filters, and try every format that is installed. Nothing global of Pillow's is read or
changed.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import BmpImagePlugin, GifImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin
from PIL.Image import DecompressionBombError
from PIL.ImageFile import ImageFile

from fastload.decode.base import Raw
from fastload.decode.headers import MAX_PIXELS, PictureHeader
from fastload.errors import DecodeError

READERS: dict[str, type[ImageFile]] = {
    "png": PngImagePlugin.PngImageFile,
    "webp": WebPImagePlugin.WebPImageFile,
    "gif": GifImagePlugin.GifImageFile,
    "bmp": BmpImagePlugin.BmpImageFile,
    "tiff": TiffImagePlugin.TiffImageFile,
}
_BITS_PER_SAMPLE = 258
FAILURES = (
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, EOFError,
    RuntimeError, struct.error, zlib.error, DecompressionBombError,
)  # what Pillow raises on broken files, as fuzzing shows  # fmt: skip


def decode_with_pillow(raw: Raw, header: PictureHeader, mode: str, *, numbers: bool = False) -> npt.NDArray[Any]:
    """The pixels as Pillow gives them, orientation not applied but for TIFF.

    uint8 [H, W, 3] for mode "RGB", uint8 [H, W, 1] for "L", uint16 [H, W, 1] for "I;16".

    As with Pillow's convert("RGB"), transparency is dropped, not composited: transparent pixels show the colour
    stored under them. 16-bit grey becomes 8-bit by its upper byte; 16-bit colour comes as 8-bit in every mode,
    because Pillow reads it so.

    Args:
        numbers: pixels are class numbers: in one channel, those of a palette stand for themselves, and none is scaled.

    Raises: DecodeError if the data is truncated or corrupt, or holds what pixels cannot be: floats, or integers of 32
    bits, which are read for "I;16" and as class numbers where they fit.
    """
    try:
        picture = READERS[header.kind](io.BytesIO(raw))
        if picture.width * picture.height > MAX_PIXELS:
            raise DecodeError(f"{header.kind.upper()} frame of {picture.size} pixels is over the limit of {MAX_PIXELS}")
        picture.load()
        picture.info.pop("transparency", None)  # else converting a palette warns, or looks for a colour to give up
        if numbers and mode != "RGB":
            return _numbers(picture, raw, mode)
        return _sixteen_bit(picture) if mode == "I;16" else _eight_bit(picture, mode)
    except FAILURES as error:
        raise DecodeError(f"{header.kind.upper()} of {len(raw)} bytes does not decode: {error}") from error


def _eight_bit(picture: ImageFile, mode: str) -> npt.NDArray[np.uint8]:
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        grey = (grey16(picture) >> 8).astype(np.uint8)  # [H, W]
        return np.repeat(grey[..., None], 3 if mode == "RGB" else 1, axis=2)
    converted = picture if picture.mode == mode else picture.convert(mode)
    pixels = np.array(converted, np.uint8)  # a copy: asarray's view is read-only, which torch warns about
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _sixteen_bit(picture: ImageFile) -> npt.NDArray[np.uint16]:
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        return _whole_numbers(picture)[..., None]
    return np.array(picture.convert("L"), np.uint16)[..., None] * np.uint16(257)  # 255 -> 65535


def _numbers(picture: ImageFile, raw: Raw, mode: str) -> npt.NDArray[Any]:
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        found: npt.NDArray[Any] = _whole_numbers(picture)
        if mode == "L" and found.max() > 0xFF:
            raise DecodeError(f"{picture.format} holds numbers up to {found.max()}; declare Image(mode='I;16')")
    else:
        found = np.asarray(picture.getchannel(0) if picture.mode in ("P", "PA") else picture.convert("L"))
        found = found // np.uint8(spread(picture, raw))
    return found.astype(np.uint16 if mode == "I;16" else np.uint8)[..., None]


def spread(picture: ImageFile, raw: Raw) -> int:
    """By what Pillow has multiplied grey pixels of 1, 2 or 4 bits, so that they go up to 255; 1 for other pictures."""
    if picture.mode == "1":
        return 255
    bits = 8
    if picture.mode == "L" and isinstance(picture, PngImagePlugin.PngImageFile):
        bits = raw[24]  # behind width and height
    elif picture.mode == "L" and isinstance(picture, TiffImagePlugin.TiffImageFile):
        bits = _bits(picture)
    return {2: 85, 4: 17}.get(bits, 1)


def grey16(picture: ImageFile) -> npt.NDArray[np.uint16]:
    """uint16 [H, W] of a picture of one channel of 16 bits.

    Raises: DecodeError for 32 bits: which of their numbers is white is not known. Where 65535 is, most pictures are
    black.
    """
    values = _whole_numbers(picture)
    if isinstance(picture, TiffImagePlugin.TiffImageFile) and _bits(picture) > 16:
        raise DecodeError(
            f"{picture.format} holds {_bits(picture)}-bit numbers, not pixels: nothing says which one is white; store "
            "it with 8 or 16 bits, or declare Image(mode='I;16') or interpolation='nearest' to have the numbers"
        )
    return values


def _bits(picture: TiffImagePlugin.TiffImageFile) -> int:
    """Of a sample of a TIFF."""
    return int(picture.tag_v2.get(_BITS_PER_SAMPLE, (1,))[0])


def _whole_numbers(picture: ImageFile) -> npt.NDArray[np.uint16]:
    """uint16 [H, W] of a picture of one channel of 16 or 32 bits, whose numbers fit."""
    values = np.asarray(picture)
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 0xFFFF:
        raise DecodeError(
            f"{picture.format} holds {values.dtype} values from {values.min()} to {values.max()}, not 16-bit pixels; "
            f"store it as .npy and declare a Tensor"
        )
    return values.astype(np.uint16)
