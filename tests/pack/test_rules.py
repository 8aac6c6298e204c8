"""Rules on tables whose findings are known: what each leaves out, what it says of it, and in which order they go."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pack_sources import scene
from PIL import Image

from fastload import Cleaning, Splitting
from fastload.errors import ConfigError, PackError
from fastload.pack.findings import Findings
from fastload.pack.rules import Cleaned, apply_rules, questions
from fastload.pack.surveyor import Survey, Surveyor
from fastload.pack.table import Inline, Table, Values
from fastload.shards.index import FieldInfo


def table_of(keys: list[str] | None = None, **columns: list[Any]) -> Table:
    """Texts, numbers and class names by field; keys are s0, s1, ... if not given."""
    found: dict[str, Any] = {}
    fields: dict[str, FieldInfo] = {}
    for name, values in columns.items():
        if name == "label":
            classes = tuple(sorted(set(values)))
            found[name] = Values(values=np.array([classes.index(value) for value in values], np.int64))
            fields[name] = FieldInfo(kind="scalar", dtype="int64", classes=classes)
        elif isinstance(values[0], str):
            found[name], fields[name] = Inline(contents=[v.encode() for v in values]), FieldInfo(kind="text")
        else:
            found[name], fields[name] = Values(values=np.array(values)), FieldInfo(kind="scalar", dtype="float64")
    count = len(next(iter(columns.values())))
    return Table(keys=keys or [f"s{i}" for i in range(count)], columns=found, fields=fields)


def clean(
    table: Table, faults: dict[int, str] | None = None, splitting: Splitting | None = None, **options: Any
) -> Cleaned:
    cleaning = Cleaning(**options)
    asked = questions(table, cleaning, apart=() if splitting is None else splitting.apart)
    findings = None
    if asked is not None:
        task = Survey(number=0, start=0, stop=len(table.keys))
        found = Surveyor(table, asked).carry_out(task, lambda samples, written: None)
        findings = Findings(faults=faults or {}, values=found.values)
    return apply_rules(table, cleaning, findings, asked, splitting=splitting)


def said(cleaned: Cleaned) -> list[tuple[str, str, str]]:
    return [(note.key, note.reason, note.detail) for note in cleaned.rejected]


def test_without_rules_all_are_kept() -> None:
    found = clean(table_of(x=[1.0, 2.0]))
    assert found.rows.tolist() == [0, 1]
    assert found.counts() == {"rejected": {}, "reported": {}}


def test_ranges_of_numbers_sizes_and_facts() -> None:
    table = table_of(age=[5.0, 20.0, float("nan"), 99.0], text=["abcdé", "ab", "abc", "abcdefgh"])
    found = clean(table, ranges="age=10..98,characters=..4")
    assert said(found) == [
        ("s0", "range", "age=5 is not in 10..98"),
        ("s2", "range", "age=nan is not in 10..98"),
        ("s3", "range", "age=99 is not in 10..98"),
    ]
    assert said(clean(table, ranges="characters=3.."))[0] == ("s1", "range", "text.characters=2 is not in 3..")
    found = clean(table, ranges="bytes=..5")
    assert said(found) == [("s0", "range", "bytes=6 is not in ..5"), ("s3", "range", "bytes=8 is not in ..5")]
    assert found.rows.tolist() == [1, 2]
    assert found.rejected[0].source == "row 1"


def test_a_measure_of_every_field_that_has_it_or_of_one() -> None:
    table = table_of(title=["a", "abc"], text=["abcdef", "abcdef"])
    assert [note[2] for note in said(clean(table, ranges="characters=2.."))] == ["title.characters=1 is not in 2.."]
    assert said(clean(table, ranges="text.characters=2..")) == []
    assert [note[2] for note in said(clean(table, ranges="bytes=..8"))] == ["bytes=9 is not in ..8"]
    assert said(clean(table, ranges="text.bytes=..8")) == []


@given(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=60), st.floats(0.5, 4))
def test_standard_deviations(values: list[float], most: float) -> None:
    numbers = np.array(values)
    far = np.abs(numbers - numbers.mean()) > most * numbers.std()
    far &= numbers.std() > 0  # which numbers that differ by less than the least float squared have none of
    found = None if far.all() else clean(table_of(x=values), zscores={"x": most})
    assert found is None or found.rows.tolist() == np.flatnonzero(~far).tolist()


def test_equal_numbers_and_nan_are_no_outliers() -> None:
    assert clean(table_of(x=[3.0, 3.0, 3.0]), zscores="x=1").rows.tolist() == [0, 1, 2]
    found = clean(table_of(x=[0.0] * 30 + [float("nan"), 50.0]), zscores="x=3")
    assert said(found) == [("s31", "zscore", "x=50 is +5.5 standard deviations from 1.6129")]


def test_outliers_are_judged_among_what_ranges_left() -> None:
    values = [float(i % 5) for i in range(40)] + [1e9, 30.0]
    assert said(clean(table_of(x=values), zscores="x=4"))[0][0] == "s40"
    both = clean(table_of(x=values), ranges="x=..1000", zscores="x=4")
    assert [note[:2] for note in said(both)] == [("s40", "range"), ("s41", "zscore")]


def test_duplicates_keep_the_first_by_key() -> None:
    table = table_of(keys=["b", "a", "c", "d"], text=["same", "same", "same", "other"])
    found = clean(table, duplicates="drop")
    assert [table.keys[row] for row in found.rows] == ["a", "d"]
    assert said(found) == [("b", "duplicate", "the same bytes as a"), ("c", "duplicate", "the same bytes as a")]
    reported = clean(table, duplicates="report")
    assert reported.rows.tolist() == [0, 1, 2, 3]
    assert reported.counts() == {"rejected": {}, "reported": {"duplicate": 2}}


def test_a_copy_and_what_is_nearly_one_may_have_the_same_key() -> None:
    """In two splits that are the source's own."""
    words = " ".join(f"w{i}" for i in range(60))
    table = replace(
        table_of(keys=["a", "b", "b"], text=[words, words, f"{words} more"]), splits=["train", "train", "val"]
    )
    found = clean(table, duplicates="report", near_duplicates="report")
    assert found.counts() == {"rejected": {}, "reported": {"duplicate": 1, "near_duplicate": 1}}


def test_all_contents_count_unless_said_otherwise() -> None:
    table = table_of(title=["x", "y", "x"], text=["same", "same", "same"], label=["a", "b", "b"])
    assert clean(table, duplicates="drop").rows.tolist() == [0, 1]
    assert clean(table, duplicates="drop", compare=("text",)).rows.tolist() == [0]
    lengths = table_of(title=["ab", "a"], text=["c", "bc"])
    assert clean(lengths, duplicates="drop").rows.tolist() == [0, 1]


def test_near_duplicates_after_exact_ones() -> None:
    text = "a text of some words that says what a text of some words would say"
    table = table_of(text=[text, text, text.upper(), f"{text}!", "something else altogether"])
    found = clean(table, duplicates="drop", near_duplicates="drop")
    assert [note[:2] for note in said(found)] == [
        ("s1", "duplicate"),
        ("s2", "near_duplicate"),
        ("s3", "near_duplicate"),
    ]
    assert said(found)[1][2] == "like s0: texts are 100% similar"
    reported = clean(table, duplicates="report", near_duplicates="report")
    assert reported.counts()["reported"] == {"duplicate": 1, "near_duplicate": 2}


def test_a_content_of_several_splits_stays_in_the_smallest() -> None:
    splits = ["train", "train", "train", "train", "test", "test", "val"]
    table = table_of(keys=list("abcdefg"), text=["same", "same", "x", "y", "same", "same", "z"], split=splits)
    by_column = Splitting(column="split")
    found = clean(table, splitting=by_column)
    left_out = [(key, "straddles", "in train; e has the same content, in test") for key in "ab"]
    assert said(found) == left_out
    assert found.rows.tolist() == [2, 3, 4, 5, 6]
    assert found.rejected[0].source == "row 1"
    assert found.counts() == {"rejected": {"straddles": 2}, "reported": {}}
    only_first = clean(table, splitting=by_column, duplicates="drop")
    assert said(only_first) == [*left_out, ("f", "duplicate", "the same bytes as e")], "not those of a"
    assert said(clean(table, splitting=Splitting(column="split", straddling="keep"))) == []
    assert said(clean(table, splitting=Splitting(folds=2))) == []


def test_what_cleaning_leaves_out_before_makes_nothing_straddle() -> None:
    table = table_of(text=["same", "x", "same"], age=[1.0, 2.0, 99.0], split=["train", "train", "test"])
    assert said(clean(table, splitting=Splitting(column="split"), ranges="age=..50")) == [
        ("s2", "range", "age=99 is not in ..50")
    ]


def test_near_duplicates_that_are_reported_straddle_too() -> None:
    text = "a text of some words that says what a text of some words would say"
    table = table_of(
        text=[text, "something else altogether", "and other words again", f"{text}!", text.upper()],
        date=["2020-01-01", "2021", "2022", "2024-01-01", "2023-12-31"],
    )
    by_date = Splitting(ranges="train=..2023,test=2024..", by="date")
    found = clean(table, splitting=by_date, near_duplicates="report")
    assert said(found) == [
        ("s0", "straddles", "in train; s3 has nearly the same content, in test"),
        ("s4", "straddles", "in train; s3 has nearly the same content, in test"),
    ]
    assert found.rows.tolist() == [1, 2, 3]
    assert [(note.key, note.reason) for note in found.suspects] == [("s3", "near_duplicate"), ("s4", "near_duplicate")]
    assert said(clean(table, splitting=by_date)) == []


@pytest.mark.parametrize("options", [{}, {"label": "species", "label_noise": "report"}])
def test_rows_of_a_table_straddle_only_if_their_numbers_are_the_same(options: dict[str, Any]) -> None:
    splits = ["train", "train", "train", "test"]
    by_column = Splitting(column="split")
    table = table_of(x=[1.0, 2.0, 3.0, 4.0], species=["a", "a", "b", "a"], split=splits)
    assert clean(table, splitting=by_column, **options).rows.tolist() == [0, 1, 2, 3]
    alone = table_of(x=[4.0, 4.0, 3.0, 4.0], species=["a", "a", "b", "a"], split=splits)
    left = [2, 3] if not options else [0, 1, 2, 3]  # without their labels they are numbers alone
    assert clean(alone, splitting=by_column, **options).rows.tolist() == left


def test_numbers_that_make_no_difference_to_what_straddles() -> None:
    splits = ["train", "train", "train", "test"]
    by_column = Splitting(column="split")
    words = {"text": ["a", "a", "b", "a"], "split": splits}
    table = table_of(x=[1.0, 2.0, 3.0, 4.0], **words)
    assert clean(table, splitting=by_column, duplicates="report").rows.tolist() == [0, 1, 2, 3]
    named = clean(table, splitting=by_column, duplicates="report", compare=("text",))
    assert named.rows.tolist() == [2, 3], "what counts is said"
    assert clean(table_of(label=list("pqrs"), **words), splitting=by_column).rows.tolist() == [2, 3], "classes"
    numbered = Table(
        keys=table.keys,
        columns={"label": table.columns["x"], **{name: table.columns[name] for name in words}},
        fields={"label": table.fields["x"], **{name: table.fields[name] for name in words}},
    )
    assert clean(numbered, splitting=by_column).rows.tolist() == [2, 3], "classes without names"
    by_x = Splitting(ranges="train=..3,test=4..", by="x")
    assert clean(table_of(x=[1.0, 2.0, 3.0, 4.0], text=words["text"]), splitting=by_x).rows.tolist() == [2, 3]
    blobs = Table(keys=table.keys, columns=table.columns, fields={**table.fields, "text": FieldInfo(kind="bytes")})
    assert clean(blobs, splitting=by_column).rows.tolist() == [2, 3], "contents that are one whatever is beside them"


@pytest.mark.parametrize("rule", ["duplicates", "near_duplicates"])
def test_copies_that_are_dropped_are_those_of_the_larger_split(rule: Any) -> None:
    text = "a text of some words that says what a text of some words would say"
    copy = text if rule == "duplicates" else f"{text}!"
    table = table_of(
        text=[text, "something else altogether", copy], x=[1.0, 2.0, 3.0], split=["train", "train", "test"]
    )
    by_column = Splitting(column="split")
    options: dict[str, Any] = {rule: "drop"}
    found = clean(table, splitting=by_column, **options)
    assert found.rows.tolist() == [1, 2]
    assert [note[0] for note in said(found)] == ["s0"]
    keep = Splitting(column="split", straddling="keep")
    assert clean(table, splitting=keep, **options).rows.tolist() == [0, 1], "by key"
    options[rule] = "report"
    assert [note.key for note in clean(table, splitting=by_column, **options).suspects] == ["s2"], "by key"


def test_a_split_of_copies_alone_is_an_error() -> None:
    table = table_of(text=["x", "y", "x", "y"], split=["test", "test", "train", "train"])
    with pytest.raises(PackError, match=r"'test' gets none of 4 samples: all 2 that it had are .*straddling='keep'"):
        clean(table, splitting=Splitting(column="split"))


def test_near_texts_are_as_near_as_was_asked() -> None:
    text = "a text of some words that says what a text of other words would say"
    table = table_of(text=[text, f"{text} now", text.replace("other", "many")])  # 91% and 77% similar to the first
    found = {share: said(clean(table, near_duplicates="drop", near_text=share)) for share in (0.95, 0.8, 0.6)}
    assert [[key for key, _, _ in notes] for notes in found.values()] == [[], ["s1"], ["s1", "s2"]]


def test_near_pictures_are_as_near_as_was_asked() -> None:
    picture = Image.fromarray(scene(0, 200, 150))
    contents = []
    for one in (picture, picture.resize((50, 38))):  # their hashes differ in a few bits
        file = io.BytesIO()
        one.save(file, "JPEG", quality=20)
        contents.append(file.getvalue())
    fields = {"image": FieldInfo(kind="image")}
    table = Table(keys=["a", "b"], columns={"image": Inline(contents=contents)}, fields=fields)
    ((key, reason, detail),) = said(clean(table, near_duplicates="drop"))
    assert (key, reason) == ("b", "near_duplicate")
    bits = int(re.fullmatch(r"like a: perceptual hashes differ in (\d+) of 64 bits", detail)[1])  # type: ignore[index]
    assert said(clean(table, near_duplicates="drop", near_bits=bits))
    assert not said(clean(table, near_duplicates="drop", near_bits=bits - 1))


def test_one_content_under_two_labels() -> None:
    table = table_of(text=["x", "x", "x", "y", "y", "z"], label=["cat", "cat", "dog", "eel", "eel", "fox"])
    found = clean(table, label_noise="report")
    assert found.rows.tolist() == list(range(6))
    assert [(n.key, n.reason, n.detail) for n in found.suspects] == [
        ("s0", "label_conflict", "labelled cat; s2 has the same content, labelled dog"),
        ("s1", "label_conflict", "labelled cat; s2 has the same content, labelled dog"),
        ("s2", "label_conflict", "labelled dog; s0 has the same content, labelled cat"),
        ("s2", "single_class", "the only sample of dog"),
        ("s5", "single_class", "the only sample of fox"),
    ]


def test_conflicts_are_dropped_before_duplicates_and_lonely_classes_after() -> None:
    table = table_of(text=["x", "x", "y", "y", "z", "w"], label=["cat", "dog", "eel", "eel", "fox", "fox"])
    found = clean(table, label_noise="drop", duplicates="drop")
    assert [note[:2] for note in said(found)] == [
        ("s0", "label_conflict"),
        ("s1", "label_conflict"),
        ("s2", "single_class"),
        ("s3", "duplicate"),
    ]
    assert found.rows.tolist() == [4, 5]


def test_another_label_field() -> None:
    table = table_of(text=["a", "b", "c"], kind=["p", "p", "q"])
    found = clean(table, label_noise="report", label="kind", compare=("text",))
    assert [note.detail for note in found.suspects] == ["the only sample of q"]
    with pytest.raises(ConfigError, match="there is no field 'label'; the source has 'text', 'kind'"):
        clean(table, label_noise="report")


def test_labels_that_are_texts_are_no_content() -> None:
    table = table_of(text=["a", "a", "b"], kind=["p", "q", "q"])
    found = clean(table, label_noise="report", label="kind")
    assert [(note.key, note.reason) for note in found.suspects] == [
        ("s0", "label_conflict"), ("s0", "single_class"), ("s1", "label_conflict")
    ]  # fmt: skip
    assert clean(table, duplicates="drop").rows.tolist() == [0, 1, 2]


def test_faults_stop_or_are_left_out() -> None:
    table, faults = table_of(text=["a", "b", "c", "d"]), {1: "image: cut off", 3: "image: empty"}
    with pytest.raises(PackError, match=r"row 2: image: cut off \(and 1 more\); remove or mend it, or leave such"):
        clean(table, faults, duplicates="drop")
    found = clean(table, faults, on_error="skip", max_errors=2)
    assert said(found) == [("s1", "unreadable", "image: cut off"), ("s3", "unreadable", "image: empty")]
    with pytest.raises(
        PackError, match=r"2 samples cannot be read, more than max_errors=1: row 2: image: cut off; row"
    ):
        clean(table, faults, on_error="skip", max_errors=1)


def test_nothing_left_is_an_error() -> None:
    with pytest.raises(PackError, match="cleaning leaves none of 3 samples: 3 range; loosen its rules"):
        clean(table_of(x=[1.0, 2.0, 3.0]), ranges="x=7..")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ranges": "widht=1.."}, "'widht' cannot be measured: the source has the numbers 'x'; of contents"),
        ({"ranges": "width=1.."}, "'width' cannot be measured"),
        ({"ranges": "x=2024-01-01.."}, "the values are numbers, and these ends are not"),
        ({"duplicates": "drop", "compare": ("x",)}, r"'x' is none of the contents, 'text'"),
    ],
)
def test_measures_and_fields_that_are_not_there(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        clean(table_of(x=[1.0], text=["a"]), **options)


def test_numbers_alone_cannot_be_compared() -> None:
    with pytest.raises(ConfigError, match="there is nothing to compare: the source has numbers and labels only"):
        clean(table_of(x=[1.0, 2.0]), duplicates="drop")
    assert clean(table_of(x=[1.0, 2.0], label=["a", "a"]), label_noise="report").contents is None
    json = Table(keys=["a"], columns={"j": Inline(contents=[b"1"])}, fields={"j": FieldInfo(kind="json")})
    with pytest.raises(ConfigError, match="near_duplicates needs a field of pictures or texts; compared are j"):
        clean(json, near_duplicates="drop")


@given(st.permutations(range(12)))
def test_the_order_of_the_source_does_not_matter(order: list[int]) -> None:
    texts = ["p", "q", "p", "r", "long text of words " * 3, "long text of words! " * 3] * 2
    keys = [f"k{i:02}" for i in range(12)]
    table = table_of(keys=[keys[i] for i in order], text=[texts[i] for i in order])
    found = clean(table, duplicates="drop", near_duplicates="drop")
    assert sorted(table.keys[row] for row in found.rows) == ["k00", "k01", "k03", "k04"]
