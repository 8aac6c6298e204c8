"""Which Arrow type a field has in Parquet, what Hugging Face `datasets` calls it, and back.

    kind      Arrow type                              datasets' feature
    image     struct<bytes: binary, path: string>     Image
    audio     struct<bytes: binary, path: string>     Audio
    text      string                                  Value("string")
    json      string                                  Value("string")
    tokens    list<int>                               Sequence(Value(int))
    tensor    binary, a .npy                          Value("binary")
    scalar    int, float or bool                      ClassLabel where it has classes, else Value
    bytes     binary                                  Value("binary")

Files of others may also hold large_string and large_binary, bare binary under an Image or Audio feature, and lists of
numbers that are tensors: list<float> (each its own length) and fixed_size_list (one shape for all).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from fastload.shards.index import FieldInfo, Kind

HUGGINGFACE_KEY = b"huggingface"
ENCODED = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
FACT_TYPE = pa.int64()
DEFAULT_TOKEN_DTYPE = "int32"  # vocabularies fit, and it is half of int64
_MEDIA: dict[str, Kind] = {"Image": "image", "Audio": "audio"}


def arrow_type(info: FieldInfo) -> pa.DataType:
    """The column that a field of this kind is written as."""
    match info.kind:
        case "image" | "audio":
            return ENCODED
        case "text" | "json":
            return pa.string()
        case "tokens":
            return pa.list_(pa.from_numpy_dtype(np.dtype(info.dtype or DEFAULT_TOKEN_DTYPE)))
        case "scalar":
            return pa.from_numpy_dtype(np.dtype(info.dtype or "int64"))
        case "tensor" | "bytes":
            return pa.binary()


def huggingface_metadata(
    fields: Mapping[str, FieldInfo], key_column: str, facts: Iterable[str], texts: Iterable[str] = ()
) -> bytes:
    """The schema's entry that makes `datasets` read images, sounds and labels as such."""
    features = {key_column: _value("string")}
    features |= {name: _feature(info) for name, info in fields.items()}
    features |= {name: _value(str(FACT_TYPE)) for name in facts}
    features |= {name: _value("string") for name in texts}
    return json.dumps({"info": {"features": features}}, ensure_ascii=False).encode()


def _value(dtype: str) -> dict[str, Any]:
    return {"dtype": dtype, "_type": "Value"}


def _feature(info: FieldInfo) -> dict[str, Any]:
    if info.kind == "image":
        return {"_type": "Image"}
    if info.kind == "audio":
        return {"_type": "Audio"}
    if info.kind == "scalar" and info.classes is not None:
        return {"names": list(info.classes), "_type": "ClassLabel"}
    arrow = arrow_type(info)
    if info.kind == "tokens":
        return {"feature": _value(str(arrow.value_type)), "_type": "Sequence"}
    # datasets' names of the two types that Arrow calls "double" and "float"
    return _value({"double": "float64", "float": "float32", "halffloat": "float16"}.get(str(arrow), str(arrow)))


def field_of_column(arrow: pa.DataType, feature: Mapping[str, Any] | None) -> FieldInfo | None:
    """What a column of a foreign file holds, from its type and its Hugging Face feature.

    None for a type that no field kind has (dates, decimals, nested records), and for struct<bytes, path> without a
    feature: whether that is an image or a sound is in the data.
    """
    feature = feature or {}
    media = _MEDIA.get(str(feature.get("_type")))
    if media is not None and (is_encoded(arrow) or _is_binary(arrow)):
        return FieldInfo(kind=media)
    if _is_number(arrow):
        names = feature.get("names") if pt.is_integer(arrow) else None
        return FieldInfo(kind="scalar", dtype=_numpy_name(arrow), classes=tuple(map(str, names)) if names else None)
    if pt.is_string(arrow) or pt.is_large_string(arrow):
        return FieldInfo(kind="text")
    if _is_binary(arrow):
        return FieldInfo(kind="bytes")
    if pt.is_fixed_size_list(arrow):
        shape = []
        while pt.is_fixed_size_list(arrow):
            shape.append(arrow.list_size)
            arrow = arrow.value_type
        numeric = pt.is_integer(arrow) or pt.is_floating(arrow)
        return FieldInfo(kind="tensor", dtype=_numpy_name(arrow), shape=tuple(shape)) if numeric else None
    if pt.is_list(arrow) or pt.is_large_list(arrow):
        item = arrow.value_type
        if pt.is_integer(item):
            return FieldInfo(kind="tokens", dtype=_numpy_name(item))
        if pt.is_floating(item):
            return FieldInfo(kind="tensor", dtype=_numpy_name(item))
    return None


def is_encoded(arrow: pa.DataType) -> bool:
    """True for struct<bytes, path>, as `datasets` stores images and sounds."""
    return (
        pt.is_struct(arrow)
        and {field.name for field in arrow} == {"bytes", "path"}
        and _is_binary(arrow.field("bytes").type)
    )


def _is_binary(arrow: pa.DataType) -> bool:
    return bool(pt.is_binary(arrow) or pt.is_large_binary(arrow))


def _is_number(arrow: pa.DataType) -> bool:
    return bool(pt.is_integer(arrow) or pt.is_floating(arrow) or pt.is_boolean(arrow))


def _numpy_name(arrow: pa.DataType) -> str:
    return str(np.dtype(arrow.to_pandas_dtype()).name)
