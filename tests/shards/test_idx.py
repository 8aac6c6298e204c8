"""The `.idx`: to the byte, read back as it was written, and refused by message where it is damaged."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastload.errors import CorruptError, ShardIndexError, SourceError
from fastload.shards.idx import METADATA_KEY, Idx, IdxColumns, narrow, narrow_unsigned, write_idx
from fastload.shards.index import FieldInfo, ShardFile

SHARD = ShardFile(name="a.tar", samples=2, bytes=4096, xxh3="ab" * 8)
FIELDS = {
    "image": FieldInfo(kind="image", extension="jpg"),
    "label": FieldInfo(kind="scalar", dtype="int64"),
    "weight": FieldInfo(kind="scalar", dtype="float64"),
}
COLUMNS = IdxColumns(
    keys=["a/0", "ü"],
    offsets=[0, 1536],
    sizes=[1536, 1024],
    xxh3=np.array([1, 2**64 - 1], np.uint64),
    spans={"image": ([512, 0], [700, 0])},  # the second sample lacks it
    scalars={"label": [3, -4], "weight": [0.5, 2.0]},
    facts={"image.width": [640, 70000]},
)
GOLDEN_XXH3 = "907b6bc50f0b6821"
GOLDEN = (  # the file, deflated
    "eNrtVr1uE0EQHttnx4QTMgIhFxSnEwUFAgeiKEFIOJ0LJKI0pD3jte/IxT7lTolNYonHoKSMeIZ0NHkARJ2CR6BEHN/sj31eJaSk8VhzuzPf"
    "zO7M7OzK27u7b9+tEeWgdoWoQUyrdIdqVKU6ZqCSM9O7+Dpa75V4DhjM+jq+jNUx/0UK+wk+8Y/EYRqNhv5Lb+2J56fBQRKLFNJzSN1JJufr"
    "ra0NiONx+AKSH3QXfz6wfiTiHtue+NFBMBByth8Ne+ygNLAS40wM9Xb+h2TgT6GMg66IF+zT90EcHLJDL5skQi4xzDbWpfmxiAZhdpN9Px4F"
    "0mM6JZk/UT9IM2h7LN8CX6A4p+AOuAm+hO4MnIFf6RrFf/IcQ5lr/FDrmG6DZVZPj6NeFtKZsit5+HxR8wr7eAWfGlgFr6Q6uCaRMn0v7NMs"
    "+FQ5Bq4Pn2Ou9uBcnHxuX9zDncUVi+EAgYGOYMs2mzf6jPr9VMjovmqfOL86Lh65HXj+g/sT4+f86lrxmEYfhcrZkTnz2hfXxMO4iYT7tk4r"
    "8vw4d96nQfelvCIjb+j+p6odI64M7YsJZEfq+B41ywRvk/cDfZNcuRJVHOmfkKFVyO7sTr0pqTtYpjndo+vJ1WOjcJakYyxS07J7bOFG1jWg"
    "loW3LP+2hbct/46Fdyx8x8KNbPLes/A9a//QwkNrfXP/ypbd/5ZNz5hzCp61vp0XwVphdNTbSrqvmMyC53qs/C46X742x/EJeHK3JP1M3Vx0"
    "ZU12YkP3jUOb+D6i+Tu+U1ELeHr9ZCHy5fu/fP+X7/+/3v8Qim35n+ovOeNajg=="
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A written `.idx`."""
    write_idx(tmp_path / "a.idx", COLUMNS, SHARD, FIELDS)
    return tmp_path / "a.idx"


def check_content(idx: Idx) -> None:
    assert (idx.samples, idx.tar_bytes, idx.tar_xxh3) == (2, 4096, "ab" * 8)
    assert idx.fields == FIELDS
    assert idx.numbers == ["label", "weight", "image.width"]
    assert [idx.key(0), idx.key(1)] == ["a/0", "ü"]
    assert idx.keys(np.array([1, 0, 1])) == ["ü", "a/0", "ü"]
    assert idx.offsets.tolist() == [0, 1536]
    assert idx.sizes.tolist() == [1536, 1024]
    assert idx.xxh3.tolist() == [1, 2**64 - 1]
    stored = {name: (column.dtype.name, column.tolist()) for name in COLUMN_DTYPES if len(column := idx.column(name))}
    assert stored == COLUMN_DTYPES
    assert "label" in idx
    assert "other" not in idx


COLUMN_DTYPES = {
    "size": ("uint32", [1536, 1024]),
    "image.offset": ("uint32", [512, 0]),
    "image.length": ("uint32", [700, 0]),
    "label": ("int8", [3, -4]),
    "weight": ("float64", [0.5, 2.0]),
    "image.width": ("int32", [640, 70000]),
}


def test_what_is_written_is_golden(path: Path) -> None:
    assert write_idx(path, COLUMNS, SHARD, FIELDS) == GOLDEN_XXH3
    assert path.read_bytes() == zlib.decompress(base64.b64decode(GOLDEN))
    assert [file.name for file in path.parent.iterdir()] == ["a.idx"]


def test_what_was_written_once_is_read_for_ever(tmp_path: Path) -> None:
    (tmp_path / "old.idx").write_bytes(zlib.decompress(base64.b64decode(GOLDEN)))
    check_content(Idx(str(tmp_path / "old.idx"), GOLDEN_XXH3))


def test_any_tool_for_arrow_reads_it(path: Path) -> None:
    table = pa.ipc.open_file(path).read_all()
    assert table.column("key").to_pylist() == ["a/0", "ü"]
    assert json.loads(table.schema.metadata[METADATA_KEY])["version"] == 1


def test_a_shard_without_samples(tmp_path: Path) -> None:
    empty = IdxColumns(keys=[], offsets=[], sizes=[], xxh3=[], spans={"image": ([], [])}, scalars={}, facts={})
    write_idx(tmp_path / "e.idx", empty, SHARD._replace(samples=0), {"image": FIELDS["image"]})
    idx = Idx(str(tmp_path / "e.idx"))
    assert (idx.samples, idx.keys(np.array([], np.int64)), idx.offsets.tolist()) == (0, [], [])


def test_offsets_beyond_4_gib_are_kept(tmp_path: Path) -> None:
    far = replace(COLUMNS, offsets=[0, 5 << 40], sizes=[5 << 32, 1024], spans={"image": ([512, 512], [5 << 32, 1])})
    write_idx(tmp_path / "f.idx", far, SHARD, FIELDS)
    idx = Idx(str(tmp_path / "f.idx"))
    assert idx.offsets.tolist() == [0, 5 << 40]
    assert idx.sizes.tolist() == [5 << 32, 1024]
    assert idx.column("image.length").tolist() == [5 << 32, 1]


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5))
def test_narrow_keeps_every_number_in_the_narrowest_type(values: list[int]) -> None:
    stored = narrow(np.array(values, np.int64))
    assert stored.tolist() == values
    if stored.dtype != np.int8:
        half = np.iinfo(f"int{stored.dtype.itemsize * 4}")
        assert any(not half.min <= value <= half.max for value in values)


def test_narrow_leaves_floats_and_booleans() -> None:
    assert narrow([0.5]).dtype == np.float64
    assert narrow([True]).dtype == np.bool_


@given(st.lists(st.integers(0, 2**64 - 1), max_size=5))
def test_narrow_unsigned_widens_only_above_4_gib(values: list[int]) -> None:
    stored = narrow_unsigned(np.array(values, np.uint64))
    assert stored.tolist() == values
    assert stored.dtype == (np.uint64 if max(values, default=0) >= 2**32 else np.uint32)


def test_a_field_that_clashes_with_a_column_is_refused(tmp_path: Path) -> None:
    clash = replace(COLUMNS, scalars={"size": [1, 2]})
    with pytest.raises(ShardIndexError, match="the field 'size' clashes with a column of the index; rename the field"):
        write_idx(tmp_path / "a.idx", clash, SHARD, {"size": FIELDS["label"]})


def test_a_missing_idx(tmp_path: Path) -> None:
    with pytest.raises(ShardIndexError, match=r"no.idx is missing; make it again with `fastload index`"):
        Idx(str(tmp_path / "no.idx"))


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "d.idx").mkdir()
    with pytest.raises(SourceError, match=r"d.idx cannot be read"):
        Idx(str(tmp_path / "d.idx"))


@pytest.mark.parametrize("keep", [0, 1, 8, 100, 1000, -200, -10, -1])
def test_a_truncated_idx_is_refused(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        ShardIndexError, match=r"a.idx is not an index of fastload .*; delete it and run `fastload index`"
    ):
        Idx(str(path))


def test_other_files_are_refused(path: Path) -> None:
    path.write_bytes(b"not an index" * 100)
    with pytest.raises(ShardIndexError, match=r"a.idx is not an index of fastload"):
        Idx(str(path))
    with pa.ipc.new_file(path, schema := pa.schema([("key", pa.string())])) as writer:
        writer.write_batch(pa.record_batch([pa.array(["a"])], schema=schema))
    with pytest.raises(ShardIndexError, match=r"a.idx is not an index of fastload"):
        Idx(str(path))


def test_rows_that_are_not_its_samples_are_refused(path: Path) -> None:
    write_idx(path, COLUMNS, SHARD._replace(samples=3), FIELDS)
    with pytest.raises(ShardIndexError, match=r"a.idx is not an index of fastload \(2 rows for 3 samples\)"):
        Idx(str(path))


def test_a_newer_version_is_refused(path: Path) -> None:
    table = pa.ipc.open_file(path).read_all()
    about = json.loads(table.schema.metadata[METADATA_KEY]) | {"version": 2}
    newer = table.replace_schema_metadata({METADATA_KEY: json.dumps(about)})
    with pa.ipc.new_file(path, newer.schema) as writer:
        writer.write_table(newer)
    with pytest.raises(ShardIndexError, match=r"a.idx has version 2; this fastload reads up to 1: install a newer"):
        Idx(str(path))


def test_every_flipped_byte_is_found_by_the_checksum(path: Path) -> None:
    content = path.read_bytes()
    for place in range(0, len(content), 97):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(
            CorruptError, match=f"a.idx is not the file that index.json describes: checksum {GOLDEN_XXH3}"
        ):
            Idx(str(path), GOLDEN_XXH3)


def test_bits_that_flip_are_errors_or_other_numbers(tmp_path: Path) -> None:
    """Of a file that no index.json vouches for: nothing is read outside of it, nothing else is raised."""
    write_idx(tmp_path / "a.idx", COLUMNS, SHARD, FIELDS)
    content = (tmp_path / "a.idx").read_bytes()
    failed = 0
    for at in range(0, 8 * len(content), 7):
        flipped = bytearray(content)
        flipped[at // 8] ^= 1 << at % 8
        try:
            idx = Idx("a.idx", content=pa.py_buffer(bytes(flipped)))
        except ShardIndexError:
            failed += 1
            continue
        assert sum(len(column) for column in (idx.offsets, idx.sizes, idx.xxh3)) == 3 * idx.samples
        assert idx.numbers is not None
        for column in (idx.offsets, idx.sizes, idx.xxh3):
            column.sum()
    assert failed > 100
