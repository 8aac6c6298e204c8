"""Arrays, token rows and numbers: what numpy.save wrote comes back, and nothing is lost without an error."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fastload.decode import Spec, decoder_for, tensor
from fastload.decode.tensor import NUMBER_KINDS, read_npy
from fastload.errors import ConfigError, DecodeError
from fastload.fields import Scalar, Tensor, Tokens

DTYPES = ["bool", "uint8", "int8", "int16", "uint32", "int64", "uint64", "float16", "float32", "float64", "complex64"]
arrays = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)


def npy(array: npt.ArrayLike, **options: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(array), **options)
    return file.getvalue()


def header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


@given(arrays, st.booleans())
def test_npy_round_trip(array: npt.NDArray[Any], fortran: bool) -> None:
    raw = npy(np.asfortranarray(array) if fortran and array.ndim else array)
    ragged = decoder_for(Tensor(dtype=str(array.dtype))).decode(memoryview(b"x" + raw)[1:], 0)
    assert isinstance(ragged, np.ndarray)
    assert ragged.dtype == array.dtype
    np.testing.assert_array_equal(ragged, array)
    decoder = decoder_for(Tensor(shape=array.shape), str(array.dtype))
    assert decoder.spec == Spec(shape=array.shape, dtype=array.dtype)
    batch = np.zeros((2, *array.shape), array.dtype)
    assert decoder.decode_into(raw, batch[1, ...], 0) == 0
    np.testing.assert_array_equal(batch[1], array)
    assert not batch[0].any()


def test_dtype_is_the_declared_one_else_the_stored_one_else_float32() -> None:
    assert decoder_for(Tensor((2,), "float64"), "int16").spec.dtype == np.float64
    assert decoder_for(Tensor((2,)), "int16").spec.dtype == np.int16
    assert decoder_for(Tensor((2,))).spec.dtype == np.float32


def test_precision_may_be_rounded_range_may_not() -> None:
    assert decoder_for(Tensor((), "float32")).decode(npy(np.float64(0.1)), 0) == np.float32(0.1)
    assert decoder_for(Tensor((1,), "int8")).decode(npy(np.array([-128])), 0) == -128
    assert np.isinf(decoder_for(Tensor((), "float32")).decode(npy(np.inf), 0))


@pytest.mark.parametrize(
    ("array", "dtype", "message"),
    [
        (np.array([1.5]), "int64", "float64 values would lose as int64; declare dtype='float64'"),
        (np.array([-1]), "uint8", "int64 values would lose as uint8"),
        (np.array([3, 300]), "int8", "int64 values from 3 to 300 do not fit into int8"),
        (np.array([2**63], np.uint64), "int64", "uint64 values from 9223372036854775808 to .* do not fit into int64"),
        (np.array([1e39]), "float32", "float64 values overflow float32"),
        (np.array([100_000]), "float16", "int64 values overflow float16"),
        (np.array([1j]), "float32", "complex128 values would lose as float32"),
    ],
)
def test_a_cast_that_loses_is_refused(array: npt.NDArray[Any], dtype: str, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        decoder_for(Tensor(dtype=dtype)).decode(npy(array), 0)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not a .npy file: 0 bytes"),
        (b"hello world", "not a .npy file: 11 bytes that start with b'hello wo'"),
        (npy([1, 2])[:7], r"\.npy format \(1,\)"),
        (npy([1, 2])[:9], "ends after 9 bytes, inside its header"),
        (npy([1, 2])[:40], "ends after 40 bytes, inside its header of 128 bytes"),
        (npy([1.0, 2.0])[:-1], r"\.npy file of 143 bytes, where float64 of shape \(2,\) needs 144"),
        (npy([1.0, 2.0]) + b"x", r"\.npy file of 145 bytes, where float64"),
        (npy(np.array([{}], object), allow_pickle=True), r"\.npy elements are object; save them as numbers"),
        (npy(np.array(["a"])), r"\.npy elements are <U1"),
        (b"\x93NUMPY\x09\x00" + bytes(100), r"\.npy format \(9, 0\)"),
        (header("{'descr': '<f4'}\n"), r"\.npy header cannot be read: "),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}\n"), r"shape \(-1,\) has a negative"),
        (npy(np.zeros((2, 1), np.float32)), r"array of shape \(2, 1\), where the field declares \(2,\)"),
    ],
)
def test_broken_npy_is_named(raw: bytes, message: str) -> None:
    decoder = decoder_for(Tensor((2,)))
    with pytest.raises(DecodeError, match=message):
        decoder.decode_into(raw, np.empty(2, np.float32), 0)
    with pytest.raises(DecodeError, match=message):
        decoder.decode(raw, 0)


@pytest.mark.parametrize("shape", [(), (0,), (5,), (2**40,), (2, 3), (1, 1), (4, 0, 6)])
@pytest.mark.parametrize("descr", ["<i4", ">i4", "|u1", "|b1", "<f2", "<c16", "<U2", "<i3", "i4"])
@pytest.mark.parametrize(
    "text", ["{shape}", "({first})", "({first},{first})", "(0{first},)", "(-{first},)", "[{first}]"]
)
def test_headers_are_read_as_numpy_reads_them(shape: tuple[int, ...], descr: str, text: str) -> None:
    """Among them those that are matched as a whole and not given to numpy."""
    spelled = text.format(shape=shape, first=shape[0] if shape else 7)
    for fortran in (True, False):
        raw = header(f"{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {spelled}, }}\n")
        try:
            expected = np.lib.format.read_array_header_1_0(io.BytesIO(raw[8:]))
        except ValueError:
            with pytest.raises(DecodeError):
                read_npy(raw)
            continue
        if expected[2].kind not in NUMBER_KINDS or any(size < 0 for size in expected[0]):
            with pytest.raises(DecodeError, match=r"elements are|negative"):
                read_npy(raw)
            continue
        assert tensor.npy_header(raw) == expected


@given(st.binary(max_size=60), st.integers(0, 150), st.binary(max_size=4))
def test_no_bytes_raise_anything_else(tail: bytes, cut: int, patch: bytes) -> None:
    whole = npy(np.arange(4.0))
    for raw in (b"\x93NUMPY\x01\x00" + tail, whole[:cut] + patch + whole[cut + len(patch) :]):
        try:
            value = decoder_for(Tensor()).decode(raw, 0)
        except DecodeError:
            continue
        assert isinstance(value, np.ndarray)


@given(hnp.arrays(st.sampled_from(["uint8", "uint16", "int32", "int64"]), st.integers(0, 9)), st.integers(1, 6))
def test_tokens_are_cut_and_padded_and_keep_their_length(tokens: npt.NDArray[Any], length: int) -> None:
    expected = [*tokens.tolist(), *[-7] * length][:length]
    decoder = decoder_for(Tokens(length, pad=-7), str(tokens.dtype))
    assert decoder.spec == Spec(shape=(length,), dtype=np.dtype("int64"), has_length=True, fill=-7)
    for raw in (npy(tokens), tokens.tobytes()):
        out = np.full(length, 99)
        assert decoder.decode_into(memoryview(raw), out, 0) == min(length, len(tokens))
        assert out.tolist() == expected
    ragged = decoder_for(Tokens()).decode(npy(tokens), 0)
    assert isinstance(ragged, np.ndarray)
    assert ragged.dtype == np.int64
    assert ragged.tolist() == tokens.tolist()


@pytest.mark.parametrize(
    ("raw", "dtype", "message"),
    [
        (b"\1\0\2", "uint16", "3 bytes are no whole number of uint16 tokens"),
        (b"\1\0\2\0", None, "not a .npy file: 4 bytes"),
        (npy([1.0]), None, r"float64 array of shape \(1,\); tokens are integers in one dimension"),
        (npy([[1]]), "int64", r"int64 array of shape \(1, 1\); tokens are integers in one dimension"),
        (npy(np.array([2**64 - 1], np.uint64)), None, "do not fit into int64"),
    ],
)
def test_broken_tokens_are_named(raw: bytes, dtype: str | None, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        decoder_for(Tokens(4), dtype).decode_into(raw, np.empty(4, np.int64), 0)


@pytest.mark.parametrize(
    ("raw", "declared", "stored", "expected"),
    [
        (b"7\n", None, None, np.int64(7)),
        (b" -12 ", "int8", None, np.int8(-12)),
        (b"+3", None, "uint16", np.int64(3)),
        (b"1", None, "bool", np.int64(1)),
        (b"1", "bool", None, np.bool_(True)),
        (b"2.5e3\r\n", None, "float64", np.float32(2500)),
        (b"7", "float64", None, np.float64(7)),
        (b"inf", "float32", None, np.float32(np.inf)),
        (b"18446744073709551615", "uint64", None, np.uint64(2**64 - 1)),
    ],
)
def test_scalars(raw: bytes, declared: str | None, stored: str | None, expected: np.generic) -> None:
    decoder = decoder_for(Scalar(declared), stored)
    assert decoder.spec == Spec(shape=(), dtype=expected.dtype)
    batch = np.zeros(3, expected.dtype)
    assert decoder.decode_into(memoryview(raw), batch[1, ...], 0) == 0
    assert batch[1] == expected
    assert decoder.decode(raw, 0) == expected


@pytest.mark.parametrize(
    ("raw", "dtype", "message"),
    [
        (b"", None, "not an integer in ASCII: 0 bytes"),
        (b"cat\n", None, r"not an integer in ASCII: 4 bytes that start with b'cat\\n'"),
        (b"3.0", "int64", "not an integer in ASCII"),
        (b"1_000", None, "not an integer in ASCII"),
        ("٣".encode(), None, "not an integer in ASCII"),
        (b"7" * 65, None, "not an integer in ASCII: 65 bytes"),
        (b"300", "uint8", "300 does not fit into uint8, which holds 0 to 255"),
        (b"2", "bool", "2 does not fit into bool, which holds 0 to 1"),
        (b"x", "float32", "not a number in ASCII: 1 bytes"),
        (b"1_0", "float32", "not a number in ASCII: 3 bytes"),
        (b"1e39", "float32", "1e39 does not fit into float32"),
        (b"1" + b"0" * 39 + b".", "float32", "does not fit into float32"),
        (b"1e999", "float64", "does not fit into float64"),
    ],
)
def test_broken_scalars_are_named(raw: bytes, dtype: str | None, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        decoder_for(Scalar(dtype)).decode(raw, 0)


def test_declarations_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"Tensor\(dtype='object'\): not a dtype of numbers"):
        decoder_for(Tensor((2,), "object"))
    with pytest.raises(ConfigError, match="stored as float32, not an integer dtype"):
        decoder_for(Tokens(4), "float32")
    with pytest.raises(ConfigError, match=r"Scalar\(dtype='complex64'\)"):
        decoder_for(Scalar("complex64"))
