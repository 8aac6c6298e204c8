"""Text, JSON and bytes come out as they went in; what is not UTF-8 or not JSON is named."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastload.decode import Spec, decoder_for
from fastload.decode.base import BulkDecoder, decode_rows
from fastload.errors import ConfigError, DecodeError
from fastload.fields import Bytes, Json, Text

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.text())
def test_text_round_trip(text: str) -> None:
    raw = text.encode()
    assert decoder_for(Text()).decode(raw, 0) == text
    assert decoder_for(Text()).decode(memoryview(raw), 0) == text


@given(json_values)
def test_json_round_trip(value: Any) -> None:
    assert decoder_for(Json()).decode(memoryview(json.dumps(value).encode()), 0) == value


def test_json_may_start_with_a_byte_order_mark() -> None:
    assert decoder_for(Json()).decode(memoryview('\ufeff{"a": "\ufeffü"}'.encode()), 0) == {"a": "\ufeffü"}


def test_bytes_do_not_keep_the_memory_they_lay_in() -> None:
    memory = bytearray(b"abc")
    value = decoder_for(Bytes()).decode(memoryview(memory), 0)
    memory[:] = b"xyz"
    assert value == b"abc"


@given(st.binary(max_size=12), st.integers(1, 9))
def test_padded_bytes(content: bytes, length: int) -> None:
    decoder = decoder_for(Bytes(length))
    assert decoder.spec == Spec(shape=(length,), dtype=np.dtype(np.uint8), has_length=True)
    out = np.full(length, 255, np.uint8)
    assert decoder.decode_into(memoryview(content), out, 0) == min(length, len(content))
    assert out.tobytes() == content[:length].ljust(length, b"\0")
    assert decoder.decode(content, 0).tobytes() == content[:length]  # type: ignore[attr-defined]


@given(st.lists(st.one_of(st.none(), st.binary(max_size=12)), max_size=6), st.integers(1, 9))
def test_many_padded_rows_are_those_of_one_by_one(contents: list[bytes | None], length: int) -> None:
    decoder, count = decoder_for(Bytes(length)), len(contents)
    assert isinstance(decoder, BulkDecoder)
    out, lengths = np.full((count, length), 255, np.uint8), np.full(count, -1)
    assert decoder.decode_rows(contents, out, [0] * count, lengths) == [None] * count
    for row, content in enumerate(contents):
        expected = b"\xff" * length if content is None else content[:length].ljust(length, b"\0")
        assert out[row].tobytes() == expected
        assert lengths[row] == (-1 if content is None else min(length, len(content)))


def test_padded_bytes_of_numbers_of_a_column() -> None:
    out = np.zeros(8, np.uint8)
    assert decoder_for(Bytes(8)).decode_into(np.array([1, 256], np.int16).data, out, 0) == 4
    assert out.tolist() == [1, 0, 0, 1, 0, 0, 0, 0]
    many = np.zeros((1, 3), np.uint8)
    decode_rows(decoder_for(Bytes(3)), [np.array([1, 256], np.int16).data], many, [0])
    assert many.tolist() == [[1, 0, 0]]


def test_a_length_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Bytes\(length=0\): must be at least 1"):
        Bytes(0)


@pytest.mark.parametrize("field", [Text(), Json(), Bytes()])
def test_they_are_lists_and_have_no_row(field: Text | Json | Bytes) -> None:
    decoder = decoder_for(field)
    assert decoder.spec == Spec()
    with pytest.raises(TypeError, match="gives values for a list"):
        decoder.decode_into(b"", np.empty(1), 0)


@pytest.mark.parametrize(
    ("field", "raw", "message"),
    [
        (Text(), b"ab\xffcd", r"not UTF-8 text: byte 2 of 5 is 0xff \(invalid start byte\)"),
        (Json(), b'{"a": }', r"not JSON: Expecting value: line 1 column 7 .*; 7 bytes that start with"),
        (Json(), b"", "not JSON: Expecting value: .*; 0 bytes"),
        (Json(), b'"\xff"', r"not JSON: byte 1 of 3 is not UTF-8"),
        (Json(), '{"a": 1}'.encode("utf-16"), r"byte 0 of 18 is not UTF-8 \(invalid start byte\); convert it to UTF-8"),
        (Json(), b"[" * 100_000, "JSON of 100000 bytes is nested too deeply"),
        (Json(), b"1" * 5000, "not JSON: Exceeds the limit"),
    ],
)
def test_errors_name_what_is_wrong(field: Text | Json, raw: bytes, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        decoder_for(field).decode(raw, 0)
