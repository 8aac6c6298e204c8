"""Text, JSON and undecoded bytes: values of their own length, kept as a list; bytes also as rows of one length."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from fastload.decode.base import Like, Raw, Spec
from fastload.errors import DecodeError

LIST = Spec()

Keys = npt.NDArray[np.uint64]  # of samples, [k]
Change = Callable[[list[str], Keys], list[Any]]  # strings and the keys of their samples -> other strings


class ListDecoder:
    """Base of decoders whose values have no common shape, and therefore no row to be written into."""

    spec = LIST

    def decode_into(self, raw: Raw, out: npt.NDArray[Any], key: int) -> int:
        raise TypeError(f"{type(self).__name__} gives values for a list; call decode, which returns one")

    def decode(self, raw: Raw, key: int) -> object:
        """One value; see `base.Decoder`."""
        raise TypeError(f"{type(self).__name__} does not say how to decode")

    def decode_all(self, raws: Sequence[Raw], keys: Keys) -> list[Any]:
        """Many values. Raises DecodeError if any of them does not decode, without telling which."""
        return [self.decode(raw, 0) for raw in raws]


class TextDecoder(ListDecoder):
    """UTF-8 bytes to str, nothing stripped."""

    _change: Change | None = None

    def changing(self, change: Change) -> TextDecoder:
        """A decoder that also changes the strings: what `augment.EachText` does, without the consumer's time."""
        decoder = copy.copy(self)
        decoder._change = change
        return decoder

    def decode(self, raw: Raw, key: int) -> str:
        text = self._string(raw)
        return text if self._change is None else cast(str, self._change([text], np.array([key], np.uint64))[0])

    def decode_all(self, raws: Sequence[Raw], keys: Keys) -> list[Any]:
        texts = [self._string(raw) for raw in raws]
        return texts if self._change is None else self._change(texts, keys)

    def _string(self, raw: Raw) -> str:
        try:
            return str(raw, "utf-8")
        except UnicodeDecodeError as error:
            raise DecodeError(
                f"not UTF-8 text: byte {error.start} of {len(raw)} is 0x{raw[error.start]:02x} ({error.reason}); "
                f"convert it to UTF-8, or declare the field as Bytes()"
            ) from error


class JsonDecoder(ListDecoder):
    """A JSON document in UTF-8 to dict, list, str, int, float, bool or None."""

    def decode(self, raw: Raw, key: int) -> object:
        return read_json(raw)


def read_json(raw: Raw) -> object:
    """The value of a JSON document in UTF-8, which may start with a byte order mark.

    Raises: DecodeError for another encoding, or what is no JSON.
    """
    try:
        return json.loads(str(raw, "utf-8").removeprefix("\ufeff"))
    except UnicodeDecodeError as error:
        raise DecodeError(
            f"not JSON: byte {error.start} of {len(raw)} is not UTF-8 ({error.reason}); convert it to UTF-8"
        ) from error
    except RecursionError as error:
        raise DecodeError(f"JSON of {len(raw)} bytes is nested too deeply to parse") from error
    except ValueError as error:
        raise DecodeError(f"not JSON: {error}; {len(raw)} bytes that start with {bytes(raw[:8])!r}") from error


class BytesDecoder(ListDecoder):
    """The stored bytes, copied out of whatever memory they lie in."""

    def decode(self, raw: Raw, key: int) -> bytes:
        return bytes(raw)

    def decode_all(self, raws: Sequence[Raw], keys: Keys) -> list[bytes]:
        if set(map(type, raws)) <= {bytes}:  # a third of the time that asking each one takes
            return cast(list[bytes], list(raws))
        return list(map(bytes, raws))


class PaddedBytesDecoder:
    """The stored bytes as a row of uint8: cut, or with zeros behind them."""

    def __init__(self, length: int) -> None:
        self._length = length
        self.spec = Spec(shape=(length,), dtype=np.dtype(np.uint8), has_length=True)
        self.like: Like | None = Like(b"", np.dtype(np.uint8), exact=False, ragged=True)

    def decode_into(self, raw: Raw, out: npt.NDArray[Any], key: int) -> int:
        content = np.frombuffer(raw, np.uint8)[: len(out)]
        out[: len(content)] = content
        out[len(content) :] = 0
        return len(content)

    def decode_rows(
        self,
        raws: Sequence[Raw | None],
        out: npt.NDArray[Any],
        keys: Sequence[int],
        lengths: npt.NDArray[np.int64] | None = None,
    ) -> list[DecodeError | None]:
        """Write many rows; see `base.BulkDecoder`. Where none is left out they are one copy."""
        width = self._length
        cut = [None if raw is None else bytes(raw[:width])[:width] for raw in raws]  # views may be of wider numbers
        if None not in cut:
            whole = cast("list[bytes]", cut)
            joined = b"".join([content.ljust(width, b"\0") for content in whole])
            out.reshape(-1)[:] = np.frombuffer(joined, np.uint8)
            if lengths is not None:
                lengths[:] = [len(content) for content in whole]
            return [None] * len(raws)
        for row, content in enumerate(cut):
            if content is not None:
                length = self.decode_into(content, out[row], 0)
                if lengths is not None:
                    lengths[row] = length
        return [None] * len(raws)

    def decode(self, raw: Raw, key: int) -> npt.NDArray[np.uint8]:
        return np.frombuffer(raw, np.uint8)[: self._length].copy()
