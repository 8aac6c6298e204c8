"""What `Cleaning` takes and refuses, and what it is as options of a run."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fastload import Cleaning
from fastload.errors import ConfigError
from fastload.pack.ranges import parse_range


def test_text_and_mappings_are_the_same() -> None:
    one = Cleaning(ranges="width=32.., seconds=0.5..30", zscores="age=3,weight=2.5")
    other = Cleaning(ranges={"width": "32..", "seconds": parse_range("0.5..30")}, zscores={"age": 3, "weight": 2.5})
    assert one.bounds == other.bounds
    assert one.deviations == other.deviations == {"age": 3.0, "weight": 2.5}
    assert one.to_json() == other.to_json()


def test_options_are_what_differs_from_the_defaults() -> None:
    assert Cleaning().to_json() == {}
    everything = Cleaning(on_error="skip", max_errors=0, ranges="bytes=..9", compare=("image",), fill={"age": 0})
    assert json.loads(json.dumps(everything.to_json())) == {
        "on_error": "skip",
        "max_errors": 0,
        "ranges": {"bytes": "..9"},
        "compare": ["image"],
        "fill": {"age": 0},
    }
    assert Cleaning.from_json(json.loads(json.dumps(everything.to_json()))).to_json() == everything.to_json()
    assert Cleaning.from_json({}) == Cleaning()


@pytest.mark.parametrize(
    ("options", "reads"),
    [
        ({}, False),
        ({"ranges": "age=1..2,bytes=10..", "zscores": "weight=3", "drop_missing": True}, False),
        ({"ranges": "image.width=1.."}, True),
        ({"zscores": "seconds=3"}, True),
        ({"on_error": "skip"}, True),
        ({"decode": "full"}, True),
        ({"duplicates": "report"}, True),
        ({"near_duplicates": "drop"}, True),
        ({"label_noise": "report"}, True),
    ],
)
def test_contents_are_read_only_where_a_rule_needs_them(options: dict[str, Any], reads: bool) -> None:
    assert Cleaning(**options).reads_contents is reads


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_error": "mask"}, "on_error='mask': pass one of 'raise', 'skip'"),
        ({"decode": True}, "decode=True: pass one of 'headers', 'full'"),
        ({"duplicates": "yes"}, "duplicates='yes': pass one of 'ignore', 'report', 'drop'"),
        ({"max_errors": 3}, "max_errors=3: pass a number from 0, with on_error='skip'"),
        ({"max_errors": -1, "on_error": "skip"}, "max_errors=-1"),
        ({"near_bits": 12}, "near_bits=12: pass a number from 0 to 11"),
        ({"near_text": 0.3}, "near_text=0.3: pass a similarity from 0.5 to 1"),
        ({"near_bits": 4}, "near_bits=4: pass near_duplicates='drop' or 'report' too"),
        ({"near_text": 0.9, "duplicates": "drop"}, "near_text=0.9: pass near_duplicates='drop' or 'report' too"),
        ({"label": "kind"}, "label='kind': pass label_noise='drop' or 'report' too"),
        ({"compare": "image"}, "compare='image': pass a tuple of names"),
        ({"ranges": "width"}, "ranges='width': 'width' is not measure=low..high"),
        ({"ranges": "a=1..,a=2.."}, "'a=2..' comes twice"),
        ({"ranges": {"a": "9..1"}}, "'9..1' holds nothing"),
        ({"zscores": "age=x"}, "zscores: age='x' must be a number above 0"),
        ({"zscores": {"age": -1}}, "zscores: age=-1 must be"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Cleaning(**options)
