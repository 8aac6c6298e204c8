"""One cheap look at each content while it is in the cache: is it what its name says, is it whole, what to index of it.

Full decoding is for `fastload verify`; this reads headers, and finds zero-byte, cut (`ends.py`) and misnamed files.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from fastload.decode import native
from fastload.decode.boxes import swaps_axes
from fastload.decode.clips import open_clip
from fastload.decode.headers import MAX_PIXELS, read_header
from fastload.decode.tensor import read_npy
from fastload.decode.text import read_json
from fastload.errors import DecodeError
from fastload.pack.ends import refuse_cut_picture, refuse_cut_sound
from fastload.shards.index import Kind

Facts = tuple[int, ...]
FACTS: dict[Kind, tuple[str, ...]] = {
    "image": ("width", "height"),
    "audio": ("frames", "sample_rate"),
    "tokens": ("count",),  # not "length": that is the column of its bytes
}
_START_OF_IMAGE, _END_OF_IMAGE = b"\xff\xd8", b"\xff\xd9"
_SEGMENT, _FRAME = struct.Struct(">BBH"), struct.Struct(">HH")
_PLAIN_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
_PLAIN_SEGMENTS = frozenset({0xDB, 0xC4, 0xDD, 0xE0, 0xE2, 0xED, 0xEE, 0xFE})  # tables, JFIF, profile, Photoshop, Adobe
_START_OF_SCAN = 0xDA


def inspector(kind: Kind) -> Callable[[memoryview], Facts]:
    """The function that looks at contents of a kind: gives the values of FACTS, raises DecodeError for a fault."""
    return _INSPECTORS[kind]


def _image(raw: memoryview) -> Facts:
    size = _kernel_size(raw) or _plain_jpeg_size(raw)
    if size is None:
        header = read_header(raw)
        size = header.width, header.height
        if header.kind != "jpeg":
            refuse_cut_picture(header, raw)
            return size
    if raw[-2:] != _END_OF_IMAGE and not _has_end(raw):
        raise DecodeError(f"JPEG of {len(raw)} bytes has no end: it was cut off")
    return size


def _kernel_size(raw: memoryview) -> tuple[int, int] | None:
    """Width and height of a JPEG, as shown, in a tenth of `read_header`'s time; None as `_plain_jpeg_size`.

    The kernel takes no header that `read_header` does not.
    """
    header = native.header(raw) if native.available() else None
    if header is None or not 0 < header[0] * header[1] <= MAX_PIXELS:
        return None
    width, height, orientation, _ = header
    return (height, width) if swaps_axes(orientation) else (width, height)


def _plain_jpeg_size(raw: memoryview) -> tuple[int, int] | None:
    """Width and height of a JPEG without EXIF before its frame header, in a third of `read_header`'s time.

    None for the rest, and for whatever looks wrong: `read_header` then says what it is.
    """
    position = 2
    try:
        while True:
            fill, marker, length = _SEGMENT.unpack_from(raw, position)
            if marker in _PLAIN_FRAMES:
                height, width = _FRAME.unpack_from(raw, position + 5)
                plain = fill == 0xFF and raw[:2] == _START_OF_IMAGE and 0 < width * height <= MAX_PIXELS
                return (width, height) if plain else None
            if fill != 0xFF or marker not in _PLAIN_SEGMENTS:
                return None
            position += 2 + length
    except struct.error:
        return None


def _has_end(raw: memoryview) -> bool:
    """Whether the end of the image comes after the first scan begins; padding and trailers may follow it.

    Scans escape 0xFF, so the marker cannot occur in them; a thumbnail's own end is in a segment before the first scan.
    """
    position = 2
    while position + 4 <= len(raw) and raw[position + 1] != _START_OF_SCAN:
        bare = raw[position + 1] == 0xFF or raw[position + 1] == 0x01 or 0xD0 <= raw[position + 1] <= 0xD8
        if bare:
            position += 1 if raw[position + 1] == 0xFF else 2
        else:
            position += 2 + int.from_bytes(raw[position + 2 : position + 4], "big")
    return bytes(raw[position:]).find(_END_OF_IMAGE) >= 0


def _audio(raw: memoryview) -> Facts:
    clip = open_clip(raw)
    refuse_cut_sound(clip, raw)
    return clip.frames, clip.sample_rate


def _tokens(raw: memoryview) -> Facts:
    array = read_npy(raw)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DecodeError(f"{array.dtype} array of shape {array.shape}, where tokens need one dimension of integers")
    return (len(array),)


def _tensor(raw: memoryview) -> Facts:
    read_npy(raw)
    return ()


def _text(raw: memoryview) -> Facts:
    try:
        str(raw, "utf-8")
    except UnicodeDecodeError as error:
        raise DecodeError(f"not UTF-8 ({error.reason} at byte {error.start})") from error
    return ()


def _json(raw: memoryview) -> Facts:
    read_json(raw)
    return ()


def _nothing(raw: memoryview) -> Facts:
    return ()


_INSPECTORS: dict[Kind, Callable[[memoryview], Facts]] = {
    "image": _image,
    "audio": _audio,
    "tokens": _tokens,
    "tensor": _tensor,
    "text": _text,
    "json": _json,
    "scalar": _nothing,
    "bytes": _nothing,
}
