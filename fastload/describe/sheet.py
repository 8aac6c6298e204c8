"""Some samples of each split to look at: pictures and sounds drawn, texts and numbers as they are."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt
from PIL import Image

from fastload.decode.clips import open_clip
from fastload.decode.headers import read_header
from fastload.decode.jpeg import decode_jpeg
from fastload.decode.pillow import decode_with_pillow
from fastload.decode.tensor import read_npy
from fastload.errors import FastloadError
from fastload.previews.cells import Sound
from fastload.previews.pixels import sound_pixels
from fastload.report.pictures import picture_uri
from fastload.reshape.records import Record, read_records
from fastload.shards.index import FieldInfo, Index

SIDE = 160  # pixels of a picture: twice what a phone shows in a third of its width
TINY = 64  # pictures below it are shown with their pixels, not blurred
MOST_CLASSES, IGNORED = 63, 255  # of a mask; a photograph as dark as that shows nothing as it is
CHARACTERS, NUMBERS = 160, 16  # of a text, of an array
SECONDS = 20.0  # of a sound that are drawn


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One field of a sample: a drawn picture, which may be so small that its pixels show, or a text."""

    name: str
    uri: str = ""
    text: str = ""
    small: bool = False
    faulty: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One sample of the sheet; `caption` is its class, or its numbers."""

    key: str
    caption: str
    cells: tuple[Cell, ...]


def sheet(index: Index, count: int) -> list[Shown]:
    """At most `count` samples, spread evenly over a split.

    Raises: CorruptError, SourceError where a sample cannot be read.
    """
    wanted = np.unique(np.linspace(0, index.samples - 1, min(count, index.samples)).round().astype(np.int64))
    return [_shown(record, index) for record in _records(index, wanted)] if index.samples else []


def _records(index: Index, wanted: npt.NDArray[np.int64]) -> Iterator[Record]:
    ends = np.cumsum([file.samples for file in index.files])
    for row in wanted.tolist():
        file = int(np.searchsorted(ends, row, "right"))
        yield from islice(read_records(index, file, row - int(ends[file] - index.files[file].samples)), 1)


def _shown(record: Record, index: Index) -> Shown:
    captions = [_caption(name, index.fields[name], value) for name, value in record.scalars.items()]
    cells = tuple(_cell(name, index.fields[name], content) for name, (_, content) in record.contents.items())
    return Shown(key=record.key, caption=", ".join(captions), cells=cells)


def _caption(name: str, info: FieldInfo, value: float) -> str:
    """A label as the name of its class; another number with its field's name."""
    if info.classes is not None and 0 <= value < len(info.classes):
        return info.classes[int(value)]
    return f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"


def _cell(name: str, info: FieldInfo, content: bytes) -> Cell:
    try:
        match info.kind:
            case "image":
                pixels = _thumbnail(content)
                return Cell(name=name, uri=picture_uri(pixels), small=max(pixels.shape) < TINY)
            case "audio":
                return Cell(name=name, uri=picture_uri(_wave(content)))
            case "tokens" | "tensor":
                return Cell(name=name, text=_array(content))
            case "text":
                return Cell(name=name, text=_short(content.decode()))
            case "json":
                return Cell(name=name, text=_short(json.dumps(json.loads(content), ensure_ascii=False)))
            case _:
                return Cell(name=name, text=f"{len(content):,} bytes")
    except (FastloadError, ValueError) as error:
        return Cell(name=name, text=_short(f"does not decode: {error}"), faulty=True)


def _short(text: str) -> str:
    return text if len(text) <= CHARACTERS else text[: CHARACTERS - 1] + "…"


def _thumbnail(content: bytes) -> npt.NDArray[np.uint8]:
    header = read_header(content)
    numbers = _class_numbers(content) if header.kind != "jpeg" else None
    if numbers is not None:
        drawn = Image.fromarray(_palette()[numbers])
        drawn.thumbnail((SIDE, SIDE), Image.Resampling.NEAREST)
        return np.asarray(drawn)
    decode = decode_jpeg if header.kind == "jpeg" else decode_with_pillow
    picture = Image.fromarray(decode(content, header, "RGB"))
    picture.thumbnail((SIDE, SIDE))
    return np.asarray(picture)


def _class_numbers(content: bytes) -> npt.NDArray[np.uint8] | None:
    """The pixels [H, W] of a mask of class numbers, which would be drawn as black; None for any other picture.

    That is a grey one with no level above MOST_CLASSES but 255, which often stands for none.
    """
    try:
        with Image.open(io.BytesIO(content)) as picture:
            if picture.mode not in ("L", "I", "I;16"):
                return None
            levels = np.asarray(picture)
    except (OSError, ValueError, SyntaxError, EOFError):
        return None  # the decoder says what is wrong with it
    classes = levels[levels != IGNORED]
    if not classes.size or not 0 <= classes.min() <= classes.max() <= MOST_CLASSES or not classes.max():
        return None
    return levels.astype(np.uint8)


def _palette() -> npt.NDArray[np.uint8]:
    """uint8 [256, 3]: the colours of the classes in PASCAL VOC: 0 black, 1 dark red, 2 green, ...; 255 a light one."""
    classes = np.arange(256)
    shades = [sum((classes >> 3 * bit + channel & 1) << 7 - bit for bit in range(3)) for channel in range(3)]
    return np.stack(shades, 1).astype(np.uint8)


def _wave(content: bytes) -> npt.NDArray[np.uint8]:
    clip = open_clip(content)
    samples = clip.read(0, min(clip.frames, round(SECONDS * clip.sample_rate)))
    sound = Sound(sound=samples, sample_rate=clip.sample_rate, length=samples.shape[1])
    return sound_pixels(sound, sound.peak)


def _array(content: bytes) -> str:
    array = read_npy(content)
    numbers = ", ".join(f"{value:.4g}" for value in array.reshape(-1)[:NUMBERS].tolist())
    more = ", …" if array.size > NUMBERS else ""
    return f"{array.dtype.name}[{', '.join(map(str, array.shape))}]: {numbers}{more}"
