"""Sources as tables: what is found, what it is called, and what is refused."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pack_sources import jpeg, png, wav

from fastload.errors import ConfigError, PackError
from fastload.pack.columns import origin
from fastload.pack.inputs import open_source
from fastload.pack.manifest import parse_columns
from fastload.pack.missing import Lenience
from fastload.pack.table import Files, Inline, Spans, Table, Values
from fastload.shards.index import FieldInfo


def make(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def read_source(source: Path, **options: Any) -> Table:
    table = open_source(source, **options)
    assert isinstance(table, Table)
    return table


def labels(table: Table) -> list[str]:
    column, classes = table.columns["label"], table.fields["label"].classes
    assert isinstance(column, Values)
    assert classes is not None
    return [classes[int(value)] for value in column.values]


def inline(table: Table, name: str) -> list[bytes]:
    column = table.columns[name]
    assert isinstance(column, Inline)
    return list(column.contents)


def values(table: Table, name: str) -> list[object]:
    column = table.columns[name]
    assert isinstance(column, Values)
    return column.values.tolist()


# Folders


def test_a_folder_of_class_folders(tmp_path: Path) -> None:
    files = {
        "dog/b.JPEG": b"x",
        "cat/deep/a.v2.png": b"xy",
        "cat/a.jpg": b"x",
        ".hidden/c.jpg": b"x",
        "cat/.d.jpg": b"x",
    }
    table = read_source(make(tmp_path / "s", files | {"cat/notes.md": b"x"}))
    assert table.keys == ["cat/a", "cat/deep/a_v2", "dog/b"]
    assert labels(table) == ["cat", "cat", "dog"]
    column = table.columns["image"]
    assert isinstance(column, Files)
    assert list(column.paths) == ["cat/a.jpg", "cat/deep/a.v2.png", "dog/b.JPEG"]
    assert column.sizes.tolist() == [1, 2, 1]
    assert list(column.types) == ["jpg", "png", "jpg"]
    assert table.fields["image"] == FieldInfo(kind="image")
    assert list(table.ignored) == ["cat/notes.md"]
    assert table.endings == {"image": ["jpg", "png", "jpg"], "label": "cls"}


def test_a_flat_folder_has_no_label(tmp_path: Path) -> None:
    table = read_source(make(tmp_path / "s", {"b.jpg": b"x", "a.jpg": b"x"}))
    assert table.keys == ["a", "b"]
    assert table.fields == {"image": FieldInfo(kind="image", extension="jpg")}


def test_classes_that_are_numbers_sort_as_numbers(tmp_path: Path) -> None:
    files = {f"{number}/{number}.jpg": b"x" for number in (10, 9, -1, 100)}
    table = read_source(make(tmp_path / "s", files))
    assert table.fields["label"].classes == ("-1", "9", "10", "100")


def test_label_regex_takes_the_class_from_the_file_name(tmp_path: Path) -> None:
    source = make(tmp_path / "s", {f"{digit}_jackson_{take}.wav": wav(5) for digit in (3, 10) for take in (0, 1)})
    table = read_source(source, label_regex=r"^(\d+)_")
    assert table.fields["audio"].kind == "audio"
    assert table.fields["label"].classes == ("3", "10")
    assert labels(table) == ["10", "10", "3", "3"]
    with pytest.raises(PackError, match=r"label_regex='\^x\(\.\)' does not match the file name of '10_jackson_0.wav'"):
        read_source(source, label_regex="^x(.)")
    with pytest.raises(ConfigError, match="has no group"):
        read_source(source, label_regex=r"\d")
    with pytest.raises(ConfigError, match="is no regular expression"):
        read_source(source, label_regex="(")


def test_names_that_webdataset_would_skip_or_cut_are_changed(tmp_path: Path) -> None:
    table = read_source(make(tmp_path / "s", {"__background__/a.b.c.jpg": b"x", "x.y/__z__.jpg": b"x"}))
    assert table.keys == ["_background__/a_b_c", "x.y/__z__"]
    assert labels(table) == ["__background__", "x.y"]


def test_folders_that_are_named_for_splits_are_no_classes(tmp_path: Path) -> None:
    files = {"test/cat/b.jpg": b"x", "train/cat/a.jpg": b"x", "train/dog/a.jpg": b"x"}
    table = read_source(make(tmp_path / "s", files))
    assert table.keys == ["test/cat/b", "train/cat/a", "train/dog/a"]
    assert labels(table) == ["cat", "cat", "dog"]
    assert table.splits == ["test", "train", "train"]
    told = read_source(tmp_path / "s", label_level=1)
    assert (labels(told), told.splits) == (["test", "train", "train"], None)
    flat = read_source(make(tmp_path / "flat", {"train/a.jpg": b"x", "val/a.jpg": b"x"}))
    assert (list(flat.fields), flat.splits) == (["image"], ["train", "val"])
    other = read_source(make(tmp_path / "s", {"extra/cat/a.jpg": b"x"}))
    assert (other.fields["label"].classes, other.splits) == (("extra", "test", "train"), None)
    with pytest.raises(PackError, match=r"the class folder 'eel' of .*flat2/val has no samples"):
        read_source(make(tmp_path / "flat2", {"train/dog/a.jpg": b"x", "val/dog/a.jpg": b"x", "val/eel/a.md": b"x"}))


def test_what_cannot_be_listed_is_left_out(tmp_path: Path) -> None:
    source = make(tmp_path / "s", {"dog/a.jpg": b"x", "dog/a.png": b"x", "eel/notes.md": b"x"})
    os.mkfifo(source / "dog" / "c.jpg")
    table = read_source(source, lenience=Lenience(faulty=True))
    assert (table.keys, labels(table)) == (["dog/a"], ["dog"])
    assert table.left_out is not None
    assert {(left.key, left.reason) for left in table.left_out} == {
        ("dog/a", "unreadable"), ("dog/c", "unreadable"), ("eel", "empty_class")
    }  # fmt: skip


def test_links_are_followed_and_rings_refused(tmp_path: Path) -> None:
    make(tmp_path / "real", {"a.jpg": b"x"})
    source = make(tmp_path / "s", {"dog/b.jpg": b"x"})
    (source / "cat").symlink_to(tmp_path / "real")
    assert read_source(source).keys == ["cat/a", "dog/b"]
    (source / "dog" / "ring").symlink_to(source)
    with pytest.raises(PackError, match="dog/ring links to a folder that it is in"):
        read_source(source)


def test_pictures_that_a_link_leads_to_say_what_a_folder_is(tmp_path: Path) -> None:
    source = make(tmp_path / "s", {"notes.jsonl": b'{"text": "x"}\n'})
    make(tmp_path / "elsewhere", {"pictures/a.jpg": jpeg(1), "shards/b.tar": b"x", "c.jsonl": b"x"})
    assert not isinstance(open_source(source), Table)
    (source / "b").symlink_to(tmp_path / "elsewhere/pictures")
    assert read_source(source).keys == ["b/a"]
    (source / "metadata.jsonl").write_text('{"file_name": "b/a.jpg", "caption": "x"}\n')
    assert list(read_source(source).fields) == ["image", "caption"]
    (tmp_path / "ring/z").mkdir(parents=True)
    (tmp_path / "ring/a").symlink_to(tmp_path / "ring")
    (tmp_path / "ring/b").symlink_to(tmp_path / "elsewhere/shards")
    (tmp_path / "ring/c").symlink_to(tmp_path / "ring/z")
    make(tmp_path / "ring", {"z/d.jsonl": b'{"text": "x"}\n'})
    assert not isinstance(open_source(tmp_path / "ring"), Table), "texts, though a link leads there first"


def test_a_folder_of_texts(tmp_path: Path) -> None:
    table = read_source(make(tmp_path / "s", {"pos/a.txt": b"good", "neg/b.txt": b"bad"}))
    assert table.keys == ["neg/b", "pos/a"]
    assert table.fields["text"] == FieldInfo(kind="text", extension="txt")
    assert labels(table) == ["neg", "pos"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "s has no image, audio or text files"),
        ({"readme.md": b"x"}, "s has no image, audio or text files"),
        ({"a.jpg": b"x", "b.wav": b"x"}, "s has 1 image files and 1 audio files; pass kind='image' or kind='audio'"),
        ({"a.jpg": b"x", "b.jpg": b"", "c.jpg": b""}, "s/b.jpg and 1 more: the file is empty"),
        ({"d/a.jpg": b"x", "b.jpg": b"x"}, r"files beside its class folders \('b.jpg' is one of 1\)"),
        ({"d/a.jpg": b"x", "e/notes.md": b"x"}, "the class folder 'e' of .* has no samples"),
        ({"a.jpg": b"x", "a.png": b"x"}, "a.png: the key 'a' is that of a.jpg too"),
        ({"a.b.jpg": b"x", "a_b.jpg": b"x"}, "a_b.jpg: the key 'a_b' is that of a.b.jpg too"),
    ],
)
def test_faulty_folders_are_named(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    (tmp_path / "s").mkdir()
    with pytest.raises(PackError, match=message):
        read_source(make(tmp_path / "s", files))


def test_broken_links_and_names_that_are_not_utf8(tmp_path: Path) -> None:
    source = make(tmp_path / "s", {"a.jpg": b"x"})
    (source / "b.jpg").symlink_to("nowhere")
    with pytest.raises(PackError, match=r"s/b.jpg is a broken link"):
        read_source(source)
    (source / "b.jpg").unlink()
    for target in ("b.jpg", "a.jpg/c.jpg"):  # in a circle; through what is no folder
        (source / "b.jpg").symlink_to(target)
        with pytest.raises(PackError, match=r"s/b.jpg is a broken link"):
            read_source(source)
        table = read_source(source, lenience=Lenience(faulty=True))
        assert (table.keys, table.columns["image"].sizes.tolist()) == (["a", "b"], [1, -1])
        (source / "b.jpg").unlink()
    os.mkfifo(source / "c.jpg")
    with pytest.raises(PackError, match=r"s/c.jpg is no regular file"):
        read_source(source)
    (source / "c.jpg").unlink()
    (tmp_path / "s" / os.fsdecode(b"\xff.jpg")).write_bytes(b"x")
    with pytest.raises(PackError, match=r"\\udcff.jpg: the key .* is not UTF-8; rename it"):
        read_source(source)


def test_kind_picks_one_of_several(tmp_path: Path) -> None:
    source = make(tmp_path / "s", {"a.jpg": b"x", "b.wav": b"x"})
    table = read_source(source, kind="audio")
    assert (table.keys, list(table.ignored)) == (["b"], ["a.jpg"])
    with pytest.raises(PackError, match="has no text files"):
        read_source(source, kind="text")
    with pytest.raises(ConfigError, match="kind='video': pass one of 'image', 'audio'"):
        read_source(source, kind="video")


# Text files


def test_one_sample_per_line(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbffirst\r\n\n  \nsecond \xc3\xbc\nlast"
    (tmp_path / "t.txt").write_bytes(content)
    table = read_source(tmp_path / "t.txt")
    assert table.keys == ["000000001", "000000004", "000000005"]
    column = table.columns["text"]
    assert isinstance(column, Spans)
    found = [content[a : a + n] for a, n in zip(column.starts.tolist(), column.sizes.tolist(), strict=True)]
    assert found == [b"first", "second ü".encode(), b"last"]


def test_faulty_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_bytes(b"\n \n")
    with pytest.raises(PackError, match=r"empty.txt has no line of text"):
        read_source(tmp_path / "empty.txt")
    (tmp_path / "x.dat").write_bytes(b"hello")
    with pytest.raises(PackError, match=r"x.dat is none of a folder, a manifest"):
        read_source(tmp_path / "x.dat")
    assert read_source(tmp_path / "x.dat", kind="text").keys == ["000000001"]
    with pytest.raises(PackError, match="missing does not exist"):
        read_source(tmp_path / "missing")
    with pytest.raises(ConfigError, match=r"columns='a:a' needs a manifest"):
        read_source(tmp_path / "x.dat", columns="a", kind="text")
    with pytest.raises(ConfigError, match=r"label_regex=.* needs a folder"):
        read_source(tmp_path / "x.dat", label_regex="(.)", kind="text")


# Manifests


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """Files that manifests name."""
    np.save(tmp_path / "a.npy", np.zeros((2, 3), np.float32))
    np.save(tmp_path / "b.npy", np.ones((2, 3), np.float32))
    np.save(tmp_path / "t1.npy", np.arange(4))
    np.save(tmp_path / "t2.npy", np.arange(6))
    files = {
        "i/a.jpg": jpeg(1),
        "i/b.jpg": jpeg(2),
        "i/a.png": png(1),
        "s/a.wav": wav(9),
        "s/b.wav": wav(8),
        "n.txt": b"hi",
    }
    return make(tmp_path, files)


def manifest(folder: Path, text: str, name: str = "m.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_columns_become_what_they_hold(media: Path) -> None:
    text = (
        "path,sound,label,age,weight,caption,vector,tokens\n"
        'i/a.jpg,s/a.wav,tench,3,0.5,"a, b",a.npy,t1.npy\n'
        "i/b.jpg,s/b.wav,cock,-4,2,ü,b.npy,t2.npy\n"
    )
    table = read_source(manifest(media, "\ufeff" + text))
    assert table.fields == {
        "image": FieldInfo(kind="image", extension="jpg"),
        "sound": FieldInfo(kind="audio", extension="sound.wav"),
        "label": FieldInfo(kind="scalar", dtype="int64", classes=("cock", "tench"), extension="cls"),
        "age": FieldInfo(kind="scalar", dtype="int64", extension="age.cls"),
        "weight": FieldInfo(kind="scalar", dtype="float64", extension="weight.json"),
        "caption": FieldInfo(kind="text", extension="caption.txt"),
        "vector": FieldInfo(kind="tensor", dtype="float32", shape=(2, 3), extension="vector.npy"),
        "tokens": FieldInfo(kind="tokens", dtype="int64", extension="npy"),
    }
    assert table.keys == ["i/a", "i/b"]
    assert labels(table) == ["tench", "cock"]
    assert (values(table, "age"), values(table, "weight")) == ([3, -4], [0.5, 2.0])
    assert inline(table, "caption") == [b"a, b", "ü".encode()]


def test_chosen_and_forced_columns(media: Path) -> None:
    source = manifest(media, "path,n,id\ni/a.jpg,7,x.1\ni/b.jpg,8,y.2\n")
    table = read_source(source, columns="picture:path,name:path:text,number:n:text,key:id")
    assert table.keys == ["x_1", "y_2"]
    assert table.fields["picture"] == FieldInfo(kind="image", extension="picture.jpg")
    assert inline(table, "name") == [b"i/a.jpg", b"i/b.jpg"]
    assert inline(table, "number") == [b"7", b"8"]
    assert read_source(source, columns={"image": "path"}).fields.keys() == {"image"}


def test_json_lines_keep_their_types(media: Path) -> None:
    rows = [
        {"file_name": "i/a.jpg", "label": 5, "ok": True, "meta": {"a": 1}, "tokens": [1, 2], "score": 1, "v": [0.5]},
        {"file_name": "i/b.jpg", "label": 2, "ok": False, "meta": [], "tokens": [3], "score": 0.5, "v": [1.5]},
    ]
    source = manifest(media, "\n".join(map(json.dumps, rows)) + "\n\n", "m.jsonl")
    table = read_source(source)
    kinds = {name: info.kind for name, info in table.fields.items()}
    assert kinds == {
        "image": "image", "label": "scalar", "ok": "scalar", "meta": "json",
        "tokens": "tokens", "score": "scalar", "v": "json",
    }  # fmt: skip
    assert values(table, "label") == [5, 2]
    assert table.fields["label"].classes is None
    assert values(table, "ok") == [True, False]
    assert inline(table, "meta") == [b'{"a": 1}', b"[]"]
    assert read_source(source, columns="v:v:tensor").fields["v"] == FieldInfo(
        kind="tensor", dtype="float32", shape=(1,), extension="v.npy"
    )


def test_rows_without_files_are_numbered(tmp_path: Path) -> None:
    assert read_source(manifest(tmp_path, "text,label\na,x\nb,y\n")).keys == ["000000001", "000000002"]


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("path\n", None, "m.csv has no rows"),
        ("", None, "m.csv has no rows"),
        (
            "path,label\ni/a.jpg,x\ni/c.jpg,y\n",
            None,
            "m.csv, row 2: column 'path': 'i/c.jpg' cannot be read: No",
        ),
        ("path,label\nq/a.jpg,x\n", None, "m.csv, row 1: column 'path': 'q/a.jpg' cannot be read: No such file"),
        ('path\ni/a.jpg\n""\n', None, "m.csv, row 2: column 'path': '' is no name of a file"),
        ("path\ni/a.jpg\ns/a.wav\n", None, r"column 'path' names files of several kinds \(audio, image\)"),
        ("path\ni/a.jpg\ni/a.jpg\n", None, "m.csv, row 2: the key 'i/a' is that of .*m.csv, row 1 too"),
        ("a,b\n1\n", None, "m.csv, line 2: 1 cells where the header has 2"),
        ("a,a\n1,2\n", None, "the first line must name each column, once"),
        ("a,b\n1\n", None, r"1 cells where the header has 2; mend it, or leave such samples out with on_error='skip'"),
        ('a\n1\n"x"y\n', None, "m.csv, line 3: not CSV"),
        ('a\n1\n"x\n2\n', None, r"m.csv, line 3: a quote opens in this row and none closes it, .*\(2 lines\)"),
        ("path\ni/a.jpg\n", "image:pfad", "has no column 'pfad'; it has 'path'"),
        ("path\ni/a.jpg\n", "image:path:picture", "'picture' is no kind of field; pass one of image, audio"),
        ("path\ni/a.jpg\n", "image:path,,", "an empty part"),
        ("path\ni/a.jpg\n", "image:path,image:path", "a field is named twice"),
        ("path\ni/a.jpg\n", "key:path", "names no field"),
        ("path,file\ni/a.jpg,i/b.jpg\n", None, "two columns become the field 'image'"),
        ("path,n\ni/a.jpg,x\n", "image:path,n:n:scalar", "row 1: column 'n' has 'x', which is no number"),
        ("n\n99999999999999999999\n", "n:n:scalar", "row 1: column 'n' has 9{20}, beyond the integers of 64 bits"),
        ("path\nn.txt\n", "v:path:tensor", "row 1: 'n.txt' is not a .npy file of numbers"),
        ("j\n{\n", "j:j:json", "row 1: column 'j' has '{', which is not JSON"),
        ("a b,label\n1,2\n", None, "a field cannot be called 'a b'"),
        ("path,n\ngone.jpg,1\ni/a.jpg,2\n,3\n", None, "row 1: column 'path': 'gone.jpg' cannot be read"),
        ("picture,n\ngone,1\ni/a.jpg,2\n", None, "row 1: column 'picture': 'gone' .*; if these are no names of files"),
        ("path,n\ni/a,1\n", None, "column 'path' names files, such as 'i/a', and no ending tells of what kind"),
        ("image,n\ni/a,1\n", None, "row 1: column 'image': 'i/a' cannot be read"),
        ("path,n\n/etc/passwd,1\ni/a,1\n", None, "column 'path' names files, such as '/etc/passwd', and no ending"),
        ("path,n\ni,1\ni/a.jpg,2\n", None, "row 1: column 'path': 'i' is not a file"),
        ("n,t\n1,a\n2.5,b\nnan,c\n,d\n", None, r"row 4: column 'n' is empty, among numbers; fill it \(--fill n=0\)"),
        ('key,t\n"a\nb",x\n', None, r"row 1: the key 'a\\nb' has control characters; rename it"),
        ("key,t\na\0b,x\n", None, r"row 1: the key 'a\\x00b' has control characters; rename it"),
    ],
)
def test_faulty_manifests_are_named(media: Path, text: str, columns: str | None, message: str) -> None:
    with pytest.raises((PackError, ConfigError), match=message):
        read_source(manifest(media, text), columns=columns)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}\n{"b": 1}\n', "m.jsonl, line 2: has other columns than the first row: 'a', 'b'"),
        ('{"a": 1}\n\n[1]\n', "m.jsonl, line 3: a row must be a JSON object"),
        ('{"a": 1}\n{"a":\n', "m.jsonl, line 2: not JSON"),
        ('{"a": "x"}\n{"a": "\\ud800 y"}\n', r"m.jsonl, line 2: '\\ud800' is half a character"),
        ('{"a": "x"}\n{"a": null}\n', "m.jsonl, row 2: column 'a' is null"),
        ('{"tokens": [1]}\n{"tokens": [1.5]}\n', r"row 2: column 'tokens' has \[1.5\]: tokens are one list of"),
    ],
)
def test_faulty_json_lines_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(PackError, match=message):
        read_source(manifest(tmp_path, text, "m.jsonl"))


def test_rows_that_cannot_be_read_are_left_out(media: Path) -> None:
    skip = Lenience(faulty=True)
    table = read_source(
        manifest(media, "path,n\ngone.jpg,1\ni/b.jpg,2\ni/a.jpg,3,4\n,5\n,6\ni/b.jpg,7\n"), lenience=skip
    )
    column = table.columns["image"]
    assert isinstance(column, Files)
    assert table.keys == ["gone", "i/b", "000000004", "000000005"]
    assert list(column.paths) == ["gone.jpg", "i/b.jpg", "", ""]
    assert (column.sizes > 0).tolist() == [False, True, False, False]
    assert [origin(table, row) for row in range(4)] == ["gone.jpg", "i/b.jpg", "row 4", "row 5"]
    assert table.left_out is not None
    assert [(left.key, left.place.rpartition("/")[2], left.reason) for left in table.left_out] == [
        ("000000003", "line 4", "unreadable"),
        ("i/b", "m.csv, row 6", "unreadable"),
    ]
    table = read_source(manifest(media, '{"a": 1}\n{"a"\n7\n{"a": 2}\n', "m.jsonl"), lenience=skip)
    assert (table.keys, values(table, "a")) == (["000000001", "000000004"], [1, 2])
    assert table.left_out is not None
    assert [left.place for left in table.left_out] == ["line 2", "line 3"]
    with pytest.raises(PackError, match=r"has no rows that can be read \(line 1: not JSON"):
        read_source(manifest(media, "{\n", "m.jsonl"), lenience=skip)


@pytest.mark.parametrize(
    ("rows", "columns", "why"),
    [
        (["1", '"x"', "3"], "v:v:scalar", "column 'v' has 'x', which is no number"),
        (["1", "100000000000000000000", "3"], None, "column 'v' has 100000000000000000000, beyond the integers of 64"),
        (["[1]", "[1, null]", "[3]"], "tokens:v", "column 'v' has [1, None], which is no array of numbers ("),
        (["[1]", "[1.5]", "[3]"], "tokens:v", "column 'v' has [1.5]: tokens are one list of integers"),
        (["[1]", "[null]", "[3]"], "v:v:tensor", "column 'v' has [None], a list with a null in it"),
        (['"a"', "[1]", '"c"'], "v:v:text", "column 'v' has [1], which is no text"),
        (['"1"', '"{"', '"3"'], "v:v:json", "column 'v' has '{', which is not JSON ("),
        (['"a"', "1", '"c"'], "label:v:label", ""),
        (['"a"', "0.5", '"c"'], "label:v:label", "column 'v' has 0.5 among class names; write it as text"),
    ],
)
def test_values_that_their_field_cannot_hold_are_left_out(
    tmp_path: Path, rows: list[str], columns: str | None, why: str
) -> None:
    lines = [f'{{"key": "k{row}", "v": {value}}}\n' for row, value in enumerate(rows)]
    source = manifest(tmp_path, "".join(lines), "m.jsonl")
    told = columns and f"key,{columns}"
    table = read_source(source, columns=told, lenience=Lenience(faulty=True))
    assert table.left_out is not None
    if not why:
        assert table.left_out == ()
        return
    ((key, place, found),) = [(left.key, left.place, left.why) for left in table.left_out]
    assert (key, place, found[: len(why)]) == ("k1", f"{source}, row 2", why)
    alone = read_source(manifest(tmp_path, lines[0] + lines[2], "m.jsonl"), columns=told)
    assert (table.keys, table.fields, table.numbers) == (alone.keys, alone.fields, [1, 3])
    with pytest.raises(PackError, match=re.escape(f"m.jsonl, row 2: {why}") + ".*; mend it, or leave such samples out"):
        read_source(manifest(tmp_path, "".join(lines), "m.jsonl"), columns=told)
    if columns is None:
        return  # alone it would be a text
    with pytest.raises(PackError, match=r"m.jsonl has no rows that can be read \(.*row 1: column 'v' has"):
        read_source(manifest(tmp_path, lines[1], "m.jsonl"), columns=told, lenience=Lenience(faulty=True))


def test_integers_beyond_64_bits_whose_fractions_are_left_out(tmp_path: Path) -> None:
    rows = '{"a": 1.5, "b": "{"}\n{"a": 100000000000000000000, "b": "1"}\n'
    source = manifest(tmp_path, rows, "m.jsonl")
    table = read_source(source, columns="a:a:scalar,b:b:json", lenience=Lenience(faulty=True))
    assert (table.numbers, values(table, "a")) == ([2], [1e20])
    assert table.fields["a"].dtype == "float64"


def test_rows_without_a_key_that_could_be_one_are_left_out(tmp_path: Path) -> None:
    source = manifest(tmp_path, "key,n\na,1\nb/,2\n/,3\nd,4\n")
    with pytest.raises(PackError, match=r"m.csv, row 2: 'b/' cannot be a key; mend it, or leave such samples out"):
        read_source(source)
    table = read_source(source, lenience=Lenience(faulty=True))
    assert (table.keys, values(table, "n")) == (["a", "d"], [1, 4])
    assert [left.key for left in table.left_out or ()] == ["000000002", "000000003"]
    table = read_source(manifest(tmp_path, 'key,n\na,1\n"b/",2\n000000002,3\na,4\n'), lenience=Lenience(faulty=True))
    assert (table.keys, values(table, "n")) == (["a", "000000002"], [1, 3]), "what is left out takes no key from others"
    with pytest.raises(PackError, match=r"none of 1 samples can be read: .*m.csv, row 1: '/' cannot be a key, ..."):
        read_source(manifest(tmp_path, "key,n\n/,3\n"), lenience=Lenience(faulty=True))
    source = manifest(tmp_path, '{"key": "a", "n": 1}\n{"key": null, "n": 2}\n', "m.jsonl")
    with pytest.raises(PackError, match=r"m.jsonl, row 2: None cannot be a key; mend it, or leave such samples out"):
        read_source(source)
    assert read_source(source, lenience=Lenience(faulty=True)).keys == ["a"]


def test_lines_that_are_no_text_or_no_csv_are_left_out(tmp_path: Path) -> None:
    skip = Lenience(faulty=True)
    content = b'\xef\xbb\xbft,n\n\xc3\xa4,1\n\n\xff,2\n"x"y,3\n"a\nb",4\n'
    (tmp_path / "m.csv").write_bytes(content)
    with pytest.raises(PackError, match=r"m.csv, line 4: not UTF-8 \(byte 0xff\); mend it"):
        read_source(tmp_path / "m.csv")
    table = read_source(tmp_path / "m.csv", lenience=skip)
    assert (table.keys, inline(table, "t")) == (["000000001", "000000004"], ["ä".encode(), b"a\nb"])
    assert table.left_out is not None
    assert [(left.key, left.place, left.why) for left in table.left_out] == [
        ("000000002", "line 4", "not UTF-8 (byte 0xff)"),
        ("000000003", "line 5", "not CSV (',' expected after '\"')"),
    ]
    (tmp_path / "m.tsv").write_bytes(b"t\xff\tn\n1\t2\n")
    with pytest.raises(PackError, match=r"m.tsv, line 1: not UTF-8 \(byte 0xff\); convert the file"):
        read_source(tmp_path / "m.tsv", lenience=skip)
    (tmp_path / "m.jsonl").write_bytes(b'{"a": 1}\n{"a": "\xff"}\n{"a": 2}\n')
    with pytest.raises(PackError, match=r"m.jsonl, line 2: not UTF-8 \(byte 0xff\); mend it"):
        read_source(tmp_path / "m.jsonl")
    assert values(read_source(tmp_path / "m.jsonl", lenience=skip), "a") == [1, 2]


def test_line_breaks_in_quoted_cells_stay(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes(b'text,n\r\n"a\r\nb",1\r\n"c\rd\ne",2\r\n')
    table = read_source(tmp_path / "m.csv")
    assert inline(table, "text") == [b"a\r\nb", b"c\rd\ne"]
    assert values(table, "n") == [1, 2]


def test_rows_of_a_parquet_manifest_that_are_no_text_are_left_out(media: Path) -> None:
    texts = pa.array([b"a", b"\xff", None, b"d"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"path": ["i/a.jpg", "i/b.jpg", "i/a.png", "i/b.jpg"], "t": texts}), media / "m.parquet")
    with pytest.raises(PackError, match=r"m.parquet, row 2: column 't' is not UTF-8 \(byte 0xff\); mend it, or leave"):
        read_source(media / "m.parquet")
    table = read_source(media / "m.parquet", lenience=Lenience(faulty=True, drop=True))
    assert (table.keys, inline(table, "t"), list(table.numbers or ())) == (["i/a", "i/b"], [b"a", b"d"], [1, 4])
    assert [(left.place, left.reason) for left in table.left_out or ()] == [
        ("row 2", "unreadable"),
        ("row 3", "missing"),
    ]


@pytest.mark.parametrize("mark", [";", "\t"])
def test_csv_of_spreadsheets(media: Path, mark: str) -> None:
    table = read_source(manifest(media, f"path{mark}label\ni/a.jpg{mark}x,y\ni/b.jpg{mark}z\n"))
    assert (table.keys, labels(table)) == (["i/a", "i/b"], ["x,y", "z"])


def test_tabs_part_the_cells_of_a_tsv_and_commas_do_not(media: Path) -> None:
    (media / "m.tsv").write_text("path\tcaption\ni/a.jpg\ta dog, asleep\ni/b.jpg\t;\n")
    table = read_source(media / "m.tsv")
    assert (table.keys, list(table.fields)) == (["i/a", "i/b"], ["image", "caption"])
    assert inline(table, "caption") == [b"a dog, asleep", b";"]


def test_an_empty_file_of_a_manifest(media: Path) -> None:
    (media / "i/b.jpg").write_bytes(b"")
    with pytest.raises(PackError, match=r"row 2: column 'path': 'i/b.jpg' is empty \(0 bytes\)"):
        read_source(manifest(media, "path\ni/a.jpg\ni/b.jpg\n"))


def test_columns_as_text_and_as_a_mapping() -> None:
    assert parse_columns("image:path, label ,caption:text") == {"image": "path", "label": "label", "caption": "text"}
    assert parse_columns({"a": "b:text"}) == {"a": "b:text"}
    assert parse_columns(None) is None


# Class labels of manifests


def test_texts_become_class_numbers_under_any_column_name(tmp_path: Path) -> None:
    source = manifest(tmp_path, 'text,kind\nx,"a, b"\ny,ünï\nz,"a, b"\n')
    table = read_source(source, columns="text,label:kind")
    assert table.fields["label"].classes == ("a, b", "ünï")
    assert labels(table) == ["a, b", "ünï", "a, b"]


def test_integers_become_classes_where_that_is_asked_for(tmp_path: Path) -> None:
    sources = {
        "m.csv": "text,label\na,10\nb,2\nc,10\n",
        "m.jsonl": '{"text":"a","label":10}\n{"text":"b","label":2}\n',
    }
    for name, text in sources.items():
        source = manifest(tmp_path, text, name)
        assert values(read_source(source), "label")[:2] == [10, 2]
        table = read_source(source, columns="text,label:label:label")
        assert table.fields["label"].classes == ("2", "10")
        assert values(table, "label")[:2] == [1, 0]
    with pytest.raises(PackError, match=r"row 1: column 'label' has 0.5 among class names"):
        read_source(manifest(tmp_path, '{"label": 0.5}\n', "f.jsonl"), columns="label:label:label")


def test_a_hundred_thousand_classes(tmp_path: Path) -> None:
    names = [f"class {(7919 * i) % 100_003}" for i in range(100_003)]
    table = read_source(manifest(tmp_path, "".join(["text,label\n", *(f"t,{name}\n" for name in names)])))
    assert table.fields["label"].classes == tuple(sorted(names))
    assert labels(table) == names


def test_class_names_that_are_no_texts_are_named(tmp_path: Path) -> None:
    source = manifest(tmp_path, '{"text": "x", "label": "a"}\n{"text": "y", "label": 1}\n', "m.jsonl")
    with pytest.raises(PackError, match=r"row 2: column 'label' has 1 among class names; write it as text"):
        read_source(source)


def test_a_label_that_is_blank_makes_no_class(tmp_path: Path) -> None:
    source = manifest(tmp_path, "text,label\nx,a\ny,\nz,b\n")
    why = "column 'label' is empty among class names; fill it (--fill), or pass --drop-missing"
    with pytest.raises(PackError, match=re.escape(f"m.csv, row 2: {why}; mend it, or leave such samples out")):
        read_source(source)
    for lenience in (Lenience(faulty=True), Lenience(drop=True)):
        table = read_source(source, lenience=lenience)
        assert (table.fields["label"].classes, labels(table)) == (("a", "b"), ["a", "b"])
    assert labels(read_source(source, lenience=Lenience(fill={"label": "none"}))) == ["a", "none", "b"]
