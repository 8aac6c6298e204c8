"""`fastload profile` as it is typed."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner
from webserver import Server

from fastload.cli import app

Packed = Callable[..., Path]


def test_the_command_prints_the_verdict_first_and_writes_files(packed: Packed, tmp_path: Path) -> None:
    arguments = ["--fields", "image:16:random,label", "--batch-size", "8", "--num-workers", "1", "--seconds", "0.5"]
    files = ["--json", str(tmp_path / "p.json"), "--html", str(tmp_path / "p.html")]
    done = CliRunner().invoke(app, ["profile", str(packed("tar", [40])), *arguments, *files])
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "p.json").read_text())
    assert done.output.splitlines()[0] == found["sentence"]
    assert found["setting"] == {**found["setting"], "batch_size": 8, "num_workers": 1, "device": "cpu"}
    assert found["sentence"] in (tmp_path / "p.html").read_text()


def test_a_field_that_the_data_lacks_is_one_red_line(packed: Packed) -> None:
    done = CliRunner().invoke(app, ["profile", str(packed("tar", [40])), "--fields", "picture"])
    assert done.exit_code == 2
    assert "error: --fields 'picture': no field 'picture' in the data" in done.output


def test_a_file_that_cannot_be_written_is_refused_before_measuring(packed: Packed, tmp_path: Path) -> None:
    data = str(packed("tar", [40]))
    for command in ("profile", "bench"):
        for path, why in ((tmp_path / "none/x.html", "there is no folder"), (tmp_path, "directory")):
            done = CliRunner().invoke(app, [command, data, "--seconds", "600", "--html", str(path)])
            assert done.exit_code == 2
            assert why in " ".join(done.output.split())


def test_options_of_the_data_are_refused_beside_a_script(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("")
    for option in (["--batch-size", "8"], ["--workers", "2"], ["--augment", "RandomHorizontalFlip"]):
        done = CliRunner().invoke(app, ["profile", "--script", str(script), *option])
        assert done.exit_code == 2
        assert "is the script's own business" in " ".join(done.output.split())


def test_options_of_a_script_are_refused_beside_data(packed: Packed) -> None:
    for option in (["--args", "90"], ["--loader", "2"]):
        done = CliRunner().invoke(app, ["profile", str(packed("tar", [40])), "--seconds", "0.3", *option])
        assert done.exit_code == 2
        assert f"error: profile: {option[0]} is for a training script" in done.output


def test_a_quote_that_is_not_closed_is_one_red_line(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("")
    done = CliRunner().invoke(app, ["profile", "--script", str(script), "--args", "it's"])
    assert done.exit_code == 2
    assert '--args "it\'s": no closing quotation; ' in done.output


def test_a_page_that_cannot_be_made_is_refused_before_measuring(
    packed: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    for command in ("profile", "bench"):
        page = ["--html", str(tmp_path / "x.html")]
        done = CliRunner().invoke(app, [command, str(packed("tar", [40])), "--seconds", "0.3", *page])
        assert done.exit_code == 1
        assert "an HTML report needs jinja2, which is not installed" in done.output
        assert "samples/s" not in done.output


def test_a_loader_is_profiled_as_it_would_be_used(packed: Packed, tmp_path: Path) -> None:
    arguments = ["--fields", "image:16", "--batch-size", "8", "--workers", "1", "--seconds", "0.3", "--window", "all"]
    more = ["--augment", "RandomVerticalFlip", "--prefetch-factor", "3", "--json", str(tmp_path / "p.json")]
    done = CliRunner().invoke(app, ["profile", str(packed("tar", [40])), *arguments, *more])
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "p.json").read_text())
    assert found["setting"]["prefetch_factor"] == 3
    assert "augment" in [each["stage"] for each in found["capacities"]]
    assert found["about"]["fields"] == {"image": "Image(size=16)"}


def test_what_is_fetched_before_is_said_on_standard_error(
    packed: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with Server(packed("tar", [40])) as server:
        arguments = ["--fields", "label", "--batch-size", "8", "--workers", "0", "--seconds", "0.3"]
        done = CliRunner().invoke(app, ["profile", server.url, *arguments])
    assert done.exit_code == 0, done.output
    (said,) = [line for line in done.stderr.splitlines() if "before anything is measured" in line]
    assert said.startswith("fetching 2 objects of a server, ")
    assert "before anything is measured" not in done.stdout
    assert logging.getLogger("fastload.profile").handlers == []
