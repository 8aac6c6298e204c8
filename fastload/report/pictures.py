"""Figures of matplotlib, made without pyplot so that a user's own plots and backend stay as they are; and pixels and
sound as data URIs."""

from __future__ import annotations

import base64
import io
import wave
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import PIL.Image

from fastload.errors import missing_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS_PER_INCH = 110
INK, MUTED, ACCENT, SECOND, LINE = "#1f2430", "#7a8190", "#2f6fde", "#d9622b", "#e3e6ec"

LOSSLESS_SIDE = 96  # pictures up to this many pixels a side are stored as PNG, larger ones as JPEG
JPEG_QUALITY = 90  # no difference to be seen beside the original, at a fifth of a PNG's bytes


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("matplotlib", "report", "drawing pictures") from error
    return Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained", facecolor="white")


def new_sheet(title: str, cells: int, columns: int, *, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with one bare cell for each of `cells` pictures, of this size in inches."""
    rows = -(-cells // columns)
    figure = new_figure(width * columns, height * rows + 0.4)
    figure.suptitle(title, fontsize=11, color=INK, x=0.01, ha="left")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for cell in grid:
        cell.axis("off")
    return figure, list(grid)


def picture_uri(pixels: npt.NDArray[np.uint8]) -> str:
    """uint8 [H, W, 3] or [H, W] as the address of an image that a page holds itself."""
    kind = "png" if max(pixels.shape[:2]) <= LOSSLESS_SIDE else "jpeg"
    held = io.BytesIO()
    options: dict[str, Any] = {"quality": JPEG_QUALITY, "subsampling": 0} if kind == "jpeg" else {"optimize": True}
    PIL.Image.fromarray(np.ascontiguousarray(pixels)).save(held, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(held.getvalue()).decode()}"


def sound_uri(sound: npt.NDArray[np.floating[Any]], sample_rate: int) -> str:
    """Floats [C, T] in [-1, 1] as the address of a 16-bit WAV that a page holds itself."""
    held = io.BytesIO()
    with wave.open(held, "wb") as file:
        file.setnchannels(sound.shape[0])
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes((np.clip(sound.T, -1, 1) * 32767).round().astype("<i2").tobytes())
    return f"data:audio/wav;base64,{base64.b64encode(held.getvalue()).decode()}"
