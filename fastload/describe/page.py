"""Packed data as one HTML page: samples, class balance and histograms of each split; no other file, no script."""

from __future__ import annotations

import os
from pathlib import Path

from fastload.describe.mix import MACROS, STYLE, class_bars, histograms
from fastload.describe.numbers import describe
from fastload.describe.sheet import sheet
from fastload.inspect import indexes_of, size_text
from fastload.report.page import render_page
from fastload.shards.files import write_atomic
from fastload.shards.open import Data

SAMPLES = 24  # of a split on the sheet: 8 rows of 3 on a phone, 3 rows of 8 on a desk


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
            "classes": list(class_bars(found)),
            "charts": list(histograms(found)),
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
    }
    return render_page("{{ name }}: {{ samples }} samples", _PAGE, values, style=STYLE + _STYLE, macros=MACROS)


_STYLE = """
body { max-width: 72rem; } h1::first-letter { text-transform: none; }
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

{{ mix(split.classes, split.charts) }}</section>
{% endfor %}
"""
