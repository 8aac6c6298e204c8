"""What the demo shows: one augmented batch as a sheet, and the training curve. PNG files, drawn with matplotlib."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import torch

from fastload.augment import IMAGENET_MEAN, IMAGENET_STD
from fastload.demo.train import Epoch
from fastload.report.pictures import ACCENT, INK, LINE, MUTED, SECOND, new_figure, new_sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS, ROWS = 8, 4  # cells of a sheet
TEXT_ROWS, TEXT_WIDTH = 14, 104  # lines of the text table, characters before a break


def image_sheet(batch: Mapping[str, Any], names: Sequence[str], path: Path) -> None:
    """The first 32 pictures of `image`, float [B, 3, H, W] as `augment.Normalize()` makes them, with class names."""
    images = batch["image"][: COLUMNS * ROWS].detach().float().cpu().permute(0, 2, 3, 1)  # [N, H, W, 3]
    pixels = (images * torch.tensor(IMAGENET_STD) + torch.tensor(IMAGENET_MEAN)).clamp(0, 1).numpy()
    figure, cells = _sheet("One training batch: cropped and mirrored at random", len(pixels))
    for cell, picture, label in zip(cells, pixels, batch["label"].tolist(), strict=False):
        cell.imshow(picture, interpolation="nearest")
        cell.set_title(names[label], fontsize=8, color=INK, pad=3)
    figure.savefig(path)


def audio_sheet(batch: Mapping[str, Any], names: Sequence[str], path: Path) -> None:
    """The first 32 spectrograms of `audio`, mel power [B, 1, mels, frames]; a line marks each end, `audio_length`."""
    power = batch["audio"][: COLUMNS * ROWS, 0].detach().float().cpu()
    decibels = 10 * power.clamp_min(1e-6).log10().numpy()  # [N, mels, frames]
    figure, cells = _sheet("One training batch: mel spectrograms, up is higher; a clip ends at the line", len(decibels))
    ends = batch["audio_length"].tolist()
    for cell, mel, label, end in zip(cells, decibels, batch["label"].tolist(), ends, strict=False):
        cell.imshow(mel, origin="lower", aspect="auto", cmap="magma", vmin=-50, vmax=float(decibels.max()))
        if end < mel.shape[1]:
            cell.axvline(end - 0.5, color="white", linewidth=0.8)
        cell.set_title(names[label], fontsize=8, color=INK, pad=3)
    figure.savefig(path)


def text_sheet(batch: Mapping[str, Any], names: Sequence[str], path: Path) -> None:
    """The first texts of `text` beside their class."""
    rows = list(zip(batch["label"].tolist(), batch["text"], strict=True))[:TEXT_ROWS]
    figure = new_figure(9, 0.42 * len(rows) + 0.6)
    axes = figure.subplots()
    axes.set(xlim=(0, 1), ylim=(len(rows), -1))
    axes.axis("off")
    axes.text(0, -0.6, "One training batch", fontsize=11, color=INK, va="center")
    for row, (label, text) in enumerate(rows):
        axes.axhline(row - 0.05, color=LINE, linewidth=0.8)
        axes.text(0, row + 0.45, names[label], fontsize=9, color=ACCENT, va="center")
        axes.text(0.14, row + 0.45, shortened(text), fontsize=8.5, color=INK, va="center", linespacing=1.3)
    figure.savefig(path)


def shortened(text: str) -> str:
    """At most two lines of a text, with dots where some was cut."""
    lines = fill(" ".join(text.split()), TEXT_WIDTH).split("\n")
    return "\n".join(lines[:2]) + (" ..." if len(lines) > 2 else "")


def training_curve(epochs: Iterable[Epoch], path: Path) -> None:
    """Validation accuracy and training loss per epoch."""
    epochs = list(epochs)
    numbers = [epoch.number for epoch in epochs]
    figure = new_figure(8, 3)
    left, right = figure.subplots(1, 2)
    accuracy = [100 * epoch.accuracy for epoch in epochs]
    _line(left, numbers, accuracy, colour=ACCENT, title="validation accuracy, %", last=f"{accuracy[-1]:.1f}")
    left.set_ylim(0, 104)
    losses = [epoch.loss for epoch in epochs]
    _line(right, numbers, losses, colour=SECOND, title="training loss", last=f"{losses[-1]:.2f}")
    right.set_ylim(bottom=0)
    figure.savefig(path)


def _line(axes: Axes, x: list[int], y: list[float], *, colour: str, title: str, last: str) -> None:
    axes.plot(x, y, color=colour, marker="o", markersize=4, linewidth=1.8)
    axes.annotate(
        last, (x[-1], y[-1]), xytext=(0, -14), textcoords="offset points", ha="center", fontsize=9, color=colour
    )
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    axes.set_xlabel("epoch", fontsize=9, color=MUTED)
    axes.set_xticks(x[:: -(-len(x) // 10)])  # at most ten
    axes.tick_params(labelsize=8, colors=MUTED)
    axes.grid(axis="y", color=LINE, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)


def _sheet(title: str, cells: int) -> tuple[Figure, list[Axes]]:
    """A figure with one bare cell for each of `cells` pictures."""
    return new_sheet(title, cells, COLUMNS, width=1.15, height=1.35)
