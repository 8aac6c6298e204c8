"""verify names every fault by shard, offset and key, and finds nothing in a whole folder."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as PillowImage

from fastload.errors import ShardIndexError
from fastload.reshape import repair
from fastload.shards.idx import Idx
from fastload.shards.index import FieldInfo, IndexFile
from fastload.shards.open import index_folder
from fastload.shards.parquet import ParquetShardWriter
from fastload.shards.tar import TarShardWriter
from fastload.verify import Report, verify

FIELDS = {
    "image": FieldInfo(kind="image"),
    "text": FieldInfo(kind="text"),
    "tokens": FieldInfo(kind="tokens", dtype="int64"),
    "label": FieldInfo(kind="scalar", dtype="int64"),
}
SAMPLES = 5


def picture(row: int) -> bytes:
    file = io.BytesIO()
    PillowImage.new("RGB", (8 + row, 8), (row * 40, 0, 0)).save(file, "PNG")
    return file.getvalue()


def tokens(row: int) -> bytes:
    file = io.BytesIO()
    np.save(file, np.arange(row + 1))
    return file.getvalue()


def write(path: Path, change: dict[int, bytes] | None = None) -> Path:
    """One shard; `change` gives other contents for the image of some rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = (TarShardWriter if path.suffix == ".tar" else ParquetShardWriter)(path, FIELDS)
    for row in range(SAMPLES):
        image = (change or {}).get(row, picture(row))
        text = f"{path.stem} {row}".encode()
        contents = {"image": ("png", image), "text": ("txt", text), "tokens": ("npy", tokens(row))}
        writer.add(f"{path.stem}-{row}", contents, {"label": row}, {})
    writer.finish()
    return path


@pytest.fixture(params=[".tar", ".parquet"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return build(tmp_path / "d", request.param)


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    return build(tmp_path / "d", ".tar")


@pytest.fixture
def parquets(tmp_path: Path) -> Path:
    return build(tmp_path / "d", ".parquet")


def build(root: Path, suffix: str) -> Path:
    for name in ("train/a", "train/b", "val/c"):
        write(root / (name + suffix))
    index_folder(root)
    return root


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)


def shard(root: Path, stem: str) -> Path:
    return next(path for path in root.rglob(f"{stem}.*") if path.suffix != ".idx")


def faults(report: Report) -> list[str]:
    return [str(fault) for fault in report.faults]


def test_a_whole_folder_has_no_fault(folder: Path) -> None:
    for decode in (False, True):
        report = verify(folder, decode=decode)
        assert faults(report) == []
        assert report.ok
        size = sum(os.path.getsize(shard(folder, stem)) for stem in "abc")
        assert (report.shards, report.samples, report.bytes, report.decoded) == (3, 3 * SAMPLES, size, decode)


def test_progress_tells_of_every_shard(folder: Path) -> None:
    seen: list[tuple[int, int, int]] = []
    report = verify(folder, progress=lambda *said: seen.append(said))
    assert [said[:2] for said in seen] == [(1, 3), (2, 3), (3, 3)]
    assert seen[-1][2] == report.bytes


def data_of(idx: Idx, row: int) -> int:
    return int(idx.offsets[row]) + int(idx.column("text.offset")[row])


PLACES: dict[str, Callable[[Idx, int], int]] = {
    "data": data_of,
    "header, name": lambda idx, row: data_of(idx, row) - 512,
    "header, checksum": lambda idx, row: data_of(idx, row) - 512 + 150,
    "header, unused": lambda idx, row: data_of(idx, row) - 1,
    "padding": lambda idx, row: data_of(idx, row) + 511,
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("row", [0, 2, SAMPLES - 1])
def test_one_bit_in_a_tar_is_found_in_its_sample(tars: Path, place: str, row: int) -> None:
    idx = Idx(str(tars / "train/b.idx"))
    flip(tars / "train/b.tar", PLACES[place](idx, row))
    whole, sample = faults(verify(tars))
    assert whole.startswith("train/b.tar: checksum ")
    size, offset = idx.sizes[row], idx.offsets[row]
    assert sample == (
        f"train/b.tar, offset {offset}, sample 'b-{row}': its {size} bytes are not those that were packed (checksum)"
    )


def test_each_damaged_sample_is_named(tars: Path) -> None:
    idx = Idx(str(tars / "train/b.idx"))
    for row in (0, 2):
        flip(tars / "train/b.tar", data_of(idx, row))
    assert [fault.key for fault in verify(tars).faults] == [None, "b-0", "b-2"]


def test_one_bit_in_the_end_marker_is_found(tars: Path) -> None:
    idx = Idx(str(tars / "train/b.idx"))
    end = int(idx.offsets[-1] + idx.sizes[-1])
    flip(tars / "train/b.tar", end + 5)
    whole, marker = faults(verify(tars))
    assert "checksum" in whole
    assert marker == f"train/b.tar, offset {end}: all samples are whole; the end marker after them differs"


def test_one_bit_in_an_idx_is_found(tars: Path) -> None:
    size = os.path.getsize(tars / "train/b.idx")
    for place in range(0, size, size // 9):
        flip(tars / "train/b.idx", place)
        (fault,) = faults(verify(tars))
        assert fault.startswith("train/b.tar: its index: ")
        assert "b.idx is not the file that index.json describes" in fault
        flip(tars / "train/b.idx", place)
    assert verify(tars).ok


@pytest.mark.parametrize(
    "cut", ["in data", "in a header", "on a header's edge", "between samples", "end marker", "all"]
)
def test_a_truncated_tar_names_the_first_sample_that_is_lost(tars: Path, cut: str) -> None:
    idx = Idx(str(tars / "train/b.idx"))
    size = os.path.getsize(tars / "train/b.tar")
    keep = {
        "in data": data_of(idx, 2) + 1,
        "in a header": data_of(idx, 2) - 300,
        "on a header's edge": data_of(idx, 2) - 512,
        "between samples": int(idx.offsets[2]),
        "end marker": size - 512,
        "all": 0,
    }[cut]
    os.truncate(tars / "train/b.tar", keep)
    found = faults(verify(tars))
    assert found[0] == f"train/b.tar: {keep} bytes, where the index says {size}"
    if cut == "end marker":
        assert found[1].endswith("all samples are whole; the end marker after them differs")
    else:
        lost = 0 if cut == "all" else 2
        where = f"train/b.tar, offset {idx.offsets[lost]}, sample 'b-{lost}'"
        assert found[1:] == [f"{where}: the file ends inside it; {SAMPLES - lost} samples are cut off"]


def test_a_longer_shard_is_found(folder: Path) -> None:
    path = shard(folder, "b")
    size = path.stat().st_size
    with open(path, "ab") as file:
        file.write(bytes(512))
    assert faults(verify(folder))[0] == f"train/{path.name}: {size + 512} bytes, where the index says {size}"


def test_swapped_shards_are_told_from_damaged_ones(folder: Path) -> None:
    a, b = shard(folder, "a"), shard(folder, "b")
    assert a.stat().st_size == b.stat().st_size
    shutil.move(a, folder / "x")
    shutil.move(b, a)
    shutil.move(folder / "x", b)
    swapped = "the files were swapped, or one was copied over the other"
    assert faults(verify(folder)) == [
        f"train/{a.name}: holds the bytes of train/{b.name}; {swapped}",
        f"train/{b.name}: holds the bytes of train/{a.name}; {swapped}",
    ]


def test_shards_swapped_with_their_idx_are_found(tars: Path) -> None:
    for suffix in (".tar", ".idx"):
        shutil.move(tars / f"train/a{suffix}", tars / "x")
        shutil.move(tars / f"train/b{suffix}", tars / f"train/a{suffix}")
        shutil.move(tars / "x", tars / f"train/b{suffix}")
    found = faults(verify(tars))
    assert len(found) == 4
    assert {fault.partition(":")[0] for fault in found} == {"train/a.tar", "train/b.tar"}


def test_missing_and_extra_files_are_named(folder: Path) -> None:
    path = shard(folder, "b")
    os.rename(path, path.with_name("other" + path.suffix))
    (folder / "val" / f"d{path.suffix}.partial").touch()
    found = faults(verify(folder))
    assert f"train/{path.name}: is missing" in found
    assert f"train/other{path.suffix}: is not in index.json; delete it, or run `fastload index`" in found
    partial = f"val/d{path.suffix}.partial: left behind by a run that was not finished; delete it"
    assert partial in found
    assert len(found) == 3


def test_a_missing_idx_is_named(tars: Path) -> None:
    (tars / "val/c.idx").unlink()
    (fault,) = faults(verify(tars))
    assert fault.startswith("val/c.tar: its index: ")
    assert fault.endswith("c.idx is missing; make it again with `fastload index`")


def test_an_idx_of_another_tar_is_named(tars: Path) -> None:
    whole = IndexFile.load(tars / "index.json")
    a, b, c = whole.shards
    swapped = IndexFile.from_bytes(
        whole.to_bytes().replace(str(a.index_xxh3).encode(), str(b.index_xxh3).encode()), "index.json"
    )
    swapped.save(tars)
    shutil.copy(tars / "train/b.idx", tars / "train/a.idx")
    assert faults(verify(tars)) == ["train/a.tar: train/a.idx describes another tar than index.json"]
    assert c.name == "val/c.tar"


def test_one_bit_in_a_parquet_page_is_found_in_its_row(parquets: Path) -> None:
    path = parquets / "train/b.parquet"
    content = path.read_bytes()
    flip(path, content.index(picture(2)) + 50)
    whole, row = faults(verify(parquets))
    assert whole.startswith("train/b.parquet: checksum ")
    assert row.startswith(
        "train/b.parquet, sample 'b-2': row group 0, column 'image', row 2 of the group: does not decode: "
    )
    flip(path, content.index(picture(4)) + 50)
    assert [fault.key for fault in verify(parquets).faults] == [None, "b-2", "b-4"]


def test_a_damaged_page_that_decodes_is_named_by_its_rows(parquets: Path) -> None:
    path = parquets / "train/b.parquet"
    flip(path, path.read_bytes().index(b"b-3.png"))  # the name in the pictures' column, which no picture depends on
    _, page = faults(verify(parquets))
    assert page.startswith(
        "train/b.parquet, sample 'b-0': row group 0, column 'image', in rows 0 to 4 of the group"
        " (this sample to 'b-4'): "
    )
    assert page.endswith(
        "; a page has one checksum for all its rows and all of them still decode, so that the file does not say which"
    )


def test_pages_before_a_damaged_one_are_left_out_of_its_rows(tmp_path: Path) -> None:
    writer = ParquetShardWriter(tmp_path / "a.parquet", {"data": FieldInfo(kind="bytes")})
    for row in range(5000):
        writer.add(f"{row:04}", {"data": ("bin", f"{row:04};".encode() * 128)}, {}, {})
    writer.finish()
    index_folder(tmp_path)
    flip(tmp_path / "a.parquet", (tmp_path / "a.parquet").read_bytes().index(b"4000;"))
    _, page = faults(verify(tmp_path))
    first = int(page.partition("sample '")[2][:4])
    assert 2048 <= first <= 4000
    assert f"in rows {first} to 4999 of the group (this sample to '4999')" in page


def test_a_column_that_arrow_cannot_have_in_one_piece_is_no_damage(
    parquets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise pa.ArrowNotImplementedError("Nested data conversions not implemented for chunked array outputs")

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", refused)  # as of more than 2 GiB
    assert verify(parquets).ok
    assert repair(parquets, drop_damaged=True).mended == ()


def test_any_flipped_bit_of_a_parquet_file_is_found(parquets: Path) -> None:
    path = parquets / "train/b.parquet"
    size = path.stat().st_size
    for place in [*range(0, size, size // 60), size - 1]:
        flip(path, place)
        found = faults(verify(parquets))
        assert len(found) >= 2
        assert all(fault.startswith("train/b.parquet") for fault in found)
        flip(path, place)
    assert verify(parquets).ok


@pytest.mark.parametrize("part", [0.0, 0.3, 0.6, 0.999])
def test_a_truncated_parquet_file_is_named(parquets: Path, part: float) -> None:
    path = parquets / "train/b.parquet"
    size = path.stat().st_size
    keep = int(size * part)
    os.truncate(path, keep)
    first, second = faults(verify(parquets))
    assert first == f"train/b.parquet: {keep} bytes, where the index says {size}"
    assert "b.parquet is not a whole Parquet file" in second


def test_decoding_finds_what_checksums_cannot(folder: Path) -> None:
    path = shard(folder, "b")
    write(path, {1: b"", 3: picture(3)[:60], 4: b"no picture"})
    index_folder(folder)
    assert verify(folder).ok
    found = faults(verify(folder, decode=True))
    assert [fault.partition(" does not decode: ")[0] for fault in found] == [
        f"train/{path.name}, sample 'b-{row}': field 'image'" for row in (1, 3, 4)
    ]


def test_decoding_goes_on_behind_a_missing_shard(folder: Path) -> None:
    path = shard(folder, "b")
    path.unlink()
    found = faults(verify(folder, decode=True))
    assert found[0] == f"train/{path.name}: is missing"
    assert len(found) == 2
    assert found[1].startswith(f"train/{path.name}: cannot be decoded: ")


def test_a_folder_without_an_index_is_refused(tars: Path) -> None:
    (tars / "index.json").unlink()
    with pytest.raises(ShardIndexError, match=r"index.json does not exist: packing was not finished"):
        verify(tars)
    (tars / ".fastload-pack").touch()
    with pytest.raises(
        ShardIndexError, match=r"d is incomplete: packing was not finished; run the same `fastload pack`"
    ):
        verify(tars)
