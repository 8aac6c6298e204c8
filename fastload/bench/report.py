"""Results and comparisons as tables for a terminal, and as one HTML page."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fastload.bench.compare import LEAST_ROUNDS, Change, Comparison
from fastload.bench.rounds import Results, Rounds
from fastload.profile.capacity import Capacity, fit
from fastload.profile.charts import curves
from fastload.profile.words import ms, rate
from fastload.report.page import render_page

_COLOURS = {"faster": "#2f7f6f", "slower": "#c2570c", "loss": "#b3261e", "same": "#4a5568", "unknown": "#4a5568"}
_SAY = {
    "faster": "faster",
    "slower": "slower, within the threshold",
    "loss": "SLOWER",
    "same": "no difference that these rounds can tell",
    "unknown": "too few rounds to tell",
}


def value(rounds: Rounds) -> str:
    """The median, as a person would ask for it."""
    if rounds.items == 1:
        return f"{ms(1e3 * statistics.median(rounds.seconds))} ms"
    return f"{rate(rounds.per_second)} {rounds.unit}/s"


def spread(rounds: Rounds) -> str:
    """Of the rounds, the largest over the smallest: 1.07 -> "7%"."""
    return f"{max(rounds.costs) / min(rounds.costs) - 1:.0%}"


def render(results: Results) -> RenderableType:
    """The results for a rich console."""
    table = _table("benchmark", "median", "spread", "rounds")
    for each in results.rounds.values():
        table.add_row(each.name, value(each), spread(each), str(len(each.seconds)))
    return Group(table, Text(_machine(results), style="dim"))


def render_changes(found: Comparison) -> RenderableType:
    """A comparison for a rich console: the losses first."""
    return Group(*_changes(found))


def _changes(found: Comparison) -> Iterator[RenderableType]:
    yield Text(sentence(found), style="bold" if found.ok else "bold red")
    table = _table("benchmark", "before", "after", "speed", "95% interval")
    table.add_column("")
    for change in sorted(found.changes, key=lambda change: change.verdict != "loss"):
        table.add_row(*_cells(change), style="red" if change.verdict == "loss" else "")
    yield table
    for text, names in (("only before: ", found.gone), ("only after: ", found.new), ("differs in ", found.differ)):
        if names:
            yield Text(text + "; ".join(names), style="yellow")


def sentence(found: Comparison) -> str:
    """The comparison in a line."""
    allowed = f"more than {100 * found.threshold:.3g}%"
    losses = [change.name for change in found.changes if change.verdict == "loss"]
    if losses:
        return f"slower by {allowed}: {', '.join(losses)}"
    unknown = [change.name for change in found.changes if change.verdict == "unknown"]
    if not unknown:
        return f"nothing is slower by {allowed}"
    of = "" if len(unknown) == len(found.changes) else f" of {', '.join(unknown)}"
    rest = "" if not of else f"; nothing else is slower by {allowed}"
    return f"too few rounds{of} to tell, fewer than {LEAST_ROUNDS}{rest}"


def _cells(change: Change) -> tuple[str, ...]:
    if change.unit == "1/s":
        before, after = (f"{ms(1e3 / each)} ms" for each in (change.before, change.after))
    else:
        before, after = (f"{rate(each)} {change.unit}" for each in (change.before, change.after))
    speed = f"× {change.speed:.3f}"
    return change.name, before, after, speed, f"{change.low:.3f} to {change.high:.3f}", _SAY[change.verdict]


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    return table


def _machine(results: Results) -> str:
    return ", ".join(f"{name}={each}" for name, each in {**results.machine, **results.setting}.items())


def to_html(results: Results) -> str:
    """Results as a page.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    chart, fastest = _chart(results), max((each for each in results.rounds.values()), key=lambda each: each.per_second)
    values: dict[str, Any] = {
        "fastest": value(fastest) if fastest.items > 1 else "",
        "rows": [(each.name, value(each), spread(each), len(each.seconds)) for each in results.rounds.values()],
        "times": [(each.name, value(each)) for each in results.rounds.values() if each.items == 1],
        "chart": chart,
        "machine": _machine(results),
    }
    return render_page("fastload bench", _PAGE, values, style=_STYLE)


def changes_to_html(found: Comparison) -> str:
    """A comparison as a page.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    widest = max(1.05, *(max(each, 1 / each) for change in found.changes for each in (change.low, change.high)))

    def x(speed: float) -> float:
        return 50 + 50 * math.log(speed) / math.log(widest)  # twice as fast is as far from no change as half as fast

    rows = [
        {
            "cells": _cells(change),
            "colour": _COLOURS[change.verdict],
            "x": x(change.low),
            "width": max(0.6, x(change.high) - x(change.low)),
            "at": x(change.speed),
        }
        for change in found.changes
    ]
    values = {"found": found, "rows": rows, "sentence": sentence(found), "widest": widest}
    return render_page("fastload bench: compared", _COMPARED, values, style=_STYLE)


def _chart(results: Results) -> str:
    """Samples/s over threads, where several numbers of them were tried."""
    pairs = []
    for each in results.rounds.values():
        found = re.fullmatch(r"rate, (\d+) threads?", each.name)
        if found and int(found[1]):
            pairs.append((int(found[1]), each.per_second))
    if len(pairs) < 2:
        return ""
    threads, rates = zip(*pairs, strict=True)
    return curves(Capacity(stage="loader", threads=threads, rates=rates, cpu_ms=0.0, scaling=fit(threads, rates)))


_STYLE = """
figure { margin: 0; max-width: 26rem; } figure svg { width: 100%; height: auto; }
.change { margin: 1rem 0; } .change svg { width: 100%; height: 1rem; display: block; }
.change p { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 1rem; }
.change p *, .quiet { overflow-wrap: anywhere; }
"""

_PAGE = """
<h1>{{ fastest or "How fast it starts" }}</h1>
<div class="numbers">{% for name, took in times %}<div><b>{{ took }}</b>{{ name }}</div>
{% endfor %}</div>
<p class="quiet">{{ machine }}</p>
{% if chart %}<section><h2>Samples/s by threads</h2><figure>{{ chart|safe }}<figcaption class="quiet">Dots measured,
line fitted, dashes what no contention would give.</figcaption></figure></section>{% endif %}
<section><h2>Rounds</h2><div class="scroll"><table>
<tr><th>benchmark</th><th class="n">median</th><th class="n">spread</th><th class="n">rounds</th></tr>
{% for name, median, spread, count in rows %}<tr><td>{{ name }}</td><td class="n">{{ median }}</td>
<td class="n">{{ spread }}</td><td class="n">{{ count }}</td></tr>
{% endfor %}</table></div><p class="quiet">Spread: the slowest round over the fastest.</p></section>
"""

_COMPARED = """
<h1>{{ sentence }}</h1>
<p class="quiet">Speed after over before, in the median of rounds, with the interval that holds it with 95% confidence.
The line is no change; the edges are × 1/{{ "%.3g"|format(widest) }} and × {{ "%.3g"|format(widest) }}.</p>
{% for row in rows %}<section class="change"><p><b>{{ row.cells[0] }}</b>
<span>{{ row.cells[1] }} → {{ row.cells[2] }}</span></p>
<svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true"><rect width="100" height="10" fill="#eef0f3"/>
<rect x="{{ row.x }}" y="2" width="{{ row.width }}" height="6" fill="{{ row.colour }}" opacity=".45"/>
<rect x="{{ row.at - 0.3 }}" width=".6" height="10" fill="{{ row.colour }}"/>
<rect x="49.9" width=".2" height="10" fill="#1c2430"/></svg>
<p class="quiet"><span>{{ row.cells[3] }} ({{ row.cells[4] }})</span><span>{{ row.cells[5] }}</span></p></section>
{% endfor %}
{% for text, names in (("Only before: ", found.gone), ("Only after: ", found.new), ("They differ in ", found.differ)) %}
{% if names %}<p class="quiet">{{ text }}{{ names|join("; ") }}</p>{% endif %}{% endfor %}
"""
