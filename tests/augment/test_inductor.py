"""Chains compiled to machine code. On a CPU it takes a minute, most of it in the C++ compiler."""

from __future__ import annotations

import os
import shutil
import sysconfig
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from made import DEVICES, keys, pictures

from fastload.augment import (
    ColorJitter,
    Compose,
    Normalize,
    RandomAffine,
    RandomCrop,
    RandomErasing,
    RandomGrayscale,
    RandomHorizontalFlip,
)

# No threads that stay: beside them no other test of this process could fork workers.
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
with suppress(ImportError):  # torch uses it where it is there
    import tqdm

    tqdm.tqdm.monitor_interval = 0

# Triton compiles a launcher against Python's headers, for a GPU; torch itself compiles C++.
COMPILERS = {"cpu": ("g++", "clang++", "c++"), "cuda": ("gcc", "clang", "cc")}
HEADERS = Path(sysconfig.get_paths()["include"]) / "Python.h"

CHAINS: dict[str, list[Any]] = {
    "six": [
        RandomHorizontalFlip(),
        RandomAffine(15, (0.1, 0.1), (0.9, 1.1)),
        ColorJitter(0.4, 0.4, 0.4),
        RandomGrayscale(0.2),
        Normalize(),
        RandomErasing(0.25),
    ],
    "bytes": [RandomCrop(16, padding=2), RandomHorizontalFlip()],
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # of torch's own compiler
@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("device", DEVICES)
def test_compiled_chains_give_what_they_give_uncompiled(chain: str, device: str) -> None:
    chosen = os.environ.get("CXX" if device == "cpu" else "CC")
    if not any(shutil.which(each) for each in ((chosen,) if chosen else COMPILERS[device])) or not HEADERS.exists():
        pytest.skip("torch finds no compiler here, or no headers of Python")
    (stage,) = Compose(CHAINS[chain]).stages
    compiled = torch.compile(lambda x, k: stage.apply(x, stage.draw(k)), fullgraph=True)  # type: ignore[attr-defined]
    pixels = (pictures(8) * 255).round().to(torch.uint8).contiguous(memory_format=torch.channels_last)
    for first in (0, 4):
        images, given = pixels[first : first + 4].to(device), keys(8)[first : first + 4].to(device)
        found = compiled(images, given)
        expected = stage.apply(images, stage.draw(given))  # type: ignore[attr-defined]
        assert found.dtype == expected.dtype
        assert torch.allclose(found.float(), expected.float(), rtol=0, atol=2e-4)
