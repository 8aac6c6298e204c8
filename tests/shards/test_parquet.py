"""Parquet shards: what is written comes back, `datasets` is told what it is, and files of others are described."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastload.errors import CorruptError, PackError, ShardIndexError, SourceError
from fastload.loader import DataLoader
from fastload.shards.features import ENCODED
from fastload.shards.index import FieldInfo, Index, ShardFile
from fastload.shards.parquet import ParquetShardWriter, scan_parquet
from fastload.shards.parquetscan import fact_names, hash_file, open_parquet
from fastload.shards.read_parquet import ParquetReader

FIELDS = {
    "image": FieldInfo(kind="image"),
    "sound": FieldInfo(kind="audio"),
    "label": FieldInfo(kind="scalar", dtype="int64", classes=("cat", "Hündin")),
    "weight": FieldInfo(kind="scalar", dtype="float32"),
    "good": FieldInfo(kind="scalar", dtype="bool"),
    "caption": FieldInfo(kind="text"),
    "meta": FieldInfo(kind="json"),
    "tokens": FieldInfo(kind="tokens", dtype="int32"),
    "vector": FieldInfo(kind="tensor", dtype="float32", shape=(2,)),
    "blob": FieldInfo(kind="bytes"),
}
FEATURES = {
    "__key__": {"dtype": "string", "_type": "Value"},
    "image": {"_type": "Image"},
    "sound": {"_type": "Audio"},
    "label": {"names": ["cat", "Hündin"], "_type": "ClassLabel"},
    "weight": {"dtype": "float32", "_type": "Value"},
    "good": {"dtype": "bool", "_type": "Value"},
    "caption": {"dtype": "string", "_type": "Value"},
    "meta": {"dtype": "string", "_type": "Value"},
    "tokens": {"feature": {"dtype": "int32", "_type": "Value"}, "_type": "Sequence"},
    "vector": {"dtype": "binary", "_type": "Value"},
    "blob": {"dtype": "binary", "_type": "Value"},
    "image.width": {"dtype": "int64", "_type": "Value"},
}
SAMPLES = 25


def npy(array: npt.NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def contents(row: int) -> dict[str, tuple[str, bytes]]:
    return {
        "image": ("jpg", b"\xff\xd8\xff" + bytes([row]) * 300),
        "sound": ("flac", b"fLaC" + bytes([row])),
        "caption": ("txt", f"größe {row}".encode()),
        "meta": ("json", b'{"row": %d}' % row),
        "tokens": ("npy", npy(np.arange(row, dtype=np.int64))),
        "vector": ("npy", npy(np.array([row, -1], np.float32))),
        "blob": ("", bytes(row)),
    }


def write(path: Path, row_group_bytes: int = 4096) -> ShardFile:
    writer = ParquetShardWriter(path, FIELDS, row_group_bytes=row_group_bytes)
    for row in range(SAMPLES):
        given = contents(row)
        if row == 7:
            del given["image"], given["tokens"]
        scalars = {"label": row % 2, "weight": row / 2, "good": row % 3 == 0}
        writer.add(f"a/{row:03}", given, scalars, {"image.width": 640 + row})
    return writer.finish()


def column_paths(path: Path) -> dict[str, Any]:
    group = pq.read_metadata(path).row_group(0)
    return {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}


def foreign(path: Path, table: pa.Table, features: dict[str, Any] | None = None) -> Path:
    metadata = None if features is None else {b"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return path


def test_what_is_written_comes_back_through_pyarrow(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    rows = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert len(rows) == SAMPLES
    assert rows[3] == {
        "__key__": "a/003",
        "image": {"bytes": contents(3)["image"][1], "path": "a/003.jpg"},
        "sound": {"bytes": b"fLaC\x03", "path": "a/003.flac"},
        "label": 1,
        "weight": 1.5,
        "good": True,
        "caption": "größe 3",
        "meta": '{"row": 3}',
        "tokens": [0, 1, 2],
        "vector": contents(3)["vector"][1],
        "blob": bytes(3),
        "image.width": 643,
    }
    assert (rows[7]["image"], rows[7]["tokens"], rows[7]["label"]) == (None, None, 1)


def test_what_is_written_comes_back_through_the_reader(tmp_path: Path) -> None:
    shard = write(tmp_path / "a.parquet")
    index = Index(shard_format="parquet", fields=FIELDS, files=(shard,), paths=(str(tmp_path / "a.parquet"),))
    names = [name for name, info in FIELDS.items() if info.kind not in ("scalar", "tokens")]
    reader = ParquetReader(index, ("label",), names, capacity=2)
    shards = np.repeat(np.arange(len(shard.row_groups)), shard.row_groups)
    rows = np.concatenate([np.arange(count) for count in shard.row_groups])
    read = reader.read(shards, rows)
    assert read.keys == [f"a/{row:03}" for row in range(SAMPLES)]
    assert read.scalars["label"].tolist() == [row % 2 for row in range(SAMPLES)]
    for name, column in read.raw.items():
        found = [bytes(raw) if isinstance(raw, bytes | memoryview) else type(raw) for raw in column]
        expected = [contents(row)[name][1] for row in range(SAMPLES)]
        assert found == [CorruptError if (name, row) == ("image", 7) else expected[row] for row in range(SAMPLES)]


def test_the_result_and_the_scan_describe_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    shard = write(path)
    assert (shard.name, shard.samples, shard.bytes) == ("a.parquet", SAMPLES, path.stat().st_size)
    assert shard.xxh3 == hash_file(path)
    groups = pq.read_metadata(path)
    assert shard.row_groups == tuple(groups.row_group(i).num_rows for i in range(groups.num_row_groups))
    assert len(shard.row_groups) > 2
    assert scan_parquet(path, checksum=True) == (shard, FIELDS)
    assert scan_parquet(path)[0].xxh3 is None
    assert [file.name for file in tmp_path.iterdir()] == ["a.parquet"]


def test_datasets_is_told_the_features(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    schema = pq.read_schema(tmp_path / "a.parquet")
    assert json.loads(schema.metadata[b"huggingface"]) == {"info": {"features": FEATURES}}
    assert schema.field("image").type == ENCODED
    assert schema.field("label").type == pa.int64()
    about = json.loads(schema.metadata[b"fastload"])
    assert (about["version"], about["facts"], list(about["fields"])) == (1, ["image.width"], list(FIELDS))


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "a.parquet").xxh3 == write(tmp_path / "b.parquet").xxh3
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_a_row_group_is_closed_when_it_reaches_its_size(tmp_path: Path) -> None:
    writer = ParquetShardWriter(tmp_path / "a.parquet", {"blob": FieldInfo(kind="bytes")}, row_group_bytes=1000)
    for row in range(7):
        writer.add(str(row), {"blob": ("bin", bytes(400))}, {}, {})
    assert writer.finish().row_groups == (3, 3, 1)


def test_blobs_are_stored_plain_and_text_compressed(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    columns = column_paths(tmp_path / "a.parquet")
    for name in ("image.bytes", "sound.bytes", "vector", "blob", "tokens.list.element"):
        assert columns[name].compression == "UNCOMPRESSED"
        assert not columns[name].has_dictionary_page
        assert not columns[name].is_stats_set
    for name in ("caption", "meta", "__key__"):
        assert columns[name].compression == "ZSTD"
    assert columns["label"].statistics.max == 1


def test_pages_carry_checksums(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write(path)
    content = bytearray(path.read_bytes())
    content[content.index(b"\xff\xd8\xff" + bytes([3]) * 300) + 9] ^= 1
    path.write_bytes(content)
    pq.read_table(path)  # nothing else in the file would tell
    with pytest.raises(OSError, match="CRC checksum verification failed"):
        pq.read_table(path, page_checksum_verification=True)


def test_a_shard_without_samples_keeps_its_fields(tmp_path: Path) -> None:
    shard = ParquetShardWriter(tmp_path / "e.parquet", FIELDS).finish()
    assert (shard.samples, shard.row_groups) == (0, ())
    assert scan_parquet(tmp_path / "e.parquet", checksum=True) == (shard, FIELDS)


def test_an_aborted_shard_leaves_nothing(tmp_path: Path) -> None:
    writer = ParquetShardWriter(tmp_path / "a.parquet", FIELDS, row_group_bytes=1)
    writer.add("k", contents(1), {}, {})
    assert [file.name for file in tmp_path.iterdir()] == ["a.parquet.partial"]
    writer.abort()
    assert list(tmp_path.iterdir()) == []


def test_bare_integers_are_tokens_of_the_declared_dtype(tmp_path: Path) -> None:
    writer = ParquetShardWriter(tmp_path / "a.parquet", {"t": FieldInfo(kind="tokens", dtype="uint16")})
    writer.add("k", {"t": ("bin", np.array([1, 65535], "<u2").tobytes())}, {}, {})
    writer.finish()
    assert pq.read_table(tmp_path / "a.parquet").column("t").to_pylist() == [[1, 65535]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"other": ("txt", b"")}, r"sample 'k': field 'other' is not among the declared 'image', "),
        ({"caption": ("txt", b"\xff")}, r"sample 'k': field 'caption' is not UTF-8 .*; convert it, or pack as tar"),
        ({"tokens": ("npy", npy(np.zeros(2)))}, r"'tokens': tokens are one row of integers, not float64\[2\]"),
        ({"tokens": ("npy", npy(np.zeros((2, 2), int)))}, r"one row of integers, not int64\[2, 2\]"),
        ({"tokens": ("npy", b"\x93NUMPY\x01\x00")}, r"sample 'k': field 'tokens' is not a row of tokens"),
        ({"tokens": ("bin", b"abc")}, r"sample 'k': field 'tokens' is not a row of tokens"),
    ],
)
def test_contents_that_do_not_fit_are_refused(
    tmp_path: Path, given: dict[str, tuple[str, bytes]], message: str
) -> None:
    writer = ParquetShardWriter(tmp_path / "a.parquet", FIELDS)
    with pytest.raises(PackError, match=message):
        writer.add("k", given, {}, {})
    writer.abort()


def test_names_that_clash_are_refused(tmp_path: Path) -> None:
    writer = ParquetShardWriter(tmp_path / "a.parquet", {"__key__": FieldInfo(kind="text")})
    with pytest.raises(PackError, match="the field '__key__' clashes with a column of the shard; rename the field"):
        writer.finish()
    writer.abort()


def test_facts_that_come_late_are_refused(tmp_path: Path) -> None:
    writer = ParquetShardWriter(tmp_path / "a.parquet", {"blob": FieldInfo(kind="bytes")}, row_group_bytes=1)
    writer.add("a", {"blob": ("", b"x")}, {}, {})
    with pytest.raises(PackError, match=r"facts \('blob.size',\) came after the first row group had \(\)"):
        writer.add("b", {"blob": ("", b"x")}, {}, {"blob.size": 1})
    writer.abort()


PIXELS = {"bytes": b"\x89PNG\r\n", "path": None}
SOUND = {"bytes": b"RIFF\0\0\0\0WAVE", "path": None}


@pytest.mark.parametrize(
    ("column", "feature", "expected"),
    [
        (pa.array([1], pa.int16()), None, FieldInfo(kind="scalar", dtype="int16")),
        (pa.array([0.5], pa.float32()), None, FieldInfo(kind="scalar", dtype="float32")),
        (pa.array([True]), None, FieldInfo(kind="scalar", dtype="bool")),
        (pa.array([1]), {"_type": "ClassLabel", "names": ["a", "b"]},
         FieldInfo(kind="scalar", dtype="int64", classes=("a", "b"))),
        (pa.array(["x"]), None, FieldInfo(kind="text")),
        (pa.array(["x"], pa.large_string()), None, FieldInfo(kind="text")),
        (pa.array([b"x"]), None, FieldInfo(kind="bytes")),
        (pa.array([b"x"]), {"_type": "Image"}, FieldInfo(kind="image")),
        (pa.array([[1, 2]], pa.list_(pa.int32())), None, FieldInfo(kind="tokens", dtype="int32")),
        (pa.array([[1]], pa.large_list(pa.uint8())), None, FieldInfo(kind="tokens", dtype="uint8")),
        (pa.array([[0.5]], pa.list_(pa.float64())), None, FieldInfo(kind="tensor", dtype="float64")),
        (pa.array([[1, 2]], pa.list_(pa.int8(), 2)), None, FieldInfo(kind="tensor", dtype="int8", shape=(2,))),
        (pa.array([[[1, 2]] * 3], pa.list_(pa.list_(pa.float32(), 2), 3)), None,
         FieldInfo(kind="tensor", dtype="float32", shape=(3, 2))),
        (pa.array([PIXELS], ENCODED), {"_type": "Image"}, FieldInfo(kind="image")),
        (pa.array([PIXELS], ENCODED), {"_type": "Audio", "sampling_rate": 8000}, FieldInfo(kind="audio")),
        (pa.array([PIXELS], ENCODED), None, FieldInfo(kind="image")),
        (pa.array([None, SOUND], ENCODED), None, FieldInfo(kind="audio")),
        (pa.array([{"bytes": b"RIFF\0\0\0\0WEBP", "path": None}], ENCODED), None, FieldInfo(kind="image")),
        (pa.array([{"bytes": None, "path": "a/b.MP3"}], ENCODED), None, FieldInfo(kind="audio")),
        (pa.array([{"bytes": b"?", "path": None}], ENCODED), None, FieldInfo(kind="bytes")),
    ],
)  # fmt: skip
def test_columns_of_others_are_told_apart(
    tmp_path: Path, column: pa.Array, feature: dict[str, Any] | None, expected: FieldInfo
) -> None:
    table = pa.table({"x": column, "__key__": ["k"] * len(column)})
    path = foreign(tmp_path / "f.parquet", table, None if feature is None else {"x": feature})
    shard, fields = scan_parquet(path)
    assert fields == {"x": expected}
    assert (shard.samples, shard.row_groups, shard.xxh3) == (len(column), (len(column),), None)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([{"a": 1}]),
        pa.array([0], pa.timestamp("s")),
        pa.array([[["a"]]]),
        pa.array([["a"]]),
        pa.array([[True]]),
        pa.array(["a"]).dictionary_encode(),
    ],
)
def test_a_column_that_no_field_holds_is_left_out_with_a_warning(tmp_path: Path, column: pa.Array) -> None:
    path = foreign(tmp_path / "f.parquet", pa.table({"odd": column, "label": [1]}))
    with pytest.warns(UserWarning, match=r"Parquet column 'odd' is left out: no field kind holds .*; store it as"):
        _, fields = scan_parquet(path)
    assert list(fields) == ["label"]


@pytest.mark.filterwarnings("ignore:Parquet column")
def test_a_file_with_nothing_to_read_is_refused(tmp_path: Path) -> None:
    path = foreign(tmp_path / "f.parquet", pa.table({"odd": [{"a": 1}]}))
    with pytest.raises(ShardIndexError, match=r"f.parquet has no column that can be read as a field; it has odd"):
        scan_parquet(path)


def test_columns_that_another_tool_dropped_are_no_fields(tmp_path: Path) -> None:
    fields = {"text": FieldInfo(kind="text"), "label": FieldInfo(kind="scalar", dtype="int64")}
    writer = ParquetShardWriter(tmp_path / "a.parquet", fields)
    writer.add("k", {"text": ("", b"x")}, {"label": 7}, {"text.characters": 1, "text.words": 1})
    writer.finish()
    table, path = pq.read_table(tmp_path / "a.parquet"), tmp_path / "b.parquet"
    pq.write_table(table.drop_columns(["label", "text.words"]), path)
    assert scan_parquet(path)[1] == {"text": fields["text"]}
    assert fact_names(open_parquet(path)) == ["text.characters"]
    (batch,) = DataLoader(path, 1, shuffle=False)
    assert batch == {"text": ["x"], "__key__": ["k"]}
    pq.write_table(table.select(["__key__", "text.words"]), path)
    with pytest.raises(ShardIndexError, match=r"none of its fields text, label any more, only __key__, text.wo"):
        scan_parquet(path)


@pytest.mark.parametrize("keep", [0, 3, 11, 500, -9, -5, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "a.parquet"
    write(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CorruptError, match=r"a.parquet is not a whole Parquet file .*; copy or pack it again"):
        scan_parquet(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no.parquet does not exist"):
        scan_parquet(tmp_path / "no.parquet")
    (tmp_path / "d.parquet").mkdir()
    with pytest.raises(SourceError, match=r"d.parquet cannot be read"):
        scan_parquet(tmp_path / "d.parquet")


@pytest.mark.parametrize(
    ("key", "about", "error", "message"),
    [
        (
            b"fastload",
            '{"version": 2, "fields": {}}',
            ShardIndexError,
            "f.parquet has version 2; this fastload reads up to 1",
        ),
        (b"fastload", "{}", CorruptError, r"f.parquet: the metadata under 'fastload' is damaged"),
        (b"huggingface", "[", CorruptError, r"f.parquet: the metadata under 'huggingface' is damaged"),
    ],
)
def test_metadata_that_cannot_be_read(
    tmp_path: Path, key: bytes, about: str, error: type[Exception], message: str
) -> None:
    pq.write_table(pa.table({"x": [1]}).replace_schema_metadata({key: about}), tmp_path / "f.parquet")
    with pytest.raises(error, match=message):
        scan_parquet(tmp_path / "f.parquet")
