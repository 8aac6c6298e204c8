"""How long a profile takes that is given the seconds of the default: of a loader alone, and with a step that is slower
than it, whose few batches make every measurement longer."""

from __future__ import annotations

import inspect
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import image_folder

import fastload
from fastload.profile import profile

SECONDS = inspect.signature(profile).parameters["seconds"].default
STEPS = {"no step": None, "a step of 0.5 s": lambda batch: time.sleep(0.5)}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("profile")
    fastload.pack(image_folder(folder / "photos", None, 1024), folder / "shards")
    return folder / "shards"


@pytest.mark.parametrize("step", STEPS)
def test_duration(benchmark: Any, shards: Path, step: str, capsys: pytest.CaptureFixture[str]) -> None:
    seconds: list[float] = []

    def run() -> None:
        fields = {"image": fastload.Image(224, crop="random"), "label": fastload.Scalar()}
        loader = fastload.DataLoader(shards, batch_size=64, fields=fields, num_workers=2)
        started = time.perf_counter()
        profile(loader, STEPS[step])
        seconds.append(time.perf_counter() - started)

    benchmark.pedantic(run, rounds=4, iterations=1)
    benchmark.extra_info.update(unit="seconds", meant_seconds=SECONDS, seconds=seconds)
    with capsys.disabled():
        took = f"{np.median(seconds):.1f} s (at most {max(seconds):.1f})"
        print(f"\n  a profile meant to take {SECONDS:g} s, {step}: {took}")
