"""Packed data as one HTML page: samples, class balance and histograms of each split; no other file, no script."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fastload.describe.charts import of_edges, of_powers
from fastload.describe.numbers import describe
from fastload.describe.sheet import sheet
from fastload.describe.table import balance_text, number
from fastload.inspect import indexes_of, size_text
from fastload.report.page import render_page
from fastload.shards.files import write_atomic
from fastload.shards.open import Data

SAMPLES = 24  # of a split on the sheet: 8 rows of 3 on a phone, 3 rows of 8 on a desk
TOP_CLASSES = 30
FEW_POWERS = 6  # sizes within 32 times show no shape in powers of two


def save_page(data: Data, path: str | os.PathLike[str], split: str | None = None, *, samples: int = SAMPLES) -> None:
    """Write the page.

    Args:
        data: a packed folder, or any other name that `open_index` takes.
        path: of the page.
        split: only this one; None: all.
        samples: most that are shown of each split.

    Raises: as `describe`; MissingExtraError without jinja2 or matplotlib; CorruptError for a damaged sample.
    """
    write_atomic(Path(path), to_html(data, split, samples=samples).encode())


def to_html(data: Data, split: str | None = None, *, samples: int = SAMPLES) -> str:
    """The page as text; see `save_page`."""
    about = describe(data, split)
    indexes, _, _ = indexes_of(data, split)
    splits = [
        {
            "name": name,
            "about": found,
            "lacking": any(about["present"] < found["samples"] for about in found["fields"].values()),
            "classes": list(_classes(found)),
            "charts": list(_charts(found)),
            "sheet": sheet(indexes[name], samples),
        }
        for name, found in about["splits"].items()
    ]
    values = {
        "name": Path(os.path.abspath(data)).name,
        "about": about,
        "splits": splits,
        "samples": sum(found["samples"] for found in about["splits"].values()),
        "files": sum(found["files"] for found in about["splits"].values()),
        "bytes": sum(found["bytes"] for found in about["splits"].values()),
        "size": size_text,
        "number": number,
    }
    return render_page("{{ name }}: {{ samples }} samples", _PAGE, values, style=_STYLE)


def _classes(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
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


def _charts(found: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
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


_STYLE = """
body { max-width: 72rem; } h1::first-letter { text-transform: none; }
h3 { font-size: .95rem; margin: 1.25rem 0 .4rem; }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(7.25rem, 1fr)); gap: .75rem .6rem; }
.sheet.wide { grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); }
.sheet figure { margin: 0; min-width: 0; break-inside: avoid; }
.sheet img { width: 100%; height: auto; max-height: 10rem; object-fit: contain; object-position: left top;
  display: block; }
.sheet img.tiny { image-rendering: pixelated; }
.sheet p { font-size: .8125rem; line-height: 1.35; overflow-wrap: anywhere; margin: 0 0 .2rem; }
.sheet figcaption { font-size: .75rem; line-height: 1.3; margin-top: .2rem; }
.sheet figcaption > * { display: block; font-size: .75rem; overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; }
.sheet figcaption b { white-space: normal; overflow-wrap: anywhere; }
.faulty { color: #a3262a; }
.balance { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); gap: 0 2rem; }
.bar { display: grid; grid-template-columns: minmax(5rem, 38%) 1fr 6rem; gap: .6rem; align-items: center;
  font-size: .875rem; break-inside: avoid; margin: .15rem 0; }
.bar span:first-child { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.bar span:last-child { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.bar svg { width: 100%; height: .8rem; display: block; border-radius: 2px; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 18rem), 1fr)); gap: 1rem 2rem; }
.charts figure { margin: 0; break-inside: avoid; } .charts svg { width: 100%; height: auto; max-width: 26rem; }
.charts h3 { margin: 0 0 .2rem; }
@media print { section { break-inside: auto; } section + section { break-before: page; } table { break-inside: avoid; }
  h2, h3 { break-after: avoid; } }
"""

_PAGE = """
<h1>{{ name }}</h1>
<div class="numbers">
<div><b>{{ "{:,}".format(samples) }}</b>samples</div>
<div><b>{{ "{:,}".format(files) }}</b>{{ about.shard_format }} files</div>
<div><b>{{ size(bytes) }}</b>in all</div>
{% if about.version > 1 %}<div><b>{{ about.version }}</b>version</div>{% endif %}
</div>
{% for split in splits %}
<section><h2>{{ split.name }}: {{ "{:,}".format(split.about.samples) }} samples, {{ size(split.about.bytes) }}</h2>
<div class="scroll"><table>
<tr><th>field</th><th>kind</th><th class="n">samples</th>{% if split.lacking %}<th class="n">lacking</th>{% endif %}
<th class="n">bytes</th></tr>
{% for field, found in split.about.fields.items() %}
<tr><td>{{ field }}</td><td>{{ found.kind }}</td><td class="n">{{ "{:,}".format(found.present) }}</td>
{% if split.lacking %}<td class="n">{{ "{:,}".format(split.about.samples - found.present) }}</td>{% endif %}
<td class="n">{{ size(found["bytes"]["sum"]) if "bytes" in found }}</td></tr>
{% endfor %}</table></div>

{% if split.sheet %}<h3>{{ split.sheet|length }} of them</h3>
<div class="sheet{{ "" if split.sheet[0].cells|selectattr("uri")|list else " wide" }}">
{% for sample in split.sheet %}<figure>
{% for cell in sample.cells %}{% if cell.uri %}<img{{ " class=tiny" if cell.small }} src="{{ cell.uri }}"
 alt="{{ cell.name }} of {{ sample.key }}" loading="lazy">
{% else %}<p{{ ' class=faulty' if cell.faulty }}>{{ cell.text }}</p>{% endif %}{% endfor %}
<figcaption>{% if sample.caption %}<b title="{{ sample.caption }}">{{ sample.caption }}</b>{% endif %}
<span class="quiet" title="{{ sample.key }}">{{ sample.key }}</span></figcaption></figure>
{% endfor %}</div>{% endif %}

{% for each in split.classes %}<h3>{{ each.name }}: {{ each.text }}</h3>
<div class="balance">{% for label, count, width, share in each.bars %}
<div class="bar"><span title="{{ label }}">{{ label }}</span>
<svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true"><rect width="100" height="10" fill="#eef0f3"/>
<rect width="{{ "%.2f"|format(width) }}" height="10" fill="#2f6fde"/></svg>
<span>{{ "{:,}".format(count) }} &middot; {{ "%.1f"|format(100 * share) }}%</span></div>
{% endfor %}</div>
{% if each.more %}<p class="quiet">and {{ "{:,}".format(each.more) }} classes more with
{{ "{:,}".format(each.more_samples) }} samples</p>{% endif %}
{% endfor %}

{% if split.charts %}<h3>Sizes and lengths</h3><div class="charts">
{% for title, chart, summary in split.charts %}<figure><h3>{{ title }}</h3>{{ chart|safe }}
<figcaption class="quiet">{{ summary }}</figcaption></figure>
{% endfor %}</div>{% endif %}</section>
{% endfor %}
"""
