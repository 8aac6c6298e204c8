"""What every loader is asked to do, and what it is given for it."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchvision
from torchvision.transforms import v2

BATCH = {"images": 256, "audio": 256, "records": 256, "tokens": 32}
WORKERS = int(os.environ.get("PEERS_WORKERS", "2"))  # threads or processes of a loader; set by run.py
TOKENS = 2048  # of a row, int32
CLIP = 8000  # samples of a clip: one second at 8 kHz
SEED = 0

_TRANSFORM = v2.Compose([v2.RandomResizedCrop(224, antialias=True), v2.RandomHorizontalFlip()])


def crop_and_flip(content: bytes | np.ndarray) -> torch.Tensor:
    """A JPEG's bytes to uint8 [3, 224, 224], as torchvision recommends: decoded to a tensor, antialiased."""
    raw = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    return _TRANSFORM(torchvision.io.decode_image(raw, torchvision.io.ImageReadMode.RGB))


def clip(content: bytes | np.ndarray) -> torch.Tensor:
    """A WAV's bytes to float32 [1, CLIP]: cut at its end, or padded with zeros."""
    samples, _ = soundfile.read(io.BytesIO(bytes(content)), dtype="float32", always_2d=True)
    out = torch.zeros(1, CLIP)
    out[0, : min(len(samples), CLIP)] = torch.from_numpy(samples[:CLIP].mean(1))
    return out


CONVERT = {"images": crop_and_flip, "audio": clip}  # of the workloads that decode


def files_of(raw: Path) -> list[tuple[str, int]]:
    """Path and class number of every file of a class folder."""
    classes = sorted(p.name for p in raw.iterdir() if p.is_dir())
    return [(str(path), number) for number, name in enumerate(classes) for path in sorted((raw / name).iterdir())]


def tokens_of(raw: Path) -> np.ndarray:
    """int32 [rows, TOKENS], memory-mapped."""
    return np.load(raw / "tokens.npy", mmap_mode="r")
