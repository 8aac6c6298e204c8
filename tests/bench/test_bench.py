"""Measuring a data set, the files of results, and the command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import warm
from typer.testing import CliRunner

import fastload
from fastload.bench import Results, Rounds, compare, run
from fastload.bench.report import changes_to_html, sentence, to_html
from fastload.cli import app
from fastload.dataset import StreamingDataset
from fastload.errors import ConfigError

Packed = Callable[..., Path]
IMAGE = {"image": fastload.Image(8)}


@pytest.fixture(scope="module")
def measured(packed: Packed) -> Results:
    return run(packed("tar", [40, 40]), 8, num_workers=2, rounds=5, seconds=0.6, fields=IMAGE, window=1)


def test_every_number_of_threads_first_batch_and_resume_are_measured_in_every_round(measured: Results) -> None:
    assert list(measured.rounds) == ["rate, 1 thread", "rate, 2 threads", "first batch", "resume at 90%"]
    for name, rounds in measured.rounds.items():
        assert len(rounds.seconds) == 5
        assert min(rounds.seconds) > 0
        assert (rounds.items > 1) == name.startswith("rate")
    rate = measured.rounds["rate, 1 thread"]
    assert rate.items % 8 == 0
    assert rate.per_second == pytest.approx(rate.items / sorted(rate.seconds)[2])
    assert measured.setting["window"] == "1"
    assert measured.machine["cores"] >= 1


def test_what_threads_do_not_help_is_measured_without(packed: Packed) -> None:
    found = run(packed("tar", [10]), 4, num_workers=2, rounds=1, seconds=0.1, fields={"label": fastload.Scalar()})
    assert list(found.rounds) == ["rate, 0 threads", "first batch", "resume at 90%"]


def test_what_a_crew_goes_ahead_of_is_measured_by_its_threads(packed: Packed) -> None:
    data, fields = packed("tar", [40], ("tensor", "label")), {"tensor": fastload.Tensor((3,), "float32")}
    found = run(data, 8, num_workers=2, rounds=1, seconds=0.2, fields=fields)
    assert list(found.rounds)[:3] == ["rate, 0 threads", "rate, 1 thread", "rate, 2 threads"]


def test_results_come_back_from_their_file(measured: Results, tmp_path: Path) -> None:
    paired = replace(
        measured.rounds["first batch"], name="paired", reference="another", reference_seconds=(0.5, 0.25, 0.5)
    )
    whole = replace(measured, rounds={**measured.rounds, "paired": paired})
    whole.save(tmp_path / "a.json")
    read = Results.load(tmp_path / "a.json")
    assert list(read.rounds) == list(whole.rounds)
    for name, rounds in read.rounds.items():
        assert rounds.seconds == pytest.approx(whole.rounds[name].seconds, abs=1e-6)
        assert (rounds.items, rounds.unit) == (whole.rounds[name].items, whole.rounds[name].unit)
    assert read.rounds["paired"].reference_seconds == (0.5, 0.25, 0.5)
    assert (read.machine, read.setting) == (whole.machine, whole.setting)


BENCHMARK = """
def test_sums(paired):
    paired(lambda: sum(range(20_000)), lambda: sum(range(10_000)), items=20_000, unit="numbers", rounds=4,
           reference_name="half as many")

def test_alone(benchmark):
    benchmark.pedantic(lambda: sum(range(1000)), rounds=4)
"""


def test_the_project_s_own_benchmarks_keep_rounds_that_can_be_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(Path(__file__).parents[2] / "benchmarks/conftest.py", tmp_path)
    (tmp_path / "test_it.py").write_text(BENCHMARK)
    monkeypatch.chdir(tmp_path)
    options = ["-q", "-p", "no:cacheprovider", "--benchmark-json", "r.json"]
    done = warm.run("import pytest, sys; sys.exit(pytest.main(sys.argv[1:]))", *options, "test_it.py")
    assert done.returncode == 0, done.stdout + done.stderr
    read = Results.load(tmp_path / "r.json")
    assert [len(rounds.seconds) for rounds in read.rounds.values()] == [4, 4]
    sums = read.rounds["test_sums"]
    assert (sums.unit, sums.items, sums.reference) == ("numbers", 20_000, "half as many")
    assert len(sums.reference_seconds) == 4
    assert sums.ratios == tuple(b / a for a, b in zip(sums.seconds, sums.reference_seconds, strict=True))
    assert read.machine["cores"] >= 1


def test_results_without_rounds_are_left_out_by_name(tmp_path: Path) -> None:
    entry: dict[str, Any] = {"name": "old", "extra_info": {"seconds": 0.5}, "stats": {"median": 1.0}}
    (tmp_path / "old.json").write_text(json.dumps({"benchmarks": [entry]}))
    assert Results.load(tmp_path / "old.json").left_out == ("old",)


def test_tests_of_one_name_in_several_files_are_told_apart(tmp_path: Path) -> None:
    def entry(fullname: str) -> dict[str, Any]:
        return {"name": fullname.partition("::")[2], "fullname": fullname, "stats": {"data": [0.1, 0.2]}}

    names = ["a.py::t", "b.py::t", "b.py::other"]
    (tmp_path / "r.json").write_text(json.dumps({"benchmarks": [entry(name) for name in names]}))
    assert list(Results.load(tmp_path / "r.json").rounds) == ["a.py::t", "b.py::t", "other"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file"),
        ("{", "is no result of `fastload bench` or pytest-benchmark"),
        ("{}", "KeyError: 'benchmarks'"),
        ("[]", "is no result"),
        (
            '{"benchmarks": [{"name": "a", "stats": {"data": [0.1, 0]}}]}',
            "'a' has rounds or items that are not positive",
        ),
        (json.dumps({"benchmarks": [{"name": "a", "fullname": "f::a", "stats": {"data": [1]}}] * 2}), "'f::a' comes"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "x.json").write_text(content)
    with pytest.raises(ConfigError, match=said):
        Results.load(tmp_path / "x.json")


def test_arguments_out_of_range(packed: Packed) -> None:
    data = packed("tar", [10])
    for wrong in ({"rounds": 0}, {"num_workers": -1}, {"seconds": 0}, {"seconds": float("inf")}):
        with pytest.raises(ConfigError, match=f"{next(iter(wrong))}="):
            run(data, 4, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="the data set has no samples"):
        run(packed("tar", []), 4)
    with pytest.raises(ConfigError, match="bench: pass the path"):
        run(StreamingDataset(data), 4)


def test_the_page_has_every_benchmark_and_a_curve(measured: Results) -> None:
    page = to_html(measured)
    assert "samples/s</h1>" in page
    assert all(f"<td>{name}</td>" in page for name in measured.rounds)
    assert page.count('aria-label="loader: samples per second by threads"') == 1
    assert "<script" not in page
    assert "http" not in page, "nothing is fetched"


def test_the_command_measures_and_compares(packed: Packed, tmp_path: Path, measured: Results) -> None:
    options = ["--batch-size", "8", "--workers", "1", "--rounds", "1", "--seconds", "0.1", "--fields", "image:8"]
    files = ["--json", str(tmp_path / "a.json"), "--html", str(tmp_path / "a.html")]
    done = CliRunner().invoke(app, ["bench", str(packed("tar", [40, 40])), *options, *files])
    assert done.exit_code == 0, done.output
    assert "rate, 1 thread" in done.output
    assert set(Results.load(tmp_path / "a.json").rounds) == {"rate, 1 thread", "first batch", "resume at 90%"}
    assert (tmp_path / "a.html").read_text().startswith("<!doctype html>")


def same_or(slower: float, tmp_path: Path) -> list[str]:
    steady = Rounds(name="rate, 1 thread", unit="samples", items=10, seconds=(1.0, 1.01, 0.99, 1.0, 1.0))
    slow = replace(steady, seconds=tuple(each * slower for each in steady.seconds))
    for name, rounds in (("before", steady), ("after", slow)):
        Results(rounds={rounds.name: rounds}).save(tmp_path / f"{name}.json")
    return ["bench", "--compare", str(tmp_path / "before.json"), str(tmp_path / "after.json")]


def test_the_command_exits_with_1_on_a_loss_only(tmp_path: Path) -> None:
    page = tmp_path / "c.html"
    found = CliRunner().invoke(app, [*same_or(1.2, tmp_path), "--json", str(tmp_path / "c.json"), "--html", str(page)])
    assert found.exit_code == 1
    assert found.output.splitlines()[0] == "slower by more than 5%: rate, 1 thread"
    assert json.loads((tmp_path / "c.json").read_text())["changes"][0]["verdict"] == "loss"
    assert "<h1>slower by more than 5%: rate, 1 thread</h1>" in page.read_text()
    assert CliRunner().invoke(app, [*same_or(1.2, tmp_path), "--threshold", "0.3"]).exit_code == 0
    good = CliRunner().invoke(app, same_or(1.0, tmp_path))
    assert good.exit_code == 0
    assert "nothing is slower by more than 5%" in good.output


def test_the_command_exits_with_2_where_nothing_can_be_told_and_names_what_is_gone(tmp_path: Path) -> None:
    three = Rounds(name="rate, 1 thread", unit="samples", items=10, seconds=(1.0, 1.0, 1.0))
    gone = replace(three, name="first batch")
    Results(rounds={three.name: three, gone.name: gone}).save(tmp_path / "before.json")
    Results(rounds={three.name: three}).save(tmp_path / "after.json")
    files = [str(tmp_path / "before.json"), str(tmp_path / "after.json")]
    found = CliRunner().invoke(app, ["bench", "--compare", *files, "--json", str(tmp_path / "c.json")])
    assert found.exit_code == 2
    assert found.output.splitlines()[0] == "too few rounds to tell, fewer than 4"
    assert "only before: first batch" in found.output
    about = json.loads((tmp_path / "c.json").read_text())
    assert (about["ok"], about["told"], about["gone"]) == (False, False, ["first batch"])
    Results(rounds={"another": replace(three, name="another")}).save(tmp_path / "after.json")
    found = CliRunner().invoke(app, ["bench", "--compare", *files])
    assert (found.exit_code, "error: nothing to compare" in found.output) == (2, True)


def test_options_that_would_change_nothing_are_refused(packed: Packed, tmp_path: Path) -> None:
    for option in (["--batch-size", "8"], ["--workers", "1"], ["--rounds", "3"], ["--seconds", "9"], ["--split", "a"]):
        done = CliRunner().invoke(app, [*same_or(1.0, tmp_path), *option])
        assert done.exit_code == 2
        assert f"error: bench: {option[0]} is for measuring" in done.output
    done = CliRunner().invoke(app, ["bench", str(packed("tar", [40])), "--threshold", "0.1", "--seconds", "0.1"])
    assert done.exit_code == 2
    assert "error: bench: --threshold is for --compare" in done.output


def test_the_page_of_a_comparison_without_losses(measured: Results) -> None:
    page = changes_to_html(compare(measured, measured))
    assert "<h1>nothing is slower by more than 5%</h1>" in page
    assert page.count("no difference that these rounds can tell") == 4


def test_results_say_of_what_they_are_and_a_comparison_what_differs(packed: Packed, measured: Results) -> None:
    setting = measured.setting
    assert setting["data"].endswith("train")
    assert (setting["samples"], setting["fields"], setting["batch_size"]) == (80, "image=Image(size=8)", 8)
    assert setting["time"].startswith("20")
    assert compare(measured, replace(measured, setting={**setting, "time": "later"})).differ == ()
    other = replace(measured, setting={**setting, "samples": 20, "split": "val"})
    assert compare(measured, other).differ == ("samples: 80 → 20", "split: None → val")


def test_changes_are_drawn_as_factors(measured: Results) -> None:
    slow = Rounds(name="rate", unit="samples", items=10, seconds=(1.0, 1.0, 1.0))
    fast = replace(slow, seconds=(0.25, 0.25, 0.25))
    before, after = (Results(rounds={"rate": each}) for each in (slow, fast))
    page = changes_to_html(compare(before, after))
    assert "the edges are × 1/4 and × 4." in page
    assert '<rect x="99.7" width=".6"' in page
    assert '<rect x="-0.3" width=".6"' in changes_to_html(compare(after, before))


def test_rounds_that_are_too_few_are_no_all_clear() -> None:
    few = Rounds(name="few", unit="samples", items=10, seconds=(1.0, 1.0, 1.0))
    enough = replace(few, name="rate", seconds=(1.0, 1.0, 1.0, 1.0))
    alone, both = Results(rounds={"few": few}), Results(rounds={"few": few, "rate": enough})
    assert sentence(compare(alone, alone)) == "too few rounds to tell, fewer than 4"
    said = "too few rounds of few to tell, fewer than 4; nothing else is slower by more than 2.5%"
    assert sentence(compare(both, both, 0.025)) == said
    assert f"<h1>{said}</h1>" in changes_to_html(compare(both, both, 0.025))


def test_the_command_wants_one_thing_to_do() -> None:
    done = CliRunner().invoke(app, ["bench"])
    assert done.exit_code == 2
    assert "error: bench: name a data set to measure, or two files with --compare" in done.output
