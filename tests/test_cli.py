"""The command line: what each command prints, its exit codes, and that an error is one line."""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from PIL import Image as PillowImage
from rich.text import Text
from typer.testing import CliRunner, Result

import fastload.pack
from fastload import __version__
from fastload.cli import app
from fastload.cli.looking import FAULTS_SHOWN
from fastload.shards.index import IndexFile


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def program(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The real thing, in its own process."""
    command = [sys.executable, "-m", "fastload.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve small pictures of two classes."""
    rng = np.random.default_rng(0)
    for row in range(12):
        path = tmp_path / "photos" / ("cat", "dog")[row % 2] / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PillowImage.fromarray(rng.integers(0, 255, (8, 8 + row, 3), np.uint8)).save(path)
    return tmp_path / "photos"


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """Three sounds of 0.5, 1 and 1.5 s."""
    for row in range(3):
        path = tmp_path / "sounds" / f"{row}.wav"
        path.parent.mkdir(exist_ok=True)
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes(bytes(2 * 4000 * (row + 1)))
    return tmp_path / "sounds"


@pytest.fixture
def packed(photos: Path, tmp_path: Path) -> Path:
    assert run("pack", photos, tmp_path / "out", "--quiet", "--workers", 1).exit_code == 0
    return tmp_path / "out"


def test_a_folder_goes_the_whole_way_as_a_program(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = program("pack", photos, out, "--split", "train=0.75,val=0.25", "--seed", 3, "--workers", 1)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("packed 12 samples (train ")
    assert f" as 2 tar files, 26.5 KiB, into {out}, " in done.stdout
    done = program("inspect", out)
    assert (done.returncode, done.stderr) == (0, "")
    for text in ("width 8 to 19; height 8", "2 classes", "cat", "dog", "label in train", "label in val"):
        assert text in done.stdout
    done = program("verify", out, "--decode")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("all whole: 12 samples in 2 shards, ")
    assert ", decoded, " in done.stdout


def test_errors_are_one_line_and_set_the_exit_code(tmp_path: Path) -> None:
    done = program("inspect", tmp_path / ("folder" * 30))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: {tmp_path}/{'folder' * 30} does not exist\n"
    failed = run("verify", tmp_path)
    assert (failed.exit_code, failed.stdout) == (1, "")
    assert failed.stderr.count("\n") == 1
    assert failed.stderr.startswith(f"error: {tmp_path}/index.json does not exist: packing was not finished")
    refused = run("inspect", "s3://bucket/*.tar")
    assert (refused.exit_code, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    assert refused.stderr.startswith("error: data='s3://bucket/*.tar': stores are not listed")
    usage = run("pack", tmp_path)
    assert (usage.exit_code, usage.stdout) == (2, "")
    assert "Missing argument 'out'" in usage.stderr


def test_what_the_system_refuses_is_one_line(packed: Path, tmp_path: Path) -> None:
    for path, why in ((tmp_path / "missing/x.html", "No such file"), (packed / "index.json/x.html", "Not a directory")):
        failed = run("inspect", packed, "--html", path)
        assert (failed.exit_code, failed.stdout, failed.stderr.count("\n")) == (1, "", 1)
        assert failed.stderr.startswith(f"error: {path} cannot be read or written ({why}")
    assert run("inspect", packed, "--html", tmp_path).exit_code == 2
    assert not list(tmp_path.parent.glob(f"{tmp_path.name}.*"))
    (tmp_path / "index.json").mkdir()
    failed = run("verify", tmp_path)
    assert (failed.exit_code, failed.stderr) == (1, f"error: {tmp_path}/index.json cannot be read (Is a directory)\n")


def test_no_space(packed: Path) -> None:
    """Of files no larger than some bytes; what was begun is gone."""
    shard = packed / "train/shard-000000.tar"
    os.truncate(shard, shard.stat().st_size - 5000)
    before = sorted(packed.rglob("*"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
    try:
        failed = run("repair", packed, "--quiet")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (failed.exit_code, failed.stdout, failed.stderr.count("\n")) == (1, "", 1)
    assert failed.stderr.startswith(f"error: no space for {shard} (File too large); make space and run it again")
    assert sorted(packed.rglob("*")) == before


def test_help_is_quick_to_load() -> None:
    slow = {"PIL", "kornia", "numpy", "pyarrow", "torch", "torchaudio"}
    code = f"import sys, fastload.cli; print(sorted({slow} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    helped = run("--help")
    assert helped.exit_code == 0
    for command in ("pack", "index", "inspect", "verify", "demo"):
        assert command in helped.stdout
        assert run(command, "--help").exit_code == 0


def test_version() -> None:
    assert run("--version").stdout == f"fastload {__version__}\n"


def test_help_is_shown_as_it_is_written() -> None:
    """Rich takes [words] for styles and :words: for pictures."""
    for command in typer.main.get_command(app).commands.values():  # type: ignore[attr-defined]
        for text in (command.help, *(option.help for option in command.params)):
            assert text is None or Text.from_markup(text).plain == text


def test_no_arguments_show_the_help() -> None:
    assert "Usage" in run().output


def test_options_of_pack_reach_the_packer(tmp_path: Path) -> None:
    rows = "".join(f"{row},{'no' if row % 2 else 'yes'},text {row}\n" for row in range(40))
    (tmp_path / "table.csv").write_text("id,answer,question\n" + rows)
    out = tmp_path / "out"
    options = ["--columns", "prompt:question,answer", "--shard-size", "4KiB", "--format", "tar", "--no-shuffle", "-q"]
    done = run("pack", tmp_path / "table.csv", out, *options, "--seed", 5, "--workers", 1)
    assert (done.exit_code, done.output) == (0, "")
    made = IndexFile.load(out / "index.json")
    assert list(made.fields) == ["prompt", "answer"]
    assert len(made.shards) > 5
    assert all(shard.bytes <= 4096 or shard.samples == 1 for shard in made.shards)
    assert made.packed["options"] | {"seed": 5, "shuffle": False} == made.packed["options"]


def test_parquet_and_label_regex(sounds: Path, tmp_path: Path) -> None:
    done = run("pack", sounds, tmp_path / "out", "--format", "parquet", "--label-regex", r"^(\d)", "--kind", "audio")
    assert done.exit_code == 0
    assert done.stdout.startswith("packed 3 samples (train 3) as 1 parquet files, ")
    about = json.loads(run("inspect", tmp_path / "out", "--json").stdout)
    assert about["shard_format"] == "parquet"
    train = about["splits"]["train"]
    assert (train["samples"], train["files"], train["shards"]) == (3, 1, 1)
    assert train["classes"] == {"label": {"0": 1, "1": 1, "2": 1}}
    assert train["ranges"]["audio.seconds"] == [0.5, 1.5]
    assert train["ranges"]["audio.frames"] == [4000, 12000]
    assert "seconds 0.5 to 1.5" in run("inspect", tmp_path / "out").stdout


@pytest.mark.parametrize(
    ("option", "value"), [("--format", "zip"), ("--seed", "x"), ("--kind", "video"), ("--workers", "0"),
                          ("--split", "train=2"), ("--shard-size", "big")],
)  # fmt: skip
def test_wrong_options_of_pack_are_usage_errors(photos: Path, tmp_path: Path, option: str, value: str) -> None:
    done = run("pack", photos, tmp_path / "out", option, value)
    assert done.exit_code == 2
    assert option.strip("-").replace("-", "_") in done.stderr.replace("-", "_")
    assert not (tmp_path / "out" / "index.json").exists()


def test_an_interrupted_run_says_how_it_goes_on(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fastload.pack, "pack", interrupted)
    done = run("pack", photos, tmp_path / "out")
    assert done.exit_code == 130
    assert done.stderr.startswith("interrupted; the same command goes on with what is finished in")


def test_a_missing_source_is_an_error(tmp_path: Path) -> None:
    done = run("pack", tmp_path / "no", tmp_path / "out")
    assert done.exit_code == 1
    assert done.stderr.startswith("error: ")
    assert str(tmp_path / "no") in done.stderr


def test_index_makes_an_index(packed: Path) -> None:
    for path in (packed / "index.json", packed / "train/shard-000000.idx"):
        path.unlink()
    done = run("index", packed)
    assert done.exit_code == 0
    assert done.stdout.startswith("indexed 12 samples (train 12) as 1 tar files, ")
    assert run("verify", packed).exit_code == 0
    assert run("index", packed, "-q").output == ""


def test_what_is_left_out_is_one_warning(tmp_path: Path) -> None:
    for name in ("a", "b"):
        pq.write_table(pa.table({"x": [1], "odd": [{"k": 1}]}), tmp_path / f"{name}.parquet")
    done = run("index", tmp_path)
    assert done.exit_code == 0
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("warning: Parquet column 'odd' is left out: no field kind holds struct<k: int64>")


def test_inspect_takes_every_name_of_data(packed: Path) -> None:
    by_folder = json.loads(run("inspect", packed, "--json").stdout)
    by_pattern = json.loads(run("inspect", packed / "train" / "*.tar", "--json").stdout)
    by_split = json.loads(run("inspect", packed, "--split", "train", "--json").stdout)
    assert by_folder["splits"]["train"]["classes"] == {"label": {"cat": 6, "dog": 6}}
    assert by_folder["splits"] == by_split["splits"] == {"train": by_pattern["splits"]["all"]}
    assert by_folder["packed"]["source"] == "photos"
    assert run("inspect", packed, "--split", "test").exit_code == 1


def test_a_page_and_json_are_asked_for_one_at_a_time(packed: Path, tmp_path: Path) -> None:
    done = run("inspect", packed, "--html", tmp_path / "x.html", "--json")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--html and --json are two ways" in done.stderr
    assert not (tmp_path / "x.html").exists()


def test_only_the_most_frequent_classes_are_shown(tmp_path: Path) -> None:
    labels = [label for label in range(30) for _ in range(label + 1)]
    pq.write_table(pa.table({"label": labels, "id": list(range(len(labels)))}), tmp_path / "a.parquet")
    about = run("inspect", tmp_path / "a.parquet").stdout
    assert "label in all: 30 classes, the 20 most frequent" in about
    rows = [line.split() for line in about.splitlines()]
    assert ["29", "30", "6.5%"] in rows
    assert ["10", "11", "2.4%"] in rows
    assert not any(row[:2] == ["9", "10"] for row in rows)


def test_many_numbers_are_a_range_and_no_classes(tmp_path: Path) -> None:
    scores = [math.nan, *[0.5] * 1999]
    pq.write_table(pa.table({"id": list(range(2000)), "score": scores}), tmp_path / "a.parquet")
    (found,) = json.loads(run("inspect", tmp_path, "--json").stdout)["splits"].values()
    assert found["classes"] == {}
    assert found["ranges"] == {"id": [0, 1999], "score": [0.5, 0.5]}, "what is not a number is in no range"


def test_brackets_in_names_are_shown_as_they_are(tmp_path: Path) -> None:
    pq.write_table(pa.table({"[red]x": ["a"]}), tmp_path / "[bold]a.parquet")
    done = run("inspect", tmp_path / "[bold]a.parquet")
    assert "[bold]a.parquet" in done.stdout
    assert "[red]x" in done.stdout


def test_verify_names_faults_and_fails(packed: Path) -> None:
    tar = packed / "train/shard-000000.tar"
    content = bytearray(tar.read_bytes())
    content[600] ^= 1
    tar.write_bytes(content)
    done = run("verify", packed)
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert lines[0].startswith("train/shard-000000.tar: checksum ")
    assert lines[1].startswith("train/shard-000000.tar, offset 0, sample '")
    assert lines[2].startswith("2 faults: 12 samples in 1 shards, ")
    assert run("verify", packed, "--quiet").stdout.splitlines() == lines[:2]
    about = json.loads(run("verify", packed, "--json").stdout)
    assert (about["ok"], about["samples"], len(about["faults"])) == (False, 12, 2)
    assert about["faults"][1]["offset"] == 0


def test_a_flood_of_faults_is_cut(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("".join(f"line {row}\n" for row in range(50)))
    assert run("pack", tmp_path / "lines.txt", tmp_path / "out", "-q", "--workers", 1).exit_code == 0
    tar = tmp_path / "out/train/shard-000000.tar"
    tar.write_bytes(bytes(tar.stat().st_size))
    lines = run("verify", tmp_path / "out").stdout.splitlines()
    assert len(lines) == FAULTS_SHOWN + 2
    assert lines[-2] == f"train/shard-000000.tar: and {51 - FAULTS_SHOWN} more"
    assert lines[-1].startswith("51 faults: 50 samples")
