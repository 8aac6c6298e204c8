"""Folders damaged in every way that files are, and repaired: nothing whole is touched, nothing goes unsaid."""

from __future__ import annotations

import errno
import io
import json
import os
import random
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import samples
from pack_sources import tree
from reshape_sources import make_everything, stamps
from samples import FORMATS
from typer.testing import CliRunner

import fastload
from fastload.cli import app
from fastload.errors import ConfigError, ShardIndexError
from fastload.pack import pack
from fastload.reshape import repair
from fastload.reshape.repair import REPAIR_NAME
from fastload.shards.idx import Idx
from fastload.shards.index import IndexFile, ShardFormat
from fastload.shards.open import index_folder
from fastload.verify import verify

FIRST_IDX, SECOND = "train/shard-000000.idx", "train/shard-000001.tar"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    pack(make_everything(tmp_path / "source", range(30)), tmp_path / "out", shard_size="110KiB", jpeg="keep")
    return tmp_path / "out"


def keys(folder: Path, split: str = "train") -> list[str]:
    data = fastload.StreamingDataset(folder, split=split, shuffle=False, fields={"label": fastload.Scalar()})
    return [sample["__key__"] for sample in data]


def files(folder: Path) -> dict[str, str]:
    return {name: digest for name, digest in tree(folder).items() if REPAIR_NAME not in name}


def rehearsed(folder: Path, **options: Any) -> Any:
    """Repair, after a rehearsal that changes nothing and says the same."""
    before = stamps(folder)
    told = repair(folder, dry_run=True, **options)
    assert stamps(folder) == before
    done = repair(folder, **options)
    assert [(m.name, m.lost, m.lost_samples) for m in done.mended] == [
        (m.name, m.lost, m.lost_samples) for m in told.mended
    ]
    assert done.samples == told.samples
    return done


@pytest.mark.parametrize("shard_format", FORMATS)
def test_what_is_whole_is_not_touched(tmp_path: Path, shard_format: ShardFormat) -> None:
    folder = samples.make(tmp_path / "a", shard_format, [4, 3], ("image", "label"))
    before = stamps(folder)
    done = repair(folder, drop_damaged=True)
    assert (done.mended, done.left, done.samples, done.backup) == ((), (), 7, None)
    assert stamps(folder) == before


@pytest.mark.parametrize("damage", ["gone", "flipped", "cut"])
def test_an_idx_is_made_again_to_the_byte(out: Path, damage: str) -> None:
    before = files(out)
    idx = (out / SECOND).with_suffix(".idx")
    if damage == "gone":
        idx.unlink()
    elif damage == "flipped":
        samples.flip_byte(idx, idx.stat().st_size // 2)
    else:
        os.truncate(idx, 700)
    done = rehearsed(out)
    assert [one.name for one in done.mended] == [SECOND]
    assert done.lost_samples == 0
    assert files(out) == before
    if damage != "gone":
        assert (done.backup / "originals" / "train/shard-000001.idx").exists()


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("with_index", [True, False])
def test_a_bit_that_flips_in_an_idx(out: Path, tmp_path: Path, with_index: bool, torn: bool) -> None:
    """Whichever it is, the folder ends as it would have without: the `.idx` is not believed over its tar."""
    if not with_index:
        (out / "index.json").unlink()
    if torn:
        os.truncate(out / SECOND, 60_000)
    shutil.copytree(out, tmp_path / "clean")
    repair(tmp_path / "clean")
    clean, chance = files(tmp_path / "clean"), random.Random(f"{with_index}{torn}")
    content = (out / FIRST_IDX).read_bytes()
    for at, bit in [
        (content.index(b"owl"), 0),
        *((chance.randrange(len(content)), chance.randrange(8)) for _ in range(9)),
    ]:
        damaged = tmp_path / f"{at}-{bit}"
        shutil.copytree(out, damaged, copy_function=os.link)
        (damaged / FIRST_IDX).unlink()
        (damaged / FIRST_IDX).write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
        assert repair(damaged, drop_damaged=True).left == ()
        assert files(damaged) == clean, (at, bit)


def test_a_label_that_flips_in_an_idx(out: Path) -> None:
    before, idx = files(out), Idx(str(out / FIRST_IDX))
    content = (out / FIRST_IDX).read_bytes()
    samples.flip_byte(out / FIRST_IDX, content.index(idx.column("label").tobytes()) + 2)
    assert not verify(out).ok
    assert [one.name for one in rehearsed(out).mended] == [FIRST_IDX.replace(".idx", ".tar")]
    assert files(out) == before


def test_a_checksum_that_flips_in_the_index(out: Path) -> None:
    before, index = files(out), IndexFile.load(out / "index.json")
    wrong = index.shards[0]._replace(index_xxh3="0123456789abcdef")
    replace(index, shards=(wrong, *index.shards[1:])).save(out)
    assert [one.name for one in rehearsed(out).mended] == [wrong.name, "index.json"]
    assert files(out) == before


def test_classes_that_as_many_indexes_deny(tmp_path: Path, out: Path) -> None:
    (out / "index.json").unlink()
    for path in sorted(out.glob("train/shard-*"))[4:]:
        path.unlink()
    (out / FIRST_IDX).write_bytes((out / FIRST_IDX).read_bytes().replace(b"owl", b"owk"))
    before = files(out)
    with pytest.raises(ShardIndexError, match=r"field 'label' has other classes .* delete the \.idx that is not"):
        repair(out)
    assert files(out) == before


@pytest.mark.parametrize("damage", ["gone", "damaged"])
@pytest.mark.parametrize("shard_format", FORMATS)
def test_the_index_is_made_again(tmp_path: Path, shard_format: ShardFormat, damage: str) -> None:
    source, folder = make_everything(tmp_path / "source", range(30)), tmp_path / "out"
    before = pack(source, folder, format=shard_format, shard_size="20KiB", split={"train": 0.7, "val": 0.3})
    content = (folder / "index.json").read_bytes()
    if damage == "gone":
        (folder / "index.json").unlink()
    else:
        (folder / "index.json").write_bytes(content[:-100])
    done = rehearsed(folder)
    assert [one.name for one in done.mended] == ["index.json"]
    after = IndexFile.load(folder / "index.json")
    assert replace(after, packed={}, statistics={}) == replace(before, packed={}, statistics={})
    assert after.statistics == {"classes": before.statistics["classes"]}
    assert verify(folder, decode=True).ok


def sample_bounds(folder: Path, name: str) -> list[int]:
    idx = Idx(str(folder / name.replace(".tar", ".idx")))
    return [*idx.offsets.tolist(), int(idx.offsets[-1] + idx.sizes[-1])]


@pytest.mark.parametrize("with_idx", [True, False])
@pytest.mark.parametrize(
    ("kept", "cut"),
    [
        (4, lambda bounds: bounds[4]),  # between two samples
        (4, lambda bounds: bounds[4] + 100),  # in a header
        (3, lambda bounds: bounds[4] - 700),  # in a content
        (3, lambda bounds: bounds[4] - 1024),  # between two members: the last scalar and its header are gone
        (1, lambda bounds: bounds[2] - 1),  # in the padding after the last content: without an index, none is missed
    ],
)
def test_a_torn_tar_is_cut_to_whole_samples(
    out: Path, kept: int, cut: Callable[[list[int]], int], with_idx: bool
) -> None:
    before, all_keys, index = files(out), keys(out), IndexFile.load(out / "index.json")
    first, count = index.shards[0].samples, index.shards[1].samples
    assert count > 5
    os.truncate(out / SECOND, cut(sample_bounds(out, SECOND)))
    torn = (out / SECOND).read_bytes()
    if not with_idx:
        (out / "train/shard-000001.idx").unlink()
    assert not verify(out).ok
    if kept == 1 and not with_idx:
        kept = 2
    done = rehearsed(out)
    gone = all_keys[first + kept : first + count]
    assert done.lost_samples == count - kept
    assert done.left == ()
    if with_idx:
        assert [key for one in done.mended for key in one.lost] == gone
        report = json.loads((done.backup / "report.json").read_text())
        assert report["mended"][0]["lost"] == gone
    assert keys(out) == [key for key in all_keys if key not in gone]
    assert verify(out, decode=True).ok
    assert (done.backup / "originals" / SECOND).read_bytes() == torn
    untouched = {name: digest for name, digest in before.items() if "000001" not in name and name != "index.json"}
    assert untouched.items() <= files(out).items()
    after = IndexFile.load(out / "index.json")
    labels = [sample["label"].item() for sample in fastload.StreamingDataset(out, shuffle=False)]
    assert after.fields["label"].classes is not None
    assert after.statistics == {
        "classes": {"train": {name: labels.count(i) for i, name in enumerate(after.fields["label"].classes)}}
    }
    assert after.packed["samples_lost"] == count - kept
    assert repair(out).mended == ()


def test_an_end_marker_is_put_back(out: Path) -> None:
    before = files(out)
    os.truncate(out / SECOND, (out / SECOND).stat().st_size - 1000)
    assert rehearsed(out).lost_samples == 0
    assert files(out) == before


def test_damaged_samples_go_only_if_asked(out: Path) -> None:
    before, all_keys, bounds = files(out), keys(out), sample_bounds(out, SECOND)
    first = IndexFile.load(out / "index.json").shards[0].samples
    for row in (0, 2):
        samples.flip_byte(out / SECOND, bounds[row] + 600)
    damaged = files(out)
    done = rehearsed(out)
    assert done.mended == ()
    assert len(done.left) == 2
    assert f"{SECOND}: offset {bounds[2]}, sample {all_keys[first + 2]!r}: its bytes are not those" in done.left[1]
    assert files(out) == damaged
    done = rehearsed(out, drop_damaged=True)
    gone = [all_keys[first], all_keys[first + 2]]
    assert [key for one in done.mended for key in one.lost] == gone
    assert keys(out) == [key for key in all_keys if key not in gone]
    assert verify(out, decode=True).ok
    unlike = {name for name, digest in files(out).items() if before[name] != digest}
    assert unlike == {SECOND, "train/shard-000001.idx", "index.json"}


def test_a_torn_tar_with_damage_before_the_cut(out: Path) -> None:
    bounds = sample_bounds(out, SECOND)
    samples.flip_byte(out / SECOND, bounds[1] + 600)
    os.truncate(out / SECOND, bounds[4] + 5)
    done = rehearsed(out)
    assert len(done.left) == 1
    assert [fault.key for fault in verify(out).faults if fault.key] == [keys_of(out, SECOND)[1]]
    assert len(keys_of(out, SECOND)) == 4
    rehearsed(out, drop_damaged=True)
    assert verify(out, decode=True).ok
    assert len(keys_of(out, SECOND)) == 3
    assert sorted(path.name for path in (out / REPAIR_NAME).iterdir()) == ["001", "002"]


def keys_of(folder: Path, name: str) -> list[str]:
    idx = Idx(str(folder / name.replace(".tar", ".idx")))
    return [idx.key(row) for row in range(idx.samples)]


def test_a_missing_shard_and_what_a_killed_run_left(out: Path) -> None:
    index = IndexFile.load(out / "index.json")
    (out / SECOND).unlink()
    (out / "train/shard-000009.tar.partial").write_bytes(b"half")
    done = rehearsed(out)
    assert done.left == (f"{SECOND}: is missing",)
    assert not list(out.glob("train/*.partial"))
    done = rehearsed(out, drop_damaged=True)
    assert done.lost_samples == index.shards[1].samples
    assert verify(out).ok
    assert [shard.name for shard in IndexFile.load(out / "index.json").shards] == [
        shard.name for shard in index.shards if shard.name != SECOND
    ]


def test_swapped_shards_are_never_dropped(out: Path) -> None:
    first, second, spare = (out / f"train/shard-{n}.tar" for n in ("000000", "000001", "spare"))
    first.rename(spare)
    second.rename(first)
    spare.rename(second)
    before = files(out)
    done = repair(out, drop_damaged=True)
    assert done.mended == ()
    assert "train/shard-000000.tar: holds the bytes of train/shard-000001.tar: give the files" in done.left[0]
    assert files(out) == before


def test_splits_that_file_names_tell_are_found_again(tmp_path: Path) -> None:
    for split in ("train", "test"):
        pq.write_table(pa.table({"x": [1, 2]}), tmp_path / f"{split}-00000-of-00001.parquet")
    before = index_folder(tmp_path)
    (tmp_path / "index.json").unlink()
    rehearsed(tmp_path)
    after = IndexFile.load(tmp_path / "index.json")
    assert after.splits == before.splits == {"test": (0, 1), "train": (1, 2)}
    assert after.shards == before.shards


@pytest.mark.parametrize("drop", [False, True])
def test_without_an_index_what_cannot_be_read_stays_where_it_is(tmp_path: Path, drop: bool) -> None:
    folder = samples.make(tmp_path / "a", "parquet", [4, 3], ("image", "label"))
    (folder / "index.json").unlink()
    os.truncate(folder / "train/part-000001.parquet", 200)
    before = files(folder)
    done = rehearsed(folder, drop_damaged=drop)
    assert "part-000001.parquet: " in done.left[0]
    assert "is not a whole Parquet file" in done.left[0]
    assert (done.samples, done.lost_samples) == (4, 0)
    assert {name: digest for name, digest in files(folder).items() if name != "index.json"} == before


@pytest.mark.parametrize("shard_format", FORMATS)
def test_a_copy_of_a_shard_in_another_split_is_none_that_was_swapped(tmp_path: Path, shard_format: ShardFormat) -> None:
    folder = samples.make(tmp_path / "a", shard_format, [3], ("label",))
    (folder / "index.json").unlink()
    shutil.copytree(folder / "train", folder / "val")
    index_folder(folder)
    done = repair(folder)
    assert (done.mended, done.left, done.samples) == ((), (), 6)


def test_tars_of_others(tmp_path: Path) -> None:
    """Every other sample has a .json; the cut takes that of the last sample, which then is not whole."""
    (tmp_path / "a").mkdir()
    with tarfile.open(tmp_path / "a/x.tar", "w") as tar:
        for i in range(6):
            for ending in ("txt", "cls", "json")[: 2 + (i % 2 == 0)]:
                member = tarfile.TarInfo(f"s{i}.{ending}")
                member.size = 1
                tar.addfile(member, io.BytesIO(b"%d" % i))
    index_folder(tmp_path / "a")
    (tmp_path / "a/x.idx").unlink()
    os.truncate(tmp_path / "a/x.tar", 1024 * (3 + 2 + 2))  # behind s2.cls
    done = rehearsed(tmp_path / "a")
    assert done.lost_samples == 4
    assert keys(tmp_path / "a") == ["s0", "s1"]
    assert verify(tmp_path / "a").ok
    for name in ("index.json", "x.idx"):
        (tmp_path / "a" / name).unlink()
    assert rehearsed(tmp_path / "a").lost_samples == 0
    assert keys(tmp_path / "a") == ["s0", "s1"]


def test_parquet(tmp_path: Path) -> None:
    folder = samples.make(tmp_path / "a", "parquet", [4, 3, 2], ("image", "text", "label"), row_group_bytes=1)
    part = folder / "train/part-000000.parquet"
    at = part.read_bytes().index(samples.jpeg(1)) + 100
    samples.flip_byte(part, at)
    torn = folder / "train/part-000002.parquet"
    os.truncate(torn, torn.stat().st_size - 10)
    done = rehearsed(folder)
    assert done.mended == ()
    assert len(done.left) == 2
    assert "row group 1" in done.left[0]
    assert "is not a whole Parquet file" in done.left[1]
    done = rehearsed(folder, drop_damaged=True)
    assert done.lost_samples == 3
    assert keys(folder) == [samples.key(i) for i in (0, 2, 3, 4, 5, 6)]
    assert verify(folder, decode=True).ok


def test_nothing_to_repair_with(tmp_path: Path, out: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ShardIndexError, match=r"has no index.json and no shards; there is nothing to repair"):
        repair(tmp_path / "empty")
    for path in out.glob("train/*"):
        path.unlink()
    with pytest.raises(ShardIndexError, match="nothing is left of any shard; restore them"):
        repair(out, drop_damaged=True)
    assert not (out / REPAIR_NAME).exists()


def test_what_is_no_folder_is_not_made_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ShardIndexError, match=r"/typo is no folder; pass the one that was packed"):
        repair("typo")
    for url in ("s3://bucket/a", Path("s3://bucket/a")):
        with pytest.raises(ConfigError, match=r"s3:/+bucket/a is a URL, and a local folder is needed"):
            repair(url)
    assert list(tmp_path.iterdir()) == []


def test_a_repair_that_fails_leaves_the_folder_as_it_was(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.truncate(out / SECOND, 60_000)
    samples.flip_byte(out / FIRST_IDX, 900)
    before = files(out)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(IndexFile, "save", full)
        with pytest.raises(OSError, match="No space left"):
            repair(out)
    assert files(out) == before
    assert not (out / REPAIR_NAME).exists()


def test_the_command(out: Path) -> None:
    count = IndexFile.load(out / "index.json").shards[1].samples
    os.truncate(out / SECOND, sample_bounds(out, SECOND)[2] + 5)
    told = CliRunner().invoke(app, ["repair", str(out), "--dry-run"])
    assert told.exit_code == 0, told.output
    assert f"{SECOND}: {count - 2} samples cut off, of {count}: written anew with 2" in told.output
    assert f"would have {30 - count + 2} samples, {count - 2} lost; nothing was changed" in told.output
    done = CliRunner().invoke(app, ["repair", str(out), "--json"])
    about = json.loads(done.output)
    assert about["mended"][0]["lost_samples"] == count - 2
    assert about["backup"] == str(out / REPAIR_NAME / "001")
    again = CliRunner().invoke(app, ["repair", str(out)])
    assert f"nothing to repair: {30 - count + 2} samples, none lost" in again.output
    samples.flip_byte(out / SECOND, 600)
    left = CliRunner().invoke(app, ["repair", str(out)])
    assert left.exit_code == 1
    assert "its bytes are not those that were packed" in left.output
    assert "samples, none lost; 1 fault stays" in left.output
    assert "--drop-damaged drops samples that are damaged" in left.output
