"""Whether a change is real: on rounds drawn from known speeds."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastload.bench import Results, Rounds, compare
from fastload.bench.compare import LEAST_ROUNDS, interval
from fastload.errors import ConfigError


def rounds(name: str, seconds: list[float], items: int = 100, reference: list[float] | None = None) -> Rounds:
    return Rounds(
        name=name,
        unit="samples",
        items=items,
        seconds=tuple(seconds),
        reference="another" if reference else None,
        reference_seconds=tuple(reference or ()),
    )


def results(*of: Rounds, **machine: object) -> Results:
    return Results(rounds={each.name: each for each in of}, machine=machine)


def noisy(rng: np.random.Generator, speed: float, count: int = 9) -> list[float]:
    """Rounds of a program that takes 1 s at speed 1, with 3% noise and now and then another program's share."""
    seconds = rng.normal(1, 0.03, count) + (rng.random(count) < 0.1) * rng.exponential(0.5, count)
    return (seconds / speed).tolist()


@pytest.fixture
def _fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where hundreds of intervals are made: a fourth of the draws moves their ends by less than the noise."""
    monkeypatch.setattr(sys.modules["fastload.bench.compare"], "_DRAWS", 1000)  # whose name is a function's, too


@pytest.mark.usefixtures("_fewer_draws")
def test_no_change_is_called_none_and_a_change_of_a_sixth_is_found() -> None:
    rng = np.random.default_rng(1)
    same, sixth = [], []
    for _ in range(200):
        before = results(rounds("rate", noisy(rng, 1.0)))
        same.append(compare(before, results(rounds("rate", noisy(rng, 1.0)))).changes[0].verdict)
        sixth.append(compare(before, results(rounds("rate", noisy(rng, 0.83)))).changes[0].verdict)
    assert same.count("same") >= 180
    assert same.count("loss") <= 2, "a false alarm in CI once in a hundred"
    assert sixth.count("loss") >= 175, "found nine times in ten, from nine rounds in such noise"


def false_alarms(count: int) -> float:
    """Of all orders that the rounds of two equal sets may come in, each as likely as any other, those in which the
    second is called slower."""
    orders = list(itertools.combinations(range(2 * count), count))
    slower = 0
    for places in orders:
        before, after = ([1.02**n for n in range(2 * count) if (n in places) is first] for first in (True, False))
        slower += interval(before, after)[1] < 1
    return slower / len(orders)


@pytest.mark.usefixtures("_fewer_draws")
def test_as_many_rounds_are_wanted_as_make_false_alarms_rare() -> None:
    assert false_alarms(LEAST_ROUNDS - 1) > 0.03
    assert all(false_alarms(count) < 0.03 for count in (LEAST_ROUNDS, LEAST_ROUNDS + 1))


@settings(max_examples=40)
@given(st.lists(st.floats(0.5, 2.0), min_size=3, max_size=9), st.floats(0.1, 10.0))
def test_the_interval_holds_the_change_and_scales_with_it(seconds: list[float], speed: float) -> None:
    low, high = interval(seconds, [each / speed for each in seconds])
    assert low <= speed * (1 + 1e-9)
    assert high >= speed * (1 - 1e-9)
    assert interval(seconds, seconds)[0] == pytest.approx(low / speed)


def test_a_change_within_the_threshold_is_no_loss() -> None:
    before = results(rounds("rate", [1.0, 1.001, 1.002, 0.999, 1.0]))
    after = results(rounds("rate", [1.041, 1.04, 1.039, 1.042, 1.04]))
    found = compare(before, after)
    assert [change.verdict for change in found.changes] == ["slower"]
    assert found.ok
    assert found.changes[0].speed == pytest.approx(1 / 1.04, rel=1e-3)
    strict = compare(before, after, threshold=0.01)
    assert [change.verdict for change in strict.changes] == ["loss"]
    assert not strict.ok
    assert compare(after, before, threshold=0.01).changes[0].verdict == "faster"


def test_time_counts_by_the_item_and_beside_a_reference_in_its_time() -> None:
    found = compare(results(rounds("a", [1.0] * 5, items=100)), results(rounds("a", [2.0] * 5, items=200)))
    assert (found.changes[0].before, found.changes[0].after, found.changes[0].unit) == (100, 100, "samples/s")
    slow_machine = rounds("a", [2.0] * 5, reference=[4.0] * 5)
    found = compare(results(rounds("a", [1.0] * 5, reference=[2.0] * 5)), results(slow_machine))
    assert found.changes[0].verdict == "same"
    assert (found.changes[0].after, found.changes[0].unit) == (2.0, "times another")
    only_one = compare(results(rounds("a", [1.0] * 5)), results(slow_machine))
    assert (only_one.changes[0].verdict, only_one.changes[0].unit) == ("loss", "samples/s")


def test_too_few_rounds_say_nothing_and_are_no_all_clear() -> None:
    found = compare(results(rounds("a", [1.0] * 3)), results(rounds("a", [3.0] * 3)))
    assert [change.verdict for change in found.changes] == ["unknown"]
    assert not found.told
    assert not found.ok
    assert (found.to_dict()["ok"], found.to_dict()["told"]) == (False, False)


def test_what_only_one_has_and_what_differs_is_said() -> None:
    before = results(rounds("a", [1.0] * 3), rounds("b", [1.0] * 3), cores=2, cpu="x")
    found = compare(before, results(rounds("a", [1.0] * 3), rounds("c", [1.0] * 3), cores=4, cpu="x"))
    assert (found.gone, found.new, found.differ) == (("b",), ("c",), ("cores: 2 → 4",))


def test_nothing_in_common_and_a_threshold_out_of_range_are_refused() -> None:
    a, b = results(rounds("a", [1.0])), results(rounds("b", [1.0]))
    with pytest.raises(ConfigError, match="nothing to compare: the first has rounds of a, the second of b"):
        compare(a, b)
    with pytest.raises(ConfigError, match="the second of none; results that keep no rounds have to be measured again"):
        compare(a, results())
    for wrong in (-0.1, 1.0):
        with pytest.raises(ConfigError, match=f"threshold={wrong}: pass a share"):
            compare(a, a, threshold=wrong)
