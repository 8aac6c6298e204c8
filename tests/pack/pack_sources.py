"""Small sources made on the spot, and a digest of what came out."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import signal
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

FORK = multiprocessing.get_context("fork")


def scene(seed: int, width: int, height: int) -> np.ndarray:
    """uint8 [height, width, 3] with saturated edges, so that chroma changes from pixel to pixel."""
    rng = np.random.default_rng(seed)
    blobs = rng.integers(0, 256, (-(-height // 5), -(-width // 5), 3))
    large = np.repeat(np.repeat(blobs, 5, axis=0), 5, axis=1)[:height, :width]
    return (large + rng.normal(0, 6, large.shape)).clip(0, 255).astype(np.uint8)


def photo(seed: int, sampling: str = "420", width: int = 200, height: int = 150) -> bytes:
    """A JPEG that is large enough to be made crop-seekable."""
    pixels = scene(seed, width, height)
    if sampling == "Gray":
        return bytes(simplejpeg.encode_jpeg(pixels[..., :1].copy(), 90, "GRAY", "Gray"))
    return bytes(simplejpeg.encode_jpeg(pixels, 90, "RGB", sampling))


def odd_photo(seed: int, mode: str = "RGB", **options: object) -> bytes:
    """A JPEG with Pillow's options: progressive, exif, ..."""
    file = io.BytesIO()
    Image.fromarray(scene(seed, 200, 150)).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


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


Pack = Callable[..., object]  # called with the output folder and options of `pack`


class Stopped(Exception):
    """What a run is stopped with."""


def stop_after(out: Path, shards: int) -> Callable[[int, int, int], None]:
    """A progress function that raises once so many shards are finished."""

    def progress(done: int, total: int, written: int) -> None:
        if len([path for ending in ("tar", "parquet") for path in out.rglob(f"*.{ending}")]) >= shards:
            raise Stopped

    return progress


def kill_after(out: Path, shards: int) -> Callable[[int, int, int], None]:
    """A progress function that kills the process once so many shards are finished."""
    stop = stop_after(out, shards)

    def progress(*counts: int) -> None:
        try:
            stop(*counts)
        except Stopped:
            os.kill(os.getpid(), signal.SIGKILL)

    return progress


def check_alike(run: Pack, folder: Path, **options: object) -> dict[str, str]:
    """A source gives the same bytes for 1, 2 and 7 workers, and when it is packed again after a kill; gives them.

    Args:
        run: packs the source into the folder that it is given, with options of `pack`.
        folder: where the results go.
        options: that make two shards at least.
    """
    for workers in (1, 2, 7):
        run(folder / f"workers{workers}", workers=workers, **options)
    clean = tree(folder / "workers1")
    assert len([name for name in clean if name.endswith((".tar", ".parquet"))]) > 1
    assert tree(folder / "workers2") == clean
    assert tree(folder / "workers7") == clean
    out = folder / "killed"
    killed = {"workers": 1, "progress": kill_after(out, 1), **options}
    child = FORK.Process(target=run, args=(out,), kwargs=killed)
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.suffix in (".tar", ".parquet")}
    assert kept
    run(out, workers=2, **options)
    assert tree(out) == clean
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "finished shards are kept"
    return clean
