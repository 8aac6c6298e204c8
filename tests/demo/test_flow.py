from __future__ import annotations

import random
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from fastload.demo import DemoResult, run
from fastload.errors import ConfigError


def quietly(kind: str, out: Path, **options: int) -> tuple[DemoResult, str]:
    console = Console(file=StringIO(), width=120)
    result = run(kind, out, device="cpu", console=console, **options)  # type: ignore[arg-type]
    assert isinstance(console.file, StringIO)
    return result, console.file.getvalue()


# samples, epochs and the least accuracy: far less work than the demos' own, which reach 98%; a guess has 1 in 8
SMALL = {"image": (640, 4, 0.17), "audio": (640, 4, 0.6), "text": (1200, 6, 0.9)}


@pytest.mark.parametrize("kind", SMALL)
def test_a_demo_learns_its_samples_and_draws_what_it_saw(kind: str, tmp_path: Path) -> None:
    samples, epochs, accuracy = SMALL[kind]
    result, told = quietly(kind, tmp_path / "out", samples=samples, epochs=epochs)
    assert result.accuracy >= accuracy
    assert [epoch.number for epoch in result.epochs] == list(range(1, epochs + 1))
    assert result.batch_picture.stat().st_size > 10_000
    assert result.curve_picture.stat().st_size > 10_000
    assert (result.shards / "index.json").is_file()
    assert f"made     {samples:,} samples" in told
    assert f"accuracy {result.accuracy:.1%}" in told


def test_the_seed_decides_the_training_at_any_number_of_workers(tmp_path: Path) -> None:
    losses = [
        quietly("image", tmp_path, samples=160, epochs=1, workers=workers)[0].epochs[0].loss for workers in (0, 2)
    ]
    # torch's own threads, fewer beside more decode threads, add up in another order
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_the_users_random_state_and_threads_stay(tmp_path: Path) -> None:
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # noqa: NPY002
    threads = torch.get_num_threads()
    quietly("text", tmp_path, samples=256, epochs=1)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before  # noqa: NPY002
    assert torch.get_num_threads() == threads


def test_a_folder_of_an_earlier_demo_is_made_anew_and_another_is_refused(tmp_path: Path) -> None:
    quietly("text", tmp_path / "out", samples=512, epochs=1)
    quietly("audio", tmp_path / "out", samples=128, epochs=1)
    assert not (tmp_path / "out" / "samples" / "sentences.csv").exists()
    assert len(list((tmp_path / "out" / "samples").rglob("*.wav"))) == 128
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("irreplaceable")
    with pytest.raises(ConfigError, match=r"mine is not empty and no demo made it; pass another folder"):
        quietly("text", tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("video", {}, r"demo 'video': pass one of 'image', 'audio', 'text'"),
        ("text", {"samples": 100}, r"demo: 100 samples; make at least 128"),
        ("text", {"epochs": 0}, r"demo: 0 epochs; train for at least 1"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_made(
    kind: str, options: dict[str, int], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        quietly(kind, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
