"""What every loader is asked to do, and what it is given for it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

BATCH = {"images": 256, "audio": 256, "records": 256, "tokens": 32}
WORKERS = int(os.environ.get("PEERS_WORKERS", "2"))  # threads or processes of a loader; set by run.py
TOKENS = 2048  # of a row, int32
CLIP = 8000  # samples of a clip: one second at 8 kHz
SEED = 0


def files_of(raw: Path) -> list[tuple[str, int]]:
    """Path and class number of every file of a class folder."""
    classes = sorted(p.name for p in raw.iterdir() if p.is_dir())
    return [(str(path), number) for number, name in enumerate(classes) for path in sorted((raw / name).iterdir())]


def tokens_of(raw: Path) -> np.ndarray:
    """int32 [rows, TOKENS], memory-mapped."""
    return np.load(raw / "tokens.npy", mmap_mode="r")
