"""Tar shards: what is written is read back by tarfile, webdataset and the scan; damage is found and named."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from webdataset.autodecode import Decoder, basichandlers
from webdataset.tariterators import group_by_keys, tar_file_iterator

from fastload.errors import CorruptError, PackError, ShardIndexError, SourceError
from fastload.shards.files import PARTIAL_SUFFIX
from fastload.shards.idx import Idx
from fastload.shards.index import FieldInfo, ShardFile
from fastload.shards.tar import PIECE_BYTES, RUN_SAMPLES, TarShardWriter, scan_tar, write_all
from fastload.shards.ustar import SIZE_LIMIT, headers, long_header

JPEG, PNG = b"\xff\xd8\xff" + b"j" * 900, b"\x89PNG" + b"p" * 508
FIELDS = {
    "image": FieldInfo(kind="image"),
    "mask": FieldInfo(kind="image"),
    "text": FieldInfo(kind="text"),
    "label": FieldInfo(kind="scalar", dtype="int64"),
    "weight": FieldInfo(kind="scalar", dtype="float64"),
}


def write(path: Path, keys: list[str]) -> tuple[ShardFile, TarShardWriter]:
    """A shard in which every second sample has a mask."""
    writer = TarShardWriter(path, FIELDS)
    for i, key in enumerate(keys):
        contents = {"image": ("jpg", JPEG + bytes([i % 251])), "text": ("", f"No. {i}: ü".encode())}
        if i % 2:
            contents["mask"] = ("png", PNG)
        writer.add(key, contents, {"label": i - 3, "weight": i / 8}, {"image.width": 500 + i, "image.height": 375})
    return writer.finish(), writer


def foreign(path: Path, members: list[tuple[str, bytes]], tar_format: int = tarfile.PAX_FORMAT) -> Path:
    """A tar as Python's tarfile writes it."""
    with tarfile.open(path, "w", format=tar_format) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uname = len(content), 1_700_000_000, "somebody"
            tar.addfile(info, io.BytesIO(content))
    return path


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def seen(path: Path) -> list[dict[str, Any]] | None:
    """The samples that webdataset's own reader makes of a tar; None if it finds two members with one name."""
    with open(path, "rb") as file:
        members = ({**member, "__url__": str(path)} for member in tar_file_iterator(file))
        try:
            return list(group_by_keys(members))
        except ValueError:
            return None


KEYS = ["a/0001", "b/0002", "ü/3", "x" * 90 + "/" + "y" * 70 + "/4", "z" * 180, "b/0006"]


def test_golden_bytes(tmp_path: Path) -> None:
    shard, _ = write(tmp_path / "s.tar", ["a/0001", "b/0002", "c" * 120])
    assert hashlib.sha256((tmp_path / "s.tar").read_bytes()).hexdigest() == GOLDEN_TAR
    assert pa.ipc.open_file(str(tmp_path / "s.idx")).read_all().to_pydict() == GOLDEN_IDX
    assert shard.bytes == (tmp_path / "s.tar").stat().st_size
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.idx", "s.tar"]


GOLDEN_TAR = "2d62d709af006004bd414f8318292dc32db5a20f8c12ac6f3250ec2f21786dc2"
GOLDEN_IDX = {
    "key": ["a/0001", "b/0002", "c" * 120],
    "offset": [0, 4608, 10240],
    "size": [4608, 5632, 8704],
    "xxh3": [10765800028029103539, 18110012755011213738, 17612391962020351893],
    "image.offset": [512, 512, 1536],
    "image.length": [904, 904, 904],
    "mask.offset": [0, 2048, 0],
    "mask.length": [0, 512, 0],
    "text.offset": [2048, 3072, 4096],
    "text.length": [9, 9, 9],
    "label": [-3, -2, -1],
    "weight": [0.0, 0.125, 0.25],
    "image.width": [500, 501, 502],
    "image.height": [375, 375, 375],
}


def test_tarfile_reads_names_of_any_length_and_plain_headers(tmp_path: Path) -> None:
    write(tmp_path / "s.tar", KEYS)
    with tarfile.open(tmp_path / "s.tar") as tar:
        members = tar.getmembers()
        assert [m.name for m in members][:9] == [
            "a/0001.jpg", "a/0001.txt", "a/0001.cls", "a/0001.weight.json",
            "b/0002.jpg", "b/0002.mask.png", "b/0002.txt", "b/0002.cls", "b/0002.weight.json",
        ]  # fmt: skip
        assert {m.name.partition(".")[0] for m in members} == set(KEYS)
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}
        file = tar.extractfile("b/0002.jpg")
        assert file is not None
        assert file.read() == JPEG + bytes([1])


def test_webdataset_reads_the_same_samples(tmp_path: Path) -> None:
    write(tmp_path / "s.tar", KEYS)
    decode = Decoder([basichandlers])
    samples = [decode(sample) for sample in seen(tmp_path / "s.tar") or []]
    assert [s["__key__"] for s in samples] == KEYS
    assert [s["cls"] for s in samples] == [i - 3 for i in range(6)]
    assert [s["weight.json"] for s in samples] == [i / 8 for i in range(6)]
    assert [s["txt"] for s in samples] == [f"No. {i}: ü" for i in range(6)]
    assert ["mask.png" in s for s in samples] == [False, True] * 3


def test_idx_points_at_the_contents(tmp_path: Path) -> None:
    shard, writer = write(tmp_path / "s.tar", KEYS)
    idx = Idx(str(tmp_path / "s.idx"), shard.index_xxh3)
    data = (tmp_path / "s.tar").read_bytes()
    for row, key in enumerate(KEYS):
        assert idx.key(row) == key
        start, size = int(idx.offsets[row]), int(idx.sizes[row])
        for name, expected in {"image": JPEG + bytes([row]), "mask": PNG if row % 2 else b""}.items():
            offset, length = int(idx.column(f"{name}.offset")[row]), int(idx.column(f"{name}.length")[row])
            assert (offset > 0) == bool(expected)
            assert data[start + offset : start + offset + length] == expected
        assert start + size == (int(idx.offsets[row + 1]) if row + 1 < len(KEYS) else len(data) - 1024)
    assert idx.column("label").tolist() == [-3, -2, -1, 0, 1, 2]
    assert idx.column("weight").tolist() == [i / 8 for i in range(6)]
    assert idx.column("image.width").tolist() == list(range(500, 506))
    assert (idx.samples, idx.tar_bytes, idx.tar_xxh3) == (6, len(data), shard.xxh3)
    extensions = {name: info.extension for name, info in writer.fields.items()}
    assert extensions == {"image": "jpg", "mask": "mask.png", "text": "txt", "label": "cls", "weight": "weight.json"}


def test_scanning_what_was_written_gives_the_same_index(tmp_path: Path) -> None:
    keys = [f"k{i}" for i in range(RUN_SAMPLES + 7)] + KEYS
    shard, _ = write(tmp_path / "s.tar", keys)
    scanned, fields = scan_tar(tmp_path / "s.tar", tmp_path / "t.idx")
    ours, theirs = Idx(str(tmp_path / "s.idx")), Idx(str(tmp_path / "t.idx"), scanned.index_xxh3)
    assert (scanned.samples, scanned.bytes, scanned.xxh3) == (shard.samples, shard.bytes, shard.xxh3)
    for name in ("offset", "size", "xxh3", "label", "image.offset", "image.length", "mask.offset", "text.length"):
        assert ours.column(name).tolist() == theirs.column(name).tolist()
    assert theirs.keys(np.arange(len(keys))) == keys
    assert fields["mask"] == FieldInfo(kind="image", extension="mask.png")
    assert fields["label"] == FieldInfo(kind="scalar", dtype="int64", extension="cls")


def test_an_aborted_shard_leaves_nothing(tmp_path: Path) -> None:
    writer = TarShardWriter(tmp_path / "s.tar", FIELDS)
    writer.add("a", {"image": ("jpg", JPEG)}, {"label": 1, "weight": 1.0}, {})
    assert [p.name for p in tmp_path.iterdir()] == ["s.tar" + PARTIAL_SUFFIX]
    writer.abort()
    assert list(tmp_path.iterdir()) == []


def test_a_sample_that_does_not_fit_the_declaration_is_refused(tmp_path: Path) -> None:
    writer = TarShardWriter(tmp_path / "s.tar", FIELDS)
    with pytest.raises(PackError, match="'depth' is not among the declared 'image'"):
        writer.add("a", {"depth": ("png", PNG)}, {}, {})
    writer.add("a", {}, {"label": 1}, {})
    with pytest.raises(PackError, match="sample 'b': label: some samples have it and some lack it"):
        writer.add("b", {"image": ("jpg", JPEG)}, {}, {})
    writer.abort()


@pytest.mark.parametrize("name", ["Mask.x", "a b", "1st", "key", "xxh3", "__x", ""])
def test_names_that_no_field_can_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(PackError, match="a field cannot be called"):
        TarShardWriter(tmp_path / "s.tar", {name: FieldInfo(kind="image")})


def test_fields_that_share_an_extension_stay_apart(tmp_path: Path) -> None:
    fields = {"tensor": FieldInfo(kind="tensor"), "tokens": FieldInfo(kind="tokens"), "bytes": FieldInfo(kind="bytes")}
    writer = TarShardWriter(tmp_path / "s.tar", fields)
    writer.add("a", {name: ("", name.encode()) for name in fields}, {}, {})
    writer.finish()
    with tarfile.open(tmp_path / "s.tar") as tar:
        assert tar.getnames() == ["a.npy", "a.tokens.npy", "a.bin"]
    with pytest.raises(PackError, match="'Mask' and 'mask' differ in case only"):
        TarShardWriter(tmp_path / "t.tar", {"Mask": FieldInfo(kind="image"), "mask": FieldInfo(kind="image")})


names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=300).filter(
    lambda name: not name.endswith("/") and not name.startswith("/")
)


@given(
    name=names | st.text("ab/", min_size=90, max_size=280).map("q".__add__).map(lambda n: n + "z"),
    size=st.integers(0, 2**40),
)
def test_headers_say_to_tarfile_what_they_were_given(name: str, size: int) -> None:
    file = io.BytesIO(long_header(name.encode(), size) + bytes(1024))
    with tarfile.open(fileobj=file) as tar:
        member = tar.next()
    assert member is not None
    assert (member.name, member.size, member.isreg()) == (name, size, True)


@given(st.lists(st.tuples(st.text("ab./", min_size=1, max_size=100), st.integers(0, SIZE_LIMIT - 1)), min_size=1))
def test_headers_built_together_are_those_built_alone(members: list[tuple[str, int]]) -> None:
    together = headers([name.encode() for name, _ in members], np.array([size for _, size in members]))
    assert together.tobytes() == b"".join(long_header(name.encode(), size) for name, size in members)


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_foreign_tars_of_each_format(tmp_path: Path, tar_format: int) -> None:
    long = "d" * 60 + "/" + "e" * 80
    members = [(f"{key}.{end}", key.encode() + end.encode()) for key in ("a", long, "c") for end in ("PNG", "json")]
    path = foreign(tmp_path / "f.tar", members, tar_format)
    shard, fields = scan_tar(path)
    idx, data = Idx(str(tmp_path / "f.idx"), shard.index_xxh3), path.read_bytes()
    assert idx.keys(np.arange(3)) == ["a", long, "c"]
    assert fields == {
        "image": FieldInfo(kind="image", extension="png"),
        "json": FieldInfo(kind="json", extension="json"),
    }
    for row, key in enumerate(["a", long, "c"]):
        at = int(idx.offsets[row] + idx.column("json.offset")[row])
        assert data[at : at + int(idx.column("json.length")[row])] == f"{key}json".encode()
    assert shard.bytes == len(data)


def test_kinds_are_inferred_from_extensions_and_contents(tmp_path: Path) -> None:
    members = []
    for i, key in enumerate(("a", "b")):
        contents = {
            "jpg" if i else "jpeg": JPEG, "png": PNG, "seg.png": PNG, "wav": b"RIFF", "txt": b"x",
            "cls": b" %d\n" % i, "index": b"%d" % (1 << 40), "id": b"n%d" % i,
            "npy": npy(np.zeros((2, 3), np.float32)), "ids.npy": npy(np.arange(i + 4, dtype=np.int32)),
            "pyd": b"?", "x.y.bin": b"?",
        }  # fmt: skip
        members += [(f"{key}.{extension}", content) for extension, content in contents.items()]
    _, fields = scan_tar(foreign(tmp_path / "f.tar", members))
    assert fields == {
        "image": FieldInfo(kind="image"),
        "png": FieldInfo(kind="image", extension="png"),
        "seg": FieldInfo(kind="image", extension="seg.png"),
        "audio": FieldInfo(kind="audio", extension="wav"),
        "label": FieldInfo(kind="scalar", dtype="int64", extension="cls"),
        "index": FieldInfo(kind="scalar", dtype="int64", extension="index"),
        "id": FieldInfo(kind="text", extension="id"),
        "text": FieldInfo(kind="text", extension="txt"),
        "tensor": FieldInfo(kind="tensor", dtype="float32", shape=(2, 3), extension="npy"),
        "ids": FieldInfo(kind="tokens", dtype="int32", extension="ids.npy"),
        "pyd": FieldInfo(kind="bytes", extension="pyd"),
        "x_y": FieldInfo(kind="bytes", extension="x.y.bin"),
    }
    idx = Idx(str(tmp_path / "f.idx"))
    assert idx.column("label").tolist() == [0, 1]
    assert idx.column("index").tolist() == [1 << 40] * 2


def test_a_label_that_some_samples_lack_is_text(tmp_path: Path) -> None:
    _, fields = scan_tar(foreign(tmp_path / "f.tar", [("a.txt", b"x"), ("a.cls", b"1"), ("b.txt", b"y")]))
    assert fields["label"].kind == "text"
    assert Idx(str(tmp_path / "f.idx")).column("label.offset").tolist()[1] == 0


parts = st.sampled_from(["a", "b.c", "__m__", "d/e", "__n__/f", ".g", "h"])
ends = st.sampled_from([".jpg", ".PNG", ".seg.png", ".txt", "", "."])


@settings(deadline=None)
@given(names=st.lists(st.tuples(parts, ends).map("".join), min_size=1, max_size=12))
def test_samples_are_those_that_webdataset_sees(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    path = foreign(tmp_path_factory.mktemp("t") / "f.tar", [(name, name.encode()) for name in names])
    expected = seen(path)
    if expected is None:
        with pytest.raises(CorruptError, match="two members are called"):
            scan_tar(path)
        return
    if not expected:
        with pytest.raises(ShardIndexError, match=r"has no sample: .*; move it out of the folder, or leave it out of"):
            scan_tar(path)
        return
    _, fields = scan_tar(path)
    idx, data = Idx(str(path.with_suffix(".idx"))), path.read_bytes()
    assert idx.keys(np.arange(idx.samples)) == [sample["__key__"] for sample in expected]
    for row, sample in enumerate(expected):
        stored = set()
        for name in fields:
            at, size = int(idx.column(f"{name}.offset")[row]), int(idx.column(f"{name}.length")[row])
            if at:
                stored.add(data[int(idx.offsets[row]) + at :][:size])
        assert stored == {value for key, value in sample.items() if not key.startswith("__")}


def test_folders_and_links_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.txt").write_text("hello")
    (tmp_path / "d" / "link.txt").symlink_to("a.txt")
    with tarfile.open(tmp_path / "f.tar", "w") as tar:
        tar.add(tmp_path / "d", "d")
    shard, _ = scan_tar(tmp_path / "f.tar")
    assert shard.samples == 1
    assert Idx(str(tmp_path / "f.idx")).key(0) == "d/a"


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    """Two samples: headers at 0, 1536, 3072 and 4608, the end marker at 6144."""
    write = [(f"{key}.{end}", bytes([65]) * 700) for key in ("a", "b") for end in ("jpg", "txt")]
    path = foreign(tmp_path / "f.tar", write, tarfile.USTAR_FORMAT)
    path.write_bytes(path.read_bytes()[: 6144 + 1024])
    return path


@pytest.mark.parametrize(
    ("length", "message"),
    [
        (6144, "shard 'f.tar': the tar has no end marker at byte 6144 after 'b.txt'"),
        (6144 + 100, r"cut off inside a header \(100 of 512 bytes\) at byte 6144 after 'b.txt'"),
        (
            4608 + 512 + 300,
            "sample 'b': the tar is cut off: 'b.txt' at byte 4608 has 700 bytes, of which 300 are there",
        ),
        (4608, "no end marker at byte 4608 after 'b.jpg'"),
        (4608 + 512, "'b.txt' at byte 4608 has 700 bytes, of which 0"),
        (100, r"cut off inside a header \(100 of 512 bytes\) at byte 0:"),
        (0, r"the tar is empty \(0 bytes\)"),
    ],
)
def test_truncations_are_named(tar: Path, length: int, message: str) -> None:
    tar.write_bytes(tar.read_bytes()[:length])
    with pytest.raises(CorruptError, match=message):
        scan_tar(tar)
    assert not tar.with_suffix(".idx").exists()


@settings(deadline=None, max_examples=60)
@given(at=st.sampled_from([0, 1536, 3072, 4608]), byte=st.integers(0, 499), bit=st.integers(0, 7))
def test_a_flipped_bit_in_a_header_is_found(
    tmp_path_factory: pytest.TempPathFactory, at: int, byte: int, bit: int
) -> None:
    path = foreign(
        tmp_path_factory.mktemp("t") / "f.tar",
        [(f"{key}.{end}", b"A" * 700) for key in ("a", "b") for end in ("jpg", "txt")],
        tarfile.USTAR_FORMAT,
    )
    data = bytearray(path.read_bytes())
    data[at + byte] ^= 1 << bit
    path.write_bytes(data)
    if 154 <= byte < 156:
        return  # what ends the checksum's digits
    with pytest.raises(CorruptError, match=f"header at byte {at}.* has a wrong checksum"):
        scan_tar(path)


def test_other_faults_are_named(tar: Path, tmp_path: Path) -> None:
    data = tar.read_bytes()
    tar.write_bytes(data + data)
    with pytest.raises(CorruptError, match="data after the end marker, from byte 6144 on"):
        scan_tar(tar)
    tar.write_bytes(gzip.compress(data))
    with pytest.raises(ShardIndexError, match=r"compressed with gzip.*decompress it first: gunzip f\.tar"):
        scan_tar(tar)
    tar.write_bytes(b"no tar at all" * 100)
    with pytest.raises(CorruptError, match="header at byte 0 has a wrong checksum: the file is damaged, or no tar"):
        scan_tar(tar)
    with pytest.raises(SourceError, match="does not exist"):
        scan_tar(tmp_path / "missing.tar")


def test_large_contents_are_written_in_small_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends, pwrite = [], os.pwrite

    def told(descriptor: int, content: memoryview, offset: int) -> int:
        written = pwrite(descriptor, content[:100_000], offset)  # a call may write less than it was given
        assert len(content) <= PIECE_BYTES
        ends.append(offset + len(content))
        return written

    monkeypatch.setattr(os, "pwrite", told)
    content = bytes(range(256)) * (5 * PIECE_BYTES // 512)
    with open(tmp_path / "file", "wb") as file:
        write_all(file.fileno(), memoryview(content), 512)
    assert (tmp_path / "file").read_bytes() == bytes(512) + content
    assert {end % PIECE_BYTES for end in ends[:-1]} == {0, (512 + len(content)) % PIECE_BYTES}
