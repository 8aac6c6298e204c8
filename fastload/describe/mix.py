"""Class balance and histograms of what `describe` found, as a part of pages: bars of classes, charts of sizes, lengths
and other numbers. `MACROS` has `mix(classes, charts)`, whose rules are `STYLE`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fastload.describe.charts import of_edges, of_powers
from fastload.describe.table import balance_text, number
from fastload.inspect import size_text

TOP_CLASSES = 30
FEW_POWERS = 6  # sizes within 32 times show no shape in powers of two


def class_bars(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The class balance of each field that has classes: the most frequent as bars."""
    for name, about in found["fields"].items():
        if "classes" not in about or not about["classes"]:
            continue
        counts = about["classes"]
        most, total, rest = max(1, *counts.values()), max(1, sum(counts.values())), list(counts.values())[TOP_CLASSES:]
        yield {
            "name": name,
            "text": balance_text(about["balance"]),
            "bars": [(label, n, 100 * n / most, n / total) for label, n in list(counts.items())[:TOP_CLASSES]],
            "more": len(rest),
            "more_samples": sum(rest),
        }


def histograms(found: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Title, histogram and summary of every measure that differs between samples."""
    for name, about in found["fields"].items():
        size = about.get("bytes", {})
        if "histogram" in size and size["count"]:
            title = f"{name}: bytes"
            summary = f"{size_text(size['min'])} to {size_text(size['max'])}, mean {size_text(round(size['mean']))}"
            yield title, _sizes_drawn(size, title), summary
        for what, numbers in about.get("numbers", {}).items():
            if what == "frames" and "seconds" in about["numbers"]:
                continue  # the same, in a unit that says more
            title = name if what == "value" else f"{name}: {what}"
            if numbers["min"] == numbers["max"]:
                yield title, "", f"{number(numbers['min'])} in all samples"
                continue
            low, middle, high = (number(numbers[key]) for key in ("p5", "median", "p95"))
            quantiles = f"median {middle}, 90% between {low} and {high}"
            drawn = numbers["histogram"]
            yield title, of_edges(drawn["edges"], drawn["counts"], number, title), quantiles


def _sizes_drawn(size: Mapping[str, Any], title: str) -> str:
    """Sizes over their powers of two; over equal steps where these are few and the steps are known."""
    text = lambda value: size_text(round(value))  # noqa: E731
    columns = sum(map(bool, size["histogram"]))
    if columns >= FEW_POWERS:
        return of_powers(size["histogram"], text, title)
    if size["min"] == size["max"] or (columns < 2 and "steps" not in size):
        return ""
    if "steps" in size:
        return of_edges(size["steps"]["edges"], size["steps"]["counts"], text, title)
    return of_powers(size["histogram"], text, title)


STYLE = """
h3 { font-size: .95rem; margin: 1.25rem 0 .4rem; }
.balance { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); gap: 0 2rem; }
.bar { display: grid; grid-template-columns: minmax(5rem, 38%) 1fr 6rem; gap: .6rem; align-items: center;
  font-size: .875rem; break-inside: avoid; margin: .15rem 0; }
.bar span:first-child { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.bar span:last-child { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.bar svg { width: 100%; height: .8rem; display: block; border-radius: 2px; }
.histograms { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 18rem), 1fr)); gap: 1rem 2rem; }
.histograms figure { margin: 0; break-inside: avoid; } .histograms svg { width: 100%; height: auto; max-width: 26rem; }
.histograms h3 { margin: 0 0 .2rem; }
"""

MACROS = """
{% macro mix(classes, charts) %}
{% for each in classes %}<h3>{{ each.name }}: {{ each.text }}</h3>
<div class="balance">{% for label, count, width, share in each.bars %}
<div class="bar"><span title="{{ label }}">{{ label }}</span>
<svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true"><rect width="100" height="10" fill="#eef0f3"/>
<rect width="{{ "%.2f"|format(width) }}" height="10" fill="#2f6fde"/></svg>
<span>{{ "{:,}".format(count) }} &middot; {{ "%.1f"|format(100 * share) }}%</span></div>
{% endfor %}</div>
{% if each.more %}<p class="quiet">and {{ "{:,}".format(each.more) }} classes more with
{{ "{:,}".format(each.more_samples) }} samples</p>{% endif %}
{% endfor %}

{% if charts %}<h3>Sizes and lengths</h3><div class="histograms">
{% for title, chart, summary in charts %}<figure><h3>{{ title }}</h3>{{ chart|safe }}
<figcaption class="quiet">{{ summary }}</figcaption></figure>
{% endfor %}</div>{% endif %}
{% endmacro %}
"""
