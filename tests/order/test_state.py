from __future__ import annotations

import json
import re
from types import MappingProxyType

import pytest
from conformance import PROPERTY
from hypothesis import given
from hypothesis import strategies as st

from fastload.errors import StateError
from fastload.order.cursor import STATE_VERSION, State

FINGERPRINT = {
    "order": 1,
    "data": "3d9f0c4b5a6e7f80" * 4,
    "samples": 10**9,
    "seed": -(2**63),
    "window": 64,
    "lanes": 512,
    "sampler": {"kind": "weighted", "digest": "3d9f0c4b5a6e7f80" * 4},
    "mix": {"weights": [0.7, 0.2, 0.1], "stop": "first", "names": ["web", "books", "code"]},
}


def saved(**changes: object) -> dict[str, object]:
    """A state that fits FINGERPRINT, but for `changes` of its fingerprint."""
    return {"version": 1, "consumed": 12, "fingerprint": {**FINGERPRINT, **changes}}


@PROPERTY
@given(st.integers(0, 2**62))
def test_a_state_survives_json(consumed: int) -> None:
    text = json.dumps(State(consumed=consumed, fingerprint=FINGERPRINT).to_dict())
    assert State.from_dict(json.loads(text), FINGERPRINT) == State(consumed=consumed, fingerprint=FINGERPRINT)


def test_a_state_is_under_a_kilobyte_after_a_thousand_epochs_of_a_thousand_million_samples() -> None:
    state = State(consumed=10**12, fingerprint=FINGERPRINT).to_dict()
    assert len(json.dumps(state)) < 1000
    assert list(state) == ["version", "consumed", "fingerprint"]
    assert state["version"] == STATE_VERSION == 1


def test_a_state_does_not_hand_out_the_loaders_own_fingerprint() -> None:
    own = dict(FINGERPRINT)
    State(consumed=0, fingerprint=own).to_dict()["fingerprint"].clear()
    assert own == FINGERPRINT


def test_any_mapping_is_read() -> None:
    assert State.from_dict(MappingProxyType(saved()), MappingProxyType(FINGERPRINT)).consumed == 12


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "not a state of fastload: expected version, consumed and fingerprint, got NoneType"),
        (12, "got int"),
        ([("version", 1)], "got list"),
        ({}, "got a mapping with "),
        ({"epoch": 3, "version": 1}, "got a mapping with 'epoch', 'version'"),
        ({**saved(), "version": 2}, "the state has version 2; this fastload reads version 1"),
        ({**saved(), "version": "1"}, "the state has version '1'; this fastload reads version 1"),
        ({**saved(), "consumed": -1}, "the state's consumed=-1 is not a number of samples"),
        ({**saved(), "consumed": 1.5}, "the state's consumed=1.5 is not a number of samples"),
        ({**saved(), "consumed": True}, "the state's consumed=True is not a number of samples"),
        ({**saved(), "consumed": None}, "the state's consumed=None is not a number of samples"),
        ({**saved(), "consumed": 2**62 + 1}, "consumed=4611686018427387905 is not a number of samples in [0, 2**62]"),
        ({**saved(), "fingerprint": "abc"}, "the state's fingerprint is 'abc', not a mapping"),
        (
            saved(order=2),
            "saved under version 2 of the order, and this fastload has version 1: resume with the fastload that saved",
        ),
        (
            saved(data="ff"),
            f"belongs to another data set (digest 'ff', here '{FINGERPRINT['data']}'): shards were added",
        ),
        (saved(samples=5), "belongs to a data set of 5 samples; this one has 1000000000"),
        (saved(seed=1), f"saved with seed=1, and this loader has seed={-(2**63)}; pass seed=1 to resume"),
        (saved(window=1), "saved with window=1, and this loader has window=64; pass window=1 to resume"),
        (saved(lanes=1), "saved with lanes=1, and this loader has lanes=512; pass lanes=1 to resume"),
        (saved(sampler=None), "saved under the sampler None, and this loader has {'kind': 'weighted'"),
        (saved(mix={"weights": [1.0]}), "other weights or another stopping rule (digest {'weights': [1.0]}, here {'"),
        (saved(new="x"), "saved with new='x', and this loader has new=None; pass new='x' to resume"),
    ],
)
def test_a_state_that_does_not_belong_is_refused_with_its_own_message(data: object, message: str) -> None:
    with pytest.raises(StateError, match=re.escape(message)):
        State.from_dict(data, FINGERPRINT)


def test_a_name_that_the_state_lacks_is_a_difference() -> None:
    state = saved()
    del state["fingerprint"]["seed"]  # type: ignore[attr-defined]
    with pytest.raises(StateError, match="saved with seed=None, and this loader has seed=-9223372036854775808"):
        State.from_dict(state, FINGERPRINT)


def test_the_version_of_the_order_is_told_before_what_follows_from_it() -> None:
    with pytest.raises(StateError, match="version 9 of the order"):
        State.from_dict({**saved(), "fingerprint": {"seed": 5, "data": "ff", "order": 9}}, FINGERPRINT)


def test_braces_in_a_value_are_printed_as_they_are() -> None:
    with pytest.raises(StateError, match=re.escape("seed='{oops} {0}'")):
        State.from_dict(saved(seed="{oops} {0}"), FINGERPRINT)
