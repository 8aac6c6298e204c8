"""Passive decoders: bytes in, one row of a batch buffer out. No threads, no state, no I/O; heavy parts release the GIL.

    decoder_for(field) -> Decoder
    Decoder.spec       what the batch must hold for it: a buffer of shape [B, *shape], or a list
    decode_into        static kinds: writes one row, returns the true length (0 where the kind has none)
    decode_rows        static kinds, many rows in one call, each with its own error
    decode             ragged kinds: returns the value

Beside them `sniff`, `image_size` and `audio_info`: what the packer stores about a field, from its header.
Decoders need torch, the packer does not: `decoder_for` is imported when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fastload.decode.base import Decoder, Raw, Spec, decode_rows
from fastload.decode.clips import audio_info
from fastload.decode.headers import image_size
from fastload.decode.sniff import sniff

if TYPE_CHECKING:
    from fastload.decode.decoders import decoder_for

__all__ = ["Decoder", "Raw", "Spec", "audio_info", "decode_rows", "decoder_for", "image_size", "sniff"]


def __getattr__(name: str) -> Any:
    if name != "decoder_for":
        raise AttributeError(f"module 'fastload.decode' has no attribute {name!r}")
    decoders = importlib.import_module("fastload.decode.decoders")
    return decoders.decoder_for
