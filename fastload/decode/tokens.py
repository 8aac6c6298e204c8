"""Rows of token numbers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from fastload.decode.base import Like, Raw, Spec
from fastload.decode.tensor import NPY_MAGIC, is_typed, npy_header, read_npy
from fastload.decode.text import LIST
from fastload.errors import ConfigError, DecodeError
from fastload.fields import Tokens

_HEAD_BYTES = 128  # of the header of a row, which numpy pads to a multiple of 64


class TokensDecoder:
    """A row of token numbers: a one-dimensional .npy file, a typed view of a column, or bare little-endian integers of
    the index's dtype."""

    def __init__(self, field: Tokens, dtype: str | None = None) -> None:
        self.length = field.length
        self.pad = field.pad
        self.dtype = np.dtype(field.dtype)
        self.stored = None if dtype is None else np.dtype(dtype).newbyteorder("<")
        if self.stored is not None and self.stored.kind not in "iu":
            raise ConfigError(f"Tokens: stored as {dtype}, not an integer dtype; declare the field as Tensor()")
        self.like: Like | None = None  # of the last full rows
        self.spec = LIST
        if field.length is not None:
            self.spec = Spec(shape=(field.length,), dtype=self.dtype, has_length=True, fill=field.pad)

    def decode_into(self, raw: Raw, out: npt.NDArray[Any], key: int) -> int:
        tokens = self.tokens(raw)[: len(out)]
        cast_tokens(tokens, out[: len(tokens)])
        out[len(tokens) :] = self.pad
        return len(tokens)

    def decode_rows(
        self,
        raws: Sequence[Raw | None],
        out: npt.NDArray[Any],
        keys: Sequence[int],
        lengths: npt.NDArray[np.int64] | None = None,
    ) -> list[DecodeError | None]:
        """Write many rows; see `base.BulkDecoder`. Full rows that are stored alike are one copy."""
        errors: list[DecodeError | None] = [None] * len(raws)
        alike = self._alike(raws, out)
        if alike is not None:
            np.concatenate(alike, out=out.reshape(-1))
            if lengths is not None:
                lengths[:] = out.shape[1]
            return errors
        for row, raw in enumerate(raws):
            if raw is None:
                continue
            try:
                length = self.decode_into(raw, out[row], 0)
            except DecodeError as error:
                errors[row] = error
                continue
            if lengths is not None:
                lengths[row] = length
        return errors

    def _alike(self, raws: Sequence[Raw | None], out: npt.NDArray[Any]) -> list[npt.NDArray[Any]] | None:
        """The tokens of all rows, if all have the same header or format, fill their row of `out`, and need no check."""
        first, width = raws[0] if raws else None, out.shape[1]
        if first is None:
            return None
        try:
            tokens = self.tokens(first)
        except DecodeError:
            return None
        dtype, size = tokens.dtype, len(first)
        if len(tokens) < width or not np.can_cast(dtype, out.dtype, "safe"):
            return None
        if None in raws:
            return None
        whole = cast("Sequence[Raw]", raws)
        if is_typed(first):
            formats = {raw.format if isinstance(raw, memoryview) else "B" for raw in whole}
            same = len(formats) == 1 and min(map(len, whole)) >= width
            return [np.frombuffer(raw, dtype, width) for raw in whole] if same else None
        start = size - tokens.nbytes
        same = set(map(len, whole)) == {size} and len({bytes(raw[:start]) for raw in whole}) == 1
        if not same:
            return None
        self.like = Like(bytes(first[:start]), dtype, exact=False)
        return [np.frombuffer(raw, dtype, width, start) for raw in whole]

    def decode(self, raw: Raw, key: int) -> npt.NDArray[Any]:
        tokens = self.tokens(raw)[: self.length]
        out = np.empty(len(tokens), self.dtype)
        cast_tokens(tokens, out)
        return out

    def tokens(self, raw: Raw) -> npt.NDArray[Any]:
        """The tokens as they are stored, a view of `raw`: one dimension, any integer dtype.

        Raises:
            DecodeError: something else.
        """
        if is_typed(raw):
            return np.asarray(raw)
        plain = _plain_row(bytes(raw[:_HEAD_BYTES]), len(raw))
        if plain is not None:
            return np.frombuffer(raw, plain[0], plain[1], _HEAD_BYTES)
        if bytes(raw[: len(NPY_MAGIC)]) == NPY_MAGIC or self.stored is None:
            tokens = read_npy(raw)
            if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
                raise DecodeError(f"{tokens.dtype} array of shape {tokens.shape}; tokens are integers in one dimension")
            return tokens
        if len(raw) % self.stored.itemsize:
            raise DecodeError(f"{len(raw)} bytes are no whole number of {self.stored.name} tokens")
        return np.frombuffer(raw, self.stored)


@lru_cache(maxsize=16384)  # documents of many lengths have many headers
def _plain_row(head: bytes, size: int) -> tuple[np.dtype[Any], int] | None:
    """Dtype and number of tokens of a .npy of `size` bytes that is a row of integers with a header as numpy writes it;
    None of anything else."""
    if head[: len(NPY_MAGIC)] != NPY_MAGIC or int.from_bytes(head[8:10], "little") + 10 != _HEAD_BYTES:
        return None
    try:
        shape, _, dtype = npy_header(head)
    except DecodeError:
        return None
    whole = len(shape) == 1 and dtype.kind in "iu" and _HEAD_BYTES + shape[0] * dtype.itemsize == size
    return (dtype, shape[0]) if whole else None


def cast_tokens(tokens: npt.NDArray[Any], out: npt.NDArray[Any]) -> None:
    """Copy integers into `out`, of the same length and any integer dtype.

    Raises:
        DecodeError: a number that does not fit.
    """
    if not np.can_cast(tokens.dtype, out.dtype, "safe") and tokens.size:
        low, high, limits = int(tokens.min()), int(tokens.max()), np.iinfo(out.dtype)
        if low < limits.min or high > limits.max:
            raise DecodeError(f"{tokens.dtype} values from {low} to {high} do not fit into {out.dtype}")
    np.copyto(out, tokens, casting="unsafe")
