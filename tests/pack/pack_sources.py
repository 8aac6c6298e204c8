"""Small sources made on the spot, and a digest of what came out."""

from __future__ import annotations

import hashlib
import io
import wave
from pathlib import Path

import numpy as np
from PIL import Image


def jpeg(seed: int, width: int = 32, height: int = 24) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def png(seed: int, width: int = 8, height: int = 4) -> bytes:
    file = io.BytesIO()
    Image.new("L", (width, height), seed % 256).save(file, "PNG")
    return file.getvalue()


def wav(frames: int, sample_rate: int = 8000) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(sample_rate)
        sound.writeframes(bytes(2 * frames))
    return file.getvalue()


def tree(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, hidden ones too."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
