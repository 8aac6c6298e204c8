"""Data for the benchmarks, made on the spot and deterministic."""

from __future__ import annotations

import io
import shutil
import wave
from pathlib import Path

import numpy as np
from PIL import Image


def photo(seed: int, width: int = 500, height: int = 375, quality: int = 94) -> bytes:
    """A JPEG of about 110 kB with the statistics of a photograph: three channels of noise that falls off as 1/f."""
    rng = np.random.default_rng(seed)
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    falloff = 1 / np.maximum(np.hypot(fx, fy), 1 / width) ** 1.1
    channels = []
    for _ in range(3):
        spectrum = (rng.standard_normal(falloff.shape) + 1j * rng.standard_normal(falloff.shape)) * falloff
        plane = np.fft.irfft2(spectrum, (height, width))
        channels.append(plane / plane.std())
    luma = channels[0][..., None] + 0.35 * np.stack(channels, -1)
    pixels = np.clip(128 + 48 * luma + rng.normal(0, 4, (height, width, 1)), 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=quality)
    return out.getvalue()


def image_folder(root: Path, images: Path | None, count: int) -> Path:
    """A class folder of `count` JPEGs: those of `images` over and over, or 64 made ones over and over; each with its
    number in a comment, so that no two are the same bytes (Parquet would store them once)."""
    if images is not None:
        sources = [p.read_bytes() for p in sorted(images.rglob("*")) if p.suffix.lower() in (".jpg", ".jpeg")]
    else:
        sources = [photo(seed) for seed in range(64)]
    shutil.rmtree(root, ignore_errors=True)
    for i in range(count):
        folder = root / f"class{i % 10}"
        folder.mkdir(parents=True, exist_ok=True)
        content = sources[i % len(sources)]
        comment = b"\xff\xfe\x00\x0a" + f"{i:08d}".encode()
        (folder / f"{i:06d}.jpg").write_bytes(content[:2] + comment + content[2:])
    return root


def clip_folder(root: Path, count: int) -> Path:
    """`count` WAVs of 0.3 to 0.6 s of noise at 8 kHz, mono, 16 bit."""
    rng = np.random.default_rng(0)
    shutil.rmtree(root, ignore_errors=True)
    for i in range(count):
        folder = root / f"class{i % 10}"
        folder.mkdir(parents=True, exist_ok=True)
        with wave.open(str(folder / f"{i:06d}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes(rng.integers(-8000, 8000, rng.integers(2400, 4800), np.int16).tobytes())
    return root


def record_folder(root: Path, count: int, size: int = 900) -> Path:
    """`count` JPEG files of about `size` bytes each (a small picture and random bytes in a comment segment)."""
    rng = np.random.default_rng(0)
    shutil.rmtree(root, ignore_errors=True)
    out = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(out, "JPEG", quality=50)
    base = out.getvalue()
    fill = size - len(base) - 4
    for i in range(count):
        folder = root / f"class{i % 10}"
        folder.mkdir(parents=True, exist_ok=True)
        comment = b"\xff\xfe" + (fill + 2).to_bytes(2, "big") + rng.bytes(fill)
        (folder / f"{i:06d}.jpg").write_bytes(base[:2] + comment + base[2:])
    return root
