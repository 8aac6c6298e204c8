"""Text corpora and arrays: lines, paragraphs, compressed documents, .npy and .npz."""

from __future__ import annotations

import bz2
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pack_sources import check_alike

import fastload
from fastload import Cleaning
from fastload.errors import ConfigError, CorruptError, PackError
from fastload.pack import pack
from fastload.pack.lines import paragraphs_table
from fastload.pack.table import Spans
from fastload.shards.index import FieldInfo


def stream(out: Path) -> list[dict[str, Any]]:
    return list(fastload.StreamingDataset(out, shuffle=False))


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="zstd", asbytes=True))


COMPRESS: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "zst": zstd, "bz2": bz2.compress}


def documents(first: int, last: int) -> bytes:
    rows = ({"text": f"größe {i}", "label": "ab"[i % 2], "n": i, "about": {"i": i}} for i in range(first, last))
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


# Documents


@pytest.mark.parametrize("ending", COMPRESS)
def test_compressed_documents(tmp_path: Path, ending: str) -> None:
    compress = COMPRESS[ending]
    source = tmp_path / f"docs.jsonl.{ending}"
    source.write_bytes(compress(b"\xef\xbb\xbf" + documents(0, 3) + b"\n") + compress(documents(3, 5)))  # two parts
    index = pack(source, tmp_path / "out", workers=1, shuffle=False)
    assert {name: info.kind for name, info in index.fields.items()} == {
        "text": "text", "label": "scalar", "n": "scalar", "about": "json",
    }  # fmt: skip
    assert index.fields["label"].classes == ("a", "b")
    samples = stream(tmp_path / "out")
    assert [sample["text"] for sample in samples] == [f"größe {i}" for i in range(5)]
    assert [sample["about"] for sample in samples] == [{"i": i} for i in range(5)]
    whole = source.read_bytes()
    source.write_bytes(whole[: len(whole) - 9])
    with pytest.raises(CorruptError, match=rf"docs.jsonl.{ending} cannot be read: .*; fetch it again"):
        pack(source, tmp_path / "cut", workers=1)
    assert not (tmp_path / "cut").exists()


def test_a_folder_of_documents(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    (folder / "en").mkdir(parents=True)
    for part in (0, 1, 2, 10):
        (folder / "en" / f"c4-{part}.json.gz").write_bytes(gzip.compress(documents(2 * part, 2 * part + 2)))
    (folder / "LICENSE.txt").write_text("free")

    def run(out: Path, **options: Any) -> None:
        pack(folder, out, **options)

    check_alike(run, tmp_path / "results", shard_size="6KiB")
    pack(folder, tmp_path / "out", workers=1, shuffle=False, columns="caption:text")
    assert [sample["caption"][6:] for sample in stream(tmp_path / "out")] == ["0", "1", "2", "3", "4", "5", "20", "21"]


def test_lines_of_compressed_text_and_plain_documents_as_a_stream(tmp_path: Path) -> None:
    (tmp_path / "t.txt.gz").write_bytes(gzip.compress(b"one\r\n\n  \ntwo\nthree"))
    pack(tmp_path / "t.txt.gz", tmp_path / "a", workers=1, shuffle=False)
    assert [sample["text"] for sample in stream(tmp_path / "a")] == ["one", "two", "three"]
    (tmp_path / "d.jsonl").write_bytes(documents(0, 2))
    pack(tmp_path / "d.jsonl", tmp_path / "b", workers=1, shuffle=False, kind="documents")
    assert [sample["n"].item() for sample in stream(tmp_path / "b")] == [0, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": "x"}\n{"a": \n', r"d.jsonl.gz, line 2: not JSON"),
        (b'{"a": "x"}\n[1]\n', r"d.jsonl.gz, line 2: a row must be a JSON object with columns, not '\[1\]'"),
        (b'{"a": "x"}\n{"a": "b\xff"}\n', r"d.jsonl.gz, line 2: not UTF-8 \(invalid start byte at byte 8\)"),
        (b'{"a": "x"}\n\n{"a": null}\n', r"d.jsonl.gz, line 3: field 'a' is null; fill it \(--fill "),
        (b'{"a": "x"}\n{"b": "x"}\n', r"d.jsonl.gz, line 2: the sample lacks 'a' and also has 'b', unlike the first"),
        (b"\n", r"d.jsonl.gz has no samples"),
    ],
)
def test_faulty_documents_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(content))
    with pytest.raises(PackError, match=message):
        pack(tmp_path / "d.jsonl.gz", tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()


def test_broken_lines_are_left_out_and_counted(tmp_path: Path) -> None:
    source = tmp_path / "corpus"
    source.mkdir()
    (source / "a.jsonl").write_bytes(b'{"text": "one"}\n{"text": \n\n{"text": "two"}\n')
    (source / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "\xff"}\n[1]\n{"text": "three"}\n{"text": null}\n'))
    with pytest.raises(
        PackError, match=r"a.jsonl, line 2: not JSON .*; mend it, or leave such samples out with on_error"
    ):
        pack(source, tmp_path / "out", workers=1)
    with pytest.raises(
        PackError, match=r"3 samples cannot be read, more than max_errors=2: .*a.jsonl, line 2: not JSON"
    ):
        pack(source, tmp_path / "out", clean=Cleaning(on_error="skip", max_errors=2, drop_missing=True), workers=1)
    clean = Cleaning(on_error="skip", max_errors=3, drop_missing=True)
    index = pack(source, tmp_path / "out", clean=clean, workers=1, shuffle=False, columns="words:text")
    assert [(sample["__key__"], sample["words"]) for sample in stream(tmp_path / "out")] == [
        ("000000001", "one"), ("000000003", "two"), ("000000006", "three"),
    ]  # fmt: skip
    rows = [tuple(row.values()) for row in pq.read_table(tmp_path / "out/rejected.parquet").to_pylist()]
    assert [(key, place.rpartition("/")[2], reason) for key, place, reason, _ in rows] == [
        ("000000002", "a.jsonl, line 2", "unreadable"),
        ("000000004", "b.jsonl.gz, line 1", "unreadable"),
        ("000000005", "b.jsonl.gz, line 2", "unreadable"),
        ("000000007", "b.jsonl.gz, line 4", "missing"),
    ]
    assert rows[1][3] == "not UTF-8 (invalid start byte at byte 10)"
    assert index.statistics["cleaning"]["rejected"] == {"missing": 1, "unreadable": 3}
    (source / "a.jsonl").write_bytes(b"{\n")
    (source / "b.jsonl.gz").unlink()
    with pytest.raises(
        PackError, match=r"has no samples that can be read \(1 are left out; .*a.jsonl, line 1: not JSON"
    ):
        pack(source, tmp_path / "none", clean=clean, workers=1)


@pytest.mark.parametrize("clean", [None, Cleaning(on_error="skip")])
def test_values_of_fields_that_are_not_packed_are_no_faults(tmp_path: Path, clean: Cleaning | None) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text('{"t": "x", "m": [1]}\n{"t": "y", "m": [NaN]}\n')
    pack(source, tmp_path / "out", kind="documents", columns="t", clean=clean, workers=1, shuffle=False)
    assert [sample["t"] for sample in stream(tmp_path / "out")] == ["x", "y"]
    with pytest.raises(PackError, match=r"line 2: field 'm' is a list that JSON cannot hold"):
        pack(source, tmp_path / "two", kind="documents", columns="t,n:m", workers=1)
    with pytest.raises(ConfigError, match=r"a.jsonl, line 1 has no field 'u'; it has 't', 'm'"):
        pack(source, tmp_path / "two", kind="documents", columns="u", workers=1)
    source.write_text('{"t": "x", "__key__": [NaN]}\n')
    with pytest.raises(PackError, match=r"line 1: field '__key__' is a list that JSON cannot hold"):
        pack(source, tmp_path / "two", kind="documents", columns="t", workers=1)
    source.write_text('{"m": [NaN]}\n')
    with pytest.raises(ConfigError, match=r"a.jsonl, line 1 has no field 't'; it has 'm'"):
        pack(source, tmp_path / "two", kind="documents", columns="t", workers=1)


def test_kinds_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    with pytest.raises(ConfigError, match=r"kind='paragraphs' needs a file; .*s is a folder"):
        pack(tmp_path / "s", tmp_path / "out", kind="paragraphs")
    with pytest.raises(ConfigError, match="kind='documents' has no classes in names: leave label_regex and"):
        pack(tmp_path / "s", tmp_path / "out", kind="documents", label_level=2)
    with pytest.raises(PackError, match=r"s has no documents \(.jsonl, .ndjson; .gz"):
        pack(tmp_path / "s", tmp_path / "out", kind="documents")


# Paragraphs


def test_paragraphs(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(b"\xef\xbb\xbfone\r\nstill one\r\n\r\n \n two\n\nthr\xc3\xa4e")
    pack(tmp_path / "t.txt", tmp_path / "out", workers=1, shuffle=False, kind="paragraphs")
    samples = stream(tmp_path / "out")
    assert [sample["text"] for sample in samples] == ["one\r\nstill one", " two", "thräe"]
    assert [sample["__key__"] for sample in samples] == ["000000001", "000000005", "000000007"]
    (tmp_path / "t.txt").write_bytes(b"good\n\nb\xffd\n")
    with pytest.raises(PackError, match=r"t.txt, line 3: not UTF-8"):
        pack(tmp_path / "t.txt", tmp_path / "bad", workers=1, kind="paragraphs")
    (tmp_path / "t.txt").write_bytes(b"\n \n")
    with pytest.raises(PackError, match=r"t.txt has no paragraph"):
        pack(tmp_path / "t.txt", tmp_path / "bad", workers=1, kind="paragraphs")


@given(
    lines=st.lists(st.sampled_from(["", " ", "a", "bc d", " e "]), min_size=1).filter(lambda s: any(map(str.strip, s)))
)
def test_paragraphs_are_the_lines_between_blank_ones(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    path = tmp_path_factory.mktemp("t") / "t.txt"
    path.write_text("\n".join(lines) + "\n")
    column = paragraphs_table(path).columns["text"]
    assert isinstance(column, Spans)
    expected = "\n".join(line if line.strip() else "" for line in lines).split("\n\n")
    found = [text.decode() for text in column.read(np.arange(len(column.sizes)))]
    assert found == [text.strip("\n") for text in expected if text.strip()]


# Arrays


def test_rows_of_an_array(tmp_path: Path) -> None:
    pixels = np.arange(10 * 2 * 3, dtype=np.float32).reshape(10, 2, 3)
    np.save(tmp_path / "a.npy", pixels)

    def run(out: Path, **options: Any) -> None:
        pack(tmp_path / "a.npy", out, **options)

    check_alike(run, tmp_path / "results", shard_size="5KiB")
    index = pack(tmp_path / "a.npy", tmp_path / "out", workers=1, shuffle=False)
    assert index.fields == {"tensor": FieldInfo(kind="tensor", dtype="float32", shape=(2, 3), extension="npy")}
    assert np.array_equal(np.stack([sample["tensor"] for sample in stream(tmp_path / "out")]), pixels)
    np.save(tmp_path / "b.npy", np.arange(12).reshape(3, 4))
    assert pack(tmp_path / "b.npy", tmp_path / "b", workers=1).fields["tokens"].kind == "tokens"
    np.save(tmp_path / "c.npy", np.asfortranarray(pixels[0]))
    pack(tmp_path / "c.npy", tmp_path / "c", workers=1, shuffle=False, columns="vector:tensor")
    assert [sample["vector"].tolist() for sample in stream(tmp_path / "c")] == pixels[0].tolist()


def test_arrays_side_by_side(tmp_path: Path) -> None:
    x = np.arange(4 * 5, dtype=np.uint8).reshape(4, 5, 1)
    np.savez_compressed(tmp_path / "d.npz", x=x, y=np.array([3, 1, 2, 0]), name=np.array(["a", "b", "ü", "d"]))
    index = pack(tmp_path / "d.npz", tmp_path / "out", workers=1, shuffle=False, columns="pixels:x,label:y,text:name")
    assert {name: info.kind for name, info in index.fields.items()} == {
        "pixels": "tensor", "label": "scalar", "text": "text",
    }  # fmt: skip
    samples = stream(tmp_path / "out")
    assert [sample["label"].item() for sample in samples] == [3, 1, 2, 0]
    assert [sample["text"] for sample in samples] == ["a", "b", "ü", "d"]
    assert np.array_equal(np.stack([sample["pixels"] for sample in samples]), x)


def test_a_folder_of_arrays(tmp_path: Path) -> None:
    for label in "ab":
        (tmp_path / "s" / label).mkdir(parents=True)
        for i in range(2):
            np.save(tmp_path / "s" / label / f"{i}.npy", np.full((2, 2), i, np.float32))
    index = pack(tmp_path / "s", tmp_path / "out", workers=1)
    assert index.fields["tensor"] == FieldInfo(kind="tensor", dtype="float32", shape=(2, 2), extension="npy")
    assert index.fields["label"].classes == ("a", "b")


def test_faulty_arrays_are_named(tmp_path: Path) -> None:
    def refused(name: str, message: str) -> None:
        with pytest.raises(PackError, match=message):
            pack(tmp_path / name, tmp_path / "out", workers=1)
        assert not (tmp_path / "out").exists()

    np.savez(tmp_path / "a.npz", x=np.zeros((3, 2)), y=np.zeros(2))
    refused("a.npz", r"a.npz: arrays must have the same length, a row for each sample; they have: x 3, y 2")
    np.savez(tmp_path / "b.npz", x=np.zeros(()))
    refused("b.npz", r"b.npz: the array 'x' is float64 of shape \(\); it must have numbers")
    np.save(tmp_path / "c.npy", np.array([{}]), allow_pickle=True)
    refused("c.npy", r"c.npy cannot be read as arrays \(.*; save them with numpy.save or savez")
    np.save(tmp_path / "d.npy", np.zeros((0, 3)))
    refused("d.npy", r"d.npy has no samples")
    np.save(tmp_path / "e.npy", np.zeros((50, 3)))
    (tmp_path / "e.npy").write_bytes((tmp_path / "e.npy").read_bytes()[:-9])
    refused("e.npy", r"e.npy cannot be read as arrays")
    (tmp_path / "f.npz").write_bytes(b"PK")
    refused("f.npz", r"f.npz cannot be read as arrays")
