"""Width, height and orientation of a picture from its header, without decoding any pixel.

Own parsers, because Pillow's open warns through Python's global filters and checks its own global limit; they also find
truncation in the containers that say how long they are. Layouts: PNG (W3C, 3rd edition), GIF89a, BMP
(BITMAPCOREHEADER and BITMAPINFOHEADER), WebP container (RFC 9649), TIFF 6.0, EXIF 2.3.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from fastload.decode.base import Raw
from fastload.decode.boxes import swaps_axes
from fastload.decode.sniff import beginning, sniff
from fastload.errors import DecodeError

MAX_PIXELS = 89_478_485
"""Pictures of more pixels are refused as decompression bombs: 256 MiB of RGB, from where on Pillow warns."""

_ORIENTATION_TAG = 0x0112
_SHORT, _LONG = 3, 4
_TIFF_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
# TIFF tags of one value: size, compression, photometry, orientation, samples, rows per strip, planes, predictor, tiles
_TIFF_SINGLE = (256, 257, 259, 262, 266, 274, 277, 278, 284, 317, 322, 323)


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureHeader:
    """What the header of a picture says.

    Attributes:
        kind: "jpeg", "png", "webp", "gif", "bmp" or "tiff".
        width, height: of the picture as shown, in pixels.
        orientation: EXIF orientation, 1 to 8, that still has to be applied to the decoded pixels.
        components: JPEG only: number of colour components.
    """

    kind: str
    width: int
    height: int
    orientation: int = 1
    components: int = 0


def read_header(raw: Raw) -> PictureHeader:
    """The header of any picture that fastload decodes.

    Raises: DecodeError for empty or unknown bytes, a header that is cut or makes no sense, or more than MAX_PIXELS.
    """
    if not len(raw):
        raise DecodeError("no bytes where a picture should be")
    kind = sniff(raw) or ""
    if kind not in _PARSERS:
        raise DecodeError(f"not a JPEG, PNG, WebP, GIF, BMP or TIFF: {len(raw)} bytes that start with {beginning(raw)}")
    try:
        header = _PARSERS[kind](raw)
    except (struct.error, IndexError) as error:
        raise DecodeError(f"{kind.upper()} ends after {len(raw)} bytes, inside its header") from error
    if header.width < 1 or header.height < 1:
        raise DecodeError(f"{kind.upper()} header says {header.width} x {header.height} pixels")
    if header.width * header.height > MAX_PIXELS:
        raise DecodeError(
            f"{kind.upper()} header says {header.width} x {header.height} pixels, more than the limit of {MAX_PIXELS}; "
            f"scale it down before packing"
        )
    return header


def image_size(raw: Raw) -> tuple[int, int]:
    """Width and height in pixels of the picture as shown (EXIF orientation applied), from its header only.

    Raises: DecodeError as `read_header` does.
    """
    header = read_header(raw)
    return header.width, header.height


def _jpeg(raw: Raw) -> PictureHeader:
    position, orientation = 2, 1
    frame: tuple[int, int, int] | None = None  # height, width, components
    while True:
        while raw[position] == 0xFF and raw[position + 1] == 0xFF:  # fill bytes
            position += 1
        if raw[position] != 0xFF:
            raise DecodeError(f"JPEG header has 0x{raw[position]:02x} at byte {position}, where a marker should be")
        marker = raw[position + 1]
        if marker in (0xDA, 0xD9):  # start of the first scan, or an end without any
            break
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # these carry no length
            position += 2
            continue
        (size_bytes,) = struct.unpack_from(">H", raw, position + 2)
        start, position = position + 4, position + 2 + size_bytes
        if marker == 0xE1 and orientation == 1 and bytes(raw[start : start + 6]) == b"Exif\0\0":
            orientation = exif_orientation(raw[start + 6 : position])
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame = struct.unpack_from(">xHHB", raw, start)
    if frame is None:
        raise DecodeError(f"JPEG of {len(raw)} bytes has no frame header before its first scan")
    width, height = _shown(frame[1], frame[0], orientation)
    return PictureHeader(kind="jpeg", width=width, height=height, orientation=orientation, components=frame[2])


def _png(raw: Raw) -> PictureHeader:
    if bytes(raw[12:16]) != b"IHDR":
        raise DecodeError(f"PNG starts with chunk {bytes(raw[12:16])!r}, where IHDR should be")
    width, height = struct.unpack_from(">II", raw, 16)
    orientation, position, animated = 1, 8, False
    while True:
        if position + 8 > len(raw):
            raise DecodeError(f"PNG ends after {len(raw)} bytes, before its end chunk")
        (size_bytes,) = struct.unpack_from(">I", raw, position)
        name, start = bytes(raw[position + 4 : position + 8]), position + 8
        position = start + size_bytes + 4
        if position > len(raw):
            raise DecodeError(f"PNG ends after {len(raw)} bytes, inside chunk {name!r}, which reaches to {position}")
        if name == b"eXIf":
            orientation = exif_orientation(raw[start : start + size_bytes])
        elif name == b"acTL":
            (frames,) = struct.unpack_from(">I", raw, start)
            if animated or not 0 < frames < 2**31:
                raise DecodeError(f"PNG animation header says {frames} frames, or stands there twice")
            animated = True
        elif name == b"IEND":
            break
    width, height = _shown(width, height, orientation)
    return PictureHeader(kind="png", width=width, height=height, orientation=orientation)


def _gif(raw: Raw) -> PictureHeader:
    width, height = struct.unpack_from("<HH", raw, 6)
    return PictureHeader(kind="gif", width=width, height=height)


def _bmp(raw: Raw) -> PictureHeader:
    (header_bytes,) = struct.unpack_from("<I", raw, 14)
    width, height = struct.unpack_from("<HH" if header_bytes == 12 else "<ii", raw, 18)
    return PictureHeader(kind="bmp", width=width, height=abs(height))  # a negative height: rows from the top


def _webp(raw: Raw) -> PictureHeader:
    chunks = list(_riff_chunks(raw))
    name, start = chunks[0]
    orientation = 1
    if name == b"VP8 ":
        width, height = (size & 0x3FFF for size in struct.unpack_from("<HH", raw, start + 6))
    elif name == b"VP8L":
        (bits,) = struct.unpack_from("<I", raw, start + 1)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif name == b"VP8X":
        width = int.from_bytes(raw[start + 4 : start + 7], "little") + 1
        height = int.from_bytes(raw[start + 7 : start + 10], "little") + 1
        for name, start in chunks:
            if name == b"EXIF":
                (size_bytes,) = struct.unpack_from("<I", raw, start - 4)
                exif = raw[start : start + size_bytes]
                orientation = exif_orientation(exif[6:] if bytes(exif[:6]) == b"Exif\0\0" else exif)
    else:
        raise DecodeError(f"WEBP starts with chunk {name!r}, where VP8, VP8L or VP8X should be")
    width, height = _shown(width, height, orientation)
    return PictureHeader(kind="webp", width=width, height=height, orientation=orientation)


def _riff_chunks(raw: Raw) -> Iterator[tuple[bytes, int]]:
    """Name and start of the contents of each chunk of a RIFF file that is not cut."""
    (riff_bytes,) = struct.unpack_from("<I", raw, 4)
    end = 8 + riff_bytes
    if end > len(raw):
        raise DecodeError(f"WEBP ends after {len(raw)} of {end} bytes")
    position = 12
    while position + 8 <= end:
        (size_bytes,) = struct.unpack_from("<I", raw, position + 4)
        yield bytes(raw[position : position + 4]), position + 8
        position += 8 + size_bytes + size_bytes % 2


def _tiff(raw: Raw) -> PictureHeader:
    order = "<" if raw[0] == 0x49 else ">"
    tags: dict[int, int] = {}
    for tag, kind, count, entry in tiff_entries(raw, order):
        size_bytes = count * _TIFF_TYPE_BYTES.get(kind, 0)
        if size_bytes > 4:
            (start,) = struct.unpack_from(order + "I", raw, entry)
            if start + size_bytes > len(raw):
                end = start + size_bytes
                raise DecodeError(f"TIFF ends after {len(raw)} bytes, inside tag {tag}, which reaches to {end}")
        if tag in _TIFF_SINGLE:
            if count != 1:
                raise DecodeError(f"TIFF tag {tag} has {count} values, where one should be")
            if kind in (_SHORT, _LONG):
                (tags[tag],) = struct.unpack_from(order + ("H" if kind == _SHORT else "I"), raw, entry)
    width, height = tags.get(256, 0), tags.get(257, 0)
    # Pillow's TIFF reader applies the orientation itself, so that none is left to apply
    width, height = _shown(width, height, _valid_orientation(tags.get(_ORIENTATION_TAG, 1)))
    return PictureHeader(kind="tiff", width=width, height=height)


def exif_orientation(exif: Raw) -> int:
    """The orientation, 1 to 8, in a block of EXIF data (TIFF header and directory); 1 where none can be read.

    Broken EXIF data is common and says nothing about the pixels, so it is no error.
    """
    order = {b"II": "<", b"MM": ">"}.get(bytes(exif[:2]))
    if order is None:
        return 1
    try:
        for tag, kind, count, entry in tiff_entries(exif, order):
            if tag == _ORIENTATION_TAG and kind == _SHORT and count == 1:
                return _valid_orientation(struct.unpack_from(order + "H", exif, entry)[0])
    except struct.error:
        pass
    return 1


def tiff_entries(raw: Raw, order: str) -> Iterator[tuple[int, int, int, int]]:
    """Tag, type, count and the position of the value or its offset, for each entry of the first directory."""
    (directory,) = struct.unpack_from(order + "I", raw, 4)
    (count,) = struct.unpack_from(order + "H", raw, directory)
    for position in range(directory + 2, directory + 2 + 12 * count, 12):
        tag, kind, values = struct.unpack_from(order + "HHI", raw, position)
        struct.unpack_from("4x", raw, position + 8)
        yield tag, kind, values, position + 8
    struct.unpack_from("4x", raw, directory + 2 + 12 * count)  # where the next directory is; a cut may go through it


def _valid_orientation(value: int) -> int:
    return value if 1 <= value <= 8 else 1


def _shown(width: int, height: int, orientation: int) -> tuple[int, int]:
    return (height, width) if swaps_axes(orientation) else (width, height)


_PARSERS = {"jpeg": _jpeg, "png": _png, "gif": _gif, "bmp": _bmp, "webp": _webp, "tiff": _tiff}
