"""The README's Python runs as it stands, from its first block to its last, in a folder with photos/<class>/*.jpg; its
commands are understood; and what is public is in it."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from typer.testing import CliRunner

import fastload
from fastload.cli import app
from fastload.demo.samples import make_images
from fastload.pack.manifest import parse_columns
from fastload.shards.index import FieldInfo

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = [line.strip() for line in README.splitlines() if line.startswith("    fastload ")]
# where each command's work begins, once its arguments are known to be right
WORK = (
    ("fastload.describe", "describe"),
    ("fastload.describe.page", "save_page"),
    ("fastload.inspect", "summary"),
    ("fastload.verify", "verify"),
    ("fastload.reshape", "append"),
    ("fastload.reshape", "merge"),
    ("fastload.reshape", "repair"),
    ("fastload.shards.open", "index_folder"),
    ("fastload.pack.convert", "convert"),
    ("fastload.outlook", "check"),
    ("fastload.previews", "preview"),
    ("fastload.loader", "DataLoader"),
    ("fastload.profile.script", "profile_script"),
    ("fastload.bench", "run"),
    ("fastload.bench", "compare"),
)


class Reached(Exception):
    """A command has read its arguments, and would begin to work."""


def test_the_code_of_the_readme_runs(tmp_path: Path) -> None:
    list(make_images(tmp_path / "photos", samples=240, seed=0))
    assert len(BLOCKS) >= 5
    (training,) = [block for block in BLOCKS if "last.pt" in block]
    ending = f"""
assert images.shape[1:] == (3, 96, 96) and str(images.dtype) == "torch.float32" and str(labels.dtype) == "torch.int64"
assert sum(len(batch["label"]) for batch in streamed) == sum(len(batch["label"]) for batch in indexed) > 190
saved = torch.load("last.pt")["loader"]["consumed"]
exec({training!r})
samples = loader.dataset.samples
assert samples < saved < 2 * samples and number == (2 * samples - saved) // 32
"""
    code = "\n".join([*BLOCKS, ending])
    assert code.count("seconds=5)") == 1  # of what is measured, here for less long
    (tmp_path / "readme.py").write_text(code.replace("seconds=5)", "seconds=0.5)"))
    done = subprocess.run(
        [sys.executable, "-W", "error", "readme.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "samples/s" in done.stdout


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands come as far as their work, in a folder with train.py."""

    def reached(*arguments: object, **options: object) -> NoReturn:
        raise Reached

    def opened(source: object, *, columns: Any, **options: object) -> NoReturn:
        parse_columns(columns)
        raise Reached

    kinds = {"image": FieldInfo(kind="image"), "mask": FieldInfo(kind="image"), "label": FieldInfo(kind="scalar")}
    for module, name in WORK:
        monkeypatch.setattr(importlib.import_module(module), name, reached)
    monkeypatch.setattr(importlib.import_module("fastload.bench").Results, "load", reached)
    monkeypatch.setattr(
        importlib.import_module("fastload.shards.open"), "open_index", lambda *_: SimpleNamespace(fields=kinds)
    )
    monkeypatch.setattr(importlib.import_module("fastload.pack.job"), "open_source", opened)
    monkeypatch.setattr(importlib.import_module("fastload.pack.target").Target, "refuse_existing", lambda _: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("augment = []\n")


@pytest.mark.usefixtures("stopped")
def test_the_commands_of_the_readme_are_understood() -> None:
    assert len(COMMANDS) > 40
    for line in COMMANDS:
        done = CliRunner().invoke(app, shlex.split(line, comments=True)[1:])
        assert isinstance(done.exception, Reached), f"{line}\n{done.output or done.exception!r}"


@pytest.mark.usefixtures("stopped")
def test_a_command_that_would_always_fail_is_found() -> None:
    for line in ("pack a b --group-by series", "pack a b --columns ,", "stats", "preview a --out b --augment b.py:ops"):
        assert isinstance(CliRunner().invoke(app, line.split()).exception, SystemExit)


def test_what_is_public_is_in_the_readme() -> None:
    names = {"fastload": fastload.__all__}
    names |= {module: importlib.import_module(module).__all__ for module in ("fastload.augment", "fastload.samplers")}
    for made in (fastload.DataLoader, fastload.StreamingDataset):
        names[made.__name__] = list(inspect.signature(made).parameters)
    missing = [
        f"{of}: {name}"
        for of, all_of in names.items()
        for name in all_of
        if not name.startswith("_") and not re.search(rf"\b{name}\b", README)
    ]
    assert not missing


def test_what_is_said_of_verdicts_was_measured() -> None:
    cases = json.loads((ROOT / "benchmarks/results/bottlenecks.json").read_text())["cases"].values()
    said = " ".join(README.split())
    assert f"All {sum(case['profiles'] for case in cases)} verdicts named it" in said
    assert {case["named"] for case in cases} == {1.0}
    assert min(case["advice_within"] for case in cases) >= 19 / 20
    servers = json.loads((ROOT / "benchmarks/results/servers.json").read_text())["servers"].values()
    assert f"all {sum(server['profiles'] for server in servers)} profiles named the server" in said
    assert {server[what] for server in servers for what in ("named", "rate_within", "advice_within")} == {1.0}
    took = json.loads((ROOT / "benchmarks/results/profile.json").read_text())["benchmarks"]
    alone, stepped = (round(statistics.median(each["extra_info"]["seconds"])) for each in took)
    assert f"took {alone} s of a loader alone and {stepped} s with a step of half a second" in said
