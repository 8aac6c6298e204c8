"""Samples added to a packed folder: what was there stays as it is, readers go on, the index says what came when."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from pack_sources import Stopped, jpeg, png, tree
from reshape_sources import make_everything, stamps, word_tokenizer
from samples import FORMATS, freeze
from typer.testing import CliRunner

import fastload
from fastload.cli import app
from fastload.errors import ConfigError, PackError, ShardIndexError, StateError
from fastload.pack import pack
from fastload.pack.locking import WRITING_NAME
from fastload.pack.splitting import Splitting
from fastload.reshape import append, merge, repair
from fastload.reshape.append import STAGING_NAME
from fastload.shards.columns import read_columns
from fastload.shards.index import FieldInfo, IndexFile, ShardFormat
from fastload.shards.open import index_folder, open_index
from fastload.verify import verify

SPLIT = {"train": 0.7, "val": 0.3}


def by_key(folder: Path, split: str) -> dict[str, Any]:
    classes = open_index(folder, split).fields["label"].classes
    assert classes is not None
    found = {}
    for sample in fastload.StreamingDataset(folder, split=split, shuffle=False):
        named = {**sample, "label": classes[int(sample["label"])]}
        found[sample["__key__"]] = {name: freeze(value) for name, value in named.items()}
    return found


def lines(path: Path, first: int, count: int) -> Path:
    path.write_text("".join(f"line {i}\n" for i in range(first, first + count)))
    return path


@pytest.mark.parametrize("shard_format", FORMATS)
@pytest.mark.parametrize("labels", [("cat", "dog", "owl"), ("owl", "ant", "cat")])
def test_the_next_version(tmp_path: Path, shard_format: ShardFormat, labels: tuple[str, ...]) -> None:
    out, more = tmp_path / "out", make_everything(tmp_path / "s2", range(20, 36), labels)
    before = pack(
        make_everything(tmp_path / "s1", range(20)), out, format=shard_format, shard_size="20KiB", split=SPLIT
    )
    old_files, old_samples = stamps(out), {split: by_key(out, split) for split in SPLIT}
    pack(more, tmp_path / "alone", format=shard_format, shard_size="20KiB", split=SPLIT)
    after = append(more, out)
    now = stamps(out)
    del old_files["index.json"]
    assert {name: now[name] for name in old_files} == old_files
    assert verify(out, decode=True).ok
    assert not (out / STAGING_NAME).exists()
    for split in SPLIT:
        alone = by_key(tmp_path / "alone", split)
        assert list(by_key(out, split)) == [*old_samples[split], *alone]
        assert by_key(out, split) == {**old_samples[split], **alone}
        start, stop = before.splits[split]
        first, last = after.splits[split]
        assert after.shards[first:last][: stop - start] == before.shards[start:stop]
    classes = ("cat", "dog", "owl") + (("ant",) if "ant" in labels else ())
    assert after.fields["label"].classes == classes
    for split in SPLIT:
        column = read_columns(open_index(out, split), ["label"])["label"].tolist()
        assert after.statistics["classes"][split] == {name: column.count(i) for i, name in enumerate(classes)}
    assert after.packed["version"] == 2
    assert [entry["samples"] for entry in after.packed["history"]] == [20, 16]
    assert [entry["version"] for entry in after.packed["history"]] == [1, 2]
    assert after.packed["history"][1]["source"] == "m.jsonl"
    assert index_folder(out).fields == after.fields, "the classes of both kinds of shards fit"


def test_statistics_and_splits_are_those_of_a_whole_packing(tmp_path: Path) -> None:
    for number, manifest in enumerate((lines(tmp_path / "0", 0, 40), lines(tmp_path / "1", 40, 30))):
        rows = manifest.read_text().splitlines()
        (tmp_path / f"{number}.csv").write_text(
            "key,text,label\n" + "".join(f"{text[5:]},{text},{'ab'[len(text) % 2]}\n" for text in rows)
        )
    both = (tmp_path / "0.csv").read_text() + (tmp_path / "1.csv").read_text().partition("\n")[2]
    (tmp_path / "both.csv").write_text(both)
    pack(tmp_path / "0.csv", tmp_path / "out", split=SPLIT, seed=3)
    after = append(tmp_path / "1.csv", tmp_path / "out")
    whole = pack(tmp_path / "both.csv", tmp_path / "whole", split=SPLIT, seed=3)
    assert after.statistics == whole.statistics
    for split in SPLIT:
        assert sorted(by_key(tmp_path / "out", split)) == sorted(by_key(tmp_path / "whole", split))


@pytest.mark.parametrize(
    "splitting",
    [
        Splitting(shares=SPLIT, group_by="who"),
        Splitting(shares=SPLIT, group_regex=r"^(\d\d)"),
        Splitting(shares=SPLIT, stratify="who"),
        Splitting(ranges={"train": "..49", "val": "50.."}, by="n"),
        Splitting(column="part"),
        Splitting(folds=3),
    ],
    ids=["group", "regex", "stratify", "ranges", "column", "folds"],
)
def test_each_way_of_splitting_goes_on(tmp_path: Path, splitting: Splitting) -> None:
    """Samples of the same group, range or part go where the first ones went."""
    for name, numbers in {"first": range(0, 90, 2), "more": range(1, 90, 2)}.items():
        rows = "".join(f"{n:03d},{n},text {n},w{n // 4},{'train' if n % 3 else 'val'}\n" for n in numbers)
        (tmp_path / f"{name}.csv").write_text("key,n,text,who,part\n" + rows)
    out = tmp_path / "out"
    before = pack(tmp_path / "first.csv", out, split=splitting, workers=1)
    append(tmp_path / "more.csv", out, workers=1)
    pack(tmp_path / "more.csv", tmp_path / "alone", split=splitting, workers=1)
    found = {}
    for split in before.splits:
        samples = list(fastload.StreamingDataset(out, split=split, shuffle=False))
        alone = list(fastload.StreamingDataset(tmp_path / "alone", split=split, shuffle=False))
        assert [sample["__key__"] for sample in samples[-len(alone) :]] == [sample["__key__"] for sample in alone]
        found[split] = {sample["who"] for sample in samples}
    if splitting.group_by is not None:
        assert not found["train"] & found["val"]


def test_a_loader_that_is_open_goes_on_and_its_state_does_not_fit_the_next_version(tmp_path: Path) -> None:
    pack(lines(tmp_path / "a.txt", 0, 50), tmp_path / "out", shard_size=4000)
    loader = fastload.DataLoader(tmp_path / "out", 5, shuffle=True, seed=1)
    again = fastload.DataLoader(tmp_path / "out", 5, shuffle=True, seed=1)
    expected = [batch["text"] for batch in again] + [batch["text"] for batch in again]
    batches = iter(loader)
    found = [next(batches)["text"] for _ in range(4)]
    state = loader.state_dict()
    append(lines(tmp_path / "b.txt", 50, 30), tmp_path / "out", prefix="b/")
    found += [batch["text"] for batch in batches] + [batch["text"] for batch in loader]
    assert found == expected
    newer = fastload.DataLoader(tmp_path / "out", 5, shuffle=True, seed=1)
    assert len(newer) == 16
    with pytest.raises(StateError, match="the state belongs to another data set"):
        newer.load_state_dict(state)


def test_keys_that_are_there_already(tmp_path: Path) -> None:
    source, out = lines(tmp_path / "a.txt", 0, 5), tmp_path / "out"
    pack(source, out)
    before = tree(out)
    message = r"have the key '000000001', in out/train/shard-000000.tar and in a.txt/.*; pass a prefix for the new keys"
    with pytest.raises(PackError, match=message):
        append(source, out)
    assert {name: digest for name, digest in tree(out).items() if STAGING_NAME not in name} == before
    assert verify(out).ok
    append(source, out, prefix="again/")
    append(source, out, prefix="and/again.")
    keys = [sample["__key__"] for sample in fastload.StreamingDataset(out, shuffle=False)]
    numbers = [f"{i:09d}" for i in range(1, 6)]
    assert sorted(keys) == sorted([*numbers, *(f"again/{n}" for n in numbers), *(f"and/again_{n}" for n in numbers)])
    assert [e.get("prefix") for e in IndexFile.load(out / "index.json").packed["history"]] == [
        None,
        "again/",
        "and/again.",
    ]


def test_shards_that_are_packed_already_are_copied(tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    pack(lines(tmp_path / "a.txt", 0, 20), out, split=SPLIT)
    pack(lines(tmp_path / "b.txt", 20, 20), other, split={"train": 0.5, "test": 0.5}, format="parquet")
    before = tree(other)
    after = append(other, out, prefix="b/")
    assert tree(other) == before
    assert list(after.splits) == ["train", "val", "test"]
    texts = [s["text"] for split in after.splits for s in fastload.StreamingDataset(out, split=split, shuffle=False)]
    assert sorted(texts) == sorted(f"line {i}" for i in range(40))
    assert verify(out).ok


def test_lists_of_pythons_and_their_split(tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack([{"__key__": f"a{i}", "x": i} for i in range(9)], out, split=SPLIT)
    after = append([{"__key__": f"b{i}", "x": i} for i in range(4)], out, split={"val": 1.0})
    assert after.samples("val") + after.samples("train") == 13
    assert after.samples("val") >= 4


def test_few_samples_need_not_reach_every_split(tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack([{"__key__": f"a{i}", "x": i} for i in range(40)], out, split=SPLIT)
    after = append([{"__key__": "n", "x": 1}], out)
    assert after.samples("train") + after.samples("val") == 41
    after = append([{"__key__": "m", "x": 2}], out, split=SPLIT)
    assert after.samples("train") + after.samples("val") == 42
    assert verify(out).ok
    (tmp_path / "a.csv").write_text("key,text,part\nk1,a,train\nk2,b,test\n")
    (tmp_path / "b.csv").write_text("key,text,part\nn1,z,train\nn2,z,test\n")
    pack(tmp_path / "a.csv", tmp_path / "parts", split=Splitting(column="part"), workers=1)
    after = append(tmp_path / "b.csv", tmp_path / "parts", workers=1)  # what "test" gets is a copy
    assert {split: after.samples(split) for split in after.splits} == {"train": 2, "test": 1}


def test_a_column_that_named_one_split_so_far_may_name_others(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "a.csv").write_text("key,text,part\nk1,a,train\nk2,b,train\n")
    (tmp_path / "b.csv").write_text("key,text,part\nn1,c,test\n")
    pack(tmp_path / "a.csv", out, split=Splitting(column="part"), workers=1)
    after = append(tmp_path / "b.csv", out, workers=1)
    assert {split: after.samples(split) for split in after.splits} == {"train": 2, "test": 1}


def test_an_append_that_failed_can_be_run_again_but_nothing_else(tmp_path: Path) -> None:
    source, out = make_everything(tmp_path / "s", range(9)), tmp_path / "out"
    pack(make_everything(tmp_path / "s0", range(20, 29)), out)
    before, lost = tree(out), (source.parent / "s4.wav").read_bytes()
    (source.parent / "s4.wav").write_bytes(lost[:50])
    with pytest.raises(PackError, match=r"s4\.wav"):
        append(source, out)
    assert {name: digest for name, digest in tree(out).items() if STAGING_NAME not in name} == before
    (source.parent / "s4.wav").write_bytes(lost)
    (source.parent / "clash.jsonl").write_text(source.read_text().replace("some/0003", "some/0021"))
    clash, other = source.parent / "clash.jsonl", make_everything(tmp_path / "s2", range(40, 44))
    with pytest.raises(PackError, match=r"have the key 'some/0021'"):
        append(clash, out)
    with pytest.raises(PackError, match=r"unfinished append with source '.*/clash.jsonl' instead of '.*/s2/m.jsonl'"):
        append(other, out)
    assert append(clash, out, prefix="b/").samples("train") == 18
    assert append(other, out).packed["version"] == 3
    assert verify(out).ok


def texts_of(folder: Path) -> list[str]:
    return [sample["text"] for sample in fastload.StreamingDataset(folder, shuffle=False)]


def test_splits_of_the_sources_own_stay_apart(tmp_path: Path) -> None:
    for number, source in enumerate("ab"):
        for split in ("train", "val"):
            folder = tmp_path / source / split / "cat"
            folder.mkdir(parents=True)
            for i in range(2):
                (folder / f"{number}{i}.txt").write_text(f"text {i} of {split} in {source}")
    before = pack(tmp_path / "a", tmp_path / "out")
    after = append(tmp_path / "b", tmp_path / "out")
    assert {split: before.samples(split) for split in before.splits} == {"train": 2, "val": 2}
    assert {split: after.samples(split) for split in after.splits} == {"train": 4, "val": 4}


@pytest.mark.parametrize(("straddling", "train"), [(None, 4), ("keep", 5)])
def test_new_samples_that_straddle_a_column_are_judged_among_themselves(
    tmp_path: Path, straddling: Any, train: int
) -> None:
    out = tmp_path / "out"
    (tmp_path / "a.csv").write_text("key,text,part\nk1,a,train\nk2,b,train\nk3,c,test\n")
    (tmp_path / "b.csv").write_text("key,text,part\nn1,d,train\nn2,e,train\nn3,f,train\nn4,e,test\nn5,a,test\n")
    pack(tmp_path / "a.csv", out, split=fastload.Splitting(column="part", straddling=straddling), workers=1)
    after = append(tmp_path / "b.csv", out, workers=1)
    assert {split: after.samples(split) for split in after.splits} == {"test": 3, "train": train}
    rejected = pq.read_table(out / "rejected.parquet").to_pylist() if straddling is None else []
    assert [row["key"] for row in rejected] == ["n2"] * (5 - train)


def test_own_splits_without_what_straddles_stay_so(tmp_path: Path) -> None:
    for source in "ab":
        for split, texts in (("train", "xyz"), ("val", "z")):
            (tmp_path / source / split / "cat").mkdir(parents=True)
            for text in texts:
                (tmp_path / source / split / "cat" / f"{source}{text}.txt").write_text(source + text)
    pack(tmp_path / "a", tmp_path / "out", split=fastload.Splitting(straddling="drop"), workers=1)
    after = append(tmp_path / "b", tmp_path / "out", workers=1)
    assert {split: after.samples(split) for split in after.splits} == {"train": 4, "val": 2}
    assert after.statistics["cleaning"]["rejected"] == {"straddles": 2}


def test_a_source_that_was_mended_is_read_again(tmp_path: Path) -> None:
    out, more = tmp_path / "out", tmp_path / "more.csv"
    (tmp_path / "a.csv").write_text("key,text\nk1,a\n")
    pack(tmp_path / "a.csv", out)
    more.write_text("key,text\nk1,b\nk2,c\n")
    with pytest.raises(PackError, match="have the key 'k1'"):
        append(more, out)
    more.write_text("key,text\nk2,d\n")
    assert append(more, out).samples("train") == 2
    assert texts_of(out) == ["a", "d"]


def test_of_two_lists_the_one_that_is_given_is_appended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    pack([{"__key__": "a", "text": "a"}], out)

    def stop(*_: object) -> None:
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(sys.modules["fastload.reshape.append"], "check_moves", stop)  # all is packed by then
        with pytest.raises(Stopped):
            append([{"__key__": "b", "text": "b"}], out, prefix="more/")
    append([{"__key__": "c", "text": "c"}], out, prefix="more/")
    assert texts_of(out) == ["a", "c"]


@pytest.mark.parametrize("prefix", ["", "b/"])
@pytest.mark.parametrize("shard_format", FORMATS)
def test_what_was_stopped_among_its_renames_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_format: ShardFormat, prefix: str
) -> None:
    """Whether the shards are those that were packed, or were written again with other keys."""
    out, source, rename, stops = tmp_path / "out", tmp_path / "b.csv", os.rename, 0
    for name, numbers in (("a", range(4)), ("b", range(4, 8))):
        (tmp_path / f"{name}.csv").write_text("key,text\n" + "".join(f"k{i},text {i}\n" for i in numbers))
    pack(tmp_path / "a.csv", out, format=shard_format)
    moved: list[Path] = []

    def stop(old: Path, new: Path) -> None:
        if Path(new).parent == out / "train":
            if moved:
                raise Stopped
            moved.append(new)
        rename(old, new)

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", stop)
        while stops < 20:
            moved.clear()
            try:
                append(source, out, prefix=prefix, shard_size=1)
            except Stopped:
                stops += 1
                source.write_text("key,text\nk0,is there already\n")  # what has begun to move is what is appended
                assert open_index(out).samples == 4
                with pytest.raises(PackError, match=rf"an unfinished append with prefix '{prefix}' instead of 'c/'"):
                    append(source, out, prefix="c/", shard_size=1)
            else:
                break
    assert stops > 1
    assert sorted(texts_of(out)) == [f"text {i}" for i in range(8)]
    assert verify(out).ok
    assert not (out / STAGING_NAME).exists()


def test_a_refused_append_leaves_the_lists_of_what_was_left_out(tmp_path: Path) -> None:
    out, clean = tmp_path / "out", fastload.Cleaning(duplicates="drop")
    pack([{"__key__": key, "text": "x"} for key in ("a0", "a1")], out, clean=clean)
    before = (out / "rejected.parquet").read_bytes()
    more = [{"__key__": key, "text": "y"} for key in ("a0", "b1")]
    with pytest.raises(PackError, match="have the key 'a0'"):
        append(more, out)
    assert (out / "rejected.parquet").read_bytes() == before
    append(more, out, prefix="m/")
    assert pq.read_table(out / "rejected.parquet")["key"].to_pylist() == ["a1", "m/b1"]


def test_what_another_append_added_just_before_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, module = tmp_path / "out", sys.modules["fastload.reshape.append"]
    pack(lines(tmp_path / "a.txt", 0, 2), out)
    held = module.held

    def late(folder: Path, doing: str) -> Any:
        monkeypatch.setattr(module, "held", held)
        append(lines(tmp_path / "c.txt", 2, 2), out, prefix="c/")
        return held(folder, doing)

    monkeypatch.setattr(module, "held", late)
    after = append(lines(tmp_path / "b.txt", 4, 2), out, prefix="b/")
    assert [entry["source"] for entry in after.packed["history"][1:]] == ["c.txt", "b.txt"]
    assert sorted(texts_of(out)) == [f"line {i}" for i in range(6)]


def test_what_failed_before_its_first_shard_is_in_nobodys_way(tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = pack(lines(tmp_path / "a.txt", 0, 4), out)
    with pytest.raises(PackError, match="does not exist"):
        append(tmp_path / "typo.txt", out)
    assert not (out / STAGING_NAME).exists()
    (out / STAGING_NAME / "packed").mkdir(parents=True)  # of a run that was killed
    (out / STAGING_NAME / "plan.json").write_text('{"source": "/typo.txt", "options": {}, "base": "x"}')
    assert append(lines(tmp_path / "b.txt", 4, 4), out, prefix="b/").samples("train") == before.samples("train") + 4


def test_a_tokenizer_that_is_another_by_now_is_refused(tmp_path: Path) -> None:
    out, tokenizer, prepare = tmp_path / "out", tmp_path / "t.json", fastload.Prepare(tokenizer=tmp_path / "t.json")
    word_tokenizer(tokenizer, "?", "line")
    pack(lines(tmp_path / "a.txt", 0, 4), out, prepare=prepare, workers=1)
    word_tokenizer(tokenizer, "?", "other", "line")
    with pytest.raises(ShardIndexError, match=r"tokens in b.txt are of another vocabulary .* than in out"):
        append(lines(tmp_path / "b.txt", 4, 4), out, prefix="b/", workers=1)
    assert open_index(out).samples == 4
    word_tokenizer(tokenizer, "?", "line")
    assert append(tmp_path / "b.txt", out, prefix="b/", workers=1).samples("train") == 8


def test_options_of_the_source_are_those_of_the_first(tmp_path: Path) -> None:
    for number, folder in enumerate(("a/dog/pug", "a/dog/husky", "a/cat/manx", "b/dog/pug", "b/dog/chow")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / f"{number}.txt").write_text(f"text {number}")
        (tmp_path / folder / f"{number}.jpg").write_bytes(jpeg(number))
    pack(tmp_path / "a", tmp_path / "deep", label_level=2, kind="text")
    after = append(tmp_path / "b", tmp_path / "deep")
    assert after.fields["label"].classes == ("cat/manx", "dog/husky", "dog/pug", "dog/chow")
    assert set(after.fields) == {"text", "label"}
    for number in range(2):
        for folder in ("images", "masks"):
            (tmp_path / f"scenes{number}" / folder).mkdir(parents=True)
            (tmp_path / f"scenes{number}" / folder / f"{number}.png").write_bytes(png(number))
    pack(tmp_path / "scenes0", tmp_path / "scenes", columns={"image": "images", "mask": "masks"})
    assert append(tmp_path / "scenes1", tmp_path / "scenes").samples("train") == 2
    pack([(f"a{i}", i) for i in range(4)], tmp_path / "pairs", columns=["__key__", "x"])
    assert append([("b", 1)], tmp_path / "pairs").samples("train") == 5
    (tmp_path / "q.txt").write_text("one\ntwo\n\nthree\n")
    pack(lines(tmp_path / "p.txt", 0, 4), tmp_path / "paragraphs", kind="paragraphs")
    assert append(tmp_path / "q.txt", tmp_path / "paragraphs", prefix="q/").samples("train") == 3


def test_one_at_a_time(tmp_path: Path) -> None:
    """Repairs and appends keep out of each other's way, whichever came first."""
    out = tmp_path / "out"
    pack(lines(tmp_path / "a.txt", 0, 4), out)
    told = []

    def refused(*_: int) -> None:
        for other in (lambda: repair(out), lambda: append(tmp_path / "b.txt", out)):
            with pytest.raises(PackError, match="is appending to or repairing"):
                other()
            told.append(other)

    append(lines(tmp_path / "b.txt", 4, 4), out, prefix="b/", progress=refused, workers=1)
    repair(out, progress=refused)
    assert len(told) > 3
    assert not (out / WRITING_NAME).exists()
    assert verify(out).ok


def test_what_does_not_fit(tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack(lines(tmp_path / "a.txt", 0, 4), out, split={"x": 0.5, "y": 0.5})
    (tmp_path / "n.csv").write_text("number\n1\n2\n3\n4\n5\n6\n7\n")
    with pytest.raises(ShardIndexError, match=r"field 'number' is in n\.csv and not in out"):
        append(tmp_path / "n.csv", out)
    with pytest.raises(ShardIndexError, match="does not exist: packing was not finished, or this is another folder"):
        append(tmp_path / "n.csv", tmp_path)
    index = IndexFile.load(out / "index.json")
    del index.packed["options"]
    index.save(out)
    with pytest.raises(ConfigError, match="there are the splits 'x', 'y': say which the new samples go to"):
        append(lines(tmp_path / "b.txt", 4, 4), out)


def test_a_file_in_the_way(tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack(lines(tmp_path / "a.txt", 0, 4), out)
    stray = out / "train/shard-000001.tar"
    stray.write_bytes(b"mine")
    with pytest.raises(PackError, match=r"shard-000001.tar is in the way: it is not in index.json; delete it and run"):
        append(lines(tmp_path / "b.txt", 4, 4), out, prefix="b")
    assert stray.read_bytes() == b"mine"
    stray.unlink()
    assert append(tmp_path / "b.txt", out, prefix="b").samples("train") == 8


def test_the_command(tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack(lines(tmp_path / "a.txt", 0, 4), out)
    lines(tmp_path / "b.txt", 4, 4)
    done = CliRunner().invoke(app, ["append", str(tmp_path / "b.txt"), str(out), "--prefix", "b/"])
    assert done.exit_code == 0, done.output
    shown = CliRunner().invoke(app, ["inspect", str(out)]).output
    assert "version 2: 4 samples in 1 files from b.txt" in shown
    assert f"appended 4 samples in 1 shards to {out}, version 2: now 8 samples (train 8) as 2 tar files" in done.output


def test_rows_that_packing_told_are_tensors_stay_tensors_of_any_length(tmp_path: Path) -> None:
    for name, length in (("a", 4), ("b", 6)):
        (tmp_path / name).mkdir()
        for number in range(3):
            np.save(tmp_path / name / f"{name}{number}.npy", np.arange(length, dtype=np.uint8))
        pack(tmp_path / name, tmp_path / f"{name}-packed", workers=1)
    expected = FieldInfo(kind="tensor", dtype="uint8", extension="npy")
    both = merge([tmp_path / "a-packed", tmp_path / "b-packed"], tmp_path / "both")
    assert both.fields["tensor"] == expected
    assert append(tmp_path / "b", tmp_path / "a-packed").fields["tensor"] == expected
    (batch,) = fastload.DataLoader(tmp_path / "a-packed" / "train", 6, shuffle=False)
    assert {row.dtype for row in batch["tensor"]} == {torch.uint8}
