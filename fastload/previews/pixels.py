"""Values as pixels: pictures back from their normalisation, sound as a wave over a spectrogram."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import PIL.Image
import PIL.ImageDraw
import torch

from fastload.augment.operation import to_unit, top_of
from fastload.errors import missing_extra
from fastload.previews.cells import Bands, Floats, Picture, Sound

Pixels = npt.NDArray[np.uint8]

WIDTH, WAVE_HEIGHT, BANDS_HEIGHT = 320, 56, 104  # of a drawn sound, in pixels
WINDOW_SECONDS = 0.032  # of a spectrogram: the usual choice for speech
DEFAULT_WINDOW = 512  # where the rate is not known
RANGE_DB = 70.0  # below the loudest cell
QUIETEST = 1e-4  # a peak that is drawn as silence
_TINT, _BOX, _POINT = (176, 57, 122), (255, 96, 0), (0, 208, 96)
_WAVE, _PADDING, _PAPER = (47, 111, 222), (201, 206, 214), (255, 255, 255)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """What Normalize did: (x - mean) / std, per channel."""

    mean: Sequence[float]
    std: Sequence[float]


def picture(values: torch.Tensor, scale: Scale | None) -> Picture:
    """[C, H, W] of 1 or 3 channels, integers over their range or floats, as 8 bits.

    Floats are taken back from `scale`; what is then outside of [0, 1] for more than rounding is stretched to it.
    """
    pixels = to_unit(values.detach().cpu())
    notes = []
    if top_of(values.dtype) == 1 and scale is not None and len(scale.mean) == len(pixels):
        mean, std = (pixels.new_tensor(each)[:, None, None] for each in (scale.mean, scale.std))
        pixels = pixels * std + mean
        notes.append("normalisation undone")
    if top_of(values.dtype) == 1 and pixels.numel():
        low, high = float(pixels.min()), float(pixels.max())
        if low < -0.02 or high > 1.02:
            pixels = (pixels - low) / max(high - low, 1e-6)
            notes.append(f"{low:.2f} to {high:.2f} shown as black to white")
    if len(pixels) not in (1, 3):
        notes.append(f"channel 1 of {len(pixels)}")
        pixels = pixels[:1]
    levels = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).expand(3, -1, -1)
    return Picture(pixels=levels.permute(1, 2, 0).contiguous().numpy(), note=", ".join(notes))


def with_targets(
    cell: Picture, masks: Sequence[torch.Tensor], boxes: Sequence[torch.Tensor], points: Sequence[torch.Tensor]
) -> Picture:
    """The picture with masks [H, W] or [C, H, W] (all that is not 0 tinted), boxes [N, 4] (x0, y0, x1, y1; those
    without area left out) and keypoints [N, 2] drawn over it, in pixels; what is not finite is left out."""
    pixels = cell.pixels.copy()
    for mask in masks:
        plane = (mask if mask.ndim == 2 else mask[0]).detach().cpu().numpy() != 0
        if plane.shape == pixels.shape[:2]:  # one of another size belongs to the picture before it was resized
            pixels[plane] = (pixels[plane] * 0.6 + np.array(_TINT) * 0.4).astype(np.uint8)
    image = PIL.Image.fromarray(pixels)
    pen = PIL.ImageDraw.Draw(image)
    for x0, y0, x1, y1 in (row for each in boxes for row in each.tolist()):
        if all(map(math.isfinite, (x0, y0, x1, y1))) and x1 > x0 and y1 > y0:
            pen.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=_BOX)
    reach = max(1, min(image.size) // 100)
    for x, y in (row for each in points for row in each.tolist()):
        if not (math.isfinite(x) and math.isfinite(y)):
            continue
        left, top = round(x - reach), round(y - reach)
        pen.rectangle((left, top, left + 2 * reach - 1, top + 2 * reach - 1), fill=_POINT)
    return Picture(pixels=np.asarray(image), note=cell.note)


def sound_pixels(cell: Sound, peak: float) -> Pixels:
    """uint8 [160, 320, 3]: the wave of all channels, grey where it is padding, over the spectrogram of the first.

    Args:
        peak: the amplitude that fills the height.
    """
    return np.concatenate([_wave(cell, peak), bands_pixels(spectrogram(cell), BANDS_HEIGHT)])


def _wave(cell: Sound, peak: float) -> Pixels:
    """uint8 [56, 320, 3]: from the lowest to the highest sample of each column."""
    drawn = np.full((WAVE_HEIGHT, WIDTH, 3), _PAPER, np.uint8)
    time = cell.sound.shape[-1]
    if time == 0:
        return drawn
    scaled = cell.sound / max(peak, QUIETEST)
    edges = np.minimum(np.arange(WIDTH + 1) * time // WIDTH, time)
    for column, (start, stop) in enumerate(pairwise(edges.tolist())):
        part = scaled[:, start : max(start + 1, stop)]
        high, low = (round((1 - float(v.clip(-1, 1))) / 2 * (WAVE_HEIGHT - 1)) for v in (part.max(), part.min()))
        drawn[high : low + 1, column] = _WAVE if start < cell.length else _PADDING
    return drawn


def spectrogram(cell: Sound) -> Bands:
    """Decibels of the first channel, at least 70 below the loudest, in windows of 32 ms that overlap by 3/4."""
    sound = torch.from_numpy(np.ascontiguousarray(cell.sound[:1], np.float32))
    size = DEFAULT_WINDOW if cell.sample_rate is None else 2 ** round(np.log2(WINDOW_SECONDS * cell.sample_rate))
    size = max(16, int(size))
    sound = torch.nn.functional.pad(sound, (0, max(0, size - sound.shape[-1])))
    window = torch.hann_window(size, device=sound.device)
    frames = torch.stft(sound, size, size // 4, window=window, pad_mode="constant", return_complex=True)
    power = 20 * frames[0].abs().clamp(min=1e-7).log10()
    floor = float(power.max()) - RANGE_DB
    return Bands(values=power.clamp(min=floor).numpy(), length=cell.length // (size // 4) + 1)


def bands_pixels(cell: Bands, height: int = WAVE_HEIGHT + BANDS_HEIGHT) -> Pixels:
    """uint8 [height, 320, 3], low bands at the bottom, a white line where the sample ends.

    Raises:
        MissingExtraError: matplotlib, whose colours these are, is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise missing_extra("matplotlib", "report", "drawing spectrograms") from error
    values = _resized(cell.values[::-1], height, WIDTH)
    low, high = float(values.min()), float(values.max())
    shades = matplotlib.colormaps["magma"]((values - low) / max(high - low, 1e-9))
    drawn = (shades[..., :3] * 255).round().astype(np.uint8)
    frames = cell.values.shape[1]
    if cell.length < frames:
        drawn[:, min(WIDTH - 1, cell.length * WIDTH // frames)] = 255
    return drawn


def _resized(values: Floats, height: int, width: int) -> npt.NDArray[np.float64]:
    """The mean of what each pixel covers; where it is less than one value, that value."""
    finite = np.nan_to_num(values.astype(np.float64), neginf=0.0, posinf=0.0)
    return _averaged(_averaged(finite, height).T, width).T


def _averaged(values: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.float64]:
    """[N, M] to [size, M]."""
    start = np.arange(size) * len(values) // size
    stop = np.maximum(start + 1, np.arange(1, size + 1) * len(values) // size)
    total = np.concatenate([np.zeros((1, values.shape[1])), values.cumsum(0)])
    averaged: npt.NDArray[np.float64] = (total[stop] - total[start]) / (stop - start)[:, None]
    return averaged
