"""Rows of tokens many at a time, against the same one by one; typed views of columns; output dtypes."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fastload.decode import decode_rows, decoder_for
from fastload.decode.base import Raw
from fastload.decode.tokens import TokensDecoder
from fastload.errors import ConfigError, DecodeError
from fastload.fields import Tensor, Tokens

STORED = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64"]


def npy(array: npt.ArrayLike) -> bytes:
    out = io.BytesIO()
    np.save(out, np.asarray(array))
    return out.getvalue()


def view(array: npt.NDArray[Any]) -> memoryview:
    """As readers of columns pass them on: typed, and of uint8 plain bytes."""
    return np.ascontiguousarray(array).data


@given(
    st.lists(st.sampled_from(STORED).flatmap(lambda d: hnp.arrays(d, st.integers(0, 6))), min_size=1, max_size=6),
    st.booleans(),
    st.sampled_from(["npy", "view", "bare"]),
    st.sampled_from(["int64", "int32", "uint8", "uint16"]),
    st.integers(1, 5),
)
def test_many_rows_are_decoded_as_one_by_one(
    rows: list[npt.NDArray[Any]], alike: bool, kind: str, dtype: str, length: int
) -> None:
    if alike or kind == "bare":
        rows = [np.resize(rows[0], max(length, len(rows[0]))) + np.array(i % 2, rows[0].dtype) for i in range(4)]
    decoder = decoder_for(Tokens(length, pad=3, dtype=dtype), str(rows[0].dtype))
    raws: list[Raw | None] = [
        npy(row)
        if kind == "npy" or row.dtype == np.uint8 != rows[0].dtype
        else view(row)
        if kind == "view"
        else row.tobytes()
        for row in rows
    ]
    for values in (raws, [*raws, None, raws[0]]):
        out, lengths = np.full((len(values), length), 77, dtype), np.full(len(values), 77)
        errors = decode_rows(decoder, values, out, [0] * len(values), lengths)
        for number, raw in enumerate(values):
            alone = np.full(length, 77, dtype)
            if raw is None:
                assert (out[number] == 77).all()
                assert errors[number] is None
                continue
            if errors[number] is not None:
                with pytest.raises(DecodeError, match=re.escape(str(errors[number]))):
                    decoder.decode_into(raw, alone, 0)
                continue
            size = decoder.decode_into(raw, alone, 0)
            assert (lengths[number], out[number].tolist()) == (size, alone.tolist())
            expected = rows[number if number < len(rows) else 0].tolist()
            assert alone.tolist() == [*expected, *[3] * length][:length]


def test_rows_that_are_stored_alike_are_remembered() -> None:
    decoder = decoder_for(Tokens(3))
    assert isinstance(decoder, TokensDecoder)
    raws = [npy(np.arange(4, dtype=np.int32) + i) for i in range(3)]
    out = np.zeros((3, 3), np.int64)
    assert decoder.like is None
    decoder.decode_rows([*raws[:2], npy(np.arange(3, dtype=np.int32))], out, [0] * 3)
    assert decoder.like is None  # one has another header
    decoder.decode_rows(raws, out, [0] * 3)
    assert decoder.like == (raws[0][:-16], np.dtype("int32"), False, False)
    assert out.tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4]]


def test_a_typed_view_knows_its_dtype() -> None:
    row = np.array([1, -2, 3], np.int16)
    for stored in (None, "int32", "uint8"):
        assert decoder_for(Tokens(), stored).decode(view(row), 0).tolist() == [1, -2, 3]  # type: ignore[attr-defined]
    assert decoder_for(Tensor((3,), "int64")).decode(view(row), 0).tolist() == [1, -2, 3]  # type: ignore[attr-defined]
    magic = np.array([20115, 19797, 22864, 5], np.uint16)  # tokens that read as the beginning of a .npy file
    assert bytes(magic.data)[:6] == b"\x93NUMPY"
    assert decoder_for(Tokens(4), "uint16").decode(view(magic), 0).tolist() == magic.tolist()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("row", "dtype", "message"),
    [
        (np.array([5, 70_000]), "uint16", "int64 values from 5 to 70000 do not fit into uint16"),
        (np.array([-1, 7], np.int32), "uint8", "int32 values from -1 to 7 do not fit into uint8"),
        (np.array([2**63], np.uint64), "int64", "uint64 values from 9223372036854775808 to .* do not fit into int64"),
    ],
)
def test_tokens_that_do_not_fit_are_named(row: npt.NDArray[Any], dtype: str, message: str) -> None:
    decoder = decoder_for(Tokens(2, dtype=dtype))
    with pytest.raises(DecodeError, match=message):
        decoder.decode_into(npy(row), np.zeros(2, dtype), 0)
    with pytest.raises(DecodeError, match=message):
        decoder_for(Tokens(dtype=dtype)).decode(view(row), 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float32"}, r"Tokens\(pad=0, dtype='float32'\): pass an integer dtype that holds pad"),
        ({"dtype": "uint8", "pad": -1}, r"Tokens\(pad=-1, dtype='uint8'\): pass an integer dtype that holds pad"),
        ({"dtype": "int99"}, r"Tokens\(dtype='int99'\): not a numpy dtype name"),
        ({"length": 0}, r"Tokens\(length=0\): must be at least 1"),
    ],
)
def test_declarations_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Tokens(**options)
