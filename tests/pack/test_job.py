"""`pack` from end to end: the same bytes however it ran, readable by others, nothing left of what failed."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import xxhash
from pack_sources import jpeg, png, tree, wav
from webdataset.tariterators import group_by_keys, tar_file_iterator

from fastload.errors import ConfigError, PackError
from fastload.pack import pack
from fastload.shards.idx import Idx
from fastload.shards.index import FieldInfo, IndexFile
from fastload.shards.tar import scan_tar

FORK = multiprocessing.get_context("fork")


def contents(tar: Path) -> dict[str, dict[str, bytes]]:
    """What webdataset reads from a tar, by key."""
    with open(tar, "rb") as file:
        members = ({**member, "__url__": ""} for member in tar_file_iterator(file))
        samples = {sample.pop("__key__"): sample for sample in group_by_keys(members)}
    return {key: {name: v for name, v in sample.items() if name[0] != "_"} for key, sample in samples.items()}


def all_contents(out: Path) -> dict[str, dict[str, bytes]]:
    return {key: sample for tar in sorted(out.rglob("*.tar")) for key, sample in contents(tar).items()}


# What comes out


def test_golden_bytes(tmp_path: Path) -> None:
    (tmp_path / "notes.jsonl").write_text(
        "".join(json.dumps({"text": f"No. {i}", "label": "ab"[i % 2], "weight": i / 4}) + "\n" for i in range(6))
    )
    pack(tmp_path / "notes.jsonl", tmp_path / "out", shard_size=8000, split="train=0.5,val=0.5", workers=1)
    found = tree(tmp_path / "out")
    assert {name: digest for name, digest in found.items() if name.endswith(".tar")} == GOLDEN_TARS
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    index["packed"]["fastload"] = "version"
    assert index["packed"].pop("options")["shard_size"] == 8000  # there are more with every option
    for shard in index["shards"]:
        idx = (tmp_path / "out" / shard["name"]).with_suffix(".idx").read_bytes()
        assert shard.pop("index_xxh3") == xxhash.xxh3_64_hexdigest(idx)
    assert hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest() == GOLDEN_INDEX


GOLDEN_TARS = {
    "train/shard-000000.tar": "daa72a387da646f91571bdf9b6b9ea232d2c29f6e425a6175ac3023b79b7d8be",
    "train/shard-000001.tar": "c9aeac989a7b25329fd1fb5828ec1f3199fb0e6c4ef2933b7ed3c9650849ef16",
    "val/shard-000000.tar": "1170fc1f340d6f36ca7d33b2ddb7ca9884a36082125d928994e38a9cba0c6754",
    "val/shard-000001.tar": "c31f45c06cd487cad447006697d9f8f3db2a6f44b4ec077d50ef320c11c6a8ed",
}
GOLDEN_INDEX = "0415cfdf835dc80924dfd94fcc1bc522ff426a110571528d1d68ac87f595c029"


def test_an_image_folder(images: Path, tmp_path: Path) -> None:
    index = pack(images, tmp_path / "out", shard_size="40KiB", workers=1)
    assert index == IndexFile.load(tmp_path / "out" / "index.json")
    assert index.splits == {"train": (0, len(index.shards))}
    assert len(index.shards) > 3
    assert sum(shard.samples for shard in index.shards) == index.samples("train") == 60
    assert index.fields["label"].classes == ("class0", "class1", "class2")
    assert {name: about for name, about in index.statistics.items() if name != "fields"} == {
        "classes": {"train": {"class0": 20, "class1": 20, "class2": 20}},
        "jpeg": {"train": {"seekable": 0, "kept": {"too small to gain by it": 60}}},
    }
    assert index.packed["source"] == "source"
    assert str(tmp_path) not in (tmp_path / "out" / "index.json").read_text()
    found = all_contents(tmp_path / "out")
    assert found == {
        f"class{c}/{i:03d}": {"jpg": (images / f"class{c}/{i:03d}.jpg").read_bytes(), "cls": b"%d" % c}
        for c in range(3)
        for i in range(20)
    }
    for shard in index.shards:
        path = tmp_path / "out" / shard.name
        assert path.stat().st_size == shard.bytes <= 40 << 10
        idx = Idx(str(path.with_suffix(".idx")), shard.index_xxh3)
        keys = idx.keys(np.arange(idx.samples))
        assert idx.column("image.width").tolist() == [24 + int(key[-3:]) for key in keys]
        assert set(idx.column("image.height").tolist()) == {24}
        assert idx.column("label").tolist() == [int(key[5]) for key in keys]
        scanned, _ = scan_tar(path, tmp_path / "scan.idx")
        assert (scanned.samples, scanned.bytes, scanned.xxh3) == (shard.samples, shard.bytes, shard.xxh3)
        again = Idx(str(tmp_path / "scan.idx"))
        assert again.column("xxh3").tolist() == idx.column("xxh3").tolist()
    left = {path.name for path in (tmp_path / "out").rglob("*")}
    shards = {f"shard-{i:06d}.{end}" for i in range(len(index.shards)) for end in ("tar", "idx")}
    assert left == {"train", "index.json"} | shards


def test_classes_are_mixed_over_the_shards_unless_asked_not_to(images: Path, tmp_path: Path) -> None:
    mixed = pack(images, tmp_path / "a", shard_size="40KiB", workers=1)
    for shard in mixed.shards:
        assert len({key[:6] for key in contents(tmp_path / "a" / shard.name)}) > 1
    pack(images, tmp_path / "b", shuffle=False, workers=1)
    assert list(contents(tmp_path / "b/train/shard-000000.tar")) == [
        f"class{c}/{i:03d}" for c in range(3) for i in range(20)
    ]
    pack(images, tmp_path / "c", seed=1, workers=1)
    pack(images, tmp_path / "d", seed=2, workers=1)
    orders = [list(contents(tmp_path / name / "train/shard-000000.tar")) for name in "cd"]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


def test_splits_share_the_samples_out(images: Path, tmp_path: Path) -> None:
    index = pack(images, tmp_path / "out", split={"train": 0.8, "val": 0.2}, shard_size="40KiB", workers=1)
    sides = [{key for tar in (tmp_path / "out" / name).glob("*.tar") for key in contents(tar)} for name in index.splits]
    assert len(sides[0]) + len(sides[1]) == len(sides[0] | sides[1]) == 60
    assert index.samples("val") == len(sides[1])
    counts = index.statistics["classes"]
    assert [sum(counts[name].values()) for name in ("train", "val")] == [len(side) for side in sides]


def test_sounds_texts_and_manifests(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for i in range(8):
        (source / f"{i % 2}_x_{i}.wav").write_bytes(wav(400 + i))
        (source / f"{i}.png").write_bytes(png(i, width=5 + i))
    np.save(source / "v.npy", np.arange(6).reshape(2, 3))
    pack(source, tmp_path / "a", kind="audio", label_regex=r"^(\d)_", workers=1)
    idx = Idx(str(tmp_path / "a/train/shard-000000.idx"))
    assert sorted(idx.column("audio.frames").tolist()) == [400 + i for i in range(8)]
    assert set(idx.column("audio.sample_rate").tolist()) == {8000}

    rows = [
        {"image": f"{i}.png", "tokens": list(range(i)), "note": "ü" * i, "x": i / 2, "v": "v.npy"} for i in range(8)
    ]
    (source / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pack(source / "m.jsonl", tmp_path / "b", shuffle=False, workers=1)
    found = contents(tmp_path / "b/train/shard-000000.tar")
    assert list(found) == [str(i) for i in range(8)]
    assert found["3"]["png"] == (source / "3.png").read_bytes()
    assert found["3"]["note.txt"] == "üüü".encode()
    assert found["3"]["x.json"] == b"1.5"
    idx = Idx(str(tmp_path / "b/train/shard-000000.idx"))
    assert idx.column("tokens.count").tolist() == list(range(8))
    assert idx.column("image.width").tolist() == [5 + i for i in range(8)]
    assert idx.column("x").tolist() == [i / 2 for i in range(8)]

    (source / "lines.txt").write_text("one\n\nthree\n")
    pack(source / "lines.txt", tmp_path / "c", workers=1)
    assert all_contents(tmp_path / "c") == {"000000001": {"txt": b"one"}, "000000003": {"txt": b"three"}}


def test_parquet_holds_the_same_samples(images: Path, tmp_path: Path) -> None:
    index = pack(images, tmp_path / "out", format="parquet", shard_size="40KiB", workers=1)
    tables = [pq.read_table(tmp_path / "out" / shard.name) for shard in index.shards]
    rows = {row["__key__"]: row for table in tables for row in table.to_pylist()}
    assert len(index.shards) > 1
    assert {key: (row["image"]["bytes"], row["label"]) for key, row in rows.items()} == {
        f"class{c}/{i:03d}": ((images / f"class{c}/{i:03d}.jpg").read_bytes(), c) for c in range(3) for i in range(20)
    }
    assert {row["image.width"] for row in rows.values()} == set(range(24, 44))
    assert index.fields["image"] == FieldInfo(kind="image")
    pack(images, tmp_path / "again", format="parquet", shard_size="40KiB", workers=3)
    assert tree(tmp_path / "again") == tree(tmp_path / "out")


def test_long_and_foreign_names(tmp_path: Path) -> None:
    names = ["ü/1", "x" * 120 + "/" + "y" * 120, "z" * 90 + "/" + "w" * 60, "a/b"]
    for i, name in enumerate(names):
        path = tmp_path / "source" / (name + ".jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(i))
    index = pack(tmp_path / "source", tmp_path / "out", workers=1)
    assert set(all_contents(tmp_path / "out")) == set(names)
    assert (tmp_path / "out" / index.shards[0].name).stat().st_size == index.shards[0].bytes


# The same bytes however it ran


def test_any_number_of_workers_writes_the_same(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastload.pack.plan.RUN_BYTES", 10_000)  # several runs a shard
    for workers in (1, 2, 7):
        pack(images, tmp_path / str(workers), shard_size="60KiB", split="train=0.7,val=0.3", workers=workers)
    one = tree(tmp_path / "1")
    assert len(one) > 7
    assert tree(tmp_path / "2") == one
    assert tree(tmp_path / "7") == one


def test_workers_that_cannot_be_forked_are_started(images: Path, tmp_path: Path) -> None:
    pack(images, tmp_path / "a", workers=1, shard_size="60KiB")
    leave = threading.Event()
    thread = threading.Thread(target=leave.wait)
    thread.start()
    try:
        pack(images, tmp_path / "b", workers=2, shard_size="60KiB")
    finally:
        leave.set()
        thread.join()
    assert tree(tmp_path / "b") == tree(tmp_path / "a")


def test_progress_counts_samples_and_bytes(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[tuple[int, int, int]] = []
    index = pack(images, tmp_path / "a", shard_size="40KiB", workers=1, progress=lambda *counts: calls.append(counts))
    assert calls[-1][:2] == (60, 60)
    assert [done for done, _, _ in calls] == sorted({done for done, _, _ in calls})
    assert calls[-1][2] == sum(shard.bytes - 1024 for shard in index.shards)
    pack(images, tmp_path / "b", workers=1, progress=True)
    seen = capsys.readouterr()
    assert "60/60" in seen.err
    assert seen.out == ""


# What goes wrong


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"this is text, not a picture", r"class1/007.jpg: not a JPEG, PNG, .* 27 bytes that start with b'this is '"),
        (jpeg(1)[:-300], r"class1/007.jpg: JPEG of \d+ bytes has no end: it was cut off; remove or mend the file"),
        (jpeg(1)[:40], "class1/007.jpg: JPEG ends after 40 bytes, inside its header"),
        (png(1)[:20], "class1/007.jpg: PNG ends after 20 bytes"),
        (b"", r"class1/007.jpg: the file is empty \(0 bytes\)"),
    ],
)
def test_a_faulty_file_stops_the_run_and_leaves_nothing(
    images: Path, tmp_path: Path, content: bytes, message: str, workers: int
) -> None:
    (images / "class1/007.jpg").write_bytes(content)
    with pytest.raises(PackError, match=message):
        pack(images, tmp_path / "new" / "out", workers=workers)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("tail", [b"\0" * 3, b"trailing data" * 9, jpeg(9)])
def test_bytes_after_the_end_of_a_jpeg_are_no_fault(images: Path, tmp_path: Path, tail: bytes) -> None:
    path = images / "class1/007.jpg"
    path.write_bytes(path.read_bytes() + tail)
    pack(images, tmp_path / "out", workers=1)
    assert all_contents(tmp_path / "out")["class1/007"]["jpg"] == path.read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), r"had \d+ bytes when packing began, and now has \d+"),
        (lambda path: path.write_bytes(b"\xff\xd8"), r"had \d+ bytes when packing began, and now has 2; wait until"),
        (Path.unlink, "is gone since packing began; run the command again once it is back"),
    ],
)
def test_files_that_change_during_packing(images: Path, tmp_path: Path, change: Any, message: str) -> None:
    last = images / "class2" / "019.jpg"

    def change_last(done: int, total: int, written: int) -> None:
        if done < 40:
            last.write_bytes(jpeg(219, width=43))
            change(last)

    last.write_bytes(jpeg(219, width=43))
    with pytest.raises(PackError, match=rf"class2/019.jpg {message}"):
        pack(images, tmp_path / "out", workers=1, shuffle=False, shard_size="40KiB", progress=change_last)


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(b"good\nb\xffd\n")
    with pytest.raises(PackError, match=r"t.txt, line 2: not UTF-8 \(invalid start byte at byte 1\)"):
        pack(tmp_path / "t.txt", tmp_path / "out", workers=1)


def test_sounds_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for name, content, message in (
        ("a", wav(100)[:60], "WAV"),
        ("b", b"RIFF....WAVE", "WAV"),
        ("c", wav(0), "no samples"),
    ):
        (tmp_path / "source" / "x.wav").write_bytes(content)
        with pytest.raises(PackError, match=rf"x.wav: .*{message}"):
            pack(tmp_path / "source", tmp_path / name, workers=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "zip"}, "format='zip': pass 'tar' or 'parquet'"),
        ({"workers": 0}, "workers=0: pass at least 1"),
        ({"workers": 1.5}, "workers=1.5: pass at least 1"),
        ({"seed": "x"}, "seed='x': pass an integer"),
        ({"shard_size": "big"}, "shard_size='big': pass bytes"),
        ({"split": {"train": 0.5}}, "the ratios sum to 0.5"),
        ({"columns": "image:path"}, "columns: .* has no folder 'path', which is to hold"),
        ({"kind": "video"}, "kind='video'"),
        ({"jpeg": "fast"}, "jpeg='fast': pass 'seekable' or 'keep'"),
    ],
)
def test_bad_options_are_named(images: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pack(images, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_folders_in_use_are_refused(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("x")
    with pytest.raises(PackError, match=r"out is not empty \('thesis.tex' is in it\)"):
        pack(images, out, workers=1)
    assert sorted(os.listdir(out)) == ["thesis.tex"]
    pack(images, tmp_path / "done", workers=1)
    with pytest.raises(PackError, match=r"done holds a finished data set \(index.json\)"):
        pack(images, tmp_path / "done", workers=1)
    with pytest.raises(PackError, match="is a file; pass a folder"):
        pack(images, out / "thesis.tex", workers=1)
    with pytest.raises(PackError, match=r"/proc/out cannot be written \(.*\); nothing was written; run"):
        pack(images, "/proc/out", workers=1)
    with pytest.raises(PackError, match="inside the source"):
        pack(images, images / "out", workers=1)


# Interruptions


class _Stop(Exception):
    pass


def stop_with(out: Path) -> Any:
    """A progress function that raises once two shards are finished."""

    def progress(done: int, total: int, written: int) -> None:
        if len(list(out.rglob("*.tar"))) >= 2:
            raise _Stop

    return progress


OPTIONS: dict[str, Any] = {"shard_size": "40KiB", "split": "train=0.7,val=0.3"}


@pytest.fixture
def clean(images: Path, tmp_path: Path) -> dict[str, str]:
    """What an uninterrupted run writes."""
    pack(images, tmp_path / "clean", workers=1, **OPTIONS)
    return tree(tmp_path / "clean")


@pytest.mark.parametrize("workers", [1, 2])
def test_an_exception_keeps_finished_shards_and_the_next_run_goes_on(
    images: Path, tmp_path: Path, clean: dict[str, str], workers: int
) -> None:
    out = tmp_path / "out"
    with pytest.raises(_Stop):
        pack(images, out, workers=workers, progress=stop_with(out), **OPTIONS)
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("*.tar")}
    assert 0 < len(kept) < len([name for name in clean if name.endswith(".tar")])
    assert not (out / "index.json").exists()
    assert not list(out.rglob("*.partial"))
    pack(images, out, workers=workers, **OPTIONS)
    assert tree(out) == clean
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_a_damaged_finished_shard_is_written_again(images: Path, tmp_path: Path, clean: dict[str, str]) -> None:
    out = tmp_path / "out"
    with pytest.raises(_Stop):
        pack(images, out, workers=1, progress=stop_with(out), **OPTIONS)
    first, second, *_ = sorted(out.rglob("*.tar"))
    data = bytearray(first.read_bytes())
    data[700] ^= 1
    first.write_bytes(data)
    second.with_suffix(".idx").unlink()
    pack(images, out, workers=2, **OPTIONS)
    assert tree(out) == clean


def test_an_edited_source_is_packed_as_it_is_now(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(_Stop):
        pack(images, out, workers=1, progress=stop_with(out), **OPTIONS)
    (images / "class0/000.jpg").write_bytes(jpeg(999, width=40))
    (images / "class2/019.jpg").unlink()
    pack(images, out, workers=1, **OPTIONS)
    pack(images, tmp_path / "fresh", workers=1, **OPTIONS)
    assert tree(out) == tree(tmp_path / "fresh")


def test_edits_that_change_no_size_are_noticed(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(_Stop):
        pack(images, out, workers=1, progress=stop_with(out), shard_size="40KiB")
    for path in images.rglob("*.jpg"):
        path.write_bytes(path.read_bytes().replace(b"JFIF", b"JFIX"))
    pack(images, out, workers=1, shard_size="40KiB")
    pack(images, tmp_path / "fresh", workers=1, shard_size="40KiB")
    assert tree(out) == tree(tmp_path / "fresh")


def test_other_options_do_not_go_on(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(_Stop):
        pack(images, out, workers=1, progress=stop_with(out), **OPTIONS)
    before = tree(out)
    with pytest.raises(
        PackError, match="out holds an unfinished pack with seed 0 instead of 1; run that command again"
    ):
        pack(images, out, workers=1, seed=1, **OPTIONS)
    assert tree(out) == before


def test_two_runs_into_one_folder_exclude_each_other(images: Path, tmp_path: Path, clean: dict[str, str]) -> None:
    out, messages = tmp_path / "out", []

    def try_too(done: int, total: int, written: int) -> None:
        if not messages:
            child = FORK.Process(target=expect_refusal, args=(images, out))
            child.start()
            child.join()
            messages.append(child.exitcode)

    pack(images, out, workers=1, progress=try_too, **OPTIONS)
    assert messages == [0]
    assert tree(out) == clean


def expect_refusal(source: Path, out: Path) -> None:
    with pytest.raises(PackError, match=r"another process \(.*\) is packing into"):
        pack(source, out, workers=1, **OPTIONS)


def test_a_worker_that_dies_is_an_error_and_the_next_run_goes_on(
    images: Path, tmp_path: Path, clean: dict[str, str]
) -> None:
    def children() -> set[int]:
        return set(map(int, Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()))

    others = children()  # of tests that ran before

    def kill_one(done: int, total: int, written: int) -> None:
        for child in list(children() - others)[:1]:
            os.kill(child, signal.SIGKILL)  # this process itself looks at the contents

    with pytest.raises(PackError, match=r"a packing process was killed by signal 9 \(out of memory\?\)"):
        pack(images, tmp_path / "out", workers=2, progress=kill_one, **OPTIONS)
    pack(images, tmp_path / "out", workers=2, **OPTIONS)
    assert tree(tmp_path / "out") == clean


def limited_pack(source: Path, out: Path, limit: int) -> None:
    """Pack with a limit on file sizes, and report the error through a file."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    with pytest.raises(PackError) as caught:
        pack(source, out, workers=2, shard_size="40KiB", shuffle=False)
    cause = caught.value.__cause__
    assert isinstance(cause, OSError)
    assert cause.errno == errno.EFBIG
    out.with_name("message").write_text(str(caught.value))


def test_no_space_says_what_is_kept_and_the_next_run_goes_on(images: Path, tmp_path: Path) -> None:
    (images / "class2/010.jpg").write_bytes(jpeg(5, width=400, height=400))  # in a late shard, and above the limit
    child = FORK.Process(target=limited_pack, args=(images, tmp_path / "out", 60_000))
    child.start()
    child.join()
    message = (tmp_path / "message").read_text()
    assert "no space in" in message
    assert "shards are finished and kept; make space and run the same command again" in message
    kept = list((tmp_path / "out").rglob("*.tar"))
    assert kept
    assert not (tmp_path / "out" / "index.json").exists()
    pack(images, tmp_path / "out", workers=2, shard_size="40KiB", shuffle=False)
    pack(images, tmp_path / "fresh", workers=1, shard_size="40KiB", shuffle=False)
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


PROGRAM = """
import sys, fastload.pack.plan
images, texts, out = sys.argv[1:]
fastload.pack(images, out + "/images", workers=2)
fastload.pack(texts, out + "/texts", workers=1)
assert "torch" not in sys.modules and "pandas" not in sys.modules
"""


def test_the_package_is_the_function_too_and_needs_neither_torch_nor_pandas(images: Path, tmp_path: Path) -> None:
    """Worker processes that are spawned import the package anew, and torch would cost each of them seconds."""
    for label in ("a", "b"):
        (tmp_path / "texts" / label).mkdir(parents=True)
        (tmp_path / "texts" / label / "1.txt").write_text("one")
    (tmp_path / "out").mkdir()
    folders = [str(images), str(tmp_path / "texts"), str(tmp_path / "out")]
    subprocess.run([sys.executable, "-c", PROGRAM, *folders], check=True)
    assert IndexFile.load(tmp_path / "out" / "images" / "index.json").samples("train") == 60
