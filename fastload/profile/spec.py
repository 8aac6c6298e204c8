"""Fields as a line of text, for the command line: `image:224:random,label`.

name                          as it is stored
image:SIZE[:WORD]...          SIZE is 224 or 192x256 (height x width), a WORD what Image takes by name: random or
                              center; L or I;16; nearest. mask:224:random:L:nearest: class numbers, unblended
audio:RATE:SECONDS[:CROP]     Hz and seconds
tokens:LENGTH, bytes:LENGTH
"""

from __future__ import annotations

from typing import Any

from fastload.errors import ConfigError
from fastload.fields import Audio, Bytes, Field, Image, Tokens
from fastload.shards.index import Index

_HELP = {
    "image": "image:224, image:192x256 or image:224:random; class numbers as image:224:random:L:nearest",
    "audio": "audio:16000:2.5 or audio:16000:2.5:random",
    "tokens": "tokens:1024",
    "bytes": "bytes:1024",
}
_WORDS = {"crop": ("random", "center"), "mode": ("RGB", "L", "I;16"), "interpolation": ("bilinear", "nearest")}


def parse_fields(text: str, index: Index) -> dict[str, Field]:
    """The declarations that a line of text stands for.

    Raises:
        ConfigError: a field that the data lacks, or arguments that its kind does not take.
    """
    fields: dict[str, Field] = {}
    for part in text.split(","):
        name, *arguments = part.strip().split(":")
        if name not in index.fields:
            raise ConfigError(
                f"--fields {text!r}: no field {name!r} in the data; it has {', '.join(map(repr, index.fields))}"
            )
        kind = index.fields[name].kind
        try:
            fields[name] = _field(kind, arguments) if arguments else index.fields[name].default_field()
        except (TypeError, ValueError) as error:
            why = f"{error}; " if isinstance(error, ConfigError) else ""
            takes = f"write it as {_HELP[kind]}" if kind in _HELP else "it takes no arguments"
            raise ConfigError(f"--fields {part.strip()!r}: {why}{name!r} is {kind}; {takes}") from None
    return fields


def _field(kind: str, arguments: list[str]) -> Field:
    """Raises TypeError or ValueError where the arguments do not fit."""
    match kind:
        case "image":
            return _image(*arguments)
        case "audio":
            return _audio(*arguments)
        case "tokens":
            (length,) = arguments
            return Tokens(int(length))
        case "bytes":
            (length,) = arguments
            return Bytes(int(length))
    raise ValueError(kind)


def _image(size: str, *words: str) -> Image:
    height, _, width = size.partition("x")
    options: dict[str, Any] = {}
    for word in words:
        name = next((name for name, known in _WORDS.items() if word in known), "crop")  # Image refuses what is none
        if name in options:
            raise ValueError(word)
        options[name] = word
    return Image((int(height), int(width)) if width else int(height), **options)


def _audio(rate: str, seconds: str, crop: Any = None) -> Audio:
    return Audio(int(rate), float(seconds), crop=crop)
