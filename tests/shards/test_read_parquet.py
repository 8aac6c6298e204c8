"""Parquet files of other writers: the column types that a field may be stored as, keys, and nulls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import samples
from samples import jpeg

import fastload
from fastload.batch import Batch
from fastload.errors import CorruptError
from fastload.loader import DataLoader
from fastload.profile.recording import Recorded
from fastload.shards.read_parquet import RowGroup


def write(folder: Path, columns: dict[str, pa.Array], rows_per_group: int = 100, **options: Any) -> Path:
    path = folder / "part.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=rows_per_group, **options)
    return path


def read(path: Path, batch_size: int = 100, **options: Any) -> Batch:
    (batch,) = DataLoader(path, batch_size, shuffle=False, **options)
    assert isinstance(batch, Batch)
    return batch


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_bytes_columns(tmp_path: Path, kind: pa.DataType) -> None:
    values = [b"a", b"", b"ccc", b"\xff" * 1000]
    assert read(write(tmp_path, {"x": pa.array(values, kind)}))["x"] == values
    grouped = write(tmp_path, {"x": pa.array(values, kind)}, 3)
    assert [batch["x"] for batch in DataLoader(grouped, 2, shuffle=False)] == [values[:2], values[2:]]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
@pytest.mark.parametrize("dictionary", [True, False])
def test_text_columns(tmp_path: Path, kind: pa.DataType, dictionary: bool) -> None:
    values = ["a", "", "déjà", "a" * 100]
    batch = read(write(tmp_path, {"x": pa.array(values, kind)}, 3, use_dictionary=dictionary), 4)
    assert batch["x"] == values
    assert batch["__key__"] == ["part/0/0", "part/0/1", "part/0/2", "part/1/0"], "file, row group and row"


@pytest.mark.parametrize("kind", ["int8", "uint8", "int32", "int64", "uint16", "bool", "float32", "float64"])
def test_scalar_columns(tmp_path: Path, kind: str) -> None:
    values = np.array([0, 1, 1, 0, 1]).astype(kind)
    batch = read(write(tmp_path, {"x": pa.array(values)}, 2), 5)
    assert batch["x"].tolist() == values.tolist()
    assert str(batch["x"].dtype) == ("torch.float32" if kind.startswith("float") else "torch.int64")


@pytest.mark.parametrize("item", ["int32", "int64", "uint16"])
@pytest.mark.parametrize("large", [True, False])
def test_token_columns_with_empty_rows(tmp_path: Path, item: str, large: bool) -> None:
    values = [[1, 2, 3], [], [4], [5, 6]]
    kind = (pa.large_list if large else pa.list_)(pa.type_for_alias(item))
    path = write(tmp_path, {"x": pa.array(values, kind)}, 3)
    assert [row.tolist() for row in read(path, 4)["x"]] == values
    padded = read(path, 4, fields={"x": fastload.Tokens(2, pad=9)})
    assert padded["x"].tolist() == [[1, 2], [9, 9], [4, 9], [5, 6]]
    assert padded["x_length"].tolist() == [2, 0, 1, 2]


@pytest.mark.parametrize("item", ["float32", "float64"])
def test_columns_of_lists_of_floats_with_empty_rows(tmp_path: Path, item: str) -> None:
    values = [[1.5, 2], [], [-3.25]]
    rows = read(write(tmp_path, {"x": pa.array(values, pa.list_(pa.type_for_alias(item)))}))["x"]
    assert [row.tolist() for row in rows] == values
    assert str(rows[0].dtype) == f"torch.{item}"


def test_columns_of_16_bit_floats(tmp_path: Path) -> None:
    items = pa.array(np.array([1.5, 2, -3.25], np.float16))
    columns = {
        "x": items,
        "rows": pa.ListArray.from_arrays(pa.array([0, 2, 2, 3], pa.int32()), items),
        "pairs": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(6).astype(np.float16)), 2),
    }
    batch = read(write(tmp_path, columns, 2), 3)
    assert batch["x"].tolist() == [1.5, 2, -3.25]
    assert str(batch["x"].dtype) == "torch.float32"
    assert [row.tolist() for row in batch["rows"]] == [[1.5, 2], [], [-3.25]]
    assert batch["pairs"].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert str(batch["pairs"].dtype) == str(batch["rows"][0].dtype) == "torch.float16"


def test_a_column_of_empty_lists_alone(tmp_path: Path) -> None:
    for item in (pa.float32(), pa.int32()):
        rows = read(write(tmp_path, {"x": pa.array([[], []], pa.list_(item))}))["x"]
        assert [row.tolist() for row in rows] == [[], []]


@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_columns_of_arrays_of_one_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.arange(5 * np.prod(shape), dtype=np.float32).reshape(5, *shape)
    kind: pa.DataType = pa.float32()
    for size in reversed(shape):
        kind = pa.list_(kind, size)
    batch = read(write(tmp_path, {"x": pa.array(array.tolist(), kind)}, 2), 5, fields={"x": fastload.Tensor(shape)})
    assert batch["x"].numpy().tolist() == array.tolist()


def test_pictures_as_hugging_face_stores_them(tmp_path: Path) -> None:
    values = [{"bytes": jpeg(i), "path": f"{i}.jpg"} for i in range(4)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    batch = read(write(tmp_path, {"image": pa.array(values, kind)}, 3), 4, fields={"image": fastload.Image(8)})
    expected = read(samples.make(tmp_path / "d", "parquet", [4], ("image",)), 4, fields={"image": fastload.Image(8)})
    assert batch["image"].equal(expected["image"])


def test_bytes_that_lie_outside_of_the_file_are_named(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    values = [{"bytes": jpeg(0), "path": "0.jpg"}, {"bytes": None, "path": "far/1.jpg"}]
    path = write(tmp_path, {"image": pa.array(values, kind)})
    message = r"row 1 \('part/0/1'\): .*outside of the Parquet file, in 'far/1.jpg'; embed them"
    with pytest.raises(CorruptError, match=message):
        read(path, fields={"image": fastload.Image(8)})
    run = DataLoader(path, 2, shuffle=False, on_error="mask", fields={"image": fastload.Image(8)})
    assert [batch.valid.tolist() for batch in run] == [[True, False]]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["a", None, "c"]),
        pa.array([[1], None, [2]], pa.list_(pa.int32())),
        pa.array([[1.0, 2.0], None, [2.0, 3.0]], pa.list_(pa.float32(), 2)),
        pa.array([b"a", None, b"c"]),
    ],
    ids=["text", "tokens", "tensor", "bytes"],
)
def test_null_values_are_named_or_masked(tmp_path: Path, column: pa.Array) -> None:
    path = write(tmp_path, {"x": column})
    with pytest.raises(CorruptError, match=r"row 1 \('part/0/1'\): field 'x': the sample has no field 'x' \(null\)"):
        read(path)
    batch = read(path, on_error="mask")
    assert batch.valid is not None
    assert batch.valid.tolist() == [True, False, True]


@pytest.mark.parametrize("kind", ["int8", "int64", "uint64", "float16", "float32", "float64", "bool"])
def test_null_numbers_are_named_or_masked(tmp_path: Path, kind: str) -> None:
    numbers = np.array([1, 1, 0, 1, 1, 1], kind)
    column = pa.array(numbers, mask=np.array([False, False, False, True, False, True]))
    path = write(tmp_path, {"x": column, "text": pa.array([*"abcd", None, None])}, 3)
    loader = DataLoader(path, 3, shuffle=False)
    batches = iter(loader)
    assert next(batches)["x"].tolist() == [1, 1, 0], "other row groups are whole"
    message = r"part.parquet, row group 1', row 0 \('part/1/0'\): field 'x': the sample has no field 'x' \(null\)"
    with pytest.raises(CorruptError, match=message):
        next(batches)
    masking = DataLoader(path, 6, shuffle=False, on_error="mask", max_errors=3)
    (batch,) = masking
    assert isinstance(batch, Batch)
    assert batch["x"].tolist() == [1, 1, 0, 0, 0, 0]
    assert batch.valid.tolist() == [True, True, True, False, False, False]
    assert [(fault.row, fault.key, fault.field) for fault in masking.faults] == [
        (0, "part/1/0", "x"), (2, "part/1/2", "x"), (1, "part/1/1", "text")
    ]  # fmt: skip


def test_null_numbers_are_never_given_as_samples(tmp_path: Path) -> None:
    path = write(tmp_path, {"x": pa.array([1, None, 3])})
    indexed, streamed = fastload.IndexedDataset(path), fastload.StreamingDataset(path, shuffle=False)
    assert indexed[0]["x"] == 1
    message = r"row 1 \('part/0/1'\): field 'x': the sample has no field 'x' \(null\)"
    for give in (lambda: indexed[1], lambda: indexed.__getitems__([2, 1]), lambda: list(streamed)):
        with pytest.raises(CorruptError, match=message):
            give()


def test_null_numbers_are_told_again_from_memory(tmp_path: Path) -> None:
    recipe = fastload.IndexedDataset(write(tmp_path, {"x": pa.array([1, None, 3]), "y": pa.array([None, 1, 2])})).recipe
    reader, shards, rows = Recorded(recipe.reader), np.zeros(3, np.int64), np.array([2, 1, 0])
    assert reader.read(shards, rows).lacking == ((1, "x"), (2, "y"))
    reader.freeze()
    assert reader.read(shards, rows).lacking == ((1, "x"), (2, "y"))


def test_null_tokens_in_a_row_fail_that_row_alone(tmp_path: Path) -> None:
    path = write(tmp_path, {"x": pa.array([[1, 2], [3, None], [4]], pa.list_(pa.int32()))})
    batch = read(path, on_error="mask", fields={"x": fastload.Tokens(2)})
    assert batch.valid is not None
    assert batch.valid.tolist() == [True, False, True]
    assert batch["x"].tolist() == [[1, 2], [0, 0], [4, 0]]
    with pytest.raises(CorruptError, match=r"row 1 \('part/0/1'\): field 'x': the list in field 'x' has a null in it"):
        read(path)


@pytest.mark.parametrize("item", ["int32", "float32"])
def test_nulls_in_arrays_of_one_shape_fail_their_row_alone(tmp_path: Path, item: str) -> None:
    kind = pa.list_(pa.type_for_alias(item), 2)
    path = write(tmp_path, {"x": pa.array([[1, 2], None, [3, 4], [5, None]], kind)})
    batch = read(path, on_error="mask", fields={"x": fastload.Tensor((2,), item)})
    assert batch.valid is not None
    assert batch.valid.tolist() == [True, False, True, False]
    assert batch["x"].tolist() == [[1, 2], [0, 0], [3, 4], [0, 0]]


def test_only_the_declared_columns_are_read(tmp_path: Path) -> None:
    columns = {"x": pa.array([1, 2]), "big": pa.array([b"a" * 100_000] * 2)}
    path = write(tmp_path, columns, write_page_checksum=True, compression="none", use_dictionary=False)
    at = path.read_bytes().index(b"a" * 50)
    samples.flip_byte(path, at + 10)  # what is not read cannot fail
    assert read(path, fields={"x": fastload.Scalar()})["x"].tolist() == [1, 2]
    with pytest.raises(CorruptError, match="cannot be read"):
        read(path)


def test_compressed_files_of_many_pages(tmp_path: Path) -> None:
    values = [f"{i}" * 50 for i in range(2000)]
    for compression in ("zstd", "snappy", "gzip"):
        path = write(tmp_path, {"x": pa.array(values)}, 700, compression=compression, data_page_size=1000)
        assert read(path, 2000, num_workers=2)["x"] == values


@pytest.mark.parametrize("kind", [pa.binary(), pa.string()], ids=str)
def test_contents_beyond_offsets_of_32_bits_are_read(monkeypatch: pytest.MonkeyPatch, kind: pa.DataType) -> None:
    join = pa.concat_arrays

    def refusing(chunks: list[pa.Array]) -> pa.Array:
        if chunks[0].type == kind:
            raise pa.ArrowInvalid("offset overflow while concatenating arrays")
        return join(chunks)

    monkeypatch.setattr("fastload.shards.read_parquet._OFFSET_LIMIT", 20)
    monkeypatch.setattr(pa, "concat_arrays", refusing)
    column = pa.chunked_array([pa.array(["a" * 10, None], kind), pa.array(["b" * 10, ""], kind)])
    blobs = RowGroup(pa.table({"x": column}), [], ["x"], "").blobs["x"]
    assert [bytes(blobs.get(row)) for row in (0, 2, 3)] == [b"a" * 10, b"b" * 10, b""]  # type: ignore[arg-type]
    assert blobs.lacks(1)


def test_nested_contents_beyond_offsets_of_32_bits_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(*_: object, **__: object) -> pa.Table:
        raise pa.ArrowNotImplementedError("Nested data conversions not implemented for chunked array outputs")

    path = write(tmp_path, {"x": pa.array([{"bytes": b"x", "path": "x.bin"}])})
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", refusing)
    remedy = r"part.parquet, row group 0.* more than 2 GiB .*: write it again with a smaller row_group_size, such as"
    with pytest.raises(CorruptError, match=remedy):
        read(path, fields={"x": fastload.Bytes()})
