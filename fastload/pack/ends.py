"""Where pictures and sounds end, as far as their headers say, without decoding them: those that were cut off are found.

    JPEG, PNG, WebP, WAV, OGG    where their headers are read (`checks.py`, `decode`): they cannot be read to the end
    BMP, GIF                     the first picture's pixels, which need no more than lengths
    TIFF                         the furthest strip or tile of the first picture
    FLAC                         the last sample of the number that its header gives is sought and decoded
    MP3                          likewise, if the file is shorter than its first frame says (Xing, Info, VBRI)

Headers may be wrong, so that a TIFF, FLAC or MP3 is called cut only if decoding says so too. An MP3 without such a
frame does not tell, nor does a FLAC that was streamed, or an OGG that ends between two pages.
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

from fastload.decode.base import Raw
from fastload.decode.clips import Clip
from fastload.decode.headers import PictureHeader, tiff_entries
from fastload.decode.mp3 import mp3_end
from fastload.decode.pixels import decode_pixels
from fastload.decode.sniff import sniff
from fastload.errors import DecodeError

_STRIP_OFFSETS, _STRIP_BYTES, _TILE_OFFSETS, _TILE_BYTES = 273, 279, 324, 325
_TIFF_DTYPES = {3: "u2", 4: "u4"}


def refuse_cut_picture(header: PictureHeader, raw: Raw) -> None:
    """Raise DecodeError for a BMP, GIF or TIFF that ends before its pixels do."""
    try:
        end = {"bmp": _bmp_end, "gif": _gif_end, "tiff": _tiff_end}.get(header.kind, len)(raw)
    except (struct.error, IndexError):
        end = len(raw) + 1
    if end <= len(raw):
        return
    cut = DecodeError(f"{header.kind.upper()} of {len(raw)} bytes ends before its pixels do: it was cut off")
    if header.kind != "tiff":
        raise cut
    try:
        decode_pixels(raw, header, "RGB")
    except DecodeError as error:
        raise cut from error


def refuse_cut_sound(clip: Clip, raw: Raw) -> None:
    """Raise DecodeError for a FLAC or MP3 that ends before its samples do."""
    kind = sniff(raw)
    if kind == "flac" or (kind == "mp3" and mp3_end(raw) > len(raw)):
        try:
            clip.read(clip.frames - 1, clip.frames)
        except DecodeError as error:
            raise DecodeError(
                f"{kind.upper()} of {len(raw)} bytes lacks the last of its {clip.frames} samples: it was cut off"
            ) from error


def _bmp_end(raw: Raw) -> int:
    """Where the rows of a picture that is not compressed end."""
    start, header = struct.unpack_from("<II", raw, 10)
    if header < 40:
        return 0
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", raw, 18)
    rows_bytes = (width * bits + 31) // 32 * 4 * abs(height)
    return int(start + rows_bytes) if compression in (0, 3) else 0


def _gif_end(raw: Raw) -> int:
    """Where the first picture's blocks end; later ones are those of an animation."""
    flags, position = raw[10], 13
    position += 3 << (flags & 7) + 1 if flags & 0x80 else 0
    while raw[position] == 0x21:  # extensions
        position = _after_blocks(raw, position + 2)
    if raw[position] != 0x2C:
        return 0
    flags = raw[position + 9]
    position += 10 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    return _after_blocks(raw, position + 1)


def _after_blocks(raw: Raw, position: int) -> int:
    while raw[position]:
        position += 1 + raw[position]
    return position + 1


def _tiff_end(raw: Raw) -> int:
    """Where the first picture's furthest strip or tile ends; 0 where its directory does not say."""
    order = "<" if raw[0] == 0x49 else ">"
    tags = {tag: _tiff_values(raw, order, kind, count, entry) for tag, kind, count, entry in tiff_entries(raw, order)}
    nothing = np.zeros(0, np.int64)
    tiled = _TILE_OFFSETS in tags
    starts = tags.get(_TILE_OFFSETS if tiled else _STRIP_OFFSETS, nothing)
    sizes = tags.get(_TILE_BYTES if tiled else _STRIP_BYTES, nothing)
    if not len(starts) or len(starts) != len(sizes):
        return 0
    return int((starts + sizes).max())


def _tiff_values(raw: Raw, order: str, kind: int, count: int, entry: int) -> npt.NDArray[np.int64]:
    """The integers of one entry; none for other types."""
    if kind not in _TIFF_DTYPES:
        return np.zeros(0, np.int64)
    dtype = np.dtype(order + _TIFF_DTYPES[kind])
    start = entry if count * dtype.itemsize <= 4 else struct.unpack_from(order + "I", raw, entry)[0]
    return np.frombuffer(raw[start : start + count * dtype.itemsize], dtype).astype(np.int64)
