"""What measuring costs: the same epoch with the meter on and off, in turn; a ratio of 0.99 is a cost of 1%.

Off, a change of stage is a call that does nothing, which is a tenth of what it takes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import image_folder, record_folder

import fastload
from fastload.meter import Clock, Meter

LENGTH = 2048


@contextmanager
def unmeasured() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Clock, "enter", lambda self, stage: None)
        patch.setattr(Clock, "passed", lambda self, items, contents: None)
        patch.setattr(Meter, "asked", lambda self, ready: None)
        yield


def tokens(folder: Path) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return ({"tokens": rng.integers(0, 50_257, LENGTH, np.int32)} for _ in range(8_192))


def labels(folder: Path) -> Iterator[dict[str, Any]]:
    return ({"label": i % 7} for i in range(200_000))


CASES: dict[str, tuple[Callable[[Path], Any], int, dict[str, Any] | None]] = {
    "tokens": (tokens, 32, {"tokens": fastload.Tokens(LENGTH)}),
    "labels": (labels, 64, None),
    "records": (lambda folder: record_folder(folder, 20_000), 64, {"image": fastload.Bytes()}),
    "images": (lambda folder: image_folder(folder, None, 512), 64, {"image": fastload.Image(224, crop="random")}),
}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("name", CASES)
def test_meter(tmp_path: Path, paired: Callable[..., float], name: str, workers: int) -> None:
    make, batch_size, fields = CASES[name]
    fastload.pack(make(tmp_path / "raw"), tmp_path / "packed")
    loader = fastload.DataLoader(tmp_path / "packed", batch_size, fields=fields, num_workers=workers)

    def on() -> None:
        for _ in loader:
            pass

    def off() -> None:
        with unmeasured():
            on()

    paired(on, off, items=len(loader), unit="batches", rounds=15, reference_name="without the meter")
