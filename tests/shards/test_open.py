"""Every way to name data gives the same index, bad names are refused by message, and foreign shards get their index."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastload.batch import Batch
from fastload.errors import ConfigError, CorruptError, FastloadError, ShardIndexError, SourceError
from fastload.loader import DataLoader
from fastload.shards.foreign import cached_idx, find_splits, natural_key
from fastload.shards.idx import Idx
from fastload.shards.index import FieldInfo, Index, IndexFile
from fastload.shards.open import expand_braces, index_folder, open_index
from fastload.shards.parquet import ParquetShardWriter
from fastload.shards.tar import TarShardWriter

TEXT = {"text": FieldInfo(kind="text")}
LABELLED = {**TEXT, "label": FieldInfo(kind="scalar", dtype="int64", classes=("no", "yes"))}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test writes into the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fastload" / "index"


def write(path: Path, samples: int = 2, fields: dict[str, FieldInfo] = TEXT) -> Path:
    """One shard, in the format that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = (TarShardWriter if path.suffix == ".tar" else ParquetShardWriter)(path, fields)
    for row in range(samples):
        scalars = {"label": row % 2} if "label" in fields else {}
        writer.add(f"{path.stem}-{row}", {"text": ("txt", b"t%d" % row)}, scalars, {})
    writer.finish()
    return path


def foreign(path: Path, samples: int = 2, fields: dict[str, FieldInfo] = TEXT) -> Path:
    """A tar as other tools leave it, without its `.idx`."""
    write(path, samples, fields)
    path.with_suffix(".idx").unlink()
    return path


def names(index: Index) -> list[str]:
    return [os.path.basename(path) for path in index.paths]


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A folder with index.json: train with two shards, val with one."""
    root = tmp_path / "packed"
    for name in ("train/s-000000.tar", "train/s-000001.tar", "val/s-000000.tar"):
        write(root / name, fields=LABELLED)
    index_folder(root)
    return root


def test_a_split_of_a_packed_folder_by_any_name(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(packed.parent)
    ways = [
        open_index(packed, "train"),
        open_index(str(packed / "index.json"), "train"),
        open_index(packed / "train"),
        open_index(packed / "train", "train"),
        open_index("packed/train"),
    ]
    expected = [str(packed / "train" / f"s-{i:06}.tar") for i in (0, 1)]
    for index in ways:
        assert list(index.paths) == expected
        assert index.idx_paths == tuple(path.replace(".tar", ".idx") for path in expected)
        assert (index.digest, index.fields) == (ways[0].digest, ways[0].fields)
        assert (index.samples, index.files[0].name) == (4, "train/s-000000.tar")


def test_shards_by_any_name(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(packed)
    expected = open_index(packed, "train")
    a, b = packed / "train/s-000000.tar", packed / "train/s-000001.tar"
    ways: list[str | Path | Sequence[str | Path]] = [
        "train/s-{000000..000001}.tar", "train/s-{000000,000001}.tar", "train/*.tar", "train/s-00000[01].tar",
        "tr?in/s-*.tar", str(packed / "train/s-{000000..000001}.tar"), [a, b], [str(a), b], ["train/*0.tar", b],
    ]  # fmt: skip
    for data in ways:
        index = open_index(data)
        assert index.paths == expected.paths
        assert index.digest == expected.digest
    assert open_index([b, a]).paths == expected.paths[::-1]
    assert open_index(b).samples == 2
    assert open_index("{train,val}/*.tar").samples == 6
    assert open_index([packed / "train", packed / "val"]).samples == 6
    assert open_index("{val,train}").samples == 6
    assert [file.name for file in open_index("*/s-000000.tar").files] == ["train/s-000000.tar", "val/s-000000.tar"]


def test_the_only_split_needs_no_name(tmp_path: Path) -> None:
    write(tmp_path / "d/s.tar")
    index_folder(tmp_path / "d")
    assert open_index(tmp_path / "d").paths == open_index(tmp_path / "d", "train").paths


def test_parquet_by_any_name(tmp_path: Path) -> None:
    root = tmp_path / "d"
    paths = [str(write(root / f"p-{number}.parquet")) for number in (2, 10, 1)]
    expected = [paths[2], paths[0], paths[1]]
    for data in (root, root / "*.parquet", str(root / "p-{1,2,10}.parquet"), expected):
        index = open_index(data)
        assert list(index.paths) == expected
        assert (index.shard_format, index.idx_paths, index.samples) == ("parquet", (), 6)
    assert index.sizes.tolist() == [2, 2, 2]


def test_files_are_sorted_as_people_count() -> None:
    assert sorted(["s-10", "s-9", "s-1", "a-2", "s-09b"], key=natural_key) == ["a-2", "s-1", "s-9", "s-09b", "s-10"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a", ["a"]),
        ("{08..11}", ["08", "09", "10", "11"]),
        ("{8..10}", ["8", "9", "10"]),
        ("a{1,3}b{x,}", ["a1bx", "a1b", "a3bx", "a3b"]),
        ("{a,b{1..2}}", ["a", "b1", "a", "b2"]),
        ("{5..5}", ["5"]),
    ],
)
def test_braces_are_written_out(pattern: str, expected: list[str]) -> None:
    assert expand_braces(pattern) == expected


@given(st.integers(0, 2000), st.integers(0, 50), st.integers(1, 6))
def test_a_range_has_every_number_at_its_width(start: int, count: int, width: int) -> None:
    found = expand_braces(f"s-{{{start:0{width}}..{start + count:0{width}}}}.tar")
    assert found == [f"s-{number:0{width}}.tar" for number in range(start, start + count + 1)]


def test_a_name_with_brackets_that_exists_is_that_file(tmp_path: Path) -> None:
    path = write(tmp_path / "odd[1]{a,b}.tar")
    assert open_index(path).paths == (str(path),)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (
            "s3://bucket/*.tar",
            ConfigError,
            r"data='s3://bucket/\*.tar': stores are not listed; write a range",
        ),
        ("https://me:pw@host/a.tar.gz?key=1", ConfigError, "^https://host/a.tar.gz is compressed and cannot be read"),
        (["no-such-scheme://a/b.tar"], ConfigError, "no-such-scheme://a/b.tar cannot be opened: Protocol not known"),
        ("no.tar", SourceError, r"/no.tar does not exist$"),
        ("no-{0..1}.tar", SourceError, r"/no-0.tar does not exist \(from 'no-{0..1}.tar'\)"),
        ("no-*.tar", SourceError, r"no file matches 'no-\*.tar' in /"),
        ("a-{3..1}.tar", ConfigError, r"the range \{3..1\} runs backwards; write \{1..3\}"),
        ("", ConfigError, "data='': pass a path as text"),
        ([], ShardIndexError, "an empty list of shards; pass at least one"),
        (7, ConfigError, "data=7: pass a path, a pattern or a list of these"),
        ([7], ConfigError, "data has 7 in its list: pass paths and patterns"),
        (b"a.tar", ConfigError, "data has 97 in its list"),
        ("photo.jpg", ConfigError, r"photo.jpg is no index.json, .tar or .parquet; make shards .* `fastload pack`"),
        ("a.tar.gz", ConfigError, r"a.tar.gz is compressed and cannot be read at any place; unpack it to a .tar first"),
        ("empty", ShardIndexError, r"empty has no index.json and no \*.tar or \*.parquet"),
    ],
)
def test_names_that_stand_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str, error: type[FastloadError], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("photo.jpg", "a.tar.gz"):
        Path(name).write_bytes(b"x")
    Path("empty").mkdir()
    with pytest.raises(error, match=message):
        open_index(data)


def test_splits_must_be_chosen_and_known(packed: Path) -> None:
    with pytest.raises(
        ShardIndexError, match=r"packed has several splits \('train', 'val'\); choose one with split=\.\.\."
    ):
        open_index(packed)
    with pytest.raises(ShardIndexError, match=r"no split 'test' in .*packed; it has 'train', 'val'"):
        open_index(packed, "test")
    with pytest.raises(ConfigError, match=r"split='val': .*/train is the split 'train'; pass .*packed instead"):
        open_index(packed / "train", "val")
    with pytest.raises(
        ConfigError, match=r"split='val': .*s-000000.tar is one file and has no splits; leave split out"
    ):
        open_index(packed / "train" / "s-000000.tar", "val")


@pytest.mark.parametrize("mark", [".fastload-pack", "train/s-000002.tar.partial", "index.json.partial"])
def test_an_unfinished_folder_is_refused(packed: Path, mark: str) -> None:
    (packed / "index.json").unlink()
    (packed / mark).touch()
    with pytest.raises(
        ShardIndexError, match=r"packed is incomplete: .* (and it goes on|pack again, or delete that file)"
    ):
        open_index(packed, "train")
    with pytest.raises(ShardIndexError, match="packed is incomplete"):
        index_folder(packed)
    if mark != "index.json.partial":  # that one is not in the split's folder
        with pytest.raises(ShardIndexError, match="is incomplete"):
            open_index(packed / "train")


def test_subfolders_of_a_foreign_folder_are_splits(tmp_path: Path) -> None:
    for name in ("train/a.tar", "train/b.tar", "val/a.tar"):
        foreign(tmp_path / "d" / name)
    assert names(open_index(tmp_path / "d", "train")) == ["a.tar", "b.tar"]
    assert names(open_index(tmp_path / "d/val")) == ["a.tar"]
    with pytest.raises(ShardIndexError, match=r"several splits \('train', 'val'\)"):
        open_index(tmp_path / "d")
    foreign(tmp_path / "d/c.tar")
    with pytest.raises(ShardIndexError, match="has shards of its own and others in train, val; keep each split in one"):
        open_index(tmp_path / "d")


def test_names_of_the_hub_are_splits(tmp_path: Path) -> None:
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        write(tmp_path / "data" / f"{name}.parquet")
    assert open_index(tmp_path / "data", "train").samples == 4
    assert open_index(tmp_path / "data", "test").samples == 2
    with pytest.raises(ShardIndexError, match=r"several splits \('test', 'train'\)"):
        open_index(tmp_path / "data")


def test_names_of_files_are_splits_in_any_one_folder(tmp_path: Path) -> None:
    for name in ("data/train-00000-of-00001", "data/test-00000-of-00001"):
        write(tmp_path / "hub" / f"{name}.parquet")
    for name in ("train-000000", "train-000001", "val"):
        write(tmp_path / "flat" / f"{name}.tar")
    assert {name: len(files) for name, files in find_splits(tmp_path / "hub").items()} == {"train": 1, "test": 1}
    assert {name: len(files) for name, files in find_splits(tmp_path / "flat").items()} == {"train": 2, "val": 1}
    write(tmp_path / "flat" / "training.tar")  # one name that says nothing
    assert list(find_splits(tmp_path / "flat")) == ["train"]
    for name in ("en/train-00000-of-00001", "en/test-00000-of-00001", "de/train-00000-of-00001"):
        write(tmp_path / "several" / f"{name}.parquet")
    assert sorted(find_splits(tmp_path / "several")) == ["de", "en/test", "en/train"]
    write(tmp_path / "folders/train/train-000000.tar")
    write(tmp_path / "folders/val/val-000000.tar")
    assert sorted(find_splits(tmp_path / "folders")) == ["train", "val"]


def test_hidden_folders_are_not_looked_into(tmp_path: Path) -> None:
    write(tmp_path / "d/a.parquet")
    write(tmp_path / "d/.cache/b.parquet")
    assert names(open_index(tmp_path / "d")) == ["a.parquet"]


def test_formats_and_fields_that_are_mixed(tmp_path: Path) -> None:
    write(tmp_path / "d/a.tar")
    write(tmp_path / "d/b.parquet")
    with pytest.raises(ShardIndexError, match=r"tar and Parquet shards mixed: .*; use fastload.Mix"):
        open_index(tmp_path / "d")
    with pytest.raises(ShardIndexError, match="tar and Parquet shards mixed"):
        index_folder(tmp_path / "d")
    write(tmp_path / "e/a.tar", fields=TEXT)
    write(tmp_path / "e/b.tar", fields=LABELLED)
    with pytest.raises(
        ShardIndexError, match=r"field 'label' is in b.tar and not in a.tar; all shards must have the same"
    ):
        open_index(tmp_path / "e")
    with pytest.raises(ShardIndexError, match=r"field 'label' is in b.tar and not in a.tar"):
        index_folder(tmp_path / "e")
    assert not (tmp_path / "e/index.json").exists()


def test_a_foreign_tar_is_scanned_once_and_again_when_it_changes(tmp_path: Path) -> None:
    tar = foreign(tmp_path / "a.tar", samples=3)
    idx = tmp_path / "a.idx"
    assert open_index(tar).samples == 3
    made = idx.stat().st_mtime_ns
    assert open_index(tar).idx_paths == (str(idx),)
    assert idx.stat().st_mtime_ns == made
    os.utime(tar, ns=(made + 10**9, made + 10**9))  # touched
    open_index(tar)
    assert idx.stat().st_mtime_ns > made
    foreign(tmp_path / "b.tar", samples=5)
    os.replace(tmp_path / "b.tar", tar)  # another size under an older date
    os.utime(tar, ns=(1, 1))
    assert open_index(tar).samples == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.idx", "a.tar"]


@pytest.mark.parametrize("shards", [[(3, 5), (4,)], [(4,), (3, 5)], [(3, 3), (4, 4)]], ids=str)
def test_tars_of_rows_of_several_lengths_hold_tokens_together(tmp_path: Path, shards: list[tuple[int, ...]]) -> None:
    for number, lengths in enumerate(shards):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as tar:
            for row, length in enumerate(lengths):
                content = io.BytesIO()
                np.save(content, np.arange(length, dtype=np.int32))
                member = tarfile.TarInfo(f"{number}-{row}.npy")
                member.size = content.tell()
                tar.addfile(member, io.BytesIO(content.getvalue()))
    assert open_index(tmp_path).fields["tensor"] == FieldInfo(kind="tokens", dtype="int32", extension="npy")
    assert open_index([tmp_path / "0.tar", tmp_path / "1.tar"]).fields["tensor"].kind == "tokens"
    (batch,) = DataLoader(tmp_path, 8, shuffle=False)
    assert isinstance(batch, Batch)
    assert [row.tolist() for row in batch["tensor"]] == [list(range(n)) for lengths in shards for n in lengths]
    assert index_folder(tmp_path).fields["tensor"].kind == "tokens"
    assert index_folder(tmp_path).fields["tensor"].kind == "tokens", "made again"


def test_where_nothing_can_be_written_the_index_goes_to_the_cache(tmp_path: Path, cache: Path) -> None:
    tar = foreign(tmp_path / "d/a.tar", samples=3)
    (tmp_path / "d/a.idx").mkdir()  # in the way, for root as well
    index = open_index(tar)
    assert index.idx_paths == (str(cached_idx(tar, tar.stat())),)
    assert [str(path) for path in cache.iterdir()] == list(index.idx_paths)
    assert Idx(index.idx_paths[0]).samples == 3
    made = os.stat(index.idx_paths[0]).st_mtime_ns
    assert open_index(tar).idx_paths == index.idx_paths
    assert os.stat(index.idx_paths[0]).st_mtime_ns == made
    other = shutil.copytree(tmp_path / "d", tmp_path / "e") / "a.tar"
    assert open_index(other).idx_paths != index.idx_paths


def test_an_idx_of_another_tool_stays_as_it_is(tmp_path: Path, cache: Path) -> None:
    """DALI's has the same name; older than its tar or newer, it is none of ours."""
    tar, idx = foreign(tmp_path / "d/a.tar", samples=3), tmp_path / "d/a.idx"
    written = tar.stat().st_mtime_ns
    for age in (10**9, -(10**9)):
        idx.write_text("v1.2 3\n1024 txt 0\n")
        os.utime(idx, ns=(written - age, written - age))
        assert open_index(tar).samples == 3
        assert open_index(tar).idx_paths == (str(cached_idx(tar, tar.stat())),)
        with pytest.raises(ShardIndexError, match=r"a.idx is none of fastload's \(DALI.*: move it"):
            index_folder(tmp_path / "d")
        assert idx.read_text() == "v1.2 3\n1024 txt 0\n"
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == ["a.idx", "a.tar"]


@pytest.mark.parametrize("left", [b"", bytes(4096)])
def test_an_idx_of_which_nothing_is_left_is_made_again(tmp_path: Path, cache: Path, left: bytes) -> None:
    tar, idx = foreign(tmp_path / "d/a.tar", samples=3), tmp_path / "d/a.idx"
    for open_again in (lambda: open_index(tar), lambda: index_folder(tmp_path / "d")):
        idx.write_bytes(left)
        open_again()
        assert Idx(str(idx)).samples == 3
    idx.write_bytes(left)  # of a finished data set
    index_folder(tmp_path / "d")
    assert open_index(tmp_path / "d").samples == 3
    assert not cache.exists()


def test_faults_of_single_files_are_named(tmp_path: Path) -> None:
    tar = foreign(tmp_path / "a.tar")
    tar.write_bytes(tar.read_bytes()[:700])
    with pytest.raises(CorruptError, match=r"a.tar"):
        open_index(tar)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]
    write(tmp_path / "b.tar")
    (tmp_path / "b.idx").write_bytes(b"ARROW1" + b"nonsense" * 100)
    with pytest.raises(
        ShardIndexError, match=r"b.idx is not an index of fastload .*; delete it and run `fastload index`"
    ):
        open_index(tmp_path / "b.tar")
    (tmp_path / "c.parquet").write_bytes(b"PAR1")
    with pytest.raises(CorruptError, match=r"c.parquet is not a whole Parquet file"):
        open_index(tmp_path / "c.parquet")


def test_an_index_is_made_for_a_foreign_folder(tmp_path: Path) -> None:
    root = tmp_path / "d"
    for number in (10, 9):
        foreign(root / f"train/s-{number}.tar", samples=number)
    foreign(root / "val/s-1.tar", samples=1)
    made = index_folder(root)
    assert IndexFile.load(root / "index.json") == made
    assert [(shard.name, shard.samples) for shard in made.shards] == [
        ("train/s-9.tar", 9), ("train/s-10.tar", 10), ("val/s-1.tar", 1),
    ]  # fmt: skip
    assert made.splits == {"train": (0, 2), "val": (2, 3)}
    assert made.fields == {"text": FieldInfo(kind="text", extension="txt")}
    for shard in made.shards:
        idx = Idx(str(root / shard.name.replace(".tar", ".idx")), shard.index_xxh3)
        assert (idx.samples, idx.tar_bytes, idx.tar_xxh3) == (shard.samples, shard.bytes, shard.xxh3)
    assert index_folder(str(root)) == made


def test_an_index_of_parquet_has_checksums_and_row_groups(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": list(range(5))}), tmp_path / "a.parquet", row_group_size=2)
    (shard,) = index_folder(tmp_path).shards
    assert shard.row_groups == (2, 2, 1)
    assert shard.xxh3 is not None
    assert len(shard.xxh3) == 16


@pytest.mark.parametrize("damage", ["", "{", "missing idx"])
def test_a_damaged_index_is_made_again(packed: Path, damage: str) -> None:
    before = IndexFile.load(packed / "index.json")
    if damage == "missing idx":
        (packed / "train/s-000000.idx").unlink()
    else:
        (packed / "index.json").write_text(damage)
    made = index_folder(packed)
    assert [(s.name, s.samples, s.bytes, s.xxh3) for s in made.shards] == [
        (s.name, s.samples, s.bytes, s.xxh3) for s in before.shards
    ]
    assert open_index(packed, "val").samples == 2


def test_a_repair_keeps_what_is_whole(packed: Path) -> None:
    before = IndexFile.load(packed / "index.json")
    a, b = packed / "train/s-000000.idx", packed / "train/s-000001.idx"
    kept, lost = a.stat().st_mtime_ns, b.read_bytes()
    b.write_bytes(lost[:-1])
    assert index_folder(packed) == before
    assert (a.stat().st_mtime_ns, b.read_bytes()) == (kept, lost)
    a.write_bytes(lost)  # whole, but of another tar
    assert index_folder(packed) == before
    assert a.read_bytes() != lost


def test_a_repair_that_would_change_a_field_is_refused(tmp_path: Path) -> None:
    fields = {"text": FieldInfo(kind="text"), "weight": FieldInfo(kind="scalar", dtype="float64")}
    (tmp_path / "d").mkdir()
    writer = TarShardWriter(tmp_path / "d/a.tar", fields)
    writer.add("k", {"text": ("txt", b"x")}, {"weight": 0.5}, {})
    shard = writer.finish()
    made = IndexFile(shard_format="tar", fields=writer.fields, shards=(shard,), splits={"train": (0, 1)})
    made.save(tmp_path / "d")
    content = (tmp_path / "d/index.json").read_bytes()
    assert index_folder(tmp_path / "d").fields["weight"].kind == "scalar"
    (tmp_path / "d/a.idx").unlink()
    with pytest.raises(
        ShardIndexError, match=r"'weight' was packed as scalar, and a scan finds json; pack again, or delete"
    ):
        index_folder(tmp_path / "d")
    assert json.loads((tmp_path / "d/index.json").read_bytes())["fields"] == json.loads(content)["fields"]
    (tmp_path / "d/index.json").unlink()
    assert index_folder(tmp_path / "d").fields["weight"].kind == "json"


def test_class_names_survive_a_new_index(packed: Path) -> None:
    whole = IndexFile.load(packed / "index.json")
    fields = {**whole.fields, "label": LABELLED["label"]}
    IndexFile(shard_format="tar", fields=fields, shards=whole.shards, splits=whole.splits).save(packed)
    assert index_folder(packed).fields["label"].classes == ("no", "yes")


def test_what_was_counted_in_shards_that_are_gone_is_not_kept(packed: Path) -> None:
    counted = {"classes": {"train": {"no": 2, "yes": 2}}}
    replace(IndexFile.load(packed / "index.json"), statistics=counted).save(packed)
    (packed / "train/s-000000.idx").unlink()
    assert index_folder(packed).statistics == counted, "all shards are those in which it was counted"
    (packed / "train/s-000001.tar").unlink()
    assert index_folder(packed).statistics == {}


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no cannot be listed: No such file or directory"):
        index_folder(tmp_path / "no")
