"""Values that come out of other formats, and what they become in a shard: their field, their stored bytes, their facts.

str -> text        bool, int, float -> scalar        bytes -> image or audio where they begin like one, else bytes
Picture -> image   Sound -> audio   Blob -> bytes    Document -> json
array of one dimension of integers -> tokens         other arrays -> tensor
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import PIL.Image

from fastload.decode.sniff import sniff
from fastload.errors import DecodeError, PackError
from fastload.pack.checks import FACTS, inspector
from fastload.pack.npyfiles import npy_bytes
from fastload.shards.index import FieldInfo
from fastload.shards.members import file_extension

_IMAGES, _SOUNDS = ("jpeg", "png", "webp", "gif", "bmp", "tiff"), ("wav", "flac", "ogg", "mp3")
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_SHOWN = 40  # characters of a value that an error names
_DAMAGE = (PackError, DecodeError, ValueError, LookupError, OverflowError, struct.error)  # what damaged bytes raise


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded picture."""

    content: bytes


@dataclass(frozen=True, slots=True)
class Sound:
    """An encoded sound."""

    content: bytes


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes that stay bytes, whatever they begin like."""

    content: bytes


@dataclass(frozen=True, slots=True)
class Document:
    """JSON text."""

    content: bytes


Value = str | bool | int | float | bytes | Picture | Sound | Blob | Document | npt.NDArray[Any]


class Unfit(PackError):
    """A value that cannot be read, or that its field cannot hold: a fault of its sample alone."""


class Unlike(Unfit):
    """A value of another kind than its field has in the first sample, of which either may be the odd one."""


class Stored(NamedTuple):
    """One sample as shard writers take it."""

    contents: dict[str, tuple[str, bytes]]
    scalars: dict[str, int | float | bool]
    facts: dict[str, int]


def field_of(value: Value) -> FieldInfo:
    """The field that a value is an example of."""
    match value:
        case bool():
            return FieldInfo(kind="scalar", dtype="bool")
        case int():
            return FieldInfo(kind="scalar", dtype="int64")
        case float():
            return FieldInfo(kind="scalar", dtype="float64")
        case str():
            return FieldInfo(kind="text")
        case Picture():
            return FieldInfo(kind="image")
        case Sound():
            return FieldInfo(kind="audio")
        case Blob():
            return FieldInfo(kind="bytes")
        case Document():
            return FieldInfo(kind="json")
        case bytes():
            found = sniff(value)
            return FieldInfo(kind="image" if found in _IMAGES else "audio" if found in _SOUNDS else "bytes")
    tokens = value.ndim == 1 and value.dtype.kind in "iu"
    return FieldInfo(kind="tokens" if tokens else "tensor", dtype=value.dtype.name)


def store(values: Mapping[str, Value], fields: Mapping[str, FieldInfo]) -> Stored:
    """The values of one sample, as fields of these kinds.

    Raises:
        PackError: a field is missing.
        Unfit: a field is of another kind or dtype than in the sample that the fields are from.
        DecodeError: an encoded picture, sound or document is damaged.
    """
    stored = Stored({}, {}, {})
    if values.keys() != fields.keys():
        raise PackError(f"the sample has {', '.join(values) or 'nothing'}, and the first one had {', '.join(fields)}")
    for name, value in values.items():
        info = fields[name]
        if info.kind == "scalar":
            stored.scalars[name] = _number(name, value, info)
            continue
        extension, content = encoded(name, value, info)
        try:
            found = inspector(info.kind)(memoryview(content))
        except DecodeError as error:
            error.message = f"field {name!r}: {error.message}"
            raise
        stored.contents[name] = extension, content
        stored.facts.update({f"{name}.{what}": n for what, n in zip(FACTS.get(info.kind, ()), found, strict=True)})
    return stored


def _number(name: str, value: Value, info: FieldInfo) -> int | float | bool:
    kind = {"bool": bool, "int64": int, "float64": float}[info.dtype or "int64"]
    if type(value) is not kind:
        raise unlike(name, value, info)
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise Unfit(f"field {name!r}: {value} does not fit into 64 bits")
    return value  # type: ignore[return-value]


def encoded(name: str, value: Value, info: FieldInfo) -> tuple[str, bytes]:
    """File type and stored bytes of a value that is no number; Unfit if it is of another kind than the field."""
    match value:
        case str() if info.kind == "text":
            return "", _utf8(name, value)
        case Document() if info.kind == "json":
            return "", value.content
        case Picture() if info.kind == "image":
            return _file_type(value.content), value.content
        case Sound() if info.kind == "audio":
            return _file_type(value.content), value.content
        case Blob() if info.kind == "bytes":
            return "", value.content
        case bytes() if info.kind in ("image", "audio", "bytes"):
            return "" if info.kind == "bytes" else _file_type(value), value
        case np.ndarray() if info.kind in ("tokens", "tensor") and value.dtype.name == info.dtype:
            return "", npy_bytes(value)
    raise unlike(name, value, info)


def _utf8(name: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start : error.end]
        raise Unfit(f"field {name!r}: {half!r} is half a character, which no text file holds") from error


def _file_type(content: bytes) -> str:
    return file_extension(f"a.{sniff(content) or 'bin'}")


def unlike(name: str, value: Value, info: FieldInfo) -> Unlike:
    """The error for a value of another kind than the field has in the first sample."""
    found = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
    first = f"{info.kind} of {info.dtype or 'any type'} in the first sample"
    example = f"; it is {shown(value)}" if isinstance(value, str | int | float) else ""
    return Unlike(f"field {name!r} is {found}, and {first}{example}")


def refuse_blank(what: str, name: str, value: str) -> None:
    """Raise Unfit for the name of a class that is empty: a label that is missing makes no class."""
    if not value.strip():
        raise Unfit(f"{what} {name!r} is empty among class names; fill it (--fill), or pass --drop-missing")


def attempted(what: str, make: Callable[[Any], Value], stored: Any) -> Value | Unfit:
    """What `make` makes of something stored; where that is damaged, why there is no value.

    Args:
        what: errors call it.
        make: may raise whatever damage leads to.
        stored: bytes, or a cell of a table.
    """
    try:
        return make(stored)
    except _DAMAGE as error:
        why = error.message if isinstance(error, PackError | DecodeError) else f"not readable ({error})"
        return Unfit(f"{what}: {why}")


def shown(value: object) -> str:
    """A value as errors name it."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def raw_picture(data: memoryview) -> Picture:
    """A picture as MDS and LitData keep PIL images: width, height, length of the mode as uint32, the mode, the pixels;
    encoded as PNG, which keeps every pixel.

    Raises:
        Unfit: PNG has no such mode.
    """
    width, height, mode_bytes = np.frombuffer(data[:12], "<u4").tolist()
    mode = bytes(data[12 : 12 + mode_bytes]).decode()
    return encode_picture(PIL.Image.frombytes(mode, (width, height), bytes(data[12 + mode_bytes :])))


def encode_picture(picture: PIL.Image.Image) -> Picture:
    """A picture as PNG, which keeps every pixel.

    Raises:
        Unfit: PNG has no such mode; or the file that it is from, and that is only read now, is damaged.
    """
    if picture.mode not in _PNG_MODES:
        raise Unfit(f"a picture of mode {picture.mode!r} cannot be stored as PNG; convert it to RGB at the source")
    file = io.BytesIO()
    try:
        picture.save(file, "PNG")
    except (OSError, SyntaxError) as error:
        raise Unfit(f"a picture cannot be read ({error})") from error
    return Picture(file.getvalue())
