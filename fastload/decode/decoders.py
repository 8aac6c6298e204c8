"""Which decoder a declared field has."""

from __future__ import annotations

from fastload.decode.audio import AudioDecoder
from fastload.decode.base import Decoder
from fastload.decode.image import ImageDecoder
from fastload.decode.tensor import ScalarDecoder, TensorDecoder
from fastload.decode.text import BytesDecoder, JsonDecoder, PaddedBytesDecoder, TextDecoder
from fastload.decode.tokens import TokensDecoder
from fastload.fields import Audio, Bytes, Field, Image, Json, Scalar, Tensor, Text, Tokens


def decoder_for(field: Field, dtype: str | None = None) -> Decoder:
    """The decoder of a declared field.

    Args:
        field: the declaration.
        dtype: the stored dtype, from the index: it completes a Tensor or Scalar that declares none, and says what
            Tokens that are not .npy files consist of. None where the index says nothing.
    """
    match field:
        case Image():
            return ImageDecoder(field)
        case Audio():
            return AudioDecoder(field)
        case Tokens():
            return TokensDecoder(field, dtype)
        case Tensor():
            return TensorDecoder(field, dtype)
        case Scalar():
            return ScalarDecoder(field, dtype)
        case Text():
            return TextDecoder()
        case Json():
            return JsonDecoder()
        case Bytes():
            return BytesDecoder() if field.length is None else PaddedBytesDecoder(field.length)
