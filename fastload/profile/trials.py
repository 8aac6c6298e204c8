"""Changes of how pictures are stored, tried: some of the recorded ones are stored anew, and both decoded."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence

import numpy as np
import simplejpeg

from fastload.decode import Raw, decode_rows
from fastload.decode.base import Decoder
from fastload.decode.headers import read_header
from fastload.decode.image import ImageDecoder, decode_pixels
from fastload.decode.resize import resize_into
from fastload.decode.seekable import make_seekable, read_layout
from fastload.errors import DecodeError
from fastload.profile.recording import Recorded
from fastload.profile.verdict import Trial

TRIED = 24  # pictures of each field
_SECONDS = 0.5  # of decoding them once: of large ones fewer are tried, for each is decoded a dozen times
_PAIRS = 5  # of decoding both, in turn
ROOM = 2.0  # smaller pictures keep so many times the size asked for, on the shorter side, for crops to choose from
QUALITY = 90
_JPEG = b"\xff\xd8\xff"


def try_changes(decoders: Mapping[str, Decoder], recorded: Recorded, sample_bytes: float | None = None) -> list[Trial]:
    """What storing the JPEGs of each picture field differently would bring.

    Args:
        sample_bytes: that are fetched for a sample, with fields that are not declared; None: those that are read.
    """
    found = []
    samples = sum(len(rows.keys) for rows in recorded.rows.values())
    of_samples = recorded.bytes if sample_bytes is None else samples * sample_bytes
    for name, decoder in decoders.items():
        if not isinstance(decoder, ImageDecoder) or decoder.field.size is None:
            continue
        stored = [raw for rows in recorded.rows.values() for raw in rows.raw.get(name, ()) if isinstance(raw, bytes)]
        of_all = min(1.0, sum(map(len, stored)) / max(1, of_samples))
        raws = _affordable(decoder, [raw for raw in stored if raw[:3] == _JPEG][:TRIED])
        if not raws:
            continue
        if decoder.field.crop is not None and all(read_layout(raw) is None for raw in raws):
            made = [seekable.data or raw for raw, seekable in ((raw, make_seekable(raw)) for raw in raws)]
            change = "pack anew with crop-seekable JPEGs (fastload pack --jpeg seekable)"
            found.append(_trial(change, f"{name}: lossless, only the crop is decoded", decoder, raws, made, of_all))
        least = round(ROOM * min(decoder.field.height_width))
        small = [_shrunk(raw, least) for raw in raws]
        if any(len(a) < len(b) for a, b in zip(small, raws, strict=True)):
            change = f"store pictures of {least} pixels on the shorter side (fastload pack --resize-shorter {least})"
            found.append(_trial(change, f"{name}: crops lose detail beyond that", decoder, raws, small, of_all))
    return found


def _affordable(decoder: ImageDecoder, raws: Sequence[Raw]) -> Sequence[Raw]:
    """As many as decode in the time that there is, and at least 3."""
    took = 0.0
    for number, raw in enumerate(raws):
        if number >= 3 and took > _SECONDS:
            return raws[:number]
        took += _seconds(decoder, [raw])
    return raws


def _shrunk(raw: Raw, least: int) -> Raw:
    """The picture with so many pixels on the shorter side, as a JPEG; as it is where it is no larger."""
    try:
        header = read_header(raw)
        if header.orientation != 1 or min(header.width, header.height) <= least:
            return raw
        pixels = decode_pixels(raw, header, "RGB")
    except DecodeError:
        return raw
    factor = least / min(header.width, header.height)
    out = np.empty((round(header.height * factor), round(header.width * factor), 3), np.uint8)
    resize_into(pixels, (0, 0, header.width, header.height), out)
    return bytes(simplejpeg.encode_jpeg(out, quality=QUALITY, colorspace="RGB", colorsubsampling="420"))


def _trial(
    change: str, why: str, decoder: ImageDecoder, now: Sequence[Raw], then: Sequence[Raw], of_all: float = 1.0
) -> Trial:
    """`of_all`: of the bytes of samples, what the field has."""
    pairs = [(_seconds(decoder, now), _seconds(decoder, then)) for _ in range(_PAIRS)]
    factor = statistics.median(after / max(before, 1e-9) for before, after in pairs)
    size = sum(map(len, then)) / sum(map(len, now))
    why = f"{why}; tried on {len(now)} pictures: {factor:.2f} of the decoding time, {size:.2f} of the bytes"
    return Trial(change=change, why=why, factor=factor, size=1 - of_all * (1 - size))


def _seconds(decoder: ImageDecoder, raws: Sequence[Raw]) -> float:
    assert decoder.spec.shape is not None
    out = np.empty((len(raws), *decoder.spec.shape), decoder.spec.dtype)
    keys = [(i * 0x9E3779B97F4A7C15) & ((1 << 64) - 1) for i in range(len(raws))]
    started = time.perf_counter()
    decode_rows(decoder, raws, out, keys)
    return time.perf_counter() - started
