"""JPEGs are made crop-seekable on the way into a shard: no pixel changes, and all that packing promises still holds."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pack_sources import photo, png, tree
from PIL import Image
from typer.testing import CliRunner

import fastload
from fastload.cli import app
from fastload.decode.headers import read_header
from fastload.decode.seekable import make_seekable, read_layout
from fastload.errors import PackError
from fastload.pack.job import pack
from fastload.pack.jpeg import JpegMode
from fastload.pack.tally import Counts, Tally
from fastload.pack.tasks import EncodedRun, EncodeRun, PlaceRun, Task, Tell
from fastload.pack.workers import RUNS_PER_WORKER, ProcessPool
from fastload.pack.writing import OpenTar
from fastload.shards.idx import Idx, IdxColumns
from fastload.shards.index import IndexFile
from fastload.verify import verify

KEPT = {
    "CMYK or other inks": 1,
    "progressive, and not all coefficients are there": 1,
    "too small to gain by it": 1,
}
BOTH: tuple[JpegMode, ...] = ("seekable", "keep")


def stored(out: Path) -> dict[str, bytes]:
    """Name -> content of every picture in the tars."""
    found = {}
    for path in sorted(out.rglob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                if member.name.endswith(".jpg"):
                    found[member.name] = file.read()
    return found


def sources(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.jpg")}


def pixels(raw: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(raw)))


def rows(out: Path) -> dict[str, np.ndarray]:
    """Key -> whole picture as fastload decodes it."""
    data = fastload.IndexedDataset(out / "train", fields={"image": fastload.Image()})
    return {sample["__key__"]: np.asarray(sample["image"]) for sample in (data[i] for i in range(len(data)))}


# What comes out


def test_pictures_are_the_same_and_can_be_cut(photos: Path, tmp_path: Path) -> None:
    index = pack(photos, tmp_path / "out", workers=1)
    assert index.statistics["jpeg"] == {"train": {"seekable": 12, "kept": KEPT}}
    assert index.packed["options"]["jpeg"] == "seekable"
    assert index.packed["jpeg_kernel"] is True
    before, after = sources(photos), stored(tmp_path / "out")
    assert before.keys() == after.keys()
    for name, raw in after.items():
        np.testing.assert_array_equal(pixels(raw), pixels(before[name]))
        made = make_seekable(before[name]).data
        assert raw == (before[name] if made is None else made)
    assert sum(read_layout(raw) is not None for raw in after.values()) == 12
    assert read_header(after["dog/rotated.jpg"]).orientation == 6
    idx = Idx(str(tmp_path / "out/train/shard-000000.idx"))
    sizes = dict(zip(idx.keys(np.arange(idx.samples)), idx.column("image.width").tolist(), strict=True))
    assert (sizes["dog/rotated"], sizes["cat/420-0"], sizes["cat/small"]) == (150, 200, 32)
    assert verify(tmp_path / "out", decode=True).ok


def test_keep_leaves_every_byte(photos: Path, tmp_path: Path) -> None:
    index = pack(photos, tmp_path / "out", jpeg="keep", workers=1)
    assert stored(tmp_path / "out") == sources(photos)
    assert "jpeg" not in index.statistics
    assert "jpeg_kernel" not in index.packed
    assert index.packed["options"]["jpeg"] == "keep"


def test_loaders_see_the_same_pictures_and_crops(photos: Path, tmp_path: Path) -> None:
    for mode in BOTH:
        pack(photos, tmp_path / mode, jpeg=mode, workers=1)
    whole = [rows(tmp_path / mode) for mode in BOTH]
    assert whole[0].keys() == whole[1].keys()
    for key, picture in whole[0].items():
        np.testing.assert_array_equal(picture, whole[1][key])
    assert whole[0]["dog/rotated"].shape[-2:] == (200, 150)

    def crops(mode: str) -> Iterator[tuple[list[str], np.ndarray]]:
        fields = {"image": fastload.Image(64, crop="random")}
        loader = fastload.DataLoader(tmp_path / mode / "train", batch_size=5, shuffle=True, seed=3, fields=fields)
        for _ in range(3):  # epochs
            for batch in loader:
                yield list(batch["__key__"]), np.asarray(batch["image"]).astype(int)

    compared = 0
    for (keys, cut), (other_keys, kept) in zip(crops("seekable"), crops("keep"), strict=True):
        assert keys == other_keys
        assert np.abs(cut - kept).max() <= 1
        compared += len(keys)
    assert compared == 45


def test_parquet_holds_the_same_bytes_as_tar(photos: Path, tmp_path: Path) -> None:
    tar = pack(photos, tmp_path / "tar", workers=1)
    index = pack(photos, tmp_path / "a", format="parquet", workers=1)
    assert index.statistics == tar.statistics
    (shard,) = index.shards
    found = pq.read_table(tmp_path / "a" / shard.name).to_pylist()
    assert {row["image"]["path"]: row["image"]["bytes"] for row in found} == stored(tmp_path / "tar")
    assert verify(tmp_path / "a", decode=True).ok
    kept = pack(photos, tmp_path / "keep", format="parquet", jpeg="keep", workers=1)
    found = pq.read_table(tmp_path / "keep" / kept.shards[0].name).to_pylist()
    assert {row["image"]["path"]: row["image"]["bytes"] for row in found} == sources(photos)


def test_each_split_has_its_counts(photos: Path, tmp_path: Path) -> None:
    index = pack(photos, tmp_path / "out", split="train=0.6,val=0.4", shard_size="60KiB", workers=2)
    counts = index.statistics["jpeg"]
    assert list(counts) == ["train", "val"]
    for split, about in counts.items():
        assert about["seekable"] + sum(about["kept"].values()) == index.samples(split)
    assert sum(about["seekable"] for about in counts.values()) == 12


def test_several_pictures_a_sample_and_other_formats(tmp_path: Path) -> None:
    for name, content in {"a.jpg": photo(1), "b.jpg": photo(2, "444"), "m.png": png(1)}.items():
        (tmp_path / name).write_bytes(content)
    lines = [
        {"left": "a.jpg", "right": "b.jpg", "mask": "m.png", "n": 7},
        {"left": "b.jpg", "right": "m.png", "mask": "m.png", "n": 123},
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, lines)))
    index = pack(tmp_path / "m.jsonl", tmp_path / "out", shuffle=False, workers=1)
    assert index.statistics["jpeg"] == {"train": {"seekable": 3, "kept": {}}}
    left, right = (make_seekable(photo(seed, sampling)).data for seed, sampling in ((1, "420"), (2, "444")))
    with tarfile.open(tmp_path / "out/train/shard-000000.tar") as tar:
        contents = [tar.extractfile(member).read() for member in tar]  # type: ignore[union-attr]
    assert contents == [left, right, png(1), b"7", right, png(1), png(1), b"123"]
    assert verify(tmp_path / "out", decode=True).ok


def test_sounds_and_pictures_of_other_formats_are_not_counted(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s/a.png").write_bytes(png(3))
    index = pack(tmp_path / "s", tmp_path / "out", workers=1)
    assert set(index.statistics) == {"fields"}


# The same bytes however it ran


@pytest.mark.parametrize("mode", BOTH)
@pytest.mark.parametrize("form", ["tar", "parquet"])
def test_any_number_of_workers_writes_the_same(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: JpegMode, form: Any
) -> None:
    monkeypatch.setattr("fastload.pack.plan.RUN_BYTES", 30_000)  # several runs a shard
    trees = []
    for workers in (1, 2, 7):
        out = tmp_path / str(workers)
        pack(photos, out, shard_size="120KiB", split="train=0.7,val=0.3", workers=workers, jpeg=mode, format=form)
        trees.append(tree(out))
    assert len(trees[0]) > 3
    assert trees[1] == trees[0]
    assert trees[2] == trees[0]


class _Stop(Exception):
    pass


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_run_goes_on_with_its_counts(photos: Path, tmp_path: Path, workers: int) -> None:
    pack(photos, tmp_path / "clean", shard_size="50KiB", workers=1)
    out = tmp_path / "out"

    def stop(done: int, total: int, written: int) -> None:
        if len(list(out.rglob("*.tar"))) >= 2:
            raise _Stop

    with pytest.raises(_Stop):
        pack(photos, out, shard_size="50KiB", workers=workers, progress=stop)
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("*.tar")}
    assert len(kept) >= 2
    with pytest.raises(PackError, match="an unfinished pack with jpeg 'seekable' instead of 'keep'; run that command"):
        pack(photos, out, shard_size="50KiB", workers=workers, jpeg="keep")
    pack(photos, out, shard_size="50KiB", workers=workers)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert tree(out) == tree(tmp_path / "clean")


class SlowStart:
    """Stands for an encoder whose first run takes long; says with each run how many it holds."""

    def __init__(self) -> None:
        self.held: set[int] = set()

    def carry_out(self, task: Task, tell: Tell) -> Any:
        if isinstance(task, PlaceRun):
            self.held.remove(task.start)  # a KeyError if another process holds it
            return None
        assert isinstance(task, EncodeRun)
        time.sleep(0.3 if task.start == 0 else 0)
        self.held.add(task.start)
        columns = IdxColumns(keys=(), offsets=(), sizes=(), xxh3=(), spans={}, scalars={}, facts={})
        return EncodedRun(
            columns=columns, bytes=10 + task.start, tally=Tally(steps={"jpeg": Counts(made=len(self.held))})
        )


def test_workers_hold_few_runs_and_place_their_own() -> None:
    tar = OpenTar(starts=list(range(40)), bytes=0)
    held: list[int] = []
    places: list[tuple[int, int]] = []

    def done(task: Task, result: Any) -> list[Task]:
        if not isinstance(task, EncodeRun):
            return []
        held.append(result.tally.steps["jpeg"].made)
        ready = [PlaceRun(shard=0, start=start, offset=offset) for start, offset in tar.place(result, task.start)]
        places.extend((place.start, place.offset) for place in ready)
        return list(ready)

    tasks = (EncodeRun(shard=0, start=start, stop=start + 1) for start in range(40))
    with ProcessPool(SlowStart(), 3) as pool:  # type: ignore[arg-type]
        pool.run(tasks, done, lambda samples, written: None)
    assert places == [(start, 10 * start + start * (start - 1) // 2) for start in range(40)]
    assert 2 <= max(held) <= RUNS_PER_WORKER


# What goes wrong


@pytest.mark.parametrize("mode", BOTH)
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda raw: raw[:-300],
            r"cat/420-0.jpg: JPEG of \d+ bytes has no end: it was cut off; remove or mend the file",
        ),
        (lambda raw: raw[:100], "cat/420-0.jpg: JPEG ends after 100 bytes, inside its header"),
        (lambda raw: b"GIF" + raw, "cat/420-0.jpg: not a JPEG, PNG"),
    ],
)
def test_what_is_refused_is_refused_either_way(
    photos: Path, tmp_path: Path, damage: Callable[[bytes], bytes], message: str, mode: JpegMode
) -> None:
    (photos / "cat/420-0.jpg").write_bytes(damage(photo(0)))
    for workers in (1, 2):
        with pytest.raises(PackError, match=message):
            pack(photos, tmp_path / "out", jpeg=mode, workers=workers)
        assert not (tmp_path / "out").exists()


def test_damage_behind_the_header_is_kept_and_counted(photos: Path, tmp_path: Path) -> None:
    whole = photo(0)
    damaged = whole[: len(whole) // 2] + b"\xff\xd9"
    (photos / "cat/420-0.jpg").write_bytes(damaged)
    index = pack(photos, tmp_path / "out", workers=1)
    assert index.statistics["jpeg"]["train"]["kept"] == KEPT | {"damaged": 1}
    assert stored(tmp_path / "out")["cat/420-0.jpg"] == damaged
    assert [fault.key for fault in verify(tmp_path / "out", decode=True).faults] == ["cat/420-0"]


WITHOUT_KERNEL = """
import sys
sys.modules["fastload.decode._jpeg"] = None  # as if it were not built
from fastload.cli import main
main()
"""


def test_without_the_kernel_all_is_kept_and_said(photos: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_KERNEL, "pack", str(photos), str(tmp_path / "out"), "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (line,) = done.stderr.splitlines()
    assert line.startswith("the native JPEG kernel is not built (")
    assert "JPEGs are packed as they are; install a C compiler" in line
    assert "; 0 JPEGs crop-seekable, 15 kept as they are (the native kernel is not built 14, too small" in done.stdout
    index = IndexFile.load(tmp_path / "out" / "index.json")
    assert index.packed["jpeg_kernel"] is False
    pack(photos, tmp_path / "keep", jpeg="keep", workers=1)
    assert [shard.xxh3 for shard in index.shards] == [
        shard.xxh3 for shard in IndexFile.load(tmp_path / "keep" / "index.json").shards
    ]


def test_a_run_that_was_begun_without_the_kernel_is_not_gone_on_with(photos: Path, tmp_path: Path) -> None:
    arguments = f"{str(photos)!r}, {str(tmp_path / 'out')!r}, workers=1, shard_size=50_000"
    program = WITHOUT_KERNEL.replace("cli import main", "pack import pack").replace(
        "main()", f"pack({arguments}, progress=lambda done, *_: done > 8 and sys.exit(9))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode == 9
    with pytest.raises(PackError, match="an unfinished pack with jpeg_kernel False instead of True; run that command"):
        pack(photos, tmp_path / "out", workers=1, shard_size=50_000)


# The command line


def test_the_command_says_what_became_of_jpegs(photos: Path, tmp_path: Path) -> None:
    about = (
        "12 JPEGs crop-seekable, 3 kept as they are (CMYK or other inks 1,"
        " progressive, and not all coefficients are there 1, too small to gain by it 1)"
    )
    done = CliRunner().invoke(app, ["pack", str(photos), str(tmp_path / "out"), "--workers", "1"])
    assert done.exit_code == 0
    assert done.stdout.endswith(f" s; {about}\n")
    shown = CliRunner().invoke(app, ["inspect", str(tmp_path / "out")])
    assert f"\ntrain: {about}\n" in shown.stdout
    found = json.loads(CliRunner().invoke(app, ["inspect", str(tmp_path / "out"), "--json"]).stdout)
    assert found["jpeg"] == {"train": {"seekable": 12, "kept": KEPT}}
    kept = CliRunner().invoke(app, ["pack", str(photos), str(tmp_path / "keep"), "--jpeg", "keep", "--workers", "1"])
    assert kept.exit_code == 0
    assert "JPEG" not in kept.stdout
    assert stored(tmp_path / "keep") == sources(photos)
