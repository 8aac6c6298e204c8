"""Curves of the report, drawn as SVG: 340 x 220 units, which are pixels on a phone."""

from __future__ import annotations

from fastload.profile.capacity import Capacity
from fastload.profile.words import rate

COLOURS = {
    "plan": "#8a6d1f",
    "read": "#2f7f6f",
    "decode": "#c2570c",
    "assemble": "#7a5bb0",
    "copy": "#2b6cb0",
    "augment": "#b0397a",
    "step": "#4a5568",
    "loader": "#2b6cb0",
    "read and decode": "#c2570c",
    "waiting": "#c9ced6",
}
_LEFT, _RIGHT, _TOP, _BOTTOM, _WIDTH, _HEIGHT = 58, 12, 12, 38, 340, 220


def curves(capacity: Capacity) -> str:
    """Samples/s over threads: what was measured, the fitted law, and what no contention would give."""
    most, first = capacity.threads[-1], capacity.rates[0]
    highest = 1.05 * max(*capacity.rates, first * most)

    def x(threads: float) -> float:
        return _LEFT + (threads - 1) / max(1, most - 1) * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - value / highest * (_HEIGHT - _TOP - _BOTTOM)

    colour, scaling = COLOURS[capacity.stage], capacity.scaling
    steps = [1 + i * (most - 1) / 40 for i in range(41)]
    top = f"{capacity.stage}: samples per second by threads"
    font = 'font-family="system-ui, sans-serif" font-size="12"'
    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{top}" {font}><g fill="#596373">']
    for value in (0.0, highest / 2.1, highest / 1.05):
        at = y(value)
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#e2e5ea"/>')
        parts.append(_text(_LEFT - 6, at + 4, "end", _short(value)))
    parts += [_text(x(n), _HEIGHT - _BOTTOM + 16, "middle", str(n)) for n in capacity.threads]
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 4, "middle", "threads; samples/s") + "</g>")
    ideal = f"M{x(1):.1f},{y(first):.1f}L{x(most):.1f},{y(first * most):.1f}"
    parts.append(f'<path d="{ideal}" stroke="#9aa3b0" stroke-dasharray="4 4" fill="none"/>')
    if scaling is not None:
        line = "L".join(f"{x(n):.1f},{y(first * scaling.speedup(n)):.1f}" for n in steps)
        parts.append(f'<path d="M{line}" stroke="{colour}" stroke-width="2" fill="none"/>')
    for n, value in zip(capacity.threads, capacity.rates, strict=True):
        parts.append(f'<circle cx="{x(n):.1f}" cy="{y(value):.1f}" r="4" fill="{colour}"/>')
    return "".join([*parts, "</svg>"])


def _short(value: float) -> str:
    """A rate in the 50 units that are left of the axis: 3051464.0 -> "3.05M"."""
    return f"{value / 1e6:.3g}M" if value >= 1e6 else rate(value)


def _text(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'
