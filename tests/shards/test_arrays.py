"""Arrow arrays made from buffers are those that pyarrow makes, in files too; and pandas is not imported for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fastload.shards.arrays import numbers, strings

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


WITHOUT_PANDAS = """
import sys
from fastload.pack import pack
pack(sys.argv[1], sys.argv[2], workers=1)
assert "pandas" not in sys.modules and "torch" not in sys.modules
"""


def test_packing_imports_no_pandas(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / "texts" / label).mkdir(parents=True)
        (tmp_path / "texts" / label / "1.txt").write_text("one")
    subprocess.run([sys.executable, "-c", WITHOUT_PANDAS, str(tmp_path / "texts"), str(tmp_path / "out")], check=True)
