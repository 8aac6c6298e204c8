"""Histograms and bars as SVG inside a page: they scale with it, and print."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

BLUE, QUIET, LINE = "#2f6fde", "#596373", "#e2e5ea"
_WIDTH, _HEIGHT, _TOP, _BOTTOM = 340.0, 140.0, 18.0, 22.0


def histogram(counts: Sequence[int], ticks: Sequence[str], label: str) -> str:
    """Columns over ticks.

    Args:
        counts: of each column.
        ticks: texts that stand under the axis, spread from its left end to its right.
        label: what a screen reader says.
    """
    most, step = max(counts, default=0), _WIDTH / max(1, len(counts))
    floor = _HEIGHT - _BOTTOM
    font = f'font-family="system-ui, sans-serif" font-size="12" fill="{QUIET}"'
    size = f'viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}"'
    parts = [f'<svg {size} role="img" aria-label="{escape(label)}" {font}>']
    for at, count in enumerate(counts):
        height = (floor - _TOP) * count / max(most, 1)
        if count:
            height = max(height, 1.0)  # one sample among a million is still to be seen
            x, width = at * step + min(1, step / 10), max(step - 2 * min(1, step / 10), 0.5)
            title = f"<title>{count:,}</title>"
            parts.append(
                f'<rect x="{x:.1f}" y="{floor - height:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{BLUE}">'
                f"{title}</rect>"
            )
    parts.append(f'<line x1="0" x2="{_WIDTH:g}" y1="{floor:g}" y2="{floor:g}" stroke="{LINE}"/>')
    parts.append(f'<text x="0" y="12">most in one column: {most:,}</text>')
    for at, tick in enumerate(ticks):
        share = at / max(1, len(ticks) - 1)
        anchor = "start" if at == 0 else "end" if at == len(ticks) - 1 else "middle"
        parts.append(f'<text x="{share * _WIDTH:.1f}" y="{_HEIGHT - 6:g}" text-anchor="{anchor}">{escape(tick)}</text>')
    return "".join([*parts, "</svg>"])


def of_edges(edges: Sequence[float], counts: Sequence[int], text: Callable[[float], str], label: str) -> str:
    """A histogram of equal steps."""
    whole = len(edges) > 1 and edges[1] - edges[0] == 1 and edges[0] % 1 == 0.5
    low, high = (edges[0] + 0.5, edges[-1] - 0.5) if whole else (edges[0], edges[-1])
    ticks = [text(low)] if low == high else [text(low), text((low + high) / 2), text(high)]
    if whole and 1 < high - low < 2:
        ticks = [ticks[0], ticks[-1]]
    return histogram(counts, ticks, label)


def of_powers(counts: Sequence[int], text: Callable[[float], str], label: str) -> str:
    """A histogram of powers of two: entry b counts numbers in [2^(b-1), 2^b)."""
    first = next((at for at, count in enumerate(counts) if count), 0)
    shown = list(counts[first:])
    low, high = (2 ** (first - 1) if first else 0), 2 ** max(0, len(counts) - 1)
    middle = 2 ** (first + len(shown) // 2 - 1) if len(shown) > 3 else None
    ticks = [text(low), *([text(middle)] if middle is not None else []), text(high)]
    return histogram(shown, ticks, label)
