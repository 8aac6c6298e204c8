"""Pictures: header, crop box, pixels, resize into the row.

    raw -> read_header -> box in the picture as shown -> box in the stored one -> cut -> pixels -> resize -> orient

The box is mapped back through the EXIF orientation instead of turning the whole picture; what is turned is the small
result. Crop-seekable JPEGs are cut down to the box before they are decoded.

JPEGs of a declared size go through the native kernel, a chunk of rows a call, where it is built; this path does the
rest, gives the same pixels, and says what is wrong with what does not decode.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastload.decode import native, seekable
from fastload.decode.base import Raw, Spec
from fastload.decode.boxes import Box, center_box, orient, random_box, stored_box, swaps_axes
from fastload.decode.headers import MAX_PIXELS, PictureHeader, image_size, read_header
from fastload.decode.pixels import decode_pixels
from fastload.decode.resize import pick_into, resize_into
from fastload.errors import DecodeError
from fastload.fields import Image
from fastload.order import hashing

__all__ = ["MAX_PIXELS", "ImageDecoder", "center_box", "decode_pixels", "image_size", "random_box"]


class ImageDecoder:
    """Pictures of one declared size, or each in its own."""

    def __init__(self, field: Image) -> None:
        self.field = field
        self.spec = Spec(parallel=True)
        self._flip: tuple[int, float] | None = None
        plain = field.size is not None and field.mode in ("RGB", "L") and not field.numbers
        self._native = plain and native.available()
        if field.size is not None:
            self.spec = Spec(
                shape=(*field.height_width, field.channels), dtype=field.dtype, channels_last=True, parallel=True
            )

    def mirroring(self, operation: int, p: float) -> ImageDecoder:
        """A decoder that also mirrors each picture left to right with probability `p`, drawn from its key as draw 0 of
        `operation`: what `augment.RandomHorizontalFlip` does, without a pass over the batch."""
        decoder = copy.copy(self)
        decoder._flip = (operation, p)
        return decoder

    def _flips(self, keys: Sequence[int]) -> npt.NDArray[np.bool_] | None:
        """Which rows to mirror, bool [k]; None where none is ever."""
        if self._flip is None:
            return None
        operation, p = self._flip
        words = np.array([key & hashing.MASK64 for key in keys], np.uint64)
        bits = hashing.combine_array(hashing.combine_array(words, operation), 0) >> np.uint64(40)
        return (bits.astype(np.float32) * np.float32(2.0**-24)) < np.float32(p)

    def decode_into(self, raw: Raw, out: npt.NDArray[Any], key: int) -> int:
        (error,) = self.decode_rows([raw], out[None], [int(key)])
        if error is not None:
            raise error
        return 0

    def decode_rows(
        self,
        raws: Sequence[Raw | None],
        out: npt.NDArray[Any],
        keys: Sequence[int],
        lengths: npt.NDArray[np.int64] | None = None,
    ) -> list[DecodeError | None]:
        """Write many rows; see `base.BulkDecoder`."""
        errors: list[DecodeError | None] = [None] * len(raws)
        left: Sequence[int] = range(len(raws))
        flips = self._flips(keys)
        if self._native:
            statuses = native.decode_rows(self.field, raws, out, keys, MAX_PIXELS, flips=flips)
            left = [row for row, status in enumerate(statuses) if status != native.DECODED]
        for row in left:
            raw = raws[row]
            if raw is None:
                continue
            try:
                self._decode_alone(raw, out[row], keys[row])
                if flips is not None and flips[row]:
                    out[row] = out[row, :, ::-1].copy()
            except DecodeError as error:
                errors[row] = error
        return errors

    def _decode_alone(self, raw: Raw, out: npt.NDArray[Any], key: int) -> None:
        """Without the kernel."""
        header = read_header(raw)
        box = stored_box(self._box(header, key), header.width, header.height, header.orientation)
        pixels, box = _pixels_around(raw, header, self.field, box)
        fill = pick_into if self.field.numbers else resize_into
        if header.orientation == 1:
            fill(pixels, box, out)
            return
        height, width, channels = out.shape
        turned = (width, height, channels) if swaps_axes(header.orientation) else out.shape
        resized = np.empty(turned, out.dtype)
        fill(pixels, box, resized)
        out[...] = orient(resized, header.orientation)

    def decode(self, raw: Raw, key: int) -> npt.NDArray[Any]:
        """uint8 or uint16 [C, H, W], channels last in memory."""
        if self.spec.shape is not None:
            out = np.empty(self.spec.shape, self.spec.dtype)
            self.decode_into(raw, out, key)
        else:
            header = read_header(raw)
            pixels = decode_pixels(raw, header, self.field.mode, numbers=self.field.numbers)
            out = np.ascontiguousarray(orient(pixels, header.orientation))
        return np.moveaxis(out, 2, 0)

    def _box(self, header: PictureHeader, key: int) -> Box:
        """In the picture as shown."""
        field, width, height = self.field, header.width, header.height
        if field.crop == "random":
            return random_box(width, height, field.scale, field.ratio, int(key))
        if field.crop == "center":
            out_height, out_width = field.height_width
            return center_box(width, height, out_width, out_height, field.center_fraction)
        return 0, 0, width, height


def _pixels_around(raw: Raw, header: PictureHeader, field: Image, box: Box) -> tuple[npt.NDArray[Any], Box]:
    """Pixels [H, W, C] of at least the box, and where it lies in them: of the whole picture, or of a cut."""
    layout = seekable.read_layout(raw) if header.kind == "jpeg" else None
    found = seekable.cut(raw, layout, box) if layout is not None else None
    if found is None:
        return decode_pixels(raw, header, field.mode, numbers=field.numbers), box
    data, left, top = found
    x, y, width, height = box
    pixels = decode_pixels(data, read_header(data), field.mode, numbers=field.numbers)
    return pixels, (x - left, y - top, width, height)
