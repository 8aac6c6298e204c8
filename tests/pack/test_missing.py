"""Missing values and missing files: errors, unless they are to be filled or left out, and then listed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pack_sources import jpeg
from typer.testing import CliRunner

from fastload import Cleaning, StreamingDataset
from fastload.cli import app
from fastload.errors import ConfigError, PackError
from fastload.pack import contents, pack
from fastload.pack.missing import Cells, Lenience, mend
from fastload.pack.tabular import read_cells
from fastload.shards.index import IndexFile


def samples(out: Path) -> dict[str, dict[str, Any]]:
    return {sample.pop("__key__"): sample for sample in StreamingDataset(out)}


def rejected(out: Path) -> list[tuple[str, ...]]:
    return [tuple(row.values()) for row in pq.read_table(out / "rejected.parquet").to_pylist()]


values = st.one_of(st.none(), st.just(""), st.just("  "), st.just("x"), st.floats(width=16), st.integers(0, 9))


def cells(data: dict[str, list[Any]]) -> Cells:
    return Cells(data=data, numbers=range(1, len(next(iter(data.values()))) + 1))


@given(st.lists(st.tuples(values, values), min_size=1, max_size=30))
def test_what_is_left_lacks_nothing_and_nothing_else_is_left_out(rows: list[tuple[Any, Any]]) -> None:
    data = {"a": [a for a, _ in rows], "b": [b for _, b in rows], "unused": [None] * len(rows)}
    found = mend(cells(data), {"a": "a", "b": "b"}, None, Lenience(drop=True))

    def whole(value: Any) -> bool:
        return value is not None and value == value and str(value).strip() != ""

    expected = [number for number, row in enumerate(rows, 1) if all(map(whole, row))]
    assert list(found.numbers) == expected
    assert found.data["a"] == [rows[number - 1][0] for number in expected]
    assert len(found.left_out) == len(rows) - len(expected)


def test_nan_as_text_is_missing_among_numbers_only() -> None:
    assert mend(cells({"x": ["1", "nan", ""]}), {"x": "x"}, None, Lenience(drop=True)).numbers == [1]
    assert mend(cells({"x": ["bread", "Nan", ""]}), {"x": "x"}, None, Lenience(drop=True)).numbers == [1, 2]


@pytest.mark.parametrize(
    ("column", "wanted", "expected"),
    [
        ([1, None, 3], "0", [1, 0, 3]),
        ([0.5, float("nan")], "2.5", [0.5, 2.5]),
        (["a", None], "7", ["a", "7"]),
        (["1", ""], 7, ["1", "7"]),
        ([[1], None], "[]", [[1], []]),
        ([None, None], "x", ["x", "x"]),
        ([True, None], "false", [True, False]),
        ([1, None], "none", [1, "none"]),
    ],
)
def test_what_stands_for_a_missing_value_has_the_type_of_the_others(
    column: list[Any], wanted: Any, expected: list[Any]
) -> None:
    found = mend(cells({"x": column}), {"x": "x"}, None, Lenience(fill={"x": wanted}))
    assert found.data["x"] == expected
    assert found.left_out == ()


CSV = "key,text,age,label\na,one,5,cat\nb,,6,dog\nc,three,,cat\nd,four,8,\ne,five,9,dog\n"


def test_rows_of_a_csv(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(CSV)
    index = pack(tmp_path / "m.csv", tmp_path / "out", clean=Cleaning(drop_missing=True), workers=1)
    assert samples(tmp_path / "out").keys() == {"a", "e"}
    assert index.fields["age"].dtype == "int64"
    assert rejected(tmp_path / "out") == [
        ("b", "row 2", "missing", "column 'text' is empty"),
        ("c", "row 3", "missing", "column 'age' is empty"),
        ("d", "row 4", "missing", "column 'label' is empty"),
    ]
    assert index.statistics["cleaning"]["rejected"] == {"missing": 3}


def test_filled_values_are_packed(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(CSV)
    clean = Cleaning(drop_missing=True, fill={"age": 0, "label": "unknown"})
    pack(tmp_path / "m.csv", tmp_path / "out", clean=clean, workers=1)
    found = samples(tmp_path / "out")
    assert found.keys() == {"a", "c", "d", "e"}
    assert found["c"]["age"] == 0
    assert IndexFile.load(tmp_path / "out/index.json").fields["label"].classes == ("cat", "dog", "unknown")


def test_row_numbers_stay_those_of_the_manifest(tmp_path: Path) -> None:
    rows = [
        {"text": "one", "x": 1},
        {"text": None, "x": 2},
        {"text": "three"},
        {"text": "four", "x": 900},
        {"text": "five", "x": 5},
    ]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pack(tmp_path / "m.jsonl", tmp_path / "out", clean=Cleaning(drop_missing=True, ranges="x=..100"), workers=1)
    assert samples(tmp_path / "out").keys() == {"000000001", "000000005"}
    assert rejected(tmp_path / "out") == [
        ("000000002", "row 2", "missing", "column 'text' is empty"),
        ("000000003", "row 3", "missing", "column 'x' is empty"),
        ("000000004", "row 4", "range", "x=900 is not in ..100"),
    ]
    (tmp_path / "m.jsonl").write_text('{"x": null}\n{"x": "words"}\n{"x": 1}\n')
    with pytest.raises(PackError, match=r"m.jsonl, row 2: column 'x' has 'words', which is no number"):
        pack(tmp_path / "m.jsonl", tmp_path / "b", columns="x:x:scalar", clean=Cleaning(drop_missing=True), workers=1)


def test_columns_that_rows_may_lack_are_in_the_order_of_the_rows(tmp_path: Path) -> None:
    """Not in that of a set, which changes from run to run: keys, splits and shards depend on it."""
    names = [f"c{i}" for i in range(24)]
    rows = [dict.fromkeys(names[:12], "x"), dict.fromkeys(names, "y")]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_cells(tmp_path / "m.jsonl", Lenience(drop=True))
    assert list(found.data.items()) == [(name, ["x" if name in rows[0] else None, "y"]) for name in names]


def test_rows_of_a_parquet_manifest(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(i))
    table = {"path": ["0.jpg", "1.jpg", "2.jpg"], "age": [1.5, None, float("nan")]}
    pq.write_table(pa.table(table), tmp_path / "m.parquet")
    pack(tmp_path / "m.parquet", tmp_path / "out", clean=Cleaning(drop_missing=True), workers=1)
    assert samples(tmp_path / "out").keys() == {"0"}


def test_without_being_told_they_are_errors(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"x": 1}\n{"x": null}\n')
    with pytest.raises(PackError, match="row 2: column 'x' is null; fill it or leave the row out"):
        pack(tmp_path / "m.jsonl", tmp_path / "out", clean=Cleaning(ranges="x=0.."), workers=1)


def test_options_that_do_not_fit(tmp_path: Path, images: Path) -> None:
    with pytest.raises(ConfigError, match=r"drop_missing and fill are for manifests"):
        pack(images, tmp_path / "out", clean=Cleaning(drop_missing=True), workers=1)
    (tmp_path / "m.csv").write_text(CSV)
    with pytest.raises(ConfigError, match="fill: there is no field or column 'agge'; there are 'text', 'age', 'label'"):
        pack(tmp_path / "m.csv", tmp_path / "out", clean=Cleaning(fill={"agge": 1}), workers=1)
    (tmp_path / "n.csv").write_text("text,age\n,1\nb,\n")
    with pytest.raises(PackError, match=r"n.csv: every row lacks a value \(column 'text' is empty in row 1\)"):
        pack(tmp_path / "n.csv", tmp_path / "out", clean=Cleaning(drop_missing=True), workers=1)


# Files


def test_empty_and_missing_files_of_a_folder(images: Path, tmp_path: Path) -> None:
    (images / "class0/empty.jpg").write_bytes(b"")
    (images / "class1/broken.jpg").symlink_to(tmp_path / "nowhere.jpg")
    with pytest.raises(PackError, match=r"class0/empty.jpg and 1 more: the file is empty"):
        pack(images, tmp_path / "out", workers=1)
    pack(images, tmp_path / "out", clean=Cleaning(on_error="skip"), workers=2)
    assert len(samples(tmp_path / "out")) == 60
    assert rejected(tmp_path / "out") == [
        ("class0/empty", "class0/empty.jpg", "unreadable", "image: the file is empty (0 bytes)"),
        ("class1/broken", "class1/broken.jpg", "unreadable", "image: there is no such file"),
    ]


def test_empty_and_missing_files_of_a_manifest(tmp_path: Path) -> None:
    for i in range(5):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(i))
        np.save(tmp_path / f"{i}.npy", np.arange(3))
    (tmp_path / "1.npy").write_bytes(b"")
    (tmp_path / "2.jpg").unlink()
    (tmp_path / "4.npy").write_bytes(b"junk")
    (tmp_path / "m.csv").write_text("image,array\n" + "".join(f"{i}.jpg,{i}.npy\n" for i in range(5)))
    with pytest.raises(PackError, match=r"row 3: column 'image': '2.jpg' cannot be read: No such file"):
        pack(tmp_path / "m.csv", tmp_path / "out", workers=1)
    index = pack(tmp_path / "m.csv", tmp_path / "out", clean=Cleaning(on_error="skip"), workers=1)
    assert samples(tmp_path / "out").keys() == {"0", "3"}
    assert index.fields["array"].shape == (3,)
    assert rejected(tmp_path / "out") == [
        ("1", "1.jpg", "unreadable", "array: the file is empty (0 bytes)"),
        ("2", "2.jpg", "unreadable", "image: there is no such file"),
        ("4", "4.jpg", "unreadable", "array: not a .npy file: 4 bytes that start with b'junk'"),
    ]


def test_a_file_that_may_not_be_read_or_is_a_text_of_other_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in {"a.txt": b"whole", "b.txt": b"\xff", "c.txt": b"", "d.txt": b"secret"}.items():
        (tmp_path / "source").mkdir(exist_ok=True)
        (tmp_path / "source" / name).write_bytes(content)
    opened = contents._open_file

    def refused(root: int, path: str) -> int:
        if path == "d.txt":  # whatever its rights, root may read it
            raise PermissionError(13, "Permission denied")
        return opened(root, path)

    monkeypatch.setattr(contents, "read_files", lambda root, paths, starts, sizes, view, done: done)  # not in C
    monkeypatch.setattr(contents, "_open_file", refused)
    pack(tmp_path / "source", tmp_path / "out", clean=Cleaning(on_error="skip", max_errors=3), workers=1)
    assert samples(tmp_path / "out").keys() == {"a"}
    assert [(key, why.rpartition(": ")[2]) for key, _, _, why in rejected(tmp_path / "out")] == [
        ("b", "not UTF-8 (invalid start byte at byte 0)"),
        ("c", "the file is empty (0 bytes)"),
        ("d", "Permission denied"),
    ]


def test_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(CSV)
    command = ["pack", str(tmp_path / "m.csv"), str(tmp_path / "out"), "--drop-missing", "--fill", "age=0"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "; 2 rejected (missing 2), listed in rejected.parquet" in " ".join(done.output.split())
    done = CliRunner().invoke(app, [*command[:2], str(tmp_path / "b"), "--fill", "age"])
    assert done.exit_code == 2
    assert "error: --fill age: write field=value" in done.output


# Streams


@pytest.mark.parametrize("way", ["parquet", "python"])
def test_samples_of_a_stream(tmp_path: Path, way: str) -> None:
    rows = [
        {"text": "one", "x": 1.5, "label": 0},
        {"text": None, "x": 2.5, "label": 1},
        {"text": "three", "x": float("nan"), "label": 1},
        {"text": " ", "x": 4.5, "label": 0},
        {"text": "five", "x": 5.5, "label": None},
        {"text": "six", "x": None, "label": 1},
    ]
    source: Any = rows
    if way == "parquet":
        source = tmp_path / "part.parquet"
        pq.write_table(pa.Table.from_pylist(rows), source)
    with pytest.raises(PackError, match=r"(column|field) 'text' is (null|None); fill it"):
        pack(source, tmp_path / "out", workers=1)
    clean = Cleaning(drop_missing=True, fill={"x": "0.25"})
    index = pack(source, tmp_path / "out", clean=clean, workers=1)
    found = samples(tmp_path / "out")
    assert {key: sample["x"] for key, sample in found.items()} == {
        "000000001": 1.5,
        "000000003": 0.25,
        "000000006": 0.25,
    }
    assert [(row[0], row[2], row[3]) for row in rejected(tmp_path / "out")] == [
        ("000000002", "missing", "field 'text' is missing"),
        ("000000004", "missing", "field 'text' is missing"),
        ("000000005", "missing", "field 'label' is missing"),
    ]
    assert index.statistics["cleaning"]["rejected"] == {"missing": 3}


def test_samples_without_a_field(tmp_path: Path) -> None:
    rows = [{"text": "a", "n": 1}, {"text": "b"}, {"text": "c", "n": 3}]
    pack(rows, tmp_path / "a", clean=Cleaning(drop_missing=True), workers=1)
    assert samples(tmp_path / "a").keys() == {"000000001", "000000003"}
    pack(rows, tmp_path / "b", clean=Cleaning(fill={"n": -1}), workers=1)
    assert samples(tmp_path / "b")["000000002"]["n"] == -1
    with pytest.raises(ConfigError, match="fill: there is no field 'm'; there are 'text', 'n'"):
        pack(rows[:1], tmp_path / "c", clean=Cleaning(fill={"m": 0}), workers=1)
    with pytest.raises(PackError, match=r"list has no samples that lack no value \(1 are left out; sample 1 of"):
        pack([{"text": None, "n": 1}], tmp_path / "c", clean=Cleaning(drop_missing=True), workers=1)


@pytest.mark.parametrize("way", ["parquet", "python"])
def test_what_is_filled_before_the_first_value_has_its_type_too(tmp_path: Path, way: str) -> None:
    rows = [
        {"text": "a", "age": None, "zip": None, "weight": None},
        {"text": None, "age": 7, "zip": "8", "weight": 1.5},  # left out
        {"text": "c", "age": None, "zip": None, "weight": float("nan")},
        {"text": "d", "age": 34, "zip": "x", "weight": 2.5},
        {"text": "e", "age": None, "zip": None, "weight": None},
    ]
    source: Any = rows
    if way == "parquet":
        source = tmp_path / "part.parquet"
        pq.write_table(pa.Table.from_pylist(rows), source)
    clean = Cleaning(drop_missing=True, fill={"age": "0", "zip": 9, "weight": "1"})
    index = pack(source, tmp_path / "out", clean=clean, workers=1)
    assert [index.fields[name].dtype for name in ("age", "zip", "weight")] == ["int64", None, "float64"]
    found = samples(tmp_path / "out").items()
    assert {key: (sample["age"], sample["zip"], sample["weight"]) for key, sample in found} == {
        "000000001": (0, "9", 1.0),
        "000000003": (0, "9", 1.0),
        "000000004": (34, "x", 2.5),
        "000000005": (0, "9", 1.0),
    }
    pack(rows[:1], tmp_path / "none", clean=clean, workers=1)
    assert samples(tmp_path / "none")["000000001"]["age"] == "0"  # nothing says that it is a number


@pytest.mark.parametrize("rows", [[{"flag": True}, {"flag": None}], [{"flag": None}, {"flag": True}]])
@pytest.mark.parametrize(("filler", "value"), [("0", "0"), (5, "5")])
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_what_does_not_fit_the_field_that_it_fills_is_an_error(
    tmp_path: Path, rows: list[Any], filler: Any, value: str, on_error: Any
) -> None:
    """Of the option: leaving out what it should mend would keep none of it."""
    message = f"sample 2 of list: fill: field 'flag' is int, and scalar of bool in the first sample; it is {value}"
    with pytest.raises(PackError, match=message):
        pack(rows, tmp_path / "out", clean=Cleaning(fill={"flag": filler}, on_error=on_error), workers=1)
    pack(rows, tmp_path / "out", clean=Cleaning(fill={"flag": "true"}, on_error=on_error), workers=1)
    assert [sample["flag"].item() for sample in samples(tmp_path / "out").values()] == [True, True]


def test_a_field_that_the_first_samples_do_not_have_is_filled(tmp_path: Path) -> None:
    rows = [{"text": "a"}, {"text": "b", "lang": "de"}, {"text": "c"}]
    pack(rows, tmp_path / "out", clean=Cleaning(fill={"lang": "en"}), workers=1)
    assert [sample["lang"] for sample in samples(tmp_path / "out").values()].count("en") == 2
    with pytest.raises(ConfigError, match="fill: there is no field 'm'; there are 'text', 'lang'"):
        pack(rows, tmp_path / "b", clean=Cleaning(fill={"lang": "en", "m": 0}), workers=1)


def test_a_text_of_a_stream_may_be_nan(tmp_path: Path) -> None:
    clean = Cleaning(drop_missing=True, fill={"label": "unknown"})
    index = pack([{"text": word, "label": word} for word in ("bread", "Nan")], tmp_path / "out", clean=clean, workers=1)
    assert {sample["text"] for sample in samples(tmp_path / "out").values()} == {"bread", "Nan"}
    assert index.fields["label"].classes == ("Nan", "bread")


def test_rows_of_a_stream_are_counted_with_those_that_are_left_out(tmp_path: Path) -> None:
    clean = Cleaning(drop_missing=True, ranges="n=..100")
    pack([{"n": None}, {"n": 1}, {"n": 900}], tmp_path / "out", clean=clean, workers=1)
    assert rejected(tmp_path / "out")[1] == ("000000003", "sample 3 of list", "range", "n=900 is not in ..100")
