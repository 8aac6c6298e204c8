"""Packed data sets converted there and back, to other shard sizes, and from tars and Parquet files of others."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import samples
from hypothesis import given, settings
from hypothesis import strategies as st
from pack_sources import jpeg, png, tree
from reshape_sources import make_tokens
from samples import FORMATS, freeze
from typer.testing import CliRunner

import fastload
from fastload.cli import app
from fastload.errors import ConfigError, CorruptError, PackError, ShardIndexError
from fastload.pack import pack
from fastload.pack.convert import convert
from fastload.reshape import append
from fastload.reshape.records import read_records
from fastload.reshape.shaping import tar_key
from fastload.shards.columns import read_columns
from fastload.shards.index import IndexFile, ShardFormat
from fastload.shards.members import split_member
from fastload.shards.open import open_index
from fastload.verify import verify

OTHER: dict[ShardFormat, ShardFormat] = {"tar": "parquet", "parquet": "tar"}
SPLIT = {"train": 0.7, "val": 0.3}


def stream(folder: Path, split: str | None = None) -> list[Any]:
    data = fastload.StreamingDataset(folder, split=split, shuffle=False)
    return [freeze(sample) if isinstance(sample, dict) else sample for sample in map(plain, data)]


def plain(sample: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple((name, freeze(value)) for name, value in sorted(sample.items()))


@pytest.mark.parametrize("shard_format", FORMATS)
@pytest.mark.parametrize("jpegs", ["seekable", "keep"])
def test_there_and_back_to_the_byte(everything: Path, tmp_path: Path, shard_format: ShardFormat, jpegs: Any) -> None:
    before, there, back = tmp_path / "before", tmp_path / "there", tmp_path / "back"
    index = pack(everything, before, format=shard_format, shard_size="20KiB", split=SPLIT, jpeg=jpegs)
    kinds = {info.kind for info in index.fields.values()}
    assert kinds == {"image", "audio", "tensor", "text", "json", "scalar"}
    other = convert(before, there, format=OTHER[shard_format])
    assert other.shard_format == OTHER[shard_format]
    assert [shard.samples for shard in other.shards] == [shard.samples for shard in index.shards]
    assert other.statistics == index.statistics
    assert verify(there, decode=True).ok
    for split in SPLIT:
        assert stream(there, split) == stream(before, split)
    convert(there, back, format=shard_format)
    assert tree(back) == tree(before)


def test_tokens_and_bytes_there_and_back(tmp_path: Path) -> None:
    before = make_tokens(tmp_path / "before")
    other = convert(before, tmp_path / "there", format="parquet")
    assert {"tokens", "bytes"} < {info.kind for info in other.fields.values()}
    assert stream(tmp_path / "there") == stream(before)
    convert(tmp_path / "there", tmp_path / "back")
    assert tree(tmp_path / "back") == tree(before)


def test_an_append_of_pictures_of_another_type_is_told_on_the_way_back(tmp_path: Path) -> None:
    """What the tars of the beginning had is then no longer so."""
    for name, content in (("a.jpg", jpeg(1)), ("b.png", png(2))):
        (tmp_path / name[0]).mkdir()
        (tmp_path / name[0] / name).write_bytes(content)
    assert pack(tmp_path / "a", tmp_path / "tar", jpeg="keep").fields["image"].extension == "jpg"
    convert(tmp_path / "tar", tmp_path / "parquet", format="parquet")
    append(tmp_path / "b", tmp_path / "parquet")
    index = convert(tmp_path / "parquet", tmp_path / "back")
    assert index.fields["image"].extension is None
    members: list[str] = []
    for path in sorted((tmp_path / "back").rglob("*.tar")):
        with tarfile.open(path) as tar:
            members += tar.getnames()
    assert [name.partition(".")[2] for name in members] == ["jpg", "png"]
    assert verify(tmp_path / "back", decode=True).ok


def test_packed_as_one_format_or_converted_to_it_is_the_same_data(everything: Path, tmp_path: Path) -> None:
    """With all in one shard, even the Parquet file is the same to the byte."""
    pack(everything, tmp_path / "tar")
    pack(everything, tmp_path / "parquet", format="parquet")
    convert(tmp_path / "tar", tmp_path / "converted", format="parquet")
    name = "train/part-000000.parquet"
    assert (tmp_path / "converted" / name).read_bytes() == (tmp_path / "parquet" / name).read_bytes()


@pytest.mark.parametrize("shard_format", FORMATS)
def test_facts_and_scalars_go_along(everything: Path, tmp_path: Path, shard_format: ShardFormat) -> None:
    names = ["image.width", "image.height", "audio.frames", "audio.sample_rate", "score", "flag", "label"]
    pack(everything, tmp_path / "a", format=shard_format)
    convert(tmp_path / "a", tmp_path / "b", format=OTHER[shard_format])
    before, after = (read_columns(open_index(tmp_path / name), names) for name in "ab")
    for name in names:
        assert after[name].tolist() == before[name].tolist()


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("shard_format", FORMATS)
def test_other_shard_sizes(everything: Path, tmp_path: Path, shard_format: ShardFormat, to: ShardFormat) -> None:
    pack(everything, tmp_path / "a", format=shard_format, shard_size="40KiB", split=SPLIT, jpeg="keep")
    small = convert(tmp_path / "a", tmp_path / "small", format=to, shard_size="9KiB")
    large = convert(tmp_path / "small", tmp_path / "large", format=shard_format, shard_size="10MiB")
    assert len(small.shards) > 4
    if to == "tar":
        assert all(shard.bytes <= 9 << 10 or shard.samples == 1 for shard in small.shards)
        pairs = zip(small.shards, small.shards[1:], strict=False)
        together = [a.bytes + b.bytes for a, b in pairs if a.name.split("/")[0] == b.name.split("/")[0]]
        assert min(together) > 9 << 10, "no shard ends before it has to"
    assert [shard.name.split("/")[0] for shard in large.shards] == ["train", "val"]
    for split in SPLIT:
        assert stream(tmp_path / "large", split) == stream(tmp_path / "small", split) == stream(tmp_path / "a", split)
    assert verify(tmp_path / "small").ok


def test_a_sample_larger_than_the_shard_size_gets_a_shard_of_its_own(everything: Path, tmp_path: Path) -> None:
    pack(everything, tmp_path / "a")
    index = convert(tmp_path / "a", tmp_path / "b", shard_size=1)
    assert [shard.samples for shard in index.shards] == [1] * 30


def member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def webdataset(folder: Path) -> dict[str, dict[str, bytes]]:
    """Two tars as others write them: some samples lack a field, and endings vary."""
    written: dict[str, dict[str, bytes]] = {}
    folder.mkdir()
    for number in range(2):
        with tarfile.open(folder / f"x-{number}.tar", "w") as tar:
            for i in range(4 * number, 4 * number + 4):
                files = {
                    "jpeg" if i % 2 else "JPG": jpeg(i),
                    "cls": b"%d" % i,
                    "json": b'{"i":%d}' % i,
                    "mp4": b"m" * i,
                }
                if i % 3 == 0:
                    files |= {"seg.png": png(i), "transcript": f"täxt {i}".encode()}
                written[f"f/{i}"] = files
                for ending, content in files.items():
                    member(tar, f"f/{i}.{ending}", content)
    return written


@pytest.mark.parametrize("through", [["parquet"], ["tar"], ["parquet", "tar"], ["tar", "parquet", "tar", "parquet"]])
def test_tars_of_others(tmp_path: Path, through: list[ShardFormat]) -> None:
    written, folder = webdataset(tmp_path / "s"), tmp_path / "s"
    for number, shard_format in enumerate(through):
        convert(folder, tmp_path / f"out{number}", format=shard_format)
        folder = tmp_path / f"out{number}"
    index = open_index(folder)
    assert {n: i.kind for n, i in index.fields.items()} == {
        "image": "image", "label": "scalar", "json": "json", "mp4": "bytes", "seg": "image", "transcript": "text",
    }  # fmt: skip
    names = {
        "image": ("jpeg", "JPG"),
        "json": ("json",),
        "mp4": ("mp4",),
        "seg": ("seg.png",),
        "transcript": ("transcript",),
    }
    found = list(read_all(folder))
    assert [record.key for record in found] == list(written)
    for record in found:
        files = written[record.key]
        expected = {name: files[e] for name, endings in names.items() for e in endings if e in files}
        assert {name: content for name, (_, content) in record.contents.items()} == expected
        assert record.contents["mp4"][0] == "mp4"
        assert record.scalars == {"label": int(files["cls"])}
        assert record.facts["image.width"] == 32
        assert ("seg.height" in record.facts) == ("seg" in record.contents)


def read_all(folder: Path) -> Any:
    index = open_index(folder)
    for file in range(len(index.files)):
        yield from read_records(index, file)


def test_a_parquet_file_of_others(tmp_path: Path) -> None:
    table = pa.table(
        {
            "pic": pa.array([{"bytes": jpeg(i), "path": None if i else "a.b/c.jpeg"} for i in range(3)]),
            "vector": pa.array([[0.5, i] for i in range(3)], pa.list_(pa.float32())),
            "grid": pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.int16(), 2)),
            "ids": pa.array([[1, 2], [], [70000]], pa.large_list(pa.int32())),
            "small": pa.array([[1], [2, 3], [255]], pa.list_(pa.uint8())),
            "note": pa.array(["a", None, "ü"]),
            "y": pa.array([1.5, 2.5, 3.5], pa.float32()),
        }
    )
    (tmp_path / "s").mkdir()
    pq.write_table(table, tmp_path / "s/train-00000-of-00001.parquet", row_group_size=2)
    convert(tmp_path / "s", tmp_path / "tar")
    back = convert(tmp_path / "tar", tmp_path / "back", format="parquet")
    assert verify(tmp_path / "tar").ok
    assert back.fields["y"].dtype == "float32"
    first, again = (pq.read_table(sorted((tmp_path / f).rglob("*.parquet"))[0]) for f in ("s", "back"))
    assert again.column("__key__").to_pylist() == [f"train-00000-of-00001/{g}/{r}" for g, r in ((0, 0), (0, 1), (1, 0))]
    grids = [np.load(io.BytesIO(v)).tolist() for v in again.column("grid").to_pylist()]
    assert grids == first.column("grid").to_pylist()
    for name in ("ids", "small", "note", "y"):
        assert again.column(name).to_pylist() == first.column(name).to_pylist()
    assert [v["bytes"] for v in again.column("pic").to_pylist()] == [jpeg(i) for i in range(3)]
    vectors = [np.load(io.BytesIO(v)).tolist() for v in again.column("vector").to_pylist()]
    assert vectors == first.column("vector").to_pylist()
    assert again.column("pic.width").to_pylist() == [32] * 3


def test_one_split_and_patterns(everything: Path, tmp_path: Path) -> None:
    pack(everything, tmp_path / "a", shard_size="20KiB", split=SPLIT)
    one = convert(tmp_path / "a" / "val", tmp_path / "val", format="parquet")
    assert list(one.splits) == ["val"]
    assert one.fields["label"].classes == ("cat", "dog", "owl")
    some = convert(f"{tmp_path}/a/train/shard-00000{{0,1}}.tar", tmp_path / "some")
    assert list(some.splits) == ["train"]
    assert stream(tmp_path / "some") == stream(tmp_path / "a", "train")[: some.samples("train")]


class Stop(Exception):
    pass


@pytest.mark.parametrize("size", [None, "9KiB"])
def test_a_run_that_was_stopped_goes_on_and_ends_with_the_same_bytes(
    everything: Path, tmp_path: Path, size: str | None
) -> None:
    pack(everything, tmp_path / "a", shard_size="20KiB", split=SPLIT)
    convert(tmp_path / "a", tmp_path / "clean", format="parquet", shard_size=size)
    out, calls, attempt = tmp_path / "out", 0, 0

    def stop(done: int, total: int, written: int) -> None:
        nonlocal calls
        calls += 1
        if calls > attempt:
            raise Stop

    while attempt < 50:
        calls, attempt = 0, attempt + 1
        try:
            convert(tmp_path / "a", out, format="parquet", shard_size=size, progress=stop)
        except Stop:
            assert not (out / "index.json").exists()
            with pytest.raises(ShardIndexError, match="incomplete"):
                open_index(out)
        else:
            break
    assert attempt > 3
    assert tree(out) == tree(tmp_path / "clean")


def test_a_finished_shard_that_was_damaged_since_is_written_anew(everything: Path, tmp_path: Path) -> None:
    pack(everything, tmp_path / "a", shard_size="20KiB")
    convert(tmp_path / "a", tmp_path / "clean", shard_size="9KiB")

    def stop(done: int, total: int, written: int) -> None:
        if written > 30_000:
            raise Stop

    with pytest.raises(Stop):
        convert(tmp_path / "a", tmp_path / "out", shard_size="9KiB", progress=stop)
    samples.flip_byte(tmp_path / "out/train/shard-000001.tar", 700)
    convert(tmp_path / "a", tmp_path / "out", shard_size="9KiB")
    assert tree(tmp_path / "out") == tree(tmp_path / "clean")


def test_an_unfinished_run_of_another_source_is_not_gone_on_with(everything: Path, tmp_path: Path) -> None:
    pack(everything, tmp_path / "a", shard_size="20KiB")

    def stop(done: int, total: int, written: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        convert(tmp_path / "a", tmp_path / "out", progress=stop)
    with pytest.raises(PackError, match="holds an unfinished pack with format 'tar' instead of 'parquet'"):
        convert(tmp_path / "a", tmp_path / "out", format="parquet")
    pack(everything, tmp_path / "b", shard_size="20KiB", seed=1)
    with pytest.raises(PackError, match="holds an unfinished pack with convert"):
        convert(tmp_path / "b", tmp_path / "out")


@pytest.mark.parametrize("shard_format", FORMATS)
def test_damage_in_the_source_is_named_and_nothing_looks_finished(
    everything: Path, tmp_path: Path, shard_format: ShardFormat
) -> None:
    index = pack(everything, tmp_path / "a", format=shard_format, shard_size="20KiB", jpeg="keep")
    samples.flip_byte(tmp_path / "a" / index.shards[1].name, index.shards[1].bytes // 3)
    with pytest.raises(CorruptError) as caught:
        convert(tmp_path / "a", tmp_path / "out", format=OTHER[shard_format])
    assert index.shards[1].name in str(caught.value)
    if shard_format == "tar":
        assert "row" in str(caught.value)
        assert "some/" in str(caught.value)
    assert not (tmp_path / "out/index.json").exists()


def test_keys_that_clash(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    for number in range(2):
        pq.write_table(pa.table({"__key__": ["a", f"b{number}"], "x": [1, 2]}), tmp_path / f"s/{number}.parquet")
    with pytest.raises(PackError, match=r"two samples have the key 'a', in s/0.parquet and in s/1.parquet; rename one"):
        convert(tmp_path / "s", tmp_path / "out")
    pq.write_table(pa.table({"__key__": ["a.b", "a_b"], "x": [1, 2]}), tmp_path / "t.parquet")
    with pytest.raises(PackError, match=r"two samples have the key 'a_b'"):
        convert(tmp_path / "t.parquet", tmp_path / "out")
    assert convert(tmp_path / "t.parquet", tmp_path / "out", format="parquet").samples("train") == 2


def test_what_a_format_cannot_hold(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    with tarfile.open(tmp_path / "s/x.tar", "w") as tar:
        member(tar, "a.txt", b"\xff\xfe")
    with pytest.raises(PackError, match=r"'a'.*not UTF-8"):
        convert(tmp_path / "s", tmp_path / "out", format="parquet")
    pq.write_table(pa.table({"__key__": ["", "b"], "x": [1, 2]}), tmp_path / "t.parquet")
    with pytest.raises(PackError, match="the key '' cannot name files in a tar; write Parquet, or rename the sample"):
        convert(tmp_path / "t.parquet", tmp_path / "out")
    pq.write_table(pa.table({"x": pa.array([1, None])}), tmp_path / "n.parquet")
    with pytest.raises(CorruptError, match="'x' is null in row 1 of this row group; drop or fill missing values"):
        convert(tmp_path / "n.parquet", tmp_path / "out")


def test_arguments(everything: Path, tmp_path: Path) -> None:
    pack(everything, tmp_path / "a")
    with pytest.raises(PackError, match=r"out is inside the source .*/a, and would become part of it"):
        convert(tmp_path / "a", tmp_path / "a" / "out")
    with pytest.raises(ConfigError, match="s3://b/train: only local shards are written anew; copy them to a folder"):
        convert("s3://b/train", tmp_path / "out")
    with pytest.raises(ConfigError, match="shard_size='huge'"):
        convert(tmp_path / "a", tmp_path / "out", shard_size="huge")
    (tmp_path / "a/index.json").unlink()
    (tmp_path / "a/.fastload-pack").mkdir()
    with pytest.raises(ShardIndexError, match="packing was not finished"):
        convert(tmp_path / "a", tmp_path / "out")


@given(st.text(st.characters(codec="utf-8"), min_size=1))
@settings(max_examples=200, deadline=None)
def test_a_tar_gives_every_key_back(key: str) -> None:
    try:
        name = tar_key(key)
    except PackError:
        assert "\0" in key or key.endswith("/") or key.lstrip("_") != key
        return
    assert split_member(name + ".x.png") == (name, "x.png")
    assert tar_key(name) == name


def test_the_command(everything: Path, tmp_path: Path) -> None:
    pack(everything, tmp_path / "a")
    arguments = ["convert", str(tmp_path / "a"), str(tmp_path / "b"), "--format", "parquet", "--shard-size", "10kB"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "converted 30 samples (train 30) as" in done.output
    assert len(IndexFile.load(tmp_path / "b/index.json").shards) > 3
