"""A training script profiled as it is."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch.distributed
import torch.utils.data
from slowed import SHARDS
from typer.testing import CliRunner

from fastload.cli import app
from fastload.errors import ConfigError
from fastload.loader import DataLoader
from fastload.profile.script import profile_script

Packed = Callable[..., Path]

TRAIN = """
import sys, time
import helper
import fastload

def main():
    data, seconds = sys.argv[1], float(sys.argv[2])
    fields = {"image": fastload.Image(8), "label": fastload.Scalar()}
    check = fastload.DataLoader(data, 4, fields=fields)
    if helper.LOOKS_FIRST in sys.argv:
        for batch in check:
            assert len(batch["label"]) == 4
    loader = fastload.DataLoader(data, 8, fields=fields, as_tuple=("image", "label"), num_workers=1)
    try:
        for epoch in range(10_000):
            for images, labels in loader:
                try:
                    assert images.shape == (8, 3, 8, 8)
                    assert labels.dtype.is_floating_point is False
                    time.sleep(seconds)
                except Exception as error:
                    sys.exit(f"the step failed: {error}")
    finally:
        print("tidied up")

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "helper.py").write_text("LOOKS_FIRST = 'looks-first'\n")
    (tmp_path / "train.py").write_text(TRAIN)
    return tmp_path / "train.py"


@pytest.fixture(autouse=True)
def _as_before() -> object:
    before = sys.argv, list(sys.path), DataLoader.__iter__
    yield
    assert (sys.argv, sys.path, DataLoader.__iter__) == before
    sys.modules.pop("helper", None)
    return None


def test_the_step_is_what_the_script_does_between_two_batches(
    script: Path, packed: Packed, capsys: pytest.CaptureFixture[str]
) -> None:
    found = profile_script(script, [str(packed("tar", [96])), "0.01"], seconds=0.5)
    assert found.verdict.limit == "step"
    assert found.model.stage_ms["step"] >= 10
    assert found.rungs[0].batch_ms >= 10
    assert found.setting["batch_size"] == 8
    assert capsys.readouterr().out == "tidied up\n", "the script ends in its loop, as if interrupted"


def test_another_loader_of_the_script(script: Path, packed: Packed) -> None:
    arguments = [str(packed("tar", [96])), "0.001", "looks-first"]
    first = profile_script(script, arguments, seconds=0.3)
    assert first.setting["batch_size"] == 4
    second = profile_script(script, arguments, seconds=0.3, loader=2)
    assert (second.setting["batch_size"], second.setting["num_workers"]) == (8, 1)
    with pytest.raises(ConfigError, match="--loader 0: loaders are counted from 1"):
        profile_script(script, arguments, loader=0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import fastload", r"ended after iterating over 0 fastload.DataLoader\(s\), and number 1 was to be"),
        ("raise SystemExit(0)", "it has to run `for batch in loader:` in this process"),
        (
            "import fastload\nloader = fastload.DataLoader({data!r}, 8)\nfor n in range(3):\n    next(iter(loader))",
            "left its 3 loops after 3 batches, before the profile had what it needs",
        ),
        (
            "import torch.utils.data\nfor n in torch.utils.data.DataLoader(range(3)): pass",
            r"over 0 fastload.DataLoader\(s\), and over torch's own, which are not profiled, and number 1 was",
        ),
        (
            "import fastload\nfor n, batch in enumerate(fastload.DataLoader({data!r}, 8)):\n    if n == 2: break",
            "left its loop after 3 batches, before the profile had what it needs",
        ),
    ],
)
def test_a_script_without_a_long_loop_is_refused(tmp_path: Path, packed: Packed, text: str, said: str) -> None:
    (tmp_path / "short.py").write_text(text.format(data=str(packed("tar", [96]))))
    with pytest.raises(ConfigError, match=said):
        profile_script(tmp_path / "short.py", seconds=5)


def test_what_the_script_raises_comes_through(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise KeyError('its own')")
    with pytest.raises(KeyError, match="its own"):
        profile_script(tmp_path / "broken.py")
    (tmp_path / "leaves.py").write_text("raise SystemExit('wrong arguments')")
    with pytest.raises(SystemExit, match="wrong arguments"):
        profile_script(tmp_path / "leaves.py")
    with pytest.raises(ConfigError, match=r"absent\.py: no such file"):
        profile_script(tmp_path / "absent.py")


def test_what_the_script_raises_when_it_is_ended_does_not_lose_the_profile(tmp_path: Path, packed: Packed) -> None:
    text = """
import fastload
try:
    while True:
        for batch in fastload.DataLoader({data!r}, 8):
            pass
finally:
    raise OSError("nothing to save")
"""
    (tmp_path / "saves.py").write_text(text.format(data=str(packed("tar", [96]))))
    found = profile_script(tmp_path / "saves.py", seconds=0.3)
    assert "When it was ended, the script raised OSError: nothing to save" in str(found)


def test_a_loop_that_is_left_is_gone_on_with_and_what_lies_between_is_no_step(
    tmp_path: Path, packed: Packed, capsys: pytest.CaptureFixture[str]
) -> None:
    text = """
import time
from itertools import islice
import fastload
loader = fastload.DataLoader({data!r}, 8, num_workers=1)
for epoch in range(300):
    for batch in islice(loader, 3):
        time.sleep(0.01)
    time.sleep(0.06)  # it evaluates, say
    print(epoch)
"""
    (tmp_path / "counts.py").write_text(text.format(data=str(packed("tar", [96]))))
    found = profile_script(tmp_path / "counts.py", seconds=0.3)
    epochs = len(capsys.readouterr().out.split())
    assert 3 < epochs < 200
    assert f"The script looped {epochs + 1} times" in found.notes[-1]
    assert found.verdict.limit == "step"
    assert 10 <= found.model.stage_ms["step"] < 22, "30 with its share of what lies between"
    assert 10 <= found.model.batch_ms < 22
    assert all(10 <= rung.batch_ms < 22 for rung in found.rungs)


def test_what_follows_a_first_batch_that_was_taken_alone_is_its_step(tmp_path: Path, packed: Packed) -> None:
    text = """
import time
import fastload
loader = fastload.DataLoader({data!r}, 8)
while True:
    batch = next(iter(loader))
    time.sleep(0.01)
"""
    (tmp_path / "takes.py").write_text(text.format(data=str(packed("tar", [96]))))
    found = profile_script(tmp_path / "takes.py", seconds=0.3)
    assert found.verdict.limit == "step"
    assert 10 <= found.model.stage_ms["step"] < 22
    assert "what it did until the next counts as the step" in found.notes[-1]


def test_threads_that_wait_between_loops_are_not_idle(tmp_path: Path, packed: Packed) -> None:
    text = """
import time
import fastload
from itertools import islice
from slowed import Slowed
loader = fastload.DataLoader(Slowed({data!r}, "decode"), 8, num_workers=1)
while True:
    for batch in islice(loader, 4):
        pass
    time.sleep(0.3)
"""
    (tmp_path / "waits.py").write_text(text.format(data=str(packed("tar", SHARDS))))
    found = profile_script(tmp_path / "waits.py", seconds=0.6)
    assert found.stats.idle_seconds < 0.3 * found.stats.thread_seconds


def test_the_loaders_stats_count_while_it_is_profiled(tmp_path: Path, packed: Packed) -> None:
    text = """
import fastload
loader = fastload.DataLoader({data!r}, 8)
for number, batch in enumerate(loader):
    stats = loader.stats()
    assert 0 < stats.waiting_seconds / stats.consumer_seconds <= 1
    assert (stats.batches, stats.samples) == (number + 1, 8 * (number + 1))
"""
    (tmp_path / "looks.py").write_text(text.format(data=str(packed("tar", [96]))))
    assert profile_script(tmp_path / "looks.py", seconds=0.2).rungs


def test_what_the_script_raises_has_a_note_of_what_it_was_given(tmp_path: Path, packed: Packed) -> None:
    text = """
import fastload
for number, batch in enumerate(fastload.DataLoader({data!r}, 8, num_workers=1)):
    if number == 5:
        raise ValueError("a schedule of 5 steps is over")
"""
    (tmp_path / "plans.py").write_text(text.format(data=str(packed("tar", [96]))))
    with pytest.raises(ValueError, match="a schedule of 5 steps is over") as caught:
        profile_script(tmp_path / "plans.py", seconds=5)
    said = "fastload profile had given it 6 batches, real, repeated and made-up ones, in place of an epoch's"
    assert caught.value.__notes__ == [said]
    assert not [each.name for each in threading.enumerate() if each.name.startswith("fastload-")]


def test_several_ranks_are_refused(script: Path, packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "import fastload\nfor batch in fastload.DataLoader({data!r}, 8): pass"
    script.write_text(text.format(data=str(packed("tar", [96]))))
    for name, value in (("is_initialized", True), ("get_world_size", 2), ("get_rank", 0)):
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    with pytest.raises(ConfigError, match=r"on 2 ranks: .*torchrun --nproc-per-node 1 -m fastload\.cli profile"):
        profile_script(script, seconds=0.3)


def test_a_loader_of_torchs_own_is_said_to_be_passed_over(
    tmp_path: Path, packed: Packed, caplog: pytest.LogCaptureFixture
) -> None:
    text = """
import fastload, torch.utils.data
for _ in range(2):
    assert [int(n) for n in torch.utils.data.DataLoader(range(2))] == [0, 1]
while True:
    for batch in fastload.DataLoader({data!r}, 8):
        next(iter(torch.utils.data.DataLoader(range(2))))
"""
    (tmp_path / "both.py").write_text(text.format(data=str(packed("tar", [96]))))
    before = torch.utils.data.DataLoader.__iter__
    with caplog.at_level("INFO", logger="fastload.profile"):
        profile_script(tmp_path / "both.py", seconds=0.2)
    (said,) = [each.getMessage() for each in caplog.records if each.name == "fastload.profile.script"]
    assert said.startswith("the script iterates over a torch.utils.data.DataLoader, which is not profiled")
    assert torch.utils.data.DataLoader.__iter__ is before


def test_the_command_profiles_a_script_and_tries_what_it_advises(script: Path, packed: Packed, tmp_path: Path) -> None:
    arguments = ["--script", str(script), "--args", f"'{packed('tar', [96])}' 0.01", "--seconds", "0.3", "--try"]
    done = CliRunner().invoke(app, ["profile", *arguments, "--html", str(tmp_path / "p.html")])
    assert done.exit_code == 0, done.output
    assert "your step limits" in done.output
    neither = CliRunner().invoke(app, ["profile"])
    assert neither.exit_code == 2
    assert "error: profile: name a data set, or a training script with --script" in neither.output
