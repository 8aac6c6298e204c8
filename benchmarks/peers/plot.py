"""The README's picture of the comparison: a panel a workload, a bar a loader, as multiples of fastload's rate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # before pyplot: there may be no screen
import matplotlib.pyplot as plt

OURS, THEIRS, EDGE = "#0b6e4f", "#9aa5b1", "#3c4652"


def draw(found: Mapping[str, Any], titles: Mapping[str, str], names: Mapping[str, str], path: Path) -> None:
    """Write an SVG: medians of the rounds, their range as a line; and the rate by workers, where it was measured."""
    workloads = list(found)
    scaling = [name for name in workloads if any("by_workers" in one for one in found[name].values())]
    panels = len(workloads) + len(scaling)
    with plt.rc_context(
        {"svg.hashsalt": "fastload", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    ):
        figure, axes = plt.subplots(-(-panels // 2), 2, figsize=(9, 2.9 * -(-panels // 2)), squeeze=False)
        flat = axes.ravel().tolist()
        for axis, name in zip(flat, workloads, strict=False):
            _bars(axis, found[name], titles[name], names)
        for axis, name in zip(flat[len(workloads) :], scaling, strict=False):
            _lines(axis, found[name], titles[name], names)
        for axis in flat[panels:]:
            axis.set_visible(False)
        figure.tight_layout()
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def _bars(axis: Any, found: Mapping[str, Any], title: str, names: Mapping[str, str]) -> None:
    peers = sorted((peer for peer in names if peer in found), key=lambda peer: found[peer]["items_per_second"])
    rates = [found[peer]["items_per_second"] for peer in peers]
    spreads = [found[peer]["items_per_second_min_max"] for peer in peers]
    colours = [OURS if peer.startswith("fastload") else THEIRS for peer in peers]
    axis.barh([_plain(names[peer]) for peer in peers], rates, color=colours)
    axis.hlines(range(len(peers)), [low for low, _ in spreads], [high for _, high in spreads], color=EDGE, linewidth=1)
    for place, (rate, (_, high)) in enumerate(zip(rates, spreads, strict=True)):
        axis.annotate(f"{rate:,.0f}", (max(rate, high), place), (3, 0), textcoords="offset points", va="center", size=7)
    axis.set_title(title, loc="left", size=10)
    axis.margins(x=0.12)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.tick_params(axis="x", labelsize=7)
    axis.locator_params(axis="x", nbins=4)


def _lines(axis: Any, found: Mapping[str, Any], title: str, names: Mapping[str, str]) -> None:
    ends: list[tuple[float, int, str]] = []
    for peer in (peer for peer in names if "by_workers" in found.get(peer, {})):
        by = sorted((int(workers), rate) for workers, rate in found[peer]["by_workers"].items())
        ours = peer.startswith("fastload")
        axis.plot(*zip(*by, strict=True), marker="o", color=OURS if ours else THEIRS, linewidth=2 if ours else 1)
        ends.append((by[-1][1], by[-1][0], _plain(names[peer])))
    gap, below = 0.05 * max(rate for rate, _, _ in ends), -1.0
    for rate, workers, name in sorted(ends):  # labels are moved up until none covers another
        below = max(rate, below + gap)
        axis.annotate(name, (workers, rate), (workers * 1.03, below), va="center", size=6)
    axis.set_title(f"{title}, by workers or threads", loc="left", size=10)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_ylim(bottom=0)
    axis.margins(x=0.3)


def _plain(name: str) -> str:
    return name.replace("*", "").replace("`", "")
