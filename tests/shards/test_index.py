"""index.json to the byte, what is refused of it by message, and the numbering of shards as arithmetic."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastload.errors import ShardIndexError
from fastload.fields import Audio, Bytes, Image, Json, Scalar, Tensor, Text, Tokens
from fastload.shards.index import FieldInfo, Index, IndexFile, Kind, ShardFile, idx_path, join, merge_fields

IMAGE = FieldInfo(kind="image", extension="jpg")
LABEL = FieldInfo(kind="scalar", dtype="int64", classes=("cat", "Hündin"), extension="cls")
WHOLE = IndexFile(
    shard_format="tar",
    fields={"image": IMAGE, "label": LABEL},
    shards=(
        ShardFile(name="train/shard-000000.tar", samples=3, bytes=10240, xxh3="00" * 8, index_xxh3="0f" * 8),
        ShardFile(name="val/shard-000000.tar", samples=1, bytes=4096, xxh3="11" * 8, index_xxh3="1f" * 8),
    ),
    splits={"train": (0, 1), "val": (1, 2)},
    statistics={"classes": {"train": {"cat": 3}}},
    packed={"source": "photos"},
)
GOLDEN = """{
 "format": "fastload",
 "version": 1,
 "shard_format": "tar",
 "fields": {
  "image": {
   "kind": "image",
   "extension": "jpg"
  },
  "label": {
   "kind": "scalar",
   "dtype": "int64",
   "classes": [
    "cat",
    "Hündin"
   ],
   "extension": "cls"
  }
 },
 "splits": {
  "train": {
   "samples": 3,
   "shards": [
    0,
    1
   ]
  },
  "val": {
   "samples": 1,
   "shards": [
    1,
    2
   ]
  }
 },
 "shards": [
  {
   "name": "train/shard-000000.tar",
   "samples": 3,
   "bytes": 10240,
   "xxh3": "0000000000000000",
   "index_xxh3": "0f0f0f0f0f0f0f0f"
  },
  {
   "name": "val/shard-000000.tar",
   "samples": 1,
   "bytes": 4096,
   "xxh3": "1111111111111111",
   "index_xxh3": "1f1f1f1f1f1f1f1f"
  }
 ],
 "statistics": {
  "classes": {
   "train": {
    "cat": 3
   }
  }
 },
 "packed": {
  "source": "photos"
 }
}
"""


def parquet_index(*row_groups: tuple[int, ...]) -> Index:
    files = tuple(
        ShardFile(name=f"p{i}.parquet", samples=sum(rows), bytes=1, row_groups=rows)
        for i, rows in enumerate(row_groups)
    )
    return Index(shard_format="parquet", fields={}, files=files, paths=tuple(f"/d/{file.name}" for file in files))


def test_index_json_is_golden_and_round_trips(tmp_path: Path) -> None:
    assert WHOLE.to_bytes().decode() == GOLDEN
    WHOLE.save(tmp_path)
    assert IndexFile.load(tmp_path / "index.json") == WHOLE
    assert [path.name for path in tmp_path.iterdir()] == ["index.json"]


names = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from('"\\{}[],: \n')), max_size=20)
shard_files = st.builds(
    ShardFile,
    name=st.one_of(names, st.sampled_from(['"row_groups": [1]', "},\n   {", '\n "shards": []', "größe"])),
    samples=st.integers(0, 2**40),
    bytes=st.integers(0, 2**40),
    xxh3=st.one_of(st.none(), st.just("0f" * 8), names),
    row_groups=st.lists(st.integers(0, 9), max_size=3).map(tuple),
)


@given(st.lists(shard_files, max_size=6), names)
def test_shards_are_written_as_json_writes_all_of_it(shards: list[ShardFile], name: str) -> None:
    """To the byte, whatever is in names; 2 entries at a time, so that pieces are joined too."""
    about = {"shards": [], name: [{"shards": []}]}
    whole = replace(WHOLE, shards=tuple(shards), splits={"train": (0, len(shards))}, statistics=about, packed=about)
    plain = json.loads(whole.to_bytes())
    assert plain["shards"] == [shard.to_json() for shard in shards]
    expected = (json.dumps(plain, indent=1, ensure_ascii=False) + "\n").encode()
    with pytest.MonkeyPatch.context() as patch:
        for entries in (4096, 2):
            patch.setattr("fastload.shards.index._ENTRIES", entries)
            assert whole.to_bytes() == expected


def test_parquet_row_groups_round_trip() -> None:
    shard = ShardFile(name="a.parquet", samples=5, bytes=9, xxh3="ab" * 8, row_groups=(2, 3))
    whole = replace(WHOLE, shard_format="parquet", shards=(shard,), splits={"train": (0, 1)})
    assert IndexFile.from_bytes(whole.to_bytes(), "x") == whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "x is not an index of fastload; make one with `fastload index`"),
        ({"version": 2}, "x has version 2; this fastload reads up to 1: install a newer fastload"),
        ({"version": None}, r"x is damaged \(TypeError"),
        ({"shard_format": "zip"}, "unknown shard_format 'zip'"),
        ({"fields": {"a": {"kind": "video"}}}, "unknown kind 'video'"),
        ({"fields": {"a": {}}}, r"x is damaged \(KeyError: 'kind'\); make it again with `fastload index`"),
        ({"shards": [{"name": "a"}]}, r"x is damaged \(KeyError: 'samples'\)"),
        ({"splits": {"train": {"shards": [0, 3]}}}, "split 'train' is shards 0 to 3 of 2"),
        ({"splits": {"train": {"shards": [0]}}}, r"x is damaged \(IndexError"),
    ],
)
def test_a_wrong_part_is_named(change: dict[str, object], message: str) -> None:
    content = json.dumps(json.loads(WHOLE.to_bytes()) | change).encode()
    with pytest.raises(ShardIndexError, match=message):
        IndexFile.from_bytes(content, "x")


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", WHOLE.to_bytes()[:-100]])
def test_what_is_not_a_whole_index_is_refused(content: bytes) -> None:
    with pytest.raises(ShardIndexError, match=r"x is (damaged|not an index of fastload)"):
        IndexFile.from_bytes(content, "x")


def test_a_missing_index_says_why_that_may_be(tmp_path: Path) -> None:
    with pytest.raises(
        ShardIndexError, match=r"index.json does not exist: packing was not finished, or this is another"
    ):
        IndexFile.load(tmp_path / "index.json")


def test_a_split_has_its_files_with_their_paths() -> None:
    val = WHOLE.split("val", "/data")
    assert val.files == WHOLE.shards[1:]
    assert val.paths == ("/data/val/shard-000000.tar",)
    assert val.idx_paths == ("/data/val/shard-000000.idx",)
    assert (val.samples, WHOLE.samples("train")) == (1, 3)
    with pytest.raises(ShardIndexError, match=r"no split 'test' in /data; it has 'train', 'val'"):
        WHOLE.split("test", "/data")


def test_idx_path_stands_beside_the_tar() -> None:
    assert idx_path("a/b.c.tar") == "a/b.c.idx"


@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4).map(tuple), min_size=1, max_size=5))
def test_row_groups_are_numbered_file_by_file(row_groups: list[tuple[int, ...]]) -> None:
    index = parquet_index(*row_groups)
    expected = [(file, group, rows) for file, groups in enumerate(row_groups) for group, rows in enumerate(groups)]
    found = zip(index.file_of_shard.tolist(), index.row_group_of_shard.tolist(), index.sizes.tolist(), strict=True)
    assert list(found) == expected
    assert index.offsets.tolist() == [0, *np.cumsum(index.sizes).tolist()]
    assert index.samples == sum(map(sum, row_groups))


def test_errors_call_a_row_group_by_file_and_number() -> None:
    assert parquet_index((1,), (2, 3)).shard_name(2) == "p1.parquet, row group 1"
    assert WHOLE.split("val", "/d").shard_name(0) == "val/shard-000000.tar"


def test_the_digest_is_of_the_samples_and_not_of_the_place() -> None:
    train = WHOLE.split("train", "/a")
    assert train.digest == WHOLE.split("train", "/b").digest == "60c256ea2ddc54ae"  # saved states name it
    (file,) = train.files
    for other in (file._replace(samples=4), file._replace(xxh3="22" * 8), file._replace(name="train/other.tar")):
        assert replace(train, files=(other,)).digest != train.digest
    assert replace(train, files=(file._replace(name="elsewhere/shard-000000.tar"),)).digest == train.digest


def test_every_kind_has_its_default_declaration() -> None:
    expected: dict[Kind, object] = {
        "image": Image(), "audio": Audio(), "text": Text(), "tokens": Tokens(), "tensor": Tensor((2,), "int8"),
        "scalar": Scalar(), "json": Json(), "bytes": Bytes(),
    }  # fmt: skip
    for kind, field in expected.items():
        info = FieldInfo(
            kind=kind, dtype="int8" if kind == "tensor" else None, shape=(2,) if kind == "tensor" else None
        )
        assert info.default_field() == field


def test_joined_indexes_keep_their_order() -> None:
    a, b = WHOLE.split("train", "/a"), WHOLE.split("val", "/b")
    both = join([b, a])
    assert both.paths == ("/b/val/shard-000000.tar", "/a/train/shard-000000.tar")
    assert both.idx_paths == ("/b/val/shard-000000.idx", "/a/train/shard-000000.idx")
    assert both.offsets.tolist() == [0, 1, 4]


def test_indexes_that_cannot_be_joined() -> None:
    tar = WHOLE.split("train", "/a")
    with pytest.raises(ShardIndexError, match="an empty list of shards; pass at least one"):
        join([])
    with pytest.raises(ShardIndexError, match=r"cannot join tar and parquet shards; use fastload.Mix"):
        join([tar, parquet_index((1,))])
    fewer = replace(tar, fields={"image": IMAGE}, paths=("/b/x.tar",))
    for pair in ([tar, fewer], [fewer, tar]):  # whichever comes first
        with pytest.raises(ShardIndexError, match=r"'label' is in /a/train/shard-000000.tar and not in /b/x.tar"):
            join(pair)


def scalar(dtype: str) -> FieldInfo:
    return FieldInfo(kind="scalar", dtype=dtype)


def array(dtype: str, *shape: int) -> FieldInfo:
    return FieldInfo(kind="tensor", dtype=dtype, shape=shape or None)


@pytest.mark.parametrize(
    ("one", "other", "merged"),
    [
        (LABEL, LABEL, LABEL),
        (LABEL, replace(LABEL, classes=None), LABEL),
        (replace(LABEL, classes=None), LABEL, LABEL),
        (scalar("int32"), scalar("int64"), scalar("int64")),
        (scalar("uint8"), scalar("int8"), scalar("int16")),
        (scalar("float32"), scalar("float64"), scalar("float64")),
        (IMAGE, FieldInfo(kind="image", extension="png"), FieldInfo(kind="image")),
        (array("float32", 2), array("float32", 3), array("float32")),
        (array("int8", 2, 2), array("int8", 3), array("int8")),
        (array("int8", 2), array("int8", 3), FieldInfo(kind="tokens", dtype="int8")),
        (array("int32", 2), array("int64", 3), array("int64")),
        (array("int8", 2), FieldInfo(kind="tokens", dtype="int8"), FieldInfo(kind="tokens", dtype="int8")),
        (FieldInfo(kind="tokens", dtype="int8"), array("uint16", 2), FieldInfo(kind="tokens")),
        (FieldInfo(kind="tokens", dtype="int32"), FieldInfo(kind="tokens", dtype="int64"), FieldInfo(kind="tokens")),
    ],
)  # fmt: skip
def test_fields_that_fit_are_merged(one: FieldInfo, other: FieldInfo, merged: FieldInfo) -> None:
    assert merge_fields("tar", [("a", {"x": one}), ("b", {"x": other})]) == {"x": merged}


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (IMAGE, LABEL, r"'x' has another kind \(scalar, not image\) in b, unlike a"),
        (LABEL, replace(LABEL, classes=("dog",)), "'x' has other classes in b, unlike a; pack them as one"),
        (scalar("int64"), scalar("float32"), "'x' is float32, not int64, in b, unlike a"),
        (scalar("bool"), scalar("int64"), "'x' is int64, not bool, in b, unlike a"),
        (scalar("uint64"), scalar("int64"), "'x' is int64, not uint64, in b, unlike a"),  # only float64 holds both
    ],
)
def test_fields_that_do_not_fit_are_named(one: FieldInfo, other: FieldInfo, message: str) -> None:
    with pytest.raises(ShardIndexError, match=message):
        merge_fields("tar", [("a", {"x": one}), ("b", {"x": other})])


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_rows_of_integers_beside_matrices_are_tensors_in_any_order(order: tuple[int, ...]) -> None:
    infos = [array("int8", 2), array("int8", 3), array("int8", 2, 2)]
    assert merge_fields("tar", [(str(i), {"x": infos[i]}) for i in order]) == {"x": array("int8")}


def test_tokens_and_arrays_of_floats_are_refused() -> None:
    for other in (array("float32", 2), array("int8", 2, 2), array("int8")):
        with pytest.raises(ShardIndexError, match=r"'x' has another kind \(tensor, not tokens\) in b"):
            merge_fields("tar", [("a", {"x": FieldInfo(kind="tokens", dtype="int8")}), ("b", {"x": other})])


def test_tokens_of_two_dtypes_are_refused_in_parquet() -> None:
    parts = [("a", {"x": FieldInfo(kind="tokens", dtype=dtype)}) for dtype in ("int32", "int64")]
    with pytest.raises(ShardIndexError, match="'x' is int64 in a and int32 in a; cast one"):
        merge_fields("parquet", parts)
