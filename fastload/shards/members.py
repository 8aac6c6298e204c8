"""Names of tar members: which file extension a field has, and which field a foreign extension means.

WebDataset's rule: the path up to the first dot of the base name is the key, the rest is the extension, and the part
after the last dot says how to decode. So the field "image" of sample "a/1" is "a/1.jpg", and "mask" "a/1.mask.png".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastload.errors import PackError
from fastload.shards.index import FieldInfo, Kind

IMAGE_EXTENSIONS = ("jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "dib", "tif", "tiff")
AUDIO_EXTENSIONS = ("wav", "flac", "ogg", "oga", "opus", "mp3")
INTEGER_EXTENSIONS = (
    "cls",
    "cls2",
    "class",
    "count",
    "index",
    "inx",
    "id",
)  # those that webdataset decodes as integers
KIND_OF_EXTENSION: dict[str, Kind] = {
    **dict.fromkeys(IMAGE_EXTENSIONS, "image"),
    **dict.fromkeys(AUDIO_EXTENSIONS, "audio"),
    **dict.fromkeys(("txt", "text", "transcript"), "text"),
    **dict.fromkeys(("json", "jsn"), "json"),
    **dict.fromkeys(INTEGER_EXTENSIONS, "scalar"),
    "npy": "tensor",
}
DEFAULT_NAMES: dict[Kind, str] = {
    "image": "image", "audio": "audio", "text": "text", "tokens": "tokens",
    "tensor": "tensor", "scalar": "label", "json": "json", "bytes": "bytes",
}  # fmt: skip
# extensions whose field has the default name of its kind; any other bare extension names the field itself
_BARE = {
    **dict.fromkeys(IMAGE_EXTENSIONS + AUDIO_EXTENSIONS),
    "txt": None,
    "json": None,
    "npy": None,
    "cls": None,
    "bin": None,
}
_CANONICAL = {"jpeg": "jpg", "jpe": "jpg", "jfif": "jpg", "tiff": "tif", "oga": "ogg"}
_RESERVED = ("key", "offset", "size", "xxh3", "valid")  # columns of the index, and the batch's own attribute
_FIELD_NAME = re.compile(r"[^\W\d]\w*(-\w+)*")
_META_FOLDER = re.compile(r"__[^/]*__(/|$)")  # webdataset skips such members


def file_extension(path: str) -> str:
    """Extension of a file in lower case and in its usual spelling: "a/b.JPEG" -> "jpg"; "" if it has none."""
    name = path.rpartition("/")[2]
    stem, dot, ending = name.rpartition(".")
    ending = ending.lower() if dot and stem else ""
    return _CANONICAL.get(ending, ending)


def content_extension(info: FieldInfo, file_type: str = "") -> str:
    """What a field's content is called; `file_type` counts for encoded files only."""
    match info.kind:
        case "text":
            return "txt"
        case "json":
            return "json"
        case "tensor" | "tokens":
            return "npy"
        case "scalar":
            return "json" if info.dtype is not None and np.dtype(info.dtype).kind == "f" else "cls"
        case _:
            return file_type or "bin"


def member_prefixes(fields: Mapping[str, FieldInfo]) -> dict[str, str]:
    """What stands before the content's extension: "" for a field with its kind's default name, else "<field>.".

    Raises:
        PackError: a name that cannot be part of a file name and a column of the index, or two that differ in case only.
    """
    prefixes: dict[str, str] = {}
    taken: set[str] = set()
    seen: dict[str, str] = {}
    for name, info in fields.items():
        if not _FIELD_NAME.fullmatch(name) or name in _RESERVED or name.startswith("__"):
            raise PackError(
                f"a field cannot be called {name!r}: use letters, digits, '_' and '-', and none of"
                f" {', '.join(_RESERVED)}"
            )
        if name.lower() in seen:
            raise PackError(f"the fields {seen[name.lower()]!r} and {name!r} differ in case only; rename one")
        seen[name.lower()] = name
        family = info.kind if info.kind in ("image", "audio") else content_extension(info)
        bare = name == DEFAULT_NAMES[info.kind] and family not in taken
        if bare:
            taken.add(family)
        prefixes[name] = "" if bare else f"{name}."
    return prefixes


def scalar_bytes(value: Any) -> bytes:
    """A scalar as its tar member has it: decimal digits, or a JSON number; True is 1."""
    if isinstance(value, float | np.floating):
        return repr(float(value)).encode()
    return b"%d" % int(value)


def sample_key(path: str) -> str:
    """The key of a file from its relative path: no extension, and nothing that webdataset would cut or skip.

    Dots in the stem become "_"; a first folder like "__x__" loses one underscore.
    """
    folder, slash, name = path.rpartition("/")
    stem = name.rpartition(".")[0] or name
    key = folder + slash + stem.replace(".", "_")
    return key[1:] if _META_FOLDER.match(key) else key


def sample_keys(paths: Sequence[str]) -> list[str]:
    """`sample_key` of each path; less than half the time for names with one dot."""
    keys = []
    for path in paths:
        stem, _, ending = path.rpartition(".")
        plain = stem and "." not in stem and "/" not in ending and stem[-1] != "/" and stem[0] != "_"
        keys.append(stem if plain else sample_key(path))
    return keys


def split_member(name: str) -> tuple[str, str] | None:
    """Key and extension (lower case) of a member, as webdataset splits and skips; None for what it skips."""
    if _META_FOLDER.match(name):
        return None
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    return (folder + slash + stem, extension.lower()) if dot and stem else None


def field_of_extension(extension: str) -> tuple[str, Kind]:
    """Field name and kind that a foreign member's extension suggests: "jpg" -> "image", "seg.png" -> "seg"."""
    front, _, last = extension.rpartition(".")
    kind = KIND_OF_EXTENSION.get(last, "bytes")
    if front:
        name = front if last in KIND_OF_EXTENSION or last == "bin" else extension
    else:
        name = DEFAULT_NAMES[kind] if last in _BARE else last
    return name.replace(".", "_"), kind
