"""Splits by classes, groups, ranges, columns and folds: what each keeps together, and what stays where it was."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastload import DataLoader, Splitting, StreamingDataset
from fastload.errors import ConfigError, PackError
from fastload.pack import pack
from fastload.pack.sameness import straddlers, tied
from fastload.pack.splits import assign, assign_stratified
from fastload.pack.splitting import Sharing, share_out
from fastload.pack.table import Inline, Table, Values
from fastload.shards.index import FieldInfo, IndexFile

ratios = st.lists(st.integers(1, 9), min_size=2, max_size=4).map(
    lambda parts: {f"s{i}": part / sum(parts) for i, part in enumerate(parts)}
)
names = st.text("abcdef0123456789", min_size=1, max_size=8)
labelled = st.dictionaries(names, st.sampled_from(["cat", "dog", "eel", "fox"]), min_size=1, max_size=150)
seeds = st.integers(0, 2**32)


def table_of(**columns: list[Any]) -> Table:
    """Texts, numbers and labels by field; keys are s0, s1, ..."""
    found: dict[str, Any] = {}
    fields: dict[str, FieldInfo] = {}
    for name, values in columns.items():
        if name == "label":
            classes = tuple(sorted(set(values)))
            found[name] = Values(values=np.array([classes.index(v) for v in values], np.int64))
            fields[name] = FieldInfo(kind="scalar", dtype="int64", classes=classes)
        elif isinstance(values[0], str):
            found[name] = Inline(contents=[v.encode() for v in values])
            fields[name] = FieldInfo(kind="text")
        else:
            found[name] = Values(values=np.array(values))
            fields[name] = FieldInfo(kind="scalar", dtype="float64")
    count = len(next(iter(columns.values())))
    return Table(keys=[f"s{i}" for i in range(count)], columns=found, fields=fields)


def sides(sharing: Sharing) -> dict[str, list[int]]:
    """Rows of each split."""
    return {name: sharing.rows[sharing.numbers == at].tolist() for at, name in enumerate(sharing.names)}


# Stratified


@given(samples=labelled, ratios=ratios, seed=seeds)
def test_every_class_has_the_shares_to_less_than_one(
    samples: dict[str, str], ratios: dict[str, float], seed: int
) -> None:
    found = assign_stratified(list(samples), list(samples.values()), ratios, seed)
    for name, size in Counter(samples.values()).items():
        inside = found[np.array(list(samples.values())) == name]
        for number, ratio in enumerate(ratios.values()):
            assert abs((inside == number).sum() - size * ratio) < 1 + 1e-6


@given(old=labelled, new=labelled, ratios=ratios, seed=seeds)
def test_added_samples_move_at_most_as_many_of_their_class_over_each_border(
    old: dict[str, str], new: dict[str, str], ratios: dict[str, float], seed: int
) -> None:
    before = dict(zip(old, assign_stratified(list(old), list(old.values()), ratios, seed).tolist(), strict=True))
    both = dict(sorted((new | old).items()))
    after = dict(zip(both, assign_stratified(list(both), list(both.values()), ratios, seed).tolist(), strict=True))
    added = Counter(both[key] for key in both.keys() - old.keys())
    for name in set(old.values()):
        mine = [key for key, value in old.items() if value == name]
        for border in range(1, len(ratios)):
            up = sum(before[key] < border <= after[key] for key in mine)
            down = sum(after[key] < border <= before[key] for key in mine)
            assert up + down <= added[name]
            assert min(up, down) == 0
        if not added[name]:
            assert all(before[key] == after[key] for key in mine)


def test_classes_too_small_for_every_split_do_not_leave_out_the_same_one() -> None:
    classes = [f"class{i}" for i in range(400) for _ in range(2)]
    found = assign_stratified([f"k{i}" for i in range(800)], classes, {"train": 0.5, "val": 0.3, "test": 0.2}, 0)
    counts = np.bincount(found, minlength=3)
    assert np.abs(counts - [400, 240, 160]).max() < 60
    assert (np.bincount(found[::2], minlength=3) > 60).all()


def test_one_content_is_on_one_side_whatever_its_labels() -> None:
    contents = [b"%d" % (i % 30) for i in range(90)]
    table = table_of(label=["cat", "dog", "cat"] * 30)
    for splitting in (Splitting(shares="a=0.5,b=0.5", stratify="label"), Splitting(folds=3)):
        found = share_out(table, splitting, seed=1, contents=contents)
        assert len(set(zip(contents, found.numbers.tolist(), strict=True))) == 30


@given(
    old=st.lists(st.binary(max_size=2), min_size=30, max_size=60),
    new=st.lists(st.binary(max_size=2), max_size=30),
    seed=seeds,
)
def test_added_copies_and_others_move_no_content(old: list[bytes], new: list[bytes], seed: int) -> None:
    splitting = Splitting(shares="a=0.5,b=0.5")
    distinct = [*old, b"x1", b"x2", b"x3", *(b"%d" % i for i in range(40))]  # so that no split is empty
    found = [
        share_out(table_of(x=[0.0] * len(contents)), splitting, seed=seed, contents=contents).numbers.tolist()
        for contents in (distinct, [*new, *distinct])
    ]
    assert found[0] == found[1][len(new) :]
    sides = dict(zip([*new, *distinct], found[1], strict=True))
    assert found[1] == [sides[content] for content in [*new, *distinct]]


def test_stratified_classes_are_even_where_plain_shares_vary() -> None:
    table, worst = table_of(label=[f"c{i % 20}" for i in range(400)]), {}
    for field in ("label", None):
        found = share_out(table, Splitting(shares="train=0.8,val=0.2", stratify=field), seed=0)
        in_val = np.bincount([row % 20 for row in sides(found)["val"]], minlength=20)
        worst[field] = int(np.abs(in_val - 4).max())
    assert worst["label"] == 0
    assert worst[None] > 1


# Groups and folds


@given(
    groups=st.lists(st.sampled_from("abcdefghijklmnop"), min_size=40, max_size=80),
    more=st.lists(st.sampled_from("abcdefghijklmnopqrstuvwxyz"), max_size=40),
    seed=seeds,
)
def test_a_group_is_on_one_side_and_stays_there(groups: list[str], more: list[str], seed: int) -> None:
    ratios = {"train": 0.6, "val": 0.4}
    before = dict(zip(groups, assign(groups, ratios, seed).tolist(), strict=True))
    after = assign([*more, *groups], ratios, seed).tolist()
    assert [before[name] for name in groups] == after[len(more) :]


def test_group_by_keeps_values_together() -> None:
    table = table_of(patient=[f"p{i % 17}" for i in range(300)], age=[float(i % 9) for i in range(300)])
    for field, of in (("patient", lambda row: row % 17), ("age", lambda row: row % 9)):
        found = sides(share_out(table, Splitting(shares="train=0.6,val=0.4", group_by=field), seed=0))
        assert not {of(row) for row in found["train"]} & {of(row) for row in found["val"]}
        assert len(found["train"]) + len(found["val"]) == 300


def test_groups_that_share_a_content_are_on_one_side() -> None:
    groups = [f"g{i}" for i in range(40) for _ in range(3)]
    contents = [b"%d" % i for i in range(120)]
    table, splitting = table_of(who=groups), Splitting(shares="a=0.5,b=0.5", group_by="who")
    alone = share_out(table, splitting, seed=0, contents=contents).numbers
    assert alone.tolist() == share_out(table, splitting, seed=0).numbers.tolist()
    assert tied(["b", "a", "c", "d"], [b"1", b"1", b"2", b"3"]) == ["a", "a", "c", "d"]
    assert tied(["d", "c", "c", "b", "b", "a"], [b"1", b"1", b"2", b"2", b"3", b"3"]) == ["a"] * 6
    contents[0] = contents[60] = contents[119]
    found = share_out(table, splitting, seed=0, contents=contents).numbers
    assert len({found[0], found[60], found[119]}) == 1
    others = [row for row in range(120) if groups[row] not in ("g0", "g20", "g39")]
    assert found[others].tolist() == alone[others].tolist()
    with pytest.raises(
        PackError, match=r"gets none of .*40 groups are 1, by contents that they share; duplicates='drop'"
    ):
        share_out(table, splitting, seed=0, contents=[b"same"] * 120)


def test_a_part_of_the_key_makes_groups() -> None:
    keys = [f"{digit}_{speaker}_{take}" for digit in range(10) for speaker in "abcdefgh" for take in range(3)]
    table = Table(keys=keys, columns={"x": Values(values=np.zeros(len(keys)))}, fields={"x": FieldInfo(kind="scalar")})
    found = sides(share_out(table, Splitting(shares="train=0.7,test=0.3", group_regex=r"_([a-z])_"), seed=1))
    speakers = [{keys[row].split("_")[1] for row in found[name]} for name in ("train", "test")]
    assert not speakers[0] & speakers[1]
    assert speakers[0] | speakers[1] == set("abcdefgh")
    by_field = assign([key.split("_")[1] for key in keys], {"train": 0.7, "test": 0.3}, 1)
    assert sorted(found["test"]) == np.flatnonzero(by_field).tolist()
    with pytest.raises(PackError, match=r"sample '0_a_0': group_regex='\^\(x\)' does not match the key"):
        share_out(table, Splitting(folds=2, group_regex="^(x)"), seed=1)


def test_folds_are_about_equal_and_never_move() -> None:
    small, large = (table_of(x=[float(i) for i in range(n)]) for n in (500, 700))
    found = share_out(small, Splitting(folds=5), seed=3)
    assert found.names == ("fold-0", "fold-1", "fold-2", "fold-3", "fold-4")
    assert np.abs(np.bincount(found.numbers) - 100).max() < 40
    assert share_out(large, Splitting(folds=5), seed=3).numbers[:500].tolist() == found.numbers.tolist()


@pytest.mark.parametrize("by", ["group_by", "group_regex"])
def test_folds_keep_groups_together_and_never_move_them(by: str) -> None:
    def folds(samples: list[tuple[str, int]]) -> dict[str, set[str]]:
        """The folds of each speaker's samples."""
        table = replace(table_of(who=[who for who, _ in samples]), keys=[f"{who}_{take}" for who, take in samples])
        splitting = Splitting(folds=4, group_by="who") if by == "group_by" else Splitting(folds=4, group_regex="^(.*)_")
        sharing, found = share_out(table, splitting, seed=5), dict[str, set[str]]()
        for (who, _), number in zip(samples, sharing.numbers.tolist(), strict=True):
            found.setdefault(who, set()).add(sharing.names[number])
        return found

    samples = [(f"speaker{i % 40}", i) for i in range(200)]
    before = folds(samples)
    assert {len(one) for one in before.values()} == {1}
    assert set.union(*before.values()) == {f"fold-{i}" for i in range(4)}
    after = folds([(f"speaker{i % 55}", 1000 + i) for i in range(110)] + samples)
    assert {who: after[who] for who in before} == before


def test_several_folds_are_read_as_one(tmp_path: Path) -> None:
    write_rows(tmp_path / "m.jsonl", [{"text": f"t{i}", "label": "ab"[i % 2]} for i in range(60)])
    pack(tmp_path / "m.jsonl", tmp_path / "out", split=Splitting(folds=3, stratify="label"), workers=1)
    seen: list[list[str]] = []
    for held_out in range(3):
        training = [tmp_path / "out" / f"fold-{i}" for i in range(3) if i != held_out]
        rows = [sample["text"] for sample in StreamingDataset(training, shuffle=True)]
        batches = DataLoader(training, batch_size=7, shuffle=True, num_workers=2, last_batch="partial")
        assert sorted(rows) == sorted(text for batch in batches for text in batch["text"])
        seen.append([sample["text"] for sample in StreamingDataset(tmp_path / "out", split=f"fold-{held_out}")])
        assert sorted([*rows, *seen[-1]]) == sorted(f"t{i}" for i in range(60))
    assert [len(fold) for fold in seen] == [20, 20, 20]


# Ranges and columns


def test_ranges_of_dates_and_numbers() -> None:
    table = table_of(date=["2023-05-01", "2023-12-31T23:00", "2024-01-01", "2025"], age=[3.0, 40.0, 41.0, 90.0])
    splitting = Splitting(ranges="train=..2023-12-31, val=2024..2024, test=2025..", by="date")
    assert sides(share_out(table, splitting, seed=0)) == {"train": [0, 1], "val": [2], "test": [3]}
    splitting = Splitting(ranges={"young": "..40", "old": "41.."}, by="age")
    assert sides(share_out(table, splitting, seed=0)) == {"young": [0, 1], "old": [2, 3]}


@given(st.lists(st.integers(0, 100), min_size=1, max_size=40), st.lists(st.integers(0, 100), max_size=40))
def test_ranges_never_move_a_sample(ages: list[int], more: list[int]) -> None:
    splitting = Splitting(ranges="a=..50,b=51..", by="age")
    padded = [0, 100, *ages]  # so that no split is empty
    before = share_out(table_of(age=[float(a) for a in padded]), splitting, seed=0).numbers
    after = share_out(table_of(age=[float(a) for a in [*padded, *more]]), splitting, seed=0).numbers
    assert after[: len(padded)].tolist() == before.tolist() == [int(a > 50) for a in padded]


@pytest.mark.parametrize(
    ("values", "ranges", "message"),
    [
        ([1.0, 7.0], "a=..5,b=9..", r"sample 's1': x=7.0 is in none of a, b; change the ranges"),
        ([1.0, 5.0], "a=..5,b=5..", r"sample 's1': x=5.0 is in a and b"),
        ([1.0, float("nan")], "a=..5,b=6..", "x=nan is in none of"),
        ([1.0, 2.0], "a=..5,b=6..", "the split 'b' gets none of 2 samples; give it a wider range"),
        (["2023-01-01", ""], "a=..2023,b=2024..", "x='' is neither a number nor a date"),
        (["2023-01-01", "31.12.2024"], "a=..2023,b=2024..", "x='31.12.2024' is neither"),
    ],
)
def test_values_without_one_range_are_named(values: list[Any], ranges: str, message: str) -> None:
    with pytest.raises(PackError, match=message):
        share_out(table_of(x=values), Splitting(ranges=ranges, by="x"), seed=0)


def test_a_column_names_the_splits() -> None:
    table = table_of(split=["val", "train", "train", "test"])
    assert sides(share_out(table, Splitting(column="split"), seed=0)) == {"test": [3], "train": [1, 2], "val": [0]}
    with pytest.raises(PackError, match="sample 's1': split='a/b' cannot name a split"):
        share_out(table_of(split=["val", "a/b"]), Splitting(column="split"), seed=0)


def test_splits_without_a_sample_are_left_out_where_they_may_be() -> None:
    table = table_of(x=[60.0, 70.0])
    by_x = Splitting(ranges="a=..10,b=11..50,c=51..", by="x", sparse=True)
    assert sides(share_out(table, by_x, seed=0)) == {"c": [0, 1]}
    both = Splitting(ranges="a=..10,b=11..65,c=66..", by="x", sparse=True)
    assert sides(share_out(table, both, seed=0)) == {"b": [0], "c": [1]}
    assert by_x.to_json() == Splitting(ranges="a=..10,b=11..50,c=51..", by="x").to_json()


# Contents in several splits


@given(
    st.lists(st.tuples(st.sampled_from("uvwxyz"), st.sampled_from(["dev", "test", "train"])), min_size=1, max_size=30)
)
def test_a_content_stays_in_the_smallest_of_its_splits_and_of_equal_ones_in_the_last_by_name(
    samples: list[tuple[str, str]],
) -> None:
    keys, names = [f"k{i:02}" for i in range(len(samples))], ("test", "train", "dev")

    def found(order: list[int]) -> dict[str, str]:
        numbers = np.array([names.index(samples[row][1]) for row in order], np.int64)
        contents = [samples[row][0].encode() for row in order]
        left_out = straddlers([keys[row] for row in order], contents, names, numbers)
        return {keys[order[at]]: keys[order[first]] for at, first in left_out.items()}

    forward = list(range(len(samples)))
    expected, sizes = {}, Counter(split for _, split in samples)
    for key, (content, split) in zip(keys, samples, strict=True):
        stays = max({name for one, name in samples if one == content}, key=lambda name: (-sizes[name], name))
        if split != stays:
            expected[key] = keys[samples.index((content, stays))]
    assert found(forward) == expected
    assert found(forward[::-1]) == expected


def test_what_straddles_is_left_out_unless_the_source_itself_says_the_splits() -> None:
    table = table_of(text=["a", "b"], x=[1.0, 2.0], split=["p", "q"])
    own = replace(table, splits=["train", "val"])
    by_x, by_column = Splitting(ranges="a=..1,b=2..", by="x"), Splitting(column="split")
    assert by_x.separates(table)
    assert by_column.separates(own)
    assert not by_column.separates(table_of(x=[1.0, 1.0], split=["p", "q"])), "numbers are equal by chance"
    assert not Splitting(column="split", straddling="keep").separates(table)
    assert not Splitting().separates(own)
    assert not Splitting(folds=2).separates(own)
    drop = Splitting(straddling="drop")
    assert drop.separates(own)
    assert not drop.separates(table)
    assert not drop.separates(replace(own, splits=["val", "val"]))


def test_what_becomes_of_copies_is_an_option_of_the_run() -> None:
    assert "straddling" not in Splitting(folds=2).to_json() | Splitting().to_json()
    assert Splitting(straddling="drop").to_json() == {**Splitting().to_json(), "straddling": "drop"}
    by_column = Splitting(column="split")
    assert by_column.to_json() == Splitting(column="split", straddling="drop").to_json()
    assert by_column.to_json() | {"straddling": "keep"} == Splitting(column="split", straddling="keep").to_json()


def test_fields_that_cannot_decide_are_named() -> None:
    table = table_of(text=["a", "b"])
    with pytest.raises(ConfigError, match="there is no field 'patient'; the source has 'text'"):
        share_out(table, Splitting(shares="a=0.5,b=0.5", group_by="patient"), seed=0)
    image = Table(keys=["k"], columns={"image": Inline(contents=[b"x"])}, fields={"image": FieldInfo(kind="image")})
    with pytest.raises(ConfigError, match="the field 'image' holds image contents; name one with a value"):
        share_out(image, Splitting(column="image"), seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shares": "a=1.0", "folds": 2}, "splits come from one of .*; shares and folds are given"),
        ({"by": "x"}, r"by='x' and ranges=None go together \(--split-by needs --split\)"),
        ({"ranges": "a=1..2"}, "by=None and ranges='a=1..2' go together"),
        ({"folds": 3, "stratify": "a", "group_by": "b"}, "stratify and group_by cannot both hold"),
        ({"stratify": "label"}, r"stratify needs shares or folds \(--split or --folds\), such as train=0.9,val=0.1"),
        ({"column": "c", "group_by": "b"}, "group_by needs shares or folds"),
        ({"folds": 2, "group_by": "b", "group_regex": "(c)"}, "group_by and group_regex cannot both hold"),
        ({"folds": 2, "group_regex": "("}, r"group_regex='\(' is no regular expression"),
        ({"folds": 2, "group_regex": "a"}, "group_regex='a' has no group"),
        ({"folds": 1}, "folds=1: pass an integer of at least 2"),
        ({"ranges": "a", "by": "x"}, "'a' is not name=low..high"),
        ({"ranges": "a/b=1..2", "by": "x"}, "'a/b' cannot name a folder"),
        ({"ranges": "a=1..2,a=3..4", "by": "x"}, "'a' is named twice"),
        ({"shares": "a=x"}, "'x' is no ratio"),
        ({"shares": "a=1.0", "straddling": "keep"}, r"straddling='keep' \(--straddling\) is of splits by ranges"),
        ({"folds": 2, "straddling": "drop"}, "; folds have copies on one side anyhow: leave it out"),
        ({"column": "c", "straddling": "no"}, "straddling='no': pass 'drop' or 'keep'"),
    ],
)
def test_options_that_do_not_fit_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Splitting(**options)


# Packed


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_what_was_asked_for_is_in_the_index(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "patient": f"p{i % 10}", "date": f"20{10 + i % 20}-01-01"} for i in range(200)]
    write_rows(tmp_path / "m.jsonl", rows)
    by_date = Splitting(ranges="train=..2020,val=2021..", by="date")
    index = pack(tmp_path / "m.jsonl", tmp_path / "a", split=by_date, workers=1)
    assert {name: index.samples(name) for name in index.splits} == {"train": 110, "val": 90}
    options = IndexFile.load(tmp_path / "a" / "index.json").packed["options"]
    assert (options["split"], options["split_by"]) == ({"train": "..2020", "val": "2021.."}, "date")
    assert "stratify" not in options
    grouped = Splitting(shares="train=0.7,val=0.3", group_by="patient")
    pack(tmp_path / "m.jsonl", tmp_path / "b", split=grouped, workers=1)
    patients = [{s["patient"] for s in StreamingDataset(tmp_path / "b", split=name)} for name in ("train", "val")]
    assert patients[0] | patients[1] == {f"p{i}" for i in range(10)}
    assert not patients[0] & patients[1]
