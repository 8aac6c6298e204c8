"""Arrow arrays made from buffers are those that pyarrow makes, in files too."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fastload.shards.arrays import numbers, strings, to_numpy

TYPES = ("int8", "int16", "int32", "int64", "uint8", "uint32", "uint64", "float32", "float64", "bool")


def in_file(array: pa.Array) -> bytes:
    sink = pa.BufferOutputStream()
    schema = pa.schema([pa.field("a", array.type, nullable=False)])
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch([array], schema=schema))
    return bytes(sink.getvalue())


@settings(deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=12), max_size=40))
def test_strings(values: list[str]) -> None:
    expected = pa.array(values, pa.string())
    found = strings(values)
    found.validate(full=True)
    assert found.equals(expected)
    assert in_file(found) == in_file(expected)


@settings(deadline=None)
@given(st.sampled_from(TYPES).flatmap(lambda dtype: arrays.arrays(dtype, st.integers(0, 40))), st.integers(1, 3))
def test_numbers(values: np.ndarray, step: int) -> None:
    values = values[::step]
    expected = pa.array(values)
    found = numbers(values)
    found.validate(full=True)
    assert found.type == expected.type
    assert in_file(found) == in_file(expected)


@settings(deadline=None)
@given(st.sampled_from(TYPES).flatmap(lambda dtype: arrays.arrays(dtype, st.integers(0, 40))), st.data())
def test_back_to_numpy(values: np.ndarray, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(values)))
    array = pa.array(values)[start : data.draw(st.integers(start, len(values)))]
    expected = array.to_numpy(zero_copy_only=False)
    found = to_numpy(array)
    assert found.dtype == expected.dtype
    assert found.tobytes() == expected.tobytes()
    assert not found.flags.writeable


@pytest.mark.parametrize("array", [pa.array([1, None]), pa.array(["a"]), pa.array([b"a"])])
def test_what_numpy_has_not_is_refused(array: pa.Array) -> None:
    with pytest.raises(ValueError, match="pass numbers without nulls"):
        to_numpy(array)
