"""Shards as a source: tars, Parquet, what fastload packed, MDS and LitData, Hugging Face's folders and objects."""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tqdm
from pack_sources import Stopped, check_alike, jpeg, photo, png, stop_after, tree, wav
from test_convert import GOLDEN, check_common, edit_index, unpack

import fastload
from fastload import Cleaning
from fastload.errors import ConfigError, CorruptError, FastloadError, PackError
from fastload.pack import pack, stored
from fastload.shards.index import FieldInfo
from fastload.verify import verify

tqdm.tqdm.monitor_interval = 0  # `datasets` would start its thread, and workers then could not be forked


def stream(out: Path) -> list[dict[str, Any]]:
    return list(fastload.StreamingDataset(out, shuffle=False))


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def members(first: int, last: int) -> dict[str, bytes]:
    """Samples as WebDataset's own writer stores them."""
    return {
        f"{i:04d}.{ending}": content
        for i in range(first, last)
        for ending, content in {
            "jpg": photo(i), "mask.png": png(i), "txt": f"größe {i}".encode(), "cls": b"%d" % (i % 3),
            "json": b'{"i": %d}' % i, "npy": npy(np.full((2, 2), i, "f4")), "wav": wav(10 + i), "bin": b"BM" + b"x" * i,
        }.items()
    }  # fmt: skip


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    for shard in range(3):
        write_tar(tmp_path / "tars" / f"part-{shard}.tar", members(8 * shard, 8 * shard + 8))
    return tmp_path / "tars"


KINDS = {
    "image": "image", "mask": "image", "text": "text", "label": "scalar", "json": "json", "tensor": "tensor",
    "audio": "audio", "bytes": "bytes",
}  # fmt: skip


def check_samples(samples: list[dict[str, Any]]) -> None:
    for i, sample in enumerate(samples):
        assert sample["__key__"] == f"{i:04d}"
        assert sample["text"] == f"größe {i}"
        assert sample["label"].item() == i % 3
        assert sample["json"] == {"i": i}
        assert sample["tensor"].tolist() == [[i, i]] * 2
        assert sample["bytes"] == b"BM" + b"x" * i
        assert sample["audio"].shape[-1] == 10 + i
        assert sample["image"].shape == (3, 150, 200)
        assert int(sample["mask"][0, 0, 0]) == i
    assert len(samples) == 24


@pytest.mark.parametrize("shard_format", ["tar", "parquet"])
def test_tars_are_packed_anew_and_again(tars: Path, tmp_path: Path, shard_format: Any) -> None:
    index = pack(tars, tmp_path / "out", format=shard_format, shuffle=False, workers=1, shard_size="60KB")
    assert {name: info.kind for name, info in index.fields.items()} == KINDS
    assert index.statistics["jpeg"]["train"]["seekable"] == 24
    check_samples(stream(tmp_path / "out"))
    again = pack(tmp_path / "out", tmp_path / "again", shuffle=False, workers=1)
    assert {name: info.kind for name, info in again.fields.items()} == KINDS
    assert len(again.shards) == 1
    check_samples(stream(tmp_path / "again"))


def test_tars_of_many_samples_are_read_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tar(tmp_path / "all.tar", members(0, 24))
    monkeypatch.setattr(stored, "_TAR_ROWS", 7)
    pack(tmp_path / "all.tar", tmp_path / "out", shuffle=False, workers=1)
    check_samples(stream(tmp_path / "out"))


def test_any_number_of_workers_writes_the_same_and_a_killed_run_goes_on(tars: Path, tmp_path: Path) -> None:
    def run(out: Path, **options: Any) -> None:
        pack(tars, out, **options)

    check_alike(run, tmp_path / "tar", shard_size="100KiB", split="train=0.6,val=0.4")

    def from_mds(out: Path, **options: Any) -> None:
        pack(unpack("mds", tmp_path / "mds"), out, **options)

    check_alike(from_mds, tmp_path / "mds_out", shard_size="4KiB")


def test_files_patterns_and_splits(tars: Path, tmp_path: Path) -> None:
    def keys(source: Path, name: str) -> list[str]:
        pack(source, tmp_path / name, workers=1, shuffle=False, columns="text")
        return [sample["__key__"] for sample in stream(tmp_path / name)]

    expected = [f"{i:04d}" for i in range(24)]
    assert keys(tars / "part-1.tar", "a") == expected[8:16]
    assert keys(tars / "part-{2..2}.tar", "b") == expected[16:]
    assert keys(tars / "part-[01].tar", "c") == expected[:16]
    packed = pack(tars, tmp_path / "both", split="a=0.5,b=0.5", workers=1)
    assert len(keys(tmp_path / "both" / "b", "d")) == packed.samples("b")
    with pytest.raises(PackError, match=r"both has the splits 'a', 'b': pass one of its folders, or a pattern"):
        keys(tmp_path / "both", "e")
    with pytest.raises(PackError, match=r"part-7\*.tar: no file matches"):
        keys(tars / "part-7*.tar", "f")


def test_class_names_stay(images: Path, tmp_path: Path) -> None:
    first = pack(images, tmp_path / "a", workers=1, split="train=0.5,val=0.5")
    again = pack(tmp_path / "a" / "train", tmp_path / "b", workers=1)
    assert again.fields["label"].classes == ("class0", "class1", "class2")
    assert again.statistics["classes"]["train"] == first.statistics["classes"]["train"]


def test_faulty_tars_are_named(tmp_path: Path) -> None:
    source = write_tar(tmp_path / "a.tar", members(0, 4) | {"0009.txt": b"alone"})
    with pytest.raises(PackError, match=r"a.tar, sample '0009': the sample has no field"):
        pack(source, tmp_path / "out", workers=1)
    source = write_tar(tmp_path / "b.tar", {"1.txt": b"good", "2.txt": b"b\xffd"})
    with pytest.raises(PackError, match=r"b.tar, sample '2': field 'text': .*invalid start byte"):
        pack(source, tmp_path / "out", workers=1)
    source = write_tar(tmp_path / "c.tar", {"1.jpg": jpeg(1), "2.jpg": jpeg(2)[:-200]})
    with pytest.raises(PackError, match=r"c.tar, sample '2': field 'image': JPEG of \d+ bytes has no end"):
        pack(source, tmp_path / "out", workers=1)
    whole = source.read_bytes()
    source.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FastloadError, match=r"c.tar"):
        pack(source, tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()


def test_samples_of_tars_that_cannot_be_read_or_lack_a_file_are_left_out(tmp_path: Path) -> None:
    files = {"1.jpg": jpeg(1), "1.txt": b"a", "2.jpg": jpeg(2), "2.txt": b"\xff", "3.jpg": jpeg(3)}
    source, clean = write_tar(tmp_path / "a.tar", files), Cleaning(on_error="skip", drop_missing=True)
    index = pack(source, tmp_path / "out", workers=1, clean=clean)
    assert index.statistics["cleaning"]["rejected"] == {"missing": 1, "unreadable": 1}
    why = "field 'text': 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"
    assert rejected(tmp_path / "out") == [
        ("2", "a.tar, sample '2'", "unreadable", why),
        ("3", "a.tar, sample '3'", "missing", "field 'text' is missing"),
    ]
    pack(source, tmp_path / "filled", workers=1, clean=Cleaning(on_error="skip", fill={"text": "none"}))
    assert {sample["text"] for sample in stream(tmp_path / "filled")} == {"a", "none"}
    assert pack(source, tmp_path / "pictures", workers=1, columns="image").samples("train") == 3
    with pytest.raises(PackError, match=r"sample '2': field 'text': .*; mend it, or leave such samples out with"):
        pack(source, tmp_path / "two", workers=1, clean=Cleaning(drop_missing=True))
    with pytest.raises(PackError, match=r"sample '3': the sample has no field 'text'; add it, or leave such samples"):
        pack(source, tmp_path / "two", workers=1, clean=Cleaning(on_error="skip"))


def test_samples_that_are_damaged_since_they_were_packed_are_left_out(tmp_path: Path) -> None:
    pack([{"text": word} for word in ("one", "two", "three")], tmp_path / "in", workers=1)
    (shard,) = (tmp_path / "in").rglob("*.tar")
    shard.write_bytes(shard.read_bytes().replace(b"two", b"twx"))
    with pytest.raises(PackError, match=r"sample '000000002': bytes \d+ to \d+ are not what was packed \(checksum\)"):
        pack(tmp_path / "in", tmp_path / "out", workers=1)
    pack(tmp_path / "in", tmp_path / "out", workers=1, clean=Cleaning(on_error="skip"))
    assert {sample["text"] for sample in stream(tmp_path / "out")} == {"one", "three"}
    assert [(key, reason) for key, _, reason, _ in rejected(tmp_path / "out")] == [("000000002", "unreadable")]


def rejected(out: Path) -> list[tuple[str, ...]]:
    """Key, source without its folder, reason and detail of what is left out."""
    rows = pq.read_table(out / "rejected.parquet").to_pylist()
    return [(row["key"], row["source"].rpartition("/")[2], row["reason"], row["detail"]) for row in rows]


# MDS and LitData


@pytest.mark.parametrize("name", ["mds", "litdata", "litdata_sample"])
def test_mds_and_litdata_are_packed_as_they_are_converted(tmp_path: Path, name: str) -> None:
    source = unpack(name, tmp_path / "source")
    index = pack(source, tmp_path / "out", workers=2, shuffle=False, shard_size="4KiB")
    check_common(stream(tmp_path / "out"))
    assert len(index.shards) > 1
    assert index.packed["source"] == "source"


@pytest.mark.parametrize("name", ["mds", "litdata"])
def test_values_of_mds_and_litdata_that_are_damaged(tmp_path: Path, name: str) -> None:
    source = unpack(name, tmp_path / "source")
    edit_index(source, lambda index: [s["raw_data"].update(hashes={}) for s in index.get("shards", [])])
    path = next(path for path in sorted(source.iterdir()) if "größe 1".encode() in path.read_bytes())
    path.write_bytes(path.read_bytes().replace("größe 1".encode(), b"gr\xff\xb6\xc3\x9fe 1"))
    with pytest.raises(PackError, match=rf"{path.name}, sample \d: field 'text': not readable \('utf-8' codec.*; mend"):
        pack(source, tmp_path / "out", workers=1)
    with pytest.raises(PackError, match=rf"{path.name}, sample \d: field 'text': not readable \('utf-8' codec"):
        fastload.convert(source, tmp_path / "out")
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    assert pack(source, tmp_path / "out", workers=1, clean=Cleaning(on_error="skip")).samples("train") == 2
    ((_, place, reason, _),) = rejected(tmp_path / "out")
    assert (place.partition(",")[0], reason) == (path.name, "unreadable")


def test_the_splits_of_a_source_are_kept_unless_others_are_asked_for(tars: Path, tmp_path: Path) -> None:
    packed = pack(tars, tmp_path / "both", split="train=0.5,val=0.5", workers=1)
    again = pack(tmp_path / "both", tmp_path / "again", workers=1)
    for split in ("train", "val"):
        assert again.samples(split) == packed.samples(split)
        assert sorted(s["__key__"] for s in stream(tmp_path / "again" / split)) == sorted(
            s["__key__"] for s in stream(tmp_path / "both" / split)
        )
    assert again.packed["source_splits"] == "kept"
    (tmp_path / "flat").mkdir()
    for number, name in enumerate(("train-000000", "train-000001", "val-000000")):
        shutil.copy(tars / f"part-{number}.tar", tmp_path / "flat" / f"{name}.tar")
    flat = pack(tmp_path / "flat", tmp_path / "c", workers=1)
    assert {name: flat.samples(name) for name in flat.splits} == {"train": 16, "val": 8}
    one = pack(tmp_path / "flat", tmp_path / "d", workers=1, split="a=0.5,b=0.5")
    assert (sum(one.samples(name) for name in one.splits), one.packed["source_splits"]) == (24, "joined")


def test_a_key_may_be_in_each_split_that_a_source_has(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    for split in ("train", "val"):
        order = (0, 1, 2) if split == "train" else (2, 1, 0)
        files = {f"{i}.txt": f"{split} {i} ".encode() * 99 for i in order}
        write_tar(source / split / "0.tar", files)
    options: dict[str, Any] = {"workers": 1, "shard_size": "3KiB", "clean": Cleaning(on_error="skip")}
    index = pack(source, tmp_path / "whole", **options)
    assert {name: index.samples(name) for name in index.splits} == {"train": 3, "val": 3}
    assert index.statistics["cleaning"] == {"rejected": {}, "reported": {}}
    with pytest.raises(Stopped):
        pack(source, out, **options, progress=stop_after(out, 4))
    pack(source, out, **options)
    assert tree(out) == tree(tmp_path / "whole")
    assert verify(out, decode=True).ok
    for split in ("train", "val"):
        found = {sample["__key__"]: sample["text"] for sample in stream(out / split)}
        assert found == {f"{i}": f"{split} {i} " * 99 for i in range(3)}
    rows = pack(source, tmp_path / "rows", workers=1, prepare=fastload.Prepare(tokenizer="bytes", sequence_length=400))
    assert {name: rows.samples(name) for name in rows.splits} == {"train": 5, "val": 4}
    keys = sorted(sample["__key__"] for sample in stream(tmp_path / "rows" / "val"))
    assert keys == ["0-000000", "1-000000", "2-000000", "2-000001"]
    for more in ({}, {"clean": Cleaning(max_errors=1, on_error="skip")}):
        with pytest.raises(
            PackError, match=r"the key '2' is that of .*train/0.tar, sample '2' too; rename one|3 samples"
        ):
            pack(source, tmp_path / "joined", split="a=0.5,b=0.5", workers=1, **more)


def test_splits_of_the_hub_are_kept(tmp_path: Path) -> None:
    (tmp_path / "hub" / "data").mkdir(parents=True)
    for name, start, stop in (("train", 0, 5), ("test", 5, 8)):
        table = pa.table({"text": [f"t{i}" for i in range(start, stop)]})
        pq.write_table(table, tmp_path / "hub" / "data" / f"{name}-00000-of-00001.parquet")
    index = pack(tmp_path / "hub", tmp_path / "out", workers=1)
    assert {name: index.samples(name) for name in index.splits} == {"train": 5, "test": 3}
    assert sorted(s["text"] for s in stream(tmp_path / "out" / "test")) == ["t5", "t6", "t7"]


def test_several_splits_of_mds_are_refused_by_name(tmp_path: Path) -> None:
    for split in ("train", "val"):
        unpack("mds", tmp_path / "source" / split)
    with pytest.raises(PackError, match="source has the splits 'train', 'val': pass one of these folders, or keep all"):
        pack(tmp_path / "source", tmp_path / "out", workers=1)
    pack(tmp_path / "source" / "val", tmp_path / "out", workers=1, columns="text,label")
    assert stream(tmp_path / "out")[0].keys() == {"text", "label", "__key__"}
    assert "mds" in GOLDEN


def test_damaged_mds_is_named(tmp_path: Path) -> None:
    source = unpack("mds", tmp_path / "source")
    shard = sorted(source.glob("*.mds*"))[1]
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(CorruptError, match=rf"{shard.name}: it has \d+ bytes, and its index says"):
        pack(source, tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()


# Hugging Face


def dataset() -> datasets.Dataset:
    features = datasets.Features(
        {
            "picture": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "input_ids": datasets.List(datasets.Value("int32")),
            "grid": datasets.Array2D((2, 3), "float32"),
            "embedding": datasets.List(datasets.Value("float32"), length=4),
            "text": datasets.Value("string"),
            "about": {"a": datasets.Value("int64"), "b": datasets.List(datasets.Value("string"))},
            "ok": datasets.Value("bool"),
        }
    )
    rows = [
        {
            "picture": {"bytes": photo(i), "path": None}, "label": i % 2, "input_ids": list(range(i)),
            "grid": [[i] * 3] * 2, "embedding": [i / 2] * 4, "text": f"größe {i}", "about": {"a": i, "b": ["x"] * i},
            "ok": i % 2 == 0,
        }
        for i in range(20)
    ]  # fmt: skip
    return datasets.Dataset.from_list(rows, features=features)


def check_rows(out: Path) -> None:
    samples = stream(out)
    assert len(samples) == 20
    for i, sample in enumerate(samples):
        assert sample["picture"].shape == (3, 150, 200)
        assert sample["label"].item() == i % 2
        assert sample["input_ids"].tolist() == list(range(i))
        assert sample["grid"].tolist() == [[i] * 3] * 2
        assert sample["embedding"].tolist() == [i / 2] * 4
        assert sample["text"] == f"größe {i}"
        assert sample["about"] == {"a": i, "b": ["x"] * i}
        assert sample["ok"].item() == (i % 2 == 0)


def test_folders_that_datasets_saved(tmp_path: Path) -> None:
    data = dataset()
    data.save_to_disk(str(tmp_path / "saved"), num_shards=3)
    index = pack(tmp_path / "saved", tmp_path / "out", shuffle=False, workers=1)
    assert index.fields["label"].classes == ("cat", "dog")
    assert index.fields["grid"] == FieldInfo(kind="tensor", dtype="float32", shape=(2, 3), extension="grid.npy")
    assert index.statistics["jpeg"]["train"]["seekable"] == 20
    check_rows(tmp_path / "out")
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(str(tmp_path / "dict"))
    with pytest.raises(PackError, match="dict has the splits 'train', 'test': pass one of these folders"):
        pack(tmp_path / "dict", tmp_path / "two", workers=1)
    pack(tmp_path / "dict" / "test", tmp_path / "two", shuffle=False, workers=1)
    check_rows(tmp_path / "two")


def test_datasets_in_memory_and_as_parquet(tmp_path: Path) -> None:
    data = dataset()
    pack(data, tmp_path / "a", shuffle=False, workers=1)
    check_rows(tmp_path / "a")
    assert b"".join(sorted((tmp_path / "a").rglob("*.tar"))[0].read_bytes().split(b"nothing")).count(b"JFIF") == 20
    (tmp_path / "hub" / "data").mkdir(parents=True)
    (tmp_path / "hub" / "README.md").write_text("x")
    for shard in range(2):
        path = tmp_path / "hub" / "data" / f"train-{shard:05d}-of-00002.parquet"
        data.shard(2, shard, contiguous=True).to_parquet(path)
    index = pack(tmp_path / "hub", tmp_path / "b", shuffle=False, workers=1)
    assert index.fields["label"].classes == ("cat", "dog")
    check_rows(tmp_path / "b")
    picked = data.select([7, 3])
    pack(picked, tmp_path / "c", shuffle=False, workers=1, columns="caption:text,label")
    assert [sample["caption"] for sample in stream(tmp_path / "c")] == ["größe 7", "größe 3"]


def test_tables_in_memory(tmp_path: Path) -> None:
    data = dataset()
    rows = [f"größe {i}" for i in range(20)]
    tables = {
        "stream": data.to_iterable_dataset(),
        "frame": data.select_columns(["text", "ok"]).to_pandas(),
        "arrow": data.select_columns(["text", "ok"]).data.table,
    }
    for name, table in tables.items():
        index = pack(table, tmp_path / name, workers=1, shuffle=False, columns="text,ok")
        assert index.fields["ok"].dtype == "bool"
        assert [sample["text"] for sample in stream(tmp_path / name)] == rows
    with pytest.raises(ConfigError, match="the DatasetDict has the splits 'a', 'b': pass one, as in dataset"):
        pack(datasets.DatasetDict({"a": data, "b": data}), tmp_path / "out")


def test_sounds_of_datasets(tmp_path: Path) -> None:
    features = datasets.Features({"clip": datasets.Audio(), "label": datasets.ClassLabel(names=["a"])})
    (tmp_path / "x.wav").write_bytes(wav(50))
    rows = [{"bytes": wav(40), "path": "a.wav"}, {"bytes": None, "path": str(tmp_path / "x.wav")}]
    table = pa.table({"clip": rows, "label": [0, 0]})
    data = datasets.Dataset(table.cast(features.arrow_schema), fingerprint="x").cast(features)
    index = pack(data, tmp_path / "out", workers=1, shuffle=False)
    assert index.fields["clip"] == FieldInfo(kind="audio", extension="clip.wav")
    assert [sample["clip"].shape[-1] for sample in stream(tmp_path / "out")] == [40, 50]
    (tmp_path / "x.wav").unlink()
    with pytest.raises(PackError, match=r"row 2: column 'clip': '.*x.wav', which the row names, cannot be read: No"):
        pack(data, tmp_path / "two", workers=1)


def test_damaged_saved_folders_are_named(tmp_path: Path) -> None:
    dataset().save_to_disk(str(tmp_path / "saved"))
    (path,) = (tmp_path / "saved").glob("*.arrow")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CorruptError, match=rf"{path.name} cannot be read: .*; fetch it again"):
        pack(tmp_path / "saved", tmp_path / "out", workers=1)
    (tmp_path / "saved" / "state.json").write_text("{}")
    with pytest.raises(PackError, match=r"state.json names no files, or only some of their rows; save the data set"):
        pack(tmp_path / "saved", tmp_path / "out", workers=1)


def test_parquet_of_others(tmp_path: Path) -> None:
    table = pa.table(
        {
            "blob": [b"BX", b"\0"], "photo": [jpeg(1), jpeg(2)], "when": pa.array([1, 2], pa.timestamp("s")),
            "word": pa.array(["a", "b"]).dictionary_encode(), "label": ["dog", "cat"],
        }
    )  # fmt: skip
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(
        PackError, match=r"column 'when' is of type timestamp\[ms\], which no field holds; make it text"
    ):
        pack(tmp_path / "t.parquet", tmp_path / "out", workers=1)
    index = pack(tmp_path / "t.parquet", tmp_path / "out", workers=1, columns="blob,photo,word,label", shuffle=False)
    assert {name: info.kind for name, info in index.fields.items()} == {
        "blob": "bytes", "photo": "image", "word": "text", "label": "scalar",
    }  # fmt: skip
    assert index.fields["label"].classes == ("cat", "dog")
    assert [sample["word"] for sample in stream(tmp_path / "out")] == ["a", "b"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": ["x", None]}, r"t.parquet, row 2: column 'a' is null; fill it, or leave the row or the column out"),
        ({"a": pa.array([[1], [1, None]])}, r"t.parquet, row 2: column 'a': the list \[1, None\] has a null in it"),
        ({"a": pa.array([{"x": float("nan")}])}, "row 1: column 'a' of type struct.* cannot be JSON"),
    ],
)
def test_faulty_rows_are_named(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(PackError, match=message):
        pack(tmp_path / "t.parquet", tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()


def unsound(values: list[bytes | None]) -> pa.Array:
    """Texts of a file whose writer did not look at what it wrote."""
    return pa.array(values, pa.binary()).view(pa.string())


SOUND = {"bytes": wav(40), "path": None}


@pytest.mark.parametrize(
    ("column", "why"),
    [
        (
            pa.array([SOUND, {"bytes": None, "path": "gone.wav"}, SOUND]),
            "gone.wav', which the row names, cannot be read",
        ),
        (pa.array([SOUND, {"bytes": None, "path": "a\0.wav"}, SOUND]), "which the row names, cannot be read: embedded"),
        (pa.array([[1], [1, None], [3]]), "column 'a': the list [1, None] has a null in it"),
        (pa.array([[[1]], [None], [[3]]], pa.list_(pa.list_(pa.int64(), 1), 1)), "the list [None] has a null in it"),
        (
            pa.array([{"x": 1.0}, {"x": float("nan")}, {"x": 3.0}]),
            "column 'a' of type struct<x: double> has {'x': nan}",
        ),
        (unsound([b"a", b"\xff", b"c"]), "column 'a': not readable ('utf-8' codec can't decode byte 0xff"),
        (
            pa.ListArray.from_arrays([0, 1, 2, 3], unsound([b"a", b"\xff", b"c"])),
            "column 'a': not readable ('utf-8' codec can't decode byte 0xff",
        ),
        (
            pa.StructArray.from_arrays([unsound([b"a", b"\xff", b"c"])], ["x"]),
            "column 'a': not readable ('utf-8' codec can't decode byte 0xff",
        ),
        (
            pa.StructArray.from_arrays([pa.array([wav(40)] * 3), unsound([b"a", b"\xff", b"c"])], ["bytes", "path"]),
            "column 'a': not readable ('utf-8' codec can't decode byte 0xff",
        ),
        (pa.array([1, (1 << 64) - 1, 3], pa.uint64()), "field 'a': 18446744073709551615 does not fit into 64 bits"),
    ],
)
def test_rows_of_parquet_with_a_value_that_no_field_holds_are_left_out(
    tmp_path: Path, column: pa.Array, why: str
) -> None:
    keys = ["k1", "k2", "k3"]
    pq.write_table(pa.table({"a": column, "__key__": keys}), tmp_path / "t.parquet")
    with pytest.raises(PackError, match=rf"t.parquet, row 2: .*{re.escape(why)}.*; mend it, or leave such samples"):
        pack(tmp_path / "t.parquet", tmp_path / "out", workers=1)
    clean = Cleaning(on_error="skip", max_errors=1)
    index = pack(tmp_path / "t.parquet", tmp_path / "out", workers=1, shuffle=False, clean=clean)
    assert [sample["__key__"] for sample in stream(tmp_path / "out")] == ["k1", "k3"]
    assert index.statistics["cleaning"]["rejected"] == {"unreadable": 1}
    (row,) = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    assert (row["key"], row["source"]) == ("k2", f"{tmp_path}/t.parquet, row 2")
    assert why in row["detail"]
    clean = Cleaning(on_error="skip", max_errors=0)
    with pytest.raises(PackError, match=r"1 samples cannot be read, more than max_errors=0: .*t.parquet, row 2: "):
        pack(tmp_path / "t.parquet", tmp_path / "two", workers=1, clean=clean, columns="b:a,key:__key__")


def test_damaged_parquet_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": ["x" * 100] * 50}), tmp_path / "t.parquet", write_page_checksum=True)
    data = bytearray((tmp_path / "t.parquet").read_bytes())
    data[60] ^= 1
    (tmp_path / "t.parquet").write_bytes(data)
    with pytest.raises(CorruptError, match=r"t.parquet cannot be read: .*; fetch it again"):
        pack(tmp_path / "t.parquet", tmp_path / "out", workers=1)


# Tables that name files


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    """Four pictures in folders, as imagefolder has them."""
    for i in range(4):
        path = tmp_path / "gallery" / "ab"[i % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(i))
    return tmp_path / "gallery"


def test_parquet_manifests(gallery: Path, tmp_path: Path) -> None:
    names = [f"{'ab'[i % 2]}/{i}.jpg" for i in range(4)]
    pq.write_table(pa.table({"path": names, "label": [5, 6, 7, 8], "text": list("wxyz")}), gallery / "list.parquet")
    index = pack(gallery / "list.parquet", tmp_path / "out", workers=1, shuffle=False, jpeg="keep")
    assert index.fields["image"] == FieldInfo(kind="image", extension="jpg")
    samples = stream(tmp_path / "out")
    assert [sample["__key__"] for sample in samples] == ["a/0", "b/1", "a/2", "b/3"]
    assert [sample["label"].item() for sample in samples] == [5, 6, 7, 8]
    pq.write_table(pa.table({"path": names[:1], "blob": [b"x"]}), gallery / "list.parquet")
    with pytest.raises(PackError, match="column 'blob' is of type binary, which a manifest cannot hold beside names"):
        pack(gallery / "list.parquet", tmp_path / "two", workers=1)


def test_files_of_a_parquet_manifest_may_be_gone(gallery: Path, tmp_path: Path) -> None:
    """Also the first one's, which would make the names texts."""
    (gallery / "a/0.jpg").unlink()
    names = [f"{'ab'[i % 2]}/{i}.jpg" for i in range(4)]
    pq.write_table(pa.table({"path": names}), gallery / "list.parquet")
    with pytest.raises(PackError, match=r"list.parquet, row 1: column 'path': 'a/0.jpg' cannot be read: No such file"):
        pack(gallery / "list.parquet", tmp_path / "out", workers=1)
    pack(gallery / "list.parquet", tmp_path / "out", workers=1, clean=Cleaning(on_error="skip"))
    assert rejected(tmp_path / "out") == [("a/0", "0.jpg", "unreadable", "image: there is no such file")]


def test_metadata_of_an_imagefolder(gallery: Path, tmp_path: Path) -> None:
    rows = [{"file_name": f"{'ab'[i % 2]}/{i}.jpg", "text": f"t{i}"} for i in range(4)]
    (gallery / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    index = pack(gallery, tmp_path / "out", workers=1, shuffle=False)
    assert set(index.fields) == {"image", "text"}
    assert [sample["text"] for sample in stream(tmp_path / "out")] == ["t0", "t1", "t2", "t3"]
    (gallery / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    with pytest.raises(PackError, match=r"metadata.jsonl has no row for 'a/2.jpg' and 1 more; add them, remove"):
        pack(gallery, tmp_path / "two", workers=1)
    (gallery / "metadata.jsonl").write_text('{"author": "nobody"}\n')
    assert pack(gallery, tmp_path / "two", workers=1).fields["label"].classes == ("a", "b")
