"""Text, JSON and bytes come out as they went in; what is not UTF-8 or not JSON is named."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastload.decode import Spec, decoder_for
from fastload.errors import DecodeError
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


def test_bytes_do_not_keep_the_memory_they_lay_in() -> None:
    memory = bytearray(b"abc")
    value = decoder_for(Bytes()).decode(memoryview(memory), 0)
    memory[:] = b"xyz"
    assert value == b"abc"


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
        (Json(), b"[" * 100_000, "JSON of 100000 bytes is nested too deeply"),
        (Json(), b"1" * 5000, "not JSON: Exceeds the limit"),
    ],
)
def test_errors_name_what_is_wrong(field: Text | Json, raw: bytes, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        decoder_for(field).decode(raw, 0)
