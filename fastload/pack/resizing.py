"""Pictures scaled down on their way into a shard.

    decode -> resize (Lanczos, antialiased) -> turn as EXIF says -> encode in the same format -> measure what that cost

A file stays in its format, so that names stay true: JPEG and lossy WebP are encoded anew with a quality, and how near
the result comes to the resized pixels is measured (PSNR); PNG, lossless WebP, BMP and TIFF stay exact. Pillow resizes:
its Lanczos filter (3 lobes, widened with the reduction) keeps more detail than the triangle that loaders use, and time
matters less here. Measured on 500 ImageNet files of 110 kB to a longer side of 256: 4 ms a file.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.Image import Transpose
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from fastload.decode.boxes import swaps_axes
from fastload.decode.headers import PictureHeader, read_header
from fastload.decode.jpeg import decode_jpeg
from fastload.decode.pillow import FAILURES, READERS, grey16, spread
from fastload.errors import DecodeError
from fastload.pack.checks import Facts
from fastload.pack.steps import Outcome
from fastload.pack.tally import Counts
from fastload.prepared import with_means

Side = Literal["longer", "shorter"]
SMALL_ENOUGH = "small enough"
SEVERAL_FRAMES = "several frames"
GIF = "GIF, which cannot hold what a resize gives"
MAX_MILLIDECIBELS = 100_000  # of one picture: equal ones have no ratio
_FORMATS = {"jpeg": "JPEG", "png": "PNG", "webp": "WEBP", "bmp": "BMP", "tiff": "TIFF"}
_CMYK = 4  # components of a JPEG
_APP2, _START_OF_SCAN, _ICC = 0xE2, 0xDA, b"ICC_PROFILE\0"
# EXIF orientation -> what Pillow calls the turn that shows the picture upright
_TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Resize:
    """The step that scales pictures down; those that are small enough stay as they are.

    Animations and GIFs are kept too, and counted. Colour profiles are kept, but for those of CMYK, which becomes RGB as
    it does in a loader; other metadata is dropped. 16-bit grey stays so; palettes become colours, but for masks.

    Args:
        side: which of the two is to be at most `pixels` long; the other keeps the aspect, rounded to whole pixels.
        quality: of JPEG and lossy WebP, 1 to 100.
        mask: pixels are numbers of classes: each new one is the nearest old one, and nothing is encoded with a loss.
    """

    side: Side
    pixels: int
    quality: int
    mask: bool = False

    name = "resize"

    def __call__(self, raw: memoryview, facts: Facts) -> Outcome:
        size = self.size(facts[0], facts[1])
        if size == facts:
            return Outcome(kept=SMALL_ENOUGH)
        header = read_header(raw)
        if header.kind == "gif":
            return Outcome(kept=GIF)
        try:
            if header.kind == "jpeg":
                whole, profile = self._photo(raw, header), _jpeg_profile(raw, header)
            else:
                opened = READERS[header.kind](io.BytesIO(raw))
                if getattr(opened, "n_frames", 1) > 1:
                    return Outcome(kept=SEVERAL_FRAMES)
                profile = _profile(opened)
                whole = self._picture(opened, raw)
            picture = self._scaled(whole, header, size)
            data, lossy = self._encoded(picture, header, raw, profile)
        except FAILURES as error:
            raise DecodeError(f"{header.kind.upper()} of {len(raw)} bytes cannot be resized: {error}") from error
        sums = {"bytes_before": len(raw), "bytes_after": len(data)}
        if lossy:
            reader = JpegImageFile if header.kind == "jpeg" else READERS[header.kind]
            sums |= {"psnr_millidecibels": millidecibels(picture, reader(io.BytesIO(data))), "psnr_pictures": 1}
        return Outcome(data=data, sums=sums)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height that a picture gets: its own where it is small enough."""
        measured = max(width, height) if self.side == "longer" else min(width, height)
        if measured <= self.pixels:
            return width, height
        # halves are rounded up, in integers: the same on any machine
        return tuple(max(1, (2 * n * self.pixels + measured) // (2 * measured)) for n in (width, height))  # type: ignore[return-value]

    def about(self, counts: Counts) -> dict[str, Any]:
        """Counts, bytes before and after (before JPEGs are made crop-seekable), and the mean PSNR in decibels."""
        return with_means(counts.to_json("resized"))

    def _photo(self, raw: memoryview, header: PictureHeader) -> Image.Image:
        if self.mask:
            raise DecodeError("a mask as JPEG is not exact before it is resized; store masks as PNG")
        pixels = decode_jpeg(raw, header, "L" if header.components == 1 else "RGB")
        return Image.fromarray(pixels[..., 0] if header.components == 1 else pixels)

    def _picture(self, opened: ImageFile, raw: memoryview) -> Image.Image:
        """Pixels in a mode that can be resized and stored."""
        opened.load()
        if self.mask:
            factor = spread(opened, raw) if opened.mode == "L" else 1  # that of mode "1" is stored as it came
            return opened if factor == 1 else Image.fromarray(np.asarray(opened) // np.uint8(factor))
        if opened.mode in ("I", "F") or opened.mode.startswith("I;16"):
            return Image.fromarray(grey16(opened).astype(np.float32))
        transparent = opened.info.pop("transparency", None) is not None
        if opened.mode == "P":
            return opened.convert("RGBA" if transparent else "RGB")
        if opened.mode == "1":
            return opened.convert("L")
        return opened if opened.mode in ("L", "LA", "RGB", "RGBA") else opened.convert("RGB")

    def _scaled(self, picture: Image.Image, header: PictureHeader, size: tuple[int, int]) -> Image.Image:
        stored = size[::-1] if swaps_axes(header.orientation) else size
        scaled = picture.resize(stored, Image.Resampling.NEAREST if self.mask else Image.Resampling.LANCZOS)
        if scaled.mode == "F" and not self.mask:
            scaled = Image.fromarray(np.rint(np.asarray(scaled)).clip(0, 0xFFFF).astype(np.uint16))
        turn = _TURNS.get(header.orientation)
        return scaled if turn is None else scaled.transpose(turn)

    def _encoded(
        self, picture: Image.Image, header: PictureHeader, raw: memoryview, profile: bytes | None
    ) -> tuple[bytes, bool]:
        """The file, and whether it lost anything."""
        options: dict[str, Any] = {} if profile is None or header.kind == "bmp" else {"icc_profile": profile}
        lossy = header.kind == "jpeg" or (header.kind == "webp" and not self.mask and not _is_lossless(raw))
        if lossy:
            options["quality"] = self.quality
        elif header.kind == "webp":
            options |= {"lossless": True, "exact": True}
        elif header.kind == "tiff":
            options["compression"] = "tiff_adobe_deflate"
        if header.kind == "bmp" and picture.mode in ("LA", "RGBA"):
            picture = picture.convert("RGB")
        file = io.BytesIO()
        picture.save(file, _FORMATS[header.kind], **options)
        return file.getvalue(), lossy


def _jpeg_profile(raw: memoryview, header: PictureHeader) -> bytes | None:
    """The colour profile of a JPEG, from its APP2 segments (ICC.1:2010, B.4); None for inks, which become RGB.

    Pillow's reader would also parse the EXIF, and warn of damage in it.
    """
    if header.components == _CMYK:
        return None
    parts, position = [], 2
    while position + 4 <= len(raw) and raw[position + 1] != _START_OF_SCAN:
        marker, end = raw[position + 1], position + 2 + int.from_bytes(raw[position + 2 : position + 4], "big")
        if marker == _APP2 and bytes(raw[position + 4 : position + 4 + len(_ICC)]) == _ICC:
            parts.append(bytes(raw[position + 4 + len(_ICC) : end]))
        position = end
    return b"".join(part[2:] for part in sorted(parts)) or None  # each begins with its number and how many there are


def _profile(opened: ImageFile) -> bytes | None:
    profile = opened.info.get("icc_profile")
    return profile if isinstance(profile, bytes) and profile and opened.mode != "CMYK" else None


def _is_lossless(raw: memoryview) -> bool:
    """Whether a WebP has a lossless bitstream (RFC 9649: the chunk VP8L)."""
    position = 12
    while position + 8 <= len(raw):
        name, size = bytes(raw[position : position + 4]), int.from_bytes(raw[position + 4 : position + 8], "little")
        if name in (b"VP8 ", b"VP8L"):
            return name == b"VP8L"
        position += 8 + size + size % 2
    return False


def millidecibels(before: Image.Image, after: Image.Image) -> int:
    """Peak signal-to-noise ratio of two pictures of one size in thousandths of a decibel, over all channels, of 255.

    A whole number, so that sums do not depend on their order; at most 100 dB, which equal pictures have.
    """
    pair: list[npt.NDArray[np.int32]] = [
        np.asarray(image if image.mode == before.mode else image.convert(before.mode)).astype(np.int32)
        for image in (before, after)
    ]
    squares = int(((pair[0] - pair[1]) ** 2).sum(dtype=np.int64))
    if squares == 0:
        return MAX_MILLIDECIBELS
    return min(MAX_MILLIDECIBELS, round(10_000 * math.log10(255 * 255 * pair[0].size / squares)))
