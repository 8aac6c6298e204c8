"""Folders whose samples have several files, and classes in nested folders."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pack_sources import check_alike, jpeg, photo, png, wav
from test_inputs import labels, make, read_source, values

import fastload
from fastload.cli.packing import passed_over
from fastload.errors import ConfigError, PackError
from fastload.pack import pack
from fastload.pack.cleaning import Cleaning
from fastload.pack.table import Files
from fastload.shards.index import FieldInfo


def stream(out: Path) -> list[dict[str, Any]]:
    return list(fastload.StreamingDataset(out, shuffle=False))


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def paths(table: Any, field: str) -> list[str]:
    column = table.columns[field]
    assert isinstance(column, Files)
    return list(column.paths)


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """Twelve samples of six files."""
    files = {}
    for i in range(12):
        stem = f"{'ab'[i % 2]}/{i:04d}"
        files |= {
            f"{stem}.jpg": photo(i), f"{stem}.mask.png": png(i), f"{stem}.txt": f"größe {i}".encode(),
            f"{stem}.JSON": b'{"i": %d}' % i, f"{stem}.npy": npy(np.full((2,), i, "f4")), f"{stem}.wav": wav(9 + i),
        }  # fmt: skip
    return make(tmp_path / "several", files)


# By name


@pytest.mark.parametrize("shard_format", ["tar", "parquet"])
def test_files_that_share_their_name_are_one_sample(several: Path, tmp_path: Path, shard_format: Any) -> None:
    index = pack(several, tmp_path / "out", workers=1, shuffle=False, format=shard_format)
    assert {name: info.kind for name, info in index.fields.items()} == {
        "image": "image", "mask": "image", "audio": "audio", "text": "text", "json": "json", "tensor": "tensor",
        "label": "scalar",
    }  # fmt: skip
    assert index.fields["tensor"].shape == (2,)
    assert index.fields["label"].classes == ("a", "b")
    if shard_format == "tar":
        assert index.fields["mask"].extension == "mask.png"
    samples = stream(tmp_path / "out")
    assert [sample["__key__"] for sample in samples] == [f"a/{i:04d}" for i in range(0, 12, 2)] + [
        f"b/{i:04d}" for i in range(1, 12, 2)
    ]
    for sample in samples:
        i = int(sample["__key__"][2:])
        assert sample["text"] == f"größe {i}"
        assert sample["json"] == {"i": i}
        assert sample["tensor"].tolist() == [i, i]
        assert sample["label"].item() == i % 2
        assert int(sample["mask"][0, 0, 0]) == i
        assert sample["audio"].shape[-1] == 9 + i
        assert sample["image"].shape == (3, 150, 200)


def test_any_number_of_workers_writes_the_same_and_a_killed_run_goes_on(several: Path, tmp_path: Path) -> None:
    def run(out: Path, **options: Any) -> None:
        pack(several, out, **options)

    check_alike(run, tmp_path / "results", shard_size="40KiB", split="train=0.6,val=0.4")


def test_a_file_of_a_number_is_the_label_and_folders_then_are_none(tmp_path: Path) -> None:
    files = {f"{i}/{i}.{ending}": content for i in range(3) for ending, content in (("jpg", b"x"), ("cls", b" 7\n"))}
    table = read_source(make(tmp_path / "s", files))
    assert table.keys == ["0/0", "1/1", "2/2"]
    assert values(table, "label") == [7, 7, 7]
    assert table.fields["label"] == FieldInfo(kind="scalar", dtype="int64", extension="cls")
    (tmp_path / "s" / "1" / "1.cls").write_bytes(b"cat")
    with pytest.raises(PackError, match=r"s/1/1.cls has b'cat', which is no integer of 64 bits; correct or remove it"):
        read_source(tmp_path / "s")


def test_sounds_with_their_transcripts(tmp_path: Path) -> None:
    files = {f"{i}.{ending}": b"x" for i in range(3) for ending in ("wav", "txt")}
    table = read_source(make(tmp_path / "s", files))
    assert {name: info.kind for name, info in table.fields.items()} == {"audio": "audio", "text": "text"}
    assert paths(table, "text") == ["0.txt", "1.txt", "2.txt"]
    alone = read_source(tmp_path / "s", kind="audio")
    assert (set(alone.fields), len(alone.ignored)) == ({"audio"}, 3)


def test_tokens_and_two_pictures_of_one_type(tmp_path: Path) -> None:
    files = {"1.jpg": b"x", "1.left.jpg": b"x", "1.tokens.npy": npy(np.arange(3))}
    table = read_source(make(tmp_path / "s", files))
    assert table.fields == {
        "image": FieldInfo(kind="image", extension="jpg"),
        "left": FieldInfo(kind="image", extension="left.jpg"),
        "tokens": FieldInfo(kind="tokens", dtype="int64", extension="npy"),
    }


@pytest.mark.parametrize(
    "names",
    [
        ["cat.0.jpg", "cat.1.jpg", "dog.0.jpg"],  # dots, and no plain name among them
        ["a.v1.png", "a.v2.png", "b.v1.png"],
        ["a.jpg", "b.jpg", "notes.txt", "about.json"],  # nothing belongs to a picture
        ["x/1.jpg", "y/1.json", "y/2.jpg"],  # in another folder
    ],
)
def test_files_without_companions_are_samples_of_their_own(tmp_path: Path, names: list[str]) -> None:
    table = read_source(make(tmp_path / "s", dict.fromkeys(names, b"x")))
    pictures = [name for name in names if name.endswith(("jpg", "png"))]
    assert paths(table, "image") == pictures
    assert len(table.ignored) == len(names) - len(pictures)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["1.jpg", "1.txt", "2.jpg", "3.txt", "4.jpg", "5.jpg", "6.jpg", "6.txt"],
            r"4 of 6 samples are incomplete: '2.jpg' has no text; .* '5.jpg' has no text; .*, or pass kind='image'",
        ),
        (["1.jpg", "1.png", "1.txt"], "1.jpg and 1.png are the same field 'image' of a sample; rename one"),
        (["1.jpg", "1.mask.png", "1.mask.npy"], "1.mask.npy.* are the same field 'mask' of a sample; rename one"),
        (["1.jpg", "1.mask.png", "2.jpg", "2.mask.npy"], "the field 'mask' is image in 1.mask.png and tensor in 2"),
        (["1.jpg", "1.a-b-.png"], "a field cannot be called 'a-b-'"),
        (["1.jpg", "1.npy"], r"s/1.npy is not a .npy file of numbers"),
    ],
)  # fmt: skip
def test_faulty_companions_are_named(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(PackError, match=message):
        read_source(make(tmp_path / "s", dict.fromkeys(names, b"x")))


def test_an_empty_companion_is_named(tmp_path: Path) -> None:
    with pytest.raises(PackError, match=r"s/1.txt: the file is empty \(0 bytes\)"):
        read_source(make(tmp_path / "s", {"1.jpg": b"x", "1.txt": b""}))


# Side by side


def test_folders_side_by_side(tmp_path: Path) -> None:
    files = {f"images/{name}.jpg": jpeg(1) for name in ("a/1", "a/2", "b/1")}
    files |= {f"masks/{name}.png": png(2) for name in ("a/1", "a/2", "b/1")}
    source = make(tmp_path / "s", files | {"readme.txt": b"x"})
    index = pack(source, tmp_path / "out", columns="image:images,mask:masks", workers=1, shuffle=False)
    assert {name: info.kind for name, info in index.fields.items()} == {
        "image": "image", "mask": "image", "label": "scalar",
    }  # fmt: skip
    assert index.fields["label"].classes == ("a", "b")
    samples = stream(tmp_path / "out")
    assert [sample["__key__"] for sample in samples] == ["a/1", "a/2", "b/1"]
    assert all(int(sample["mask"][0, 0, 0]) == 2 for sample in samples)
    (source / "masks" / "b" / "1.png").unlink()
    with pytest.raises(PackError, match=r"1 of 3 samples are incomplete: 'b/1.jpg' has no mask; add what is missing"):
        read_source(source, columns="image:images,mask:masks")
    with pytest.raises(ConfigError, match=r"s has no folder 'depth', which is to hold the field 'x'"):
        read_source(source, columns="x:depth")
    (source / "masks" / "b" / "1.txt").write_bytes(b"x")
    with pytest.raises(PackError, match=r"masks has 2 image files and 1 text files; the folder of a field holds"):
        read_source(source, columns="image:images,mask:masks")


# Classes


@pytest.fixture
def nested(tmp_path: Path) -> Path:
    return make(tmp_path / "s", {f"{name}/1.jpg": b"x" for name in ("dog/poodle/old", "dog/black", "cat/black")})


def test_classes_of_nested_folders(nested: Path) -> None:
    assert labels(read_source(nested)) == ["cat", "dog", "dog"]
    assert labels(read_source(nested, label_level=2)) == ["cat/black", "dog/black", "dog/poodle"]
    assert labels(read_source(nested, label_level=0)) == ["cat/black", "dog/black", "dog/poodle/old"]
    with pytest.raises(PackError, match=r"beside the class folders of level 3 \('cat/black/1.jpg' is one of 2\)"):
        read_source(nested, label_level=3)
    (nested / "cat" / "white").mkdir()
    with pytest.raises(PackError, match=r"the class folder 'cat/white' of .* has no samples; fill it or remove it"):
        read_source(nested, label_level=2)


def test_levels_that_do_not_fit_are_refused(nested: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"label_level=-1: pass 1 for the first folder, 2 for two, ...; 0 for all"):
        read_source(nested, label_level=-1)
    with pytest.raises(ConfigError, match="label_regex takes the class from the file's name: leave label_level out"):
        read_source(nested, label_level=2, label_regex="(.)")
    (tmp_path / "t.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"label_level=2 needs a folder; .*t.txt is a file"):
        read_source(tmp_path / "t.txt", label_level=2)


def test_the_level_is_an_option_of_the_run(nested: Path, tmp_path: Path) -> None:
    for path in nested.rglob("*.jpg"):
        path.write_bytes(jpeg(1))
    index = pack(nested, tmp_path / "out", label_level=2, workers=1)
    assert index.packed["options"]["label_level"] == 2
    assert index.fields["label"].classes == ("cat/black", "dog/black", "dog/poodle")


def test_samples_that_lack_a_file_are_left_out(tmp_path: Path) -> None:
    files = {f"a/{name}.jpg": jpeg(1) for name in "123"} | {"a/1.txt": b"x", "a/3.txt": b"y", "a/n.heic": b"x"}
    for name, content in files.items():
        (tmp_path / "s" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "s" / name).write_bytes(content)
    for number, clean in enumerate((Cleaning(on_error="skip"), Cleaning(drop_missing=True))):
        index = pack(tmp_path / "s", tmp_path / f"out{number}", workers=1, clean=clean)
        assert index.samples("train") == 2
        assert index.statistics["cleaning"]["rejected"] == {"missing": 1}
        rows = pq.read_table(tmp_path / f"out{number}" / "rejected.parquet").to_pylist()
        assert rows == [{"key": "a/2", "source": "a/2.jpg", "reason": "missing", "detail": "has no text"}]
        rows = pq.read_table(tmp_path / f"out{number}" / "suspects.parquet").to_pylist()
        assert [(row["source"], row["reason"]) for row in rows] == [("a/n.heic", "ignored_file")]
        assert passed_over(index) == "; 1 file of other kinds ignored (.heic 1)"
    with pytest.raises(PackError, match=r"1 of 3 samples are incomplete: 'a/2.jpg' has no text"):
        pack(tmp_path / "s", tmp_path / "out", workers=1)


def test_files_that_hold_no_array_or_number_are_left_out(tmp_path: Path) -> None:
    endless = b"\x93NUMPY\x01\x00\x06\x00{'a':("  # a header of Python that does not end
    files = {
        f"{i}.{ending}": content
        for i, (array, number) in enumerate(
            [(npy(np.arange(3)), b"7"), (b"junk", b"1"), (endless, b"2"), (npy(np.arange(3)), b""), (b"x", b"cat")], 1
        )
        for ending, content in (("jpg", jpeg(i)), ("npy", array), ("cls", number))
    }
    source = make(tmp_path / "s", files)
    make(source, {"6.jpg": jpeg(6), "6.npy": npy(np.arange(3))})
    (source / "6.cls").symlink_to("nowhere")
    index = pack(source, tmp_path / "out", workers=1, clean=Cleaning(on_error="skip"))
    assert (index.samples("train"), index.fields["tensor"].shape) == (1, (3,))
    assert index.statistics["cleaning"]["rejected"] == {"unreadable": 5}
    rows = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    assert [(row["key"], row["source"], row["detail"].partition(" ")[0]) for row in rows] == [
        ("2", "2.jpg", "tensor:"), ("3", "3.jpg", "tensor:"),
        ("4", "4.cls", "label:"), ("5", "5.cls", "label:"), ("6", "6.cls", "label:"),
    ]  # fmt: skip
    assert rows[3]["detail"] == f"label: {source}/5.cls has b'cat', which is no integer of 64 bits"
    with pytest.raises(PackError, match="5 samples cannot be read, more than max_errors=4"):
        pack(source, tmp_path / "few", workers=1, clean=Cleaning(on_error="skip", max_errors=4))
    for path in source.glob("[1-5].*"):
        path.unlink()
    with pytest.raises(PackError, match=r"s/6.cls cannot be read: No such file or directory; correct or remove it, or"):
        read_source(source)
    with pytest.raises(PackError, match=r"s/6.cls cannot be read"):
        pack(source, tmp_path / "none", workers=1, clean=Cleaning(on_error="skip"))


def test_a_folder_of_arrays_may_have_other_files(tmp_path: Path) -> None:
    source = make(tmp_path / "s", {"a/1.npy": npy(np.arange(6.0)), "a/2.npy": b"junk"})
    with pytest.raises(PackError, match=r"s/a/2.npy is not a .npy file of numbers; mend it, or leave such out with"):
        read_source(source)
    assert pack(source, tmp_path / "out", workers=1, clean=Cleaning(on_error="skip")).samples("train") == 1
    if os.geteuid() != 0:  # whom nothing is forbidden
        (source / "a" / "2.npy").chmod(0)
        with pytest.raises(PackError, match=r"s/a/2.npy cannot be read: Permission denied; mend it, or leave such"):
            read_source(source)
