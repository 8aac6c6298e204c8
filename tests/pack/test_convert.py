"""Data sets of MosaicML Streaming 0.13 and LitData 0.2.76, as their own writers left them, become shards.

other_formats.json holds each data set as a zip, in base85: three samples, sample i with label i - 1 and text "größe i".
"""

from __future__ import annotations

import base64
import bz2
import contextlib
import gzip
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pytest
from samples import FORMATS
from typer.testing import CliRunner

import fastload
from fastload.cli import app
from fastload.errors import ConfigError, CorruptError, PackError
from fastload.pack.convert import convert
from fastload.pack.litdata import leaf_names
from fastload.pack.values import raw_picture
from fastload.verify import verify

GOLDEN = json.loads((Path(__file__).parent / "other_formats.json").read_text())
LITDATA = ["litdata", "litdata_batch", "litdata_chunk", "litdata_sample"]


def unpack(name: str, folder: Path) -> Path:
    with zipfile.ZipFile(io.BytesIO(base64.b85decode(GOLDEN[name]))) as file:
        file.extractall(folder)
    return folder


def edit_index(folder: Path, change: Callable[[Any], object]) -> None:
    index = json.loads((folder / "index.json").read_text())
    change(index)
    (folder / "index.json").write_text(json.dumps(index))


def pixels(i: int) -> np.ndarray:
    return ((np.arange(6 * 8 * 3).reshape(6, 8, 3) * 3 + i) % 256).astype(np.uint8)


def stream(out: Path) -> list[dict[str, Any]]:
    return list(fastload.StreamingDataset(out, shuffle=False))


def check_common(samples: list[dict[str, Any]]) -> None:
    for i, sample in enumerate(samples):
        assert sample["__key__"] == f"{i + 1:09d}"
        assert sample["label"].item() == i - 1
        assert sample["weight"].item() == i / 2
        assert sample["text"] == f"größe {i}"
        assert sample["blob"] == b"x" * i
        assert sample["vec"].tolist() == list(range(i + 1))
        assert sample["mat"].tolist() == [[float(i)] * 3] * 2
        assert sample["raw"].permute(1, 2, 0).tolist() == pixels(i).tolist(), "raw pixels are kept to the bit"
        assert sample["photo"].shape == (3, 6, 8)
        gray = pixels(i)[..., 0].astype(int)
        assert np.abs(sample["photo"][0].numpy().astype(int) - gray).mean() < 40, "the same picture, as JPEG"
    assert len(samples) == 3


@pytest.mark.parametrize("shard_format", FORMATS)
def test_mds(tmp_path: Path, shard_format: Any) -> None:
    index = convert(unpack("mds", tmp_path / "source"), tmp_path / "out", format=shard_format)
    assert [shard.samples for shard in index.shards] == [1, 1, 1]
    kinds = {name: info.kind for name, info in index.fields.items()}
    assert kinds == {
        "big": "scalar", "blob": "bytes", "doc": "json", "dyn": "tensor", "exact": "image", "label": "scalar",
        "mat": "tensor", "photo": "image", "ratio": "scalar", "raw": "image", "small": "scalar", "text": "text",
        "vec": "tokens", "weight": "scalar",
    }  # fmt: skip
    samples = stream(tmp_path / "out")
    check_common(samples)
    for i, sample in enumerate(samples):
        assert sample["exact"].permute(1, 2, 0).tolist() == pixels(i).tolist()
        assert sample["small"].item() == 200 + i
        assert sample["dyn"].tolist() == [[i, i]] * (i + 1)
        assert str(sample["dyn"].dtype) == "torch.uint16"
        assert sample["doc"] == {"i": [i]}
        assert sample["big"].item() == 10**15 + i
        assert sample["ratio"].item() == i / 4
    assert verify(tmp_path / "out", True, None).ok
    assert len(fastload.DataLoader(tmp_path / "out", 2, fields={"label": fastload.Scalar()})) == 2


def compress_snappy(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="snappy", asbytes=True))


def compress_stream(codec: str) -> Callable[[bytes], bytes]:
    return lambda data: bytes(pa.compress(data, codec=codec, asbytes=True))


@pytest.mark.parametrize(
    ("name", "compress"),
    [
        ("zstd:7", compress_stream("zstd")),
        ("br", compress_stream("brotli")),
        ("gz", gzip.compress),
        ("bz2", bz2.compress),
        ("snappy", compress_snappy),
    ],
)
def test_mds_in_each_compression(tmp_path: Path, name: str, compress: Callable[[bytes], bytes]) -> None:
    source = unpack("mds", tmp_path / "source")

    def compressed(index: Any) -> None:
        for shard in index["shards"]:
            path = source / shard["raw_data"]["basename"]
            data = compress(path.read_bytes())
            path.unlink()
            packed = path.with_name(f"{path.name}.x")
            packed.write_bytes(data)
            digests = {"sha1": hashlib.sha1(data).hexdigest()}
            shard["zip_data"] = {"basename": packed.name, "bytes": len(data), "hashes": digests}
            shard["compression"] = name

    edit_index(source, compressed)
    convert(source, tmp_path / "out")
    check_common(stream(tmp_path / "out"))


@pytest.mark.parametrize("shard_format", FORMATS)
@pytest.mark.parametrize("name", LITDATA)
def test_litdata(tmp_path: Path, name: str, shard_format: Any) -> None:
    index = convert(unpack(name, tmp_path / "source"), tmp_path / "out", format=shard_format)
    assert [shard.samples for shard in index.shards] == [2, 1]
    samples = stream(tmp_path / "out")
    check_common(samples)
    for i, sample in enumerate(samples):
        assert sample["ok"].item() == i % 2
        assert sample["tok"].tolist() == list(range(i + 2))
        assert sample["tm"].tolist() == [[float(i)] * 2] * 2
    assert index.fields["tok"].dtype == "int32"
    assert verify(tmp_path / "out", True, None).ok


def test_litdata_rows(tmp_path: Path) -> None:
    index = convert(unpack("litdata_rows", tmp_path / "source"), tmp_path / "out")
    assert {name: info.kind for name, info in index.fields.items()} == {
        "text": "text", "label": "scalar", "vec": "tokens", "doc": "json", "weight": "scalar",
    }  # fmt: skip
    for i, sample in enumerate(stream(tmp_path / "out")):
        found = {name: value.tolist() for name, value in sample.items() if name in ("label", "vec", "weight")}
        assert found == {"label": i - 1, "vec": [i, i + 1], "weight": i / 2}
        assert (sample["text"], sample["doc"]) == (f"größe {i}", {"i": [i]})


def test_litdata_tokens(tmp_path: Path) -> None:
    convert(unpack("litdata_tokens", tmp_path / "source"), tmp_path / "out")
    assert [sample["tokens"].tolist() for sample in stream(tmp_path / "out")] == [[0, 1], [0, 1, 2], [0, 1, 2, 3]]


def test_litdata_names_of_nested_leaves(tmp_path: Path) -> None:
    convert(unpack("litdata_nested", tmp_path / "source"), tmp_path / "out")
    samples = stream(tmp_path / "out")
    assert set(samples[0]) == {"a_b", "a_c", "t_0", "t_1", "__key__"}
    assert [sample["a_c"].tolist() for sample in samples] == [[0], [0, 1], [0, 1, 2]]
    assert [sample["t_0"].item() for sample in samples] == [0, 1, 2]
    leaf = {"type": None, "context": None, "children_spec": []}
    pair = {"type": "builtins.tuple", "context": "null", "children_spec": [leaf, leaf]}
    assert leaf_names(json.dumps([1, pair]), ["int", "int"]) == ["field_0", "field_1"]
    assert leaf_names(json.dumps([1, leaf]), ["jpeg"]) == ["image"]


def test_folders_are_splits_and_a_text_column_may_be_the_key(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for split in ("val", "train"):
        unpack("mds", source / split)
        edit_index(source / split, lambda index: [s["column_names"].__setitem__(11, "key") for s in index["shards"]])
    index = convert(source, tmp_path / "out")
    assert index.splits == {"train": (0, 3), "val": (3, 6)}
    assert [sample["__key__"] for sample in stream(tmp_path / "out" / "val")] == ["größe 0", "größe 1", "größe 2"]


@pytest.mark.parametrize("shard_format", FORMATS)
def test_keys_that_come_twice(tmp_path: Path, shard_format: Any) -> None:
    source, out = unpack("mds", tmp_path / "source"), tmp_path / "out"
    edit_index(source, lambda index: [s["column_names"].__setitem__(11, "key") for s in index["shards"]])
    edit_index(source, lambda index: index["shards"].append(index["shards"][0]))
    with pytest.raises(PackError, match=r"two samples have the key 'größe 0', in out/.* and in out/.*; rename one in"):
        convert(source, out, format=shard_format)
    assert not (out / "index.json").exists()


def test_a_run_that_failed_goes_on_and_a_finished_one_is_left_alone(tmp_path: Path) -> None:
    source, out = unpack("mds", tmp_path / "source"), tmp_path / "out"
    last = source / "shard.00002.mds"
    whole = last.read_bytes()
    last.write_bytes(whole[:-1])
    with pytest.raises(
        CorruptError, match=r"shard.00002.mds: it has \d+ bytes, and its index says \d+; fetch it again"
    ):
        convert(source, out)
    assert not (out / "index.json").exists()
    with pytest.raises(fastload.FastloadError, match="incomplete"):
        fastload.StreamingDataset(out)
    last.write_bytes(whole)
    first = (out / "train/shard-000000.tar").stat().st_ino
    convert(source, out)
    assert (out / "train/shard-000000.tar").stat().st_ino == first, "finished shards are kept"
    convert(source, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(out)
    with pytest.raises(PackError, match="holds a finished data set"):
        convert(source, out)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def set_first(name: str, value: Any) -> Callable[[Any], None]:
    return lambda index: index["shards"][0].update({name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_first("format", "xsv"), "a shard of format 'xsv', version 2; only MDS 2 is read"),
        (set_first("version", 3), "version 3; only MDS 2"),
        (lambda index: index.pop("shards"), "is no index of MDS or LitData"),
        (lambda index: index.update(format="fastload"), "has version 2; this fastload reads up to 1"),
        (lambda index: index.update(shards=[]), "the data set has no samples"),
        (
            lambda index: index["shards"][0]["column_encodings"].__setitem__(0, "pkl"),
            "column 'big' is 'pkl': reading it would run code that the file holds; leave it out at the source",
        ),
        (
            lambda index: index["shards"][0]["column_encodings"].__setitem__(0, "list[jpeg]"),
            "column 'big' is 'list[jpeg]': no kind of field holds it",
        ),
        (
            lambda index: index["shards"][1]["column_encodings"].__setitem__(0, "str"),
            "shard.00001.mds, sample 1: field 'big' is str, and scalar of int64 in the first sample",
        ),
        (
            lambda index: index["shards"][1]["column_names"].__setitem__(0, "other"),
            "shard.00001.mds, sample 1: the sample has other, blob, ",
        ),
        (
            lambda index: index["shards"][2]["raw_data"]["hashes"].update(sha1="0" * 40),
            "shard.00002.mds: its sha1 is ",
        ),
        (set_first("samples", 2), "shard.00000.mds: its header does not fit its size"),
        (lambda index: [s["column_names"].__setitem__(0, "a/b") for s in index["shards"]], "a field cannot be called"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_mds_is_said(tmp_path: Path, change: Callable[[Any], object], message: str) -> None:
    source = unpack("mds", tmp_path / "source")
    edit_index(source, change)
    with pytest.raises(fastload.FastloadError) as caught:
        convert(source, tmp_path / "out")
    assert message in str(caught.value)
    assert not (tmp_path / "out" / "index.json").exists()


def damage(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("litdata", lambda i: i["config"].update(encryption={"a": 1}), "is encrypted; write it anew without"),
        ("litdata", lambda i: i["config"].update(item_loader="ParquetLoader"), "was written for ParquetLoader; only"),
        ("litdata", lambda i: i["config"]["data_format"].__setitem__(0, "pickle"), "would run code"),
        ("litdata", lambda i: i["config"]["data_format"].__setitem__(0, "video:mp4"), "no kind of field holds it"),
        ("litdata", lambda i: i["config"]["data_format"].__setitem__(7, "no_header_numpy:11"), "no kind of field"),
        ("litdata", lambda i: i["chunks"][0].update(chunk_size=5), "it has 2 items, and its index says 5"),
        ("litdata", lambda i: i["chunks"][1].update(chunk_bytes=5), "and its index says 5; fetch it again"),
        ("litdata", lambda i: i["chunks"][1].update(filename="gone.bin"), "gone.bin cannot be read: No such file"),
    ],
)
def test_what_is_wrong_with_litdata_is_said(tmp_path: Path, name: str, change: Any, message: str) -> None:
    source = unpack(name, tmp_path / "source")
    edit_index(source, change)
    with pytest.raises(fastload.FastloadError) as caught:
        convert(source, tmp_path / "out")
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["mds", "litdata", "litdata_batch", "litdata_chunk", "litdata_sample", "litdata_rows"])
def test_a_damaged_header_is_an_error_that_names_the_file(tmp_path: Path, name: str) -> None:
    source = unpack(name, tmp_path / "source")
    edit_index(source, lambda index: [s["raw_data"].update(hashes={}) for s in index.get("shards", [])])
    first = min(path for path in source.iterdir() if path.name != "index.json")
    for at in (1, 5, -1):
        whole = first.read_bytes()
        damage(first, at if name != "litdata_rows" or at == -1 else len(whole) - 20)
        if at == -1:  # may be content, which has no checksum here
            with contextlib.suppress(fastload.FastloadError):
                convert(source, tmp_path / f"out{at}")
        else:
            with pytest.raises(fastload.FastloadError, match=re.escape(first.name)):
                convert(source, tmp_path / f"out{at}")
        first.write_bytes(whole)


def test_sources_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(PackError, match=r"nothing has no index.json, nor has a folder in it; pass a data set of MDS"):
        convert(tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(ConfigError, match="format='zip': pass 'tar' or 'parquet'"):
        convert(tmp_path, tmp_path / "out", format="zip")  # type: ignore[arg-type]
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "index.json").write_text("[")
    with pytest.raises(PackError, match="is no index of MDS or LitData"):
        convert(tmp_path / "s", tmp_path / "out")


def test_pictures_that_png_cannot_hold_are_refused() -> None:
    picture = PIL.Image.new("CMYK", (2, 1))
    head = np.array([2, 1, 4], "<u4").tobytes() + b"CMYK"
    with pytest.raises(PackError, match="mode 'CMYK' cannot be stored as PNG; convert it to RGB"):
        raw_picture(memoryview(head + picture.tobytes()))


def test_the_command(tmp_path: Path) -> None:
    source = unpack("litdata", tmp_path / "source")
    done = CliRunner().invoke(app, ["convert", str(source), str(tmp_path / "out"), "--format", "parquet"])
    assert done.exit_code == 0, done.output
    assert "converted 3 samples (train 3) as 2 parquet files" in done.stdout
    check_common(stream(tmp_path / "out"))
