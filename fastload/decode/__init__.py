"""Passive decoders: bytes in, one row of a batch buffer out. No threads, no state, no I/O; heavy parts release the GIL.

    decoder_for(field) -> Decoder
    Decoder.spec       what the batch must hold for it: a buffer of shape [B, *shape], or a list
    decode_into        static kinds: writes one row, returns the true length (0 where the kind has none)
    decode             ragged kinds: returns the value

Beside them `sniff`, `image_size` and `audio_info`: what the packer stores about a field, from its header.
"""

from __future__ import annotations

from fastload.decode.audio import AudioDecoder, audio_info
from fastload.decode.base import Decoder, Raw, Spec
from fastload.decode.image import ImageDecoder, image_size
from fastload.decode.sniff import sniff
from fastload.decode.tensor import ScalarDecoder, TensorDecoder, TokensDecoder
from fastload.decode.text import BytesDecoder, JsonDecoder, TextDecoder
from fastload.fields import Audio, Bytes, Field, Image, Json, Scalar, Tensor, Text, Tokens

__all__ = ["Decoder", "Raw", "Spec", "audio_info", "decoder_for", "image_size", "sniff"]


def decoder_for(field: Field, dtype: str | None = None) -> Decoder:
    """The decoder of a declared field.

    Args:
        field: the declaration.
        dtype: the stored dtype, from the index: it completes a Tensor or Scalar that declares none, and says what
            Tokens
            that are not .npy files consist of. None where the index says nothing.
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
            return BytesDecoder()
