"""`fastload profile` as it is typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from typer.testing import CliRunner

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
