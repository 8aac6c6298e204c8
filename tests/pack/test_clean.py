"""Cleaning from end to end: what is left out is listed, the rest is packed, the same bytes however it ran."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pack_sources import Stopped, jpeg, photo, stop_after, tree
from test_likeness import encoded, smooth
from typer.testing import CliRunner

from fastload import Bytes, Cleaning, Prepare, Splitting, StreamingDataset
from fastload.cli import app
from fastload.errors import ConfigError, PackError
from fastload.pack import job, pack
from fastload.reshape.append import append
from fastload.reshape.repair import repair
from fastload.shards.foreign import JOURNAL_NAME
from fastload.shards.index import IndexFile
from fastload.shards.open import index_folder
from fastload.verify import verify

CLEAN = Cleaning(
    on_error="skip", duplicates="drop", near_duplicates="report", label_noise="report", ranges="width=26..150"
)


@pytest.fixture
def dirty(images: Path) -> Path:
    """60 pictures in three classes of widths 24 to 43, and some that are faulty, alike or too large."""
    first = (images / "class0/010.jpg").read_bytes()
    files = {
        "class0/copy.jpg": first,
        "class1/copy.jpg": first,
        "class1/cut.jpg": photo(1)[:2000],
        "class1/wide.jpg": photo(2),
        "class2/near.jpg": encoded(smooth(5, 80, 60), quality=60),
        "class2/nearer.jpg": encoded(smooth(5, 80, 60), quality=90),
        "class2/noise.jpg": b"no picture",
        "single/one.jpg": jpeg(777, width=50),
    }
    (images / "single").mkdir()
    for name, content in files.items():
        (images / name).write_bytes(content)
    return images


def notes(path: Path) -> list[tuple[str, str, str]]:
    return [(row["key"], row["source"], row["reason"]) for row in pq.read_table(path).to_pylist()]


REJECTED = [
    ("class0/000", "class0/000.jpg", "range"),
    ("class0/001", "class0/001.jpg", "range"),
    ("class0/copy", "class0/copy.jpg", "duplicate"),
    ("class1/000", "class1/000.jpg", "range"),
    ("class1/001", "class1/001.jpg", "range"),
    ("class1/copy", "class1/copy.jpg", "duplicate"),
    ("class1/cut", "class1/cut.jpg", "unreadable"),
    ("class1/wide", "class1/wide.jpg", "range"),
    ("class2/000", "class2/000.jpg", "range"),
    ("class2/001", "class2/001.jpg", "range"),
    ("class2/noise", "class2/noise.jpg", "unreadable"),
]


@pytest.mark.parametrize("shard_format", ["tar", "parquet"])
def test_what_is_left_out_is_listed_and_the_rest_is_packed(dirty: Path, tmp_path: Path, shard_format: Any) -> None:
    out = tmp_path / "out"
    index = pack(dirty, out, format=shard_format, clean=CLEAN, shard_size="40KiB", workers=1)
    assert notes(out / "rejected.parquet") == REJECTED
    assert notes(out / "suspects.parquet") == [
        ("class0/010", "class0/010.jpg", "label_conflict"),
        ("class0/copy", "class0/copy.jpg", "label_conflict"),
        ("class1/copy", "class1/copy.jpg", "label_conflict"),
        ("class2/nearer", "class2/nearer.jpg", "near_duplicate"),
        ("single/one", "single/one.jpg", "single_class"),
    ]
    assert index.statistics["cleaning"] == {
        "rejected": {"duplicate": 2, "range": 7, "unreadable": 2},
        "reported": {"label_conflict": 3, "near_duplicate": 1, "single_class": 1},
    }
    assert index.packed["options"]["clean"] == CLEAN.to_json()
    keys = {sample["__key__"] for sample in StreamingDataset(out)}
    assert len(keys) == index.samples("train") == 68 - 11
    assert not keys & {key for key, _, _ in REJECTED}
    assert verify(out, decode=True).ok
    assert pq.read_schema(out / "rejected.parquet").names == ["key", "source", "reason", "detail"]


def test_lists_are_no_shards(dirty: Path, tmp_path: Path) -> None:
    for shard_format in ("tar", "parquet"):
        out = tmp_path / shard_format
        made = pack(dirty, out, format=shard_format, clean=CLEAN, workers=1)  # type: ignore[arg-type]
        (out / "index.json").unlink()
        assert index_folder(out).samples("train") == made.samples("train")
        (out / "index.json").unlink()
        assert repair(out).left == ()
        assert IndexFile.load(out / "index.json").samples("train") == made.samples("train")


def test_any_number_of_workers_and_any_rerun_give_the_same_bytes(dirty: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"clean": CLEAN, "split": Splitting(folds=2), "shard_size": "40KiB"}
    pack(dirty, tmp_path / "clean", workers=1, **options)
    for workers in (2, 7):
        pack(dirty, tmp_path / f"out{workers}", workers=workers, **options)
        assert tree(tmp_path / f"out{workers}") == tree(tmp_path / "clean")


CLEANED = "split='a=0.5,b=0.5', clean=fastload.Cleaning(drop_missing=True, duplicates='report'), workers=1"
PROGRAM = f"import sys, fastload; fastload.pack(sys.argv[1], sys.argv[2], {CLEANED})"


def test_another_process_gives_the_same_bytes(tmp_path: Path) -> None:
    """Sets of names have another order there."""
    rows = [{f"f{n}": f"{n} of {i % 50}" for n in range(12)} for i in range(60)]
    rows[7].pop("f3")
    source = tmp_path / "m.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    clean = Cleaning(drop_missing=True, duplicates="report")
    pack(source, tmp_path / "here", split="a=0.5,b=0.5", clean=clean, workers=1)
    command = [sys.executable, "-c", PROGRAM, str(source), str(tmp_path / "there")]
    subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": "77"}, check=True)
    assert tree(tmp_path / "here") == tree(tmp_path / "there")
    assert [note[2] for note in notes(tmp_path / "here" / "rejected.parquet")] == ["missing"]
    assert len(notes(tmp_path / "here" / "suspects.parquet")) == 9


def test_what_is_kept_is_packed_as_if_the_rest_had_not_been_there(dirty: Path, tmp_path: Path) -> None:
    """By ranges of sizes, for which no content is read, so that splits go by the keys in both."""
    large = {str(p.relative_to(dirty)): p.stat().st_size for p in dirty.rglob("*.jpg") if p.stat().st_size > 1500}
    files = [path for path in dirty.rglob("*.jpg") if path.stat().st_size < 1000]
    clean = Cleaning(ranges="bytes=1000..1500")
    for name in ("class1/cut.jpg", "class2/noise.jpg"):
        (dirty / name).unlink(missing_ok=True)
    pack(dirty, tmp_path / "cleaned", clean=clean, split="a=0.5,b=0.5", workers=1)
    for path in (*files, *(dirty / name for name in large)):
        path.unlink(missing_ok=True)
    for folder in dirty.iterdir():
        if not any(folder.iterdir()):
            folder.rmdir()
    pack(dirty, tmp_path / "small", split="a=0.5,b=0.5", workers=1)
    for split in "ab":
        tars = [sorted((tmp_path / name / split).glob("*.tar")) for name in ("cleaned", "small")]
        keys = [[s["__key__"] for s in StreamingDataset(list(map(str, found)))] for found in tars]
        assert keys[0] == keys[1]
        assert keys[0]


def test_copies_never_straddle_splits(images: Path, tmp_path: Path) -> None:
    for i in range(40):
        shutil.copy(images / f"class{i % 3}/{i % 7:03d}.jpg", images / f"class{(i + 1) % 3}/copy{i}.jpg")
    splits = (Splitting(folds=4), Splitting(shares="a=0.5,b=0.5", stratify="label"))
    for number, split in enumerate(splits):
        index = pack(images, tmp_path / f"{number}", split=split, workers=1)
        sides = [{s["image"].tobytes() for s in raw(tmp_path / f"{number}", name)} for name in index.splits]
        assert sum(map(len, sides)) == len(set.union(*sides)) == 60
        assert "cleaning" not in index.statistics
        assert not (tmp_path / f"{number}" / "rejected.parquet").exists()
    clean = Cleaning(duplicates="report")
    same = pack(images, tmp_path / "same", split=splits[0], clean=clean, workers=1)
    assert same.statistics["cleaning"] == {"rejected": {}, "reported": {"duplicate": 40}}
    assert [shard.xxh3 for shard in same.shards] == [
        shard.xxh3 for shard in IndexFile.load(tmp_path / "0" / "index.json").shards
    ]


def test_copies_of_text_never_straddle_splits_nor_do_rows_that_come_before_move_others(tmp_path: Path) -> None:
    def sides(name: str, lines: list[str], **options: Any) -> dict[str, set[str]]:
        (tmp_path / f"{name}.csv").write_text("".join(["text,who,n\n", *lines]))
        splitting = Splitting(shares="train=0.5,val=0.5", **options)
        pack(tmp_path / f"{name}.csv", tmp_path / name, split=splitting, workers=1)
        return texts_of(tmp_path / name)

    rows = [f"text {i % 20},w{i},{i}\n" for i in range(200)]
    with pytest.raises(PackError, match=r"200 groups are 1, by contents|gets none of 200 samples"):
        sides("one", [f"text,w{i},{i}\n" for i in range(200)], group_by="who")
    grouped = sides("grouped", rows, group_by="who")
    assert not grouped["train"] & grouped["val"]
    by_content = Cleaning(compare=("text",))
    pack(tmp_path / "grouped.csv", tmp_path / "plain", split="train=0.5,val=0.5", clean=by_content, workers=1)
    train, val = texts_of(tmp_path / "plain").values()
    assert (len(train & val), len(train | val)) == (0, 20)
    wrong = Cleaning(compare=("no",))
    with pytest.raises(ConfigError, match=r"compare=\('no',\): 'no' is none of the contents, 'text', 'who'"):
        pack(tmp_path / "grouped.csv", tmp_path / "no", split="train=0.5,val=0.5", clean=wrong, workers=1)
    alone = [f"text {i},w,1\n" for i in range(100)]
    before, after = sides("before", alone), sides("after", ["new,w,1\n", *alone])
    assert all(before[split] <= after[split] for split in before)


def test_names_of_classes_beside_numbers_are_no_contents(tmp_path: Path) -> None:
    lines = [f"{i},{i / 7},{('setosa', 'virginica')[i % 2]}\n" for i in range(60)]
    (tmp_path / "t.csv").write_text("".join(["x,y,species\n", *lines]))
    with pytest.raises(ConfigError, match=r"60 rows with different numbers have 2 different contents \(species\)"):
        pack(tmp_path / "t.csv", tmp_path / "o", split="train=0.8,test=0.2", workers=1)
    ways: dict[str, dict[str, Any]] = {
        "label": {"columns": "x,y,species:species:label", "split": "train=0.8,test=0.2"},
        "stratify": {"split": Splitting(shares="train=0.8,test=0.2", stratify="species")},
    }
    for name, options in ways.items():
        index = pack(tmp_path / "t.csv", tmp_path / name, workers=1, **options)
        assert 40 <= index.samples("train") < 60
    both = Cleaning(compare=("species",))
    index = pack(tmp_path / "t.csv", tmp_path / "asked", split={"a": 0.5, "b": 0.5}, seed=0, clean=both, workers=1)
    assert {index.samples("a"), index.samples("b")} == {30}


def test_near_copies_that_are_reported_go_with_the_earlier_one(tmp_path: Path) -> None:
    words = [f"{i} " + " ".join(f"w{(7 * i + j) % 101}x{i}" for j in range(60)) for i in range(12)]
    lines = [f'{{"text": "{text}{end}"}}\n' for text in words for end in ("", " more", " else")]
    (tmp_path / "m.jsonl").write_text("".join(lines))
    clean = Cleaning(near_duplicates="report")
    index = pack(tmp_path / "m.jsonl", tmp_path / "out", split="a=0.5,b=0.5", clean=clean, workers=1)
    assert index.statistics["cleaning"]["reported"] == {"near_duplicate": 24}
    a, b = ({text.split()[0] for text in texts} for texts in texts_of(tmp_path / "out").values())
    assert (len(a & b), len(a | b)) == (0, 12)


def texts_of(out: Path) -> dict[str, set[str]]:
    """Split -> its texts."""
    splits = IndexFile.load(out / "index.json").splits
    return {split: {sample["text"] for sample in StreamingDataset(out, split=split)} for split in splits}


# Contents in several splits


def straddling_rows(train: Any, test: Any) -> list[dict[str, Any]]:
    """40 texts of one part and 8 of another, of which 4 are the same."""
    rows = [{"key": f"a{i:02}", "text": f"text {i}", "part": train} for i in range(40)]
    return rows + [{"key": f"b{i:02}", "text": f"text {i}", "part": test} for i in range(36, 44)]


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in straddling_rows("train", "test")))
    return tmp_path / "m.jsonl"


BY_PART = Splitting(ranges="train=..2023,test=2024..", by="part")


@pytest.mark.parametrize(
    ("splitting", "train", "test"),
    [
        (Splitting(column="part"), "train", "test"),
        (BY_PART, "2023-05-01", "2024-01-31"),
        (BY_PART, 2023, 2024),
    ],
    ids=["column", "dates", "numbers"],
)
def test_copies_in_several_splits_stay_in_the_smallest(
    tmp_path: Path, splitting: Splitting, train: Any, test: Any
) -> None:
    rows = straddling_rows(train, test)
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, source in (("manifest", tmp_path / "m.jsonl"), ("objects", rows), ("backwards", rows[::-1])):
        index = pack(source, tmp_path / name, split=splitting, shard_size="8KiB", workers=1)
        assert {split: index.samples(split) for split in index.splits} == {"train": 36, "test": 8}
        listed = pq.read_table(tmp_path / name / "rejected.parquet").to_pylist()
        assert [(row["key"], row["reason"], row["detail"]) for row in listed] == [
            (f"a{i}", "straddles", f"in train; b{i} has the same content, in test") for i in range(36, 40)
        ]
        assert index.statistics["cleaning"] == {"rejected": {"straddles": 4}, "reported": {}}
        assert index.packed["options"]["straddling"] == "drop"
        texts = texts_of(tmp_path / name)
        assert not texts["train"] & texts["test"]
    pack(rows, tmp_path / "workers", split=splitting, shard_size="8KiB", workers=3)
    assert tree(tmp_path / "workers") == tree(tmp_path / "objects")


def test_copies_in_several_splits_are_kept_where_that_is_asked_for(parts: Path, tmp_path: Path) -> None:
    keep = Splitting(column="part", straddling="keep")
    index = pack(parts, tmp_path / "keep", split=keep, workers=1)
    assert {split: index.samples(split) for split in index.splits} == {"test": 8, "train": 40}
    assert "cleaning" not in index.statistics
    assert not (tmp_path / "keep" / "rejected.parquet").exists()
    out = tmp_path / "out"
    with pytest.raises(Stopped):
        pack(parts, out, split=Splitting(column="part"), shard_size="4KiB", workers=1, progress=stop_after(out, 1))
    with pytest.raises(PackError, match="an unfinished pack with straddling 'drop' instead of 'keep'"):
        pack(parts, out, split=keep, shard_size="4KiB", workers=1)


@pytest.mark.parametrize("clean", [None, Cleaning(near_duplicates="drop")])
def test_a_run_by_column_that_was_stopped_goes_on(parts: Path, tmp_path: Path, clean: Cleaning | None) -> None:
    def run(name: str, **options: Any) -> Path:
        split, out = Splitting(column="part"), tmp_path / name
        pack(parts, out, split=split, clean=clean, shard_size="4KiB", workers=1, **options)
        return out

    whole, out = run("whole"), tmp_path / "out"
    with pytest.raises(Stopped):
        run("out", progress=stop_after(out, 2))
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("*.tar")}
    assert 2 <= len(kept) < len(list(whole.rglob("*.tar")))
    run("out")
    assert tree(out) == tree(whole)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "finished shards are kept"


def test_the_sources_own_splits_are_taken_over_as_they_are_unless_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, seeds = tmp_path / "source", {"train": [1, 2, 3, 3, 4], "val": [4, 5]}
    for split in seeds:
        (source / split / "cat").mkdir(parents=True)
        for at, seed in enumerate(seeds[split]):
            (source / split / "cat" / f"{at}.jpg").write_bytes(jpeg(seed))
    with monkeypatch.context() as patched:
        patched.setattr(job, "survey", None)  # nothing is looked at
        index = pack(source, tmp_path / "plain", workers=1)
    assert {split: index.samples(split) for split in index.splits} == {"train": 5, "val": 2}
    assert "cleaning" not in index.statistics
    assert "straddling" not in index.packed["options"]
    drop = Splitting(straddling="drop")
    for workers in (1, 3):
        index = pack(source, tmp_path / f"drop{workers}", split=drop, workers=workers)
    assert tree(tmp_path / "drop1") == tree(tmp_path / "drop3")
    assert notes(tmp_path / "drop1/rejected.parquet") == [("train/cat/4", "train/cat/4.jpg", "straddles")]
    assert {split: index.samples(split) for split in index.splits} == {"train": 4, "val": 2}
    assert index.packed["source_splits"] == "kept"
    again = pack(tmp_path / "plain", tmp_path / "again", split=drop, workers=1)
    assert {split: again.samples(split) for split in again.splits} == {"train": 4, "val": 2}
    assert [note[0] for note in notes(tmp_path / "again/rejected.parquet")] == ["train/cat/4"]


def test_ranges_that_do_not_fit_are_an_error_before_files_are_read(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (images / "m.csv").write_text("path,year\nclass0/000.jpg,2020\nclass0/001.jpg,2024\nclass1/000.jpg,2027\n")
    splitting = Splitting(ranges="train=..2023,test=2024..2025", by="year")
    monkeypatch.setattr(job, "survey", None)
    with pytest.raises(PackError, match="'class1/000': year=2027 is in none of train"):
        pack(images / "m.csv", tmp_path / "out", split=splitting, workers=1)
    monkeypatch.undo()
    (images / "class0/001.jpg").write_bytes((images / "class0/000.jpg").read_bytes())
    splitting = Splitting(ranges="train=..2023,test=2024..", by="year")
    pack(images / "m.csv", tmp_path / "out", split=splitting, workers=1)
    assert notes(tmp_path / "out/rejected.parquet") == [("class0/001", "class0/001.jpg", "straddles")]


def test_copies_in_several_splits_on_the_command_line(parts: Path, tmp_path: Path) -> None:
    def run(out: str, *options: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["pack", str(parts), str(tmp_path / out), "--workers", "1", *options])
        return done.exit_code, " ".join(done.output.split())

    code, said = run("a", "--split-column", "part")
    assert (code, "4 rejected (straddles 4), listed in rejected.parquet" in said) == (0, True), said
    code, said = run("b", "--split-column", "part", "--straddling", "keep")
    assert (code, "rejected" in said) == (0, False), said
    code, said = run("c", "--split", "a=0.5,b=0.5", "--straddling", "drop")
    assert (code != 0, "straddling='drop' (--straddling) is of splits by ranges" in said) == (True, True), said


def write_part(way: str, folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    """Some samples as a file."""
    folder.mkdir(parents=True, exist_ok=True)
    if way == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    elif way == "documents":
        texts = "\n\n".join(json.dumps({"key": row["key"], "text": row["text"]}) for row in rows)
        (folder / f"{name}.jsonl").write_text(texts)
    else:
        with tarfile.open(folder / f"{name}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for row in rows:
                for ending, content in (("jpg", row["image"]), ("txt", row["text"].encode())):
                    info = tarfile.TarInfo(f"{row['key']}.{ending}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("way", ["tar", "parquet", "documents"])
def test_what_is_wrong_with_a_stream_is_listed_by_file_and_place(tmp_path: Path, way: str, workers: int) -> None:
    """Two files of one name, with a copy and a picture that is cut off: only looking at the contents finds them."""
    rows = [{"key": f"k{i}", "image": photo(i), "text": f"t{i}"} for i in range(6)]
    rows[1]["image"], rows[5]["image"], rows[5]["text"] = rows[1]["image"][:2000], rows[3]["image"], "t3"
    source = tmp_path / "source"
    write_part(way, source / "test", "0", rows[:3])
    write_part(way, source / "train", "0", rows[3:])
    pack(source, tmp_path / "out", clean=Cleaning(on_error="skip", duplicates="drop"), workers=workers)
    expected = {
        "tar": ["test/0.tar, sample 'k1'", "train/0.tar, sample 'k5'"],
        "parquet": ["test/0.parquet, row 2", "train/0.parquet, row 3"],
        "documents": ["train/0.jsonl, line 5"],
    }
    found = [place for _, place, _ in notes(tmp_path / "out/rejected.parquet")]
    assert found == [f"{source}/{place}" for place in expected[way]]


def raw(out: Path, split: str) -> list[dict[str, Any]]:
    return [
        {**sample, "image": np.frombuffer(sample["image"], np.uint8)}
        for sample in StreamingDataset(out, split=split, fields={"image": Bytes()})
    ]


def test_the_first_fault_stops_the_run_unless_told_otherwise(dirty: Path, tmp_path: Path) -> None:
    with pytest.raises(PackError, match=r"sample 'class1/cut': class1/cut.jpg: image: .* \(and 1 more\); remove or"):
        pack(dirty, tmp_path / "out", clean=Cleaning(duplicates="drop"), workers=2)
    with pytest.raises(PackError, match="2 samples cannot be read, more than max_errors=1"):
        pack(dirty, tmp_path / "out", clean=Cleaning(on_error="skip", max_errors=1), workers=1)
    assert not (tmp_path / "out/index.json").exists()
    for name in ("class1/cut.jpg", "class2/noise.jpg"):
        (dirty / name).unlink()
    assert pack(dirty, tmp_path / "out", clean=Cleaning(duplicates="drop"), workers=2).samples("train") == 64
    assert not (tmp_path / "out" / JOURNAL_NAME).exists()


@pytest.mark.parametrize("way", [{"prepare": Prepare(resize_longer=16)}, {"statistics": True}], ids=["resize", "sums"])
def test_what_packing_decodes_is_skipped_where_it_does_not_decode(tmp_path: Path, way: dict[str, Any]) -> None:
    whole, source = photo(1), tmp_path / "source"
    source.mkdir()
    (source / "garbled.jpg").write_bytes(whole[:3000] + bytes(3000) + whole[6000:])
    (source / "whole.jpg").write_bytes(whole)
    with pytest.raises(PackError, match=r"garbled.jpg: .*skip such"):
        pack(source, tmp_path / "strict", workers=1, jpeg="keep", **way)
    index = pack(source, tmp_path / "out", workers=1, jpeg="keep", clean=Cleaning(on_error="skip"), **way)
    assert index.statistics["cleaning"]["rejected"] == {"unreadable": 1}
    assert [note[:2] for note in notes(tmp_path / "out/rejected.parquet")] == [("garbled", "garbled.jpg")]


def test_another_type_is_refused(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"clean=\{'on_error': 'skip'\}: pass a fastload.Cleaning"):
        pack(images, tmp_path / "out", clean={"on_error": "skip"})  # type: ignore[arg-type]


def test_the_command_line(dirty: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = "--on-error skip --max-errors 5 --decode full --range width=26.. --range height=..100 --duplicates drop"
    more = "--near-duplicates drop --near-bits 4 --near-text 0.9 --compare image --zscore bytes=9"
    noise = "--label-noise report --label-field label"
    done = CliRunner().invoke(app, ["pack", str(dirty), str(out), *f"{options} {more} {noise}".split()])
    assert done.exit_code == 0, done.output
    assert "; 12 rejected (duplicate 2, near_duplicate 1, range 7, unreadable 2), listed in rejected.parquet" in (
        " ".join(done.output.split())
    )
    assert "4 reported (label_conflict 3, single_class 1), listed in suspects.parquet" in " ".join(done.output.split())
    assert IndexFile.load(out / "index.json").packed["options"]["clean"] == {
        "on_error": "skip", "max_errors": 5, "decode": "full", "ranges": {"width": "26..", "height": "..100"},
        "zscores": {"bytes": 9.0}, "duplicates": "drop", "near_duplicates": "drop", "near_bits": 4, "near_text": 0.9,
        "compare": ["image"], "label_noise": "report",
    }  # fmt: skip
    done = CliRunner().invoke(app, ["pack", str(dirty), str(tmp_path / "b"), "--duplicates", "drop"])
    assert done.exit_code == 1
    assert "or leave such samples out with on_error='skip'" in " ".join(done.output.split())


# Interrupted


class _Stop(Exception):
    pass


def test_other_rules_go_on_with_what_was_found_out(dirty: Path, tmp_path: Path) -> None:
    """Until a shard is finished nothing is bound to the options; and what was looked at is not looked at again."""
    out = tmp_path / "out"

    def stop(done: int, total: int, written: int) -> None:
        if list(out.rglob("*.npz")):
            raise _Stop

    with pytest.raises(_Stop):
        pack(dirty, out, clean=CLEAN, workers=1, progress=stop)
    found = {path: path.stat().st_mtime_ns for path in out.rglob("*.npz")}
    assert found
    stricter = Cleaning(
        on_error="skip", duplicates="drop", near_duplicates="drop", label_noise="drop", ranges="width=30..150"
    )
    seen = []

    def note(done: int, total: int, written: int) -> None:
        seen.extend(path for path, when in found.items() if path.exists() and path.stat().st_mtime_ns == when)

    index = pack(dirty, out, clean=stricter, workers=1, progress=note)
    assert set(seen) == set(found)
    pack(dirty, tmp_path / "fresh", clean=stricter, workers=1)
    assert tree(out) == tree(tmp_path / "fresh")
    assert index.statistics["cleaning"]["rejected"]["range"] == 19


# Added to


def test_a_folder_that_grows_is_cleaned_as_it_was(dirty: Path, tmp_path: Path) -> None:
    out, more = tmp_path / "out", tmp_path / "more"
    pack(dirty, out, clean=CLEAN, split=Splitting(folds=2), workers=1)
    for folder in ("class0", "class1", "class2", "single"):
        (more / folder).mkdir(parents=True)
        for i in range(4):
            (more / folder / f"{i}.jpg").write_bytes(jpeg(5000 + 10 * i + len(folder), width=20 + 8 * i))
    (more / "class0/bad.jpg").write_bytes(b"bad")
    (more / "class0/again.jpg").write_bytes((dirty / "class1/015.jpg").read_bytes())
    index = append(more, out, prefix="more/", workers=1)
    widths = [("more/" + f"{folder}/0", "range") for folder in ("class0", "class1", "class2", "single")]
    found = [(key, reason) for key, _, reason in notes(out / "rejected.parquet") if key.startswith("more/")]
    assert {*widths, ("more/class0/bad", "unreadable")} <= set(found)
    assert [note for note in notes(out / "rejected.parquet") if not note[0].startswith("more/")] == REJECTED
    assert sum(index.statistics["cleaning"]["rejected"].values()) == len(REJECTED) + len(found)
    sides = [{s["__key__"] for s in StreamingDataset(out, split=name)} for name in index.splits]
    assert any({"class1/015", "more/class0/again"} <= side for side in sides)
    assert verify(out).ok


def test_the_summary_has_what_was_left_out(dirty: Path, tmp_path: Path) -> None:
    pack(dirty, tmp_path / "out", clean=CLEAN, workers=1)
    done = CliRunner().invoke(app, ["inspect", str(tmp_path / "out")])
    said = " ".join(done.output.split())
    assert "11 rejected (duplicate 2, range 7, unreadable 2), listed in rejected.parquet; 5 reported" in said


def test_samples_of_python_are_cleaned_too(tmp_path: Path) -> None:
    good = [{"key": f"k{i}", "image": photo(i), "text": f"text {i % 3}"} for i in range(6)]
    bad = {"key": "bad", "image": photo(9)[:3000], "text": "cut"}
    again = {"key": "z", "image": photo(2), "text": "text 2"}
    with pytest.raises(PackError, match=r"sample 4 of list: field 'image': JPEG"):
        pack([*good[:3], bad], tmp_path / "out", workers=1)
    clean = Cleaning(on_error="skip", duplicates="drop", decode="full")
    index = pack([*good, bad, again], tmp_path / "out", clean=clean, workers=2)
    assert notes(tmp_path / "out/rejected.parquet") == [
        ("bad", "sample 7 of list", "unreadable"),
        ("z", "sample 8 of list", "duplicate"),
    ]
    assert index.fields["image"].kind == "image"
    assert {s["__key__"] for s in StreamingDataset(tmp_path / "out")} == {f"k{i}" for i in range(6)}
