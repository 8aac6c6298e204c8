"""What a decoder is: the values that every decoder module and the engine share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import numpy as np
import numpy.typing as npt

from fastload.errors import DecodeError

Raw = bytes | memoryview  # the stored bytes of one field; or, in a view of another format than "B", numbers of a column


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What one field needs in a batch.

    Attributes:
        shape: shape of one row in memory (images: [H, W, C]); None: values of their own shape, kept as a list.
        dtype: dtype of the buffer; None for a list.
        has_length: the field comes with `<name>_length`, int64 [B].
        channels_last: the buffer is [B, H, W, C] and is handed out as a [B, C, H, W] view.
        fill: what padding rows and masked rows hold.
        parallel: decoding releases the GIL for most of its time, so that threads make it faster.
    """

    shape: tuple[int, ...] | None = None
    dtype: np.dtype[Any] | None = None
    has_length: bool = False
    channels_last: bool = False
    fill: int = 0
    parallel: bool = False


class Decoder(Protocol):
    """What the engine calls. Implementations are stateless and safe to call from any number of threads."""

    @property
    def spec(self) -> Spec: ...

    def decode_into(self, raw: Raw, out: npt.NDArray[Any], key: int) -> int:
        """Write one row. `key` is the sample's (`order.hashing.sample_keys`).

        `out` is the row of the buffer as an array, C-contiguous: `buffer[row, ...]`, which is a 0-d array where the
        shape is ().

        Returns: the true length where `spec.has_length`, else 0.
        Raises: DecodeError, naming what is wrong with the bytes; `out` may then hold anything.
        """
        ...

    def decode(self, raw: Raw, key: int) -> object:
        """The value of a ragged field: str, bytes, object, or an array (images as [C, H, W])."""
        ...


class Like(NamedTuple):
    """How the last rows of a static kind were stored: what the next ones may be copied by, unseen.

    Attributes:
        head: the bytes in front of the numbers: of a .npy, its header.
        dtype: of the numbers.
        exact: a row has no more numbers than are wanted; else those behind them are cut off.
        ragged: a row may have fewer: zeros are put behind them, and its length is told.
    """

    head: bytes
    dtype: np.dtype[Any]
    exact: bool
    ragged: bool = False


@runtime_checkable
class BulkDecoder(Decoder, Protocol):
    """A decoder of a static kind that is faster at many rows in one call."""

    def decode_rows(
        self,
        raws: Sequence[Raw | None],
        out: npt.NDArray[Any],
        keys: Sequence[int],
        lengths: npt.NDArray[np.int64] | None = None,
    ) -> list[DecodeError | None]:
        """Write row i of `out` [k, *shape], C-contiguous, from raws[i], and leave it alone where that is None.

        Returns: per row, None or why it does not decode; the row may then hold anything.
        """
        ...


def decode_rows(
    decoder: Decoder,
    raws: Sequence[Raw | None],
    out: npt.NDArray[Any],
    keys: Sequence[int],
    lengths: npt.NDArray[np.int64] | None = None,
) -> list[DecodeError | None]:
    """Many rows of a static kind through any decoder.

    Args:
        raws: stored bytes of each row; None leaves the row alone.
        out: the rows, [k, *shape], C-contiguous.
        keys: of the samples.
        lengths: int64 [k], filled with the true lengths where `spec.has_length`.

    Returns: per row, None or why it does not decode; the row may then hold anything.
    """
    if hasattr(decoder, "decode_rows"):  # as isinstance(decoder, BulkDecoder), which takes 15 us
        return cast(BulkDecoder, decoder).decode_rows(raws, out, keys, lengths)
    errors: list[DecodeError | None] = [None] * len(raws)
    for row, (raw, key) in enumerate(zip(raws, keys, strict=True)):
        if raw is None:
            continue
        try:
            length = decoder.decode_into(raw, out[row, ...], key)
        except DecodeError as error:
            errors[row] = error
            continue
        if lengths is not None:
            lengths[row] = length
    return errors
