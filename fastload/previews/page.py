"""The preview as one HTML page: no other file, no script; readable on a phone and in print."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastload.previews.cells import Bands, Cell, Picture, Plain, Sound, Words
from fastload.previews.changes import Piece
from fastload.previews.sheet import drawn, loudest
from fastload.previews.shown import Sample, Shown
from fastload.report.page import render_page
from fastload.report.pictures import LOSSLESS_SIDE, picture_uri, sound_uri


def to_html(found: Shown) -> str:
    """The page.

    Raises:
        MissingExtraError: jinja2 is not installed, or matplotlib and there are sounds.
    """
    samples = [
        {
            "title": sample.title(),
            "fields": [_field(name, sample) for name in found.fields if _worth_a_row(name, sample)],
            "drawn": [variant.drawn for variant in sample.variants],
        }
        for sample in found.samples
    ]
    values = {"p": found, "samples": samples, "count": len(samples), "epochs": len(found.samples[0].variants)}
    return render_page(_TITLE, _PAGE, values, style=_STYLE, macros=_CELL)


def _worth_a_row(name: str, sample: Sample) -> bool:
    """Whether the sample has this field, and it is none of the numbers and classes of its title that stay."""
    steps = sample.steps(name)
    return bool(steps) and not (len(steps) == 1 and steps[0][0] == "before" and isinstance(steps[0][1], Plain))


def _field(name: str, sample: Sample) -> dict[str, Any]:
    steps = sample.steps(name)
    peak = loudest(steps)
    shown = [
        ("before and after" if len(steps) == 1 and what == "before" else what, _figure(cell, peak))
        for what, cell in steps
    ]
    notes = list(dict.fromkeys(figure.note for _, figure in shown if figure.kind == "picture"))
    return {"name": name, "kind": shown[0][1].kind, "cells": shown, "notes": notes}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Figure:
    """What the template shows of a cell."""

    kind: str
    note: str = ""
    uri: str = ""
    small: bool = False
    player: str = ""
    pieces: tuple[Piece, ...] = ()
    text: str = ""


def _figure(cell: Cell, peak: float) -> _Figure:
    pixels = drawn(cell, peak)
    uri = "" if pixels is None else picture_uri(pixels)
    match cell:
        case Picture():
            height, width, _ = cell.pixels.shape
            note = ", ".join(filter(None, (f"{width} x {height}", cell.note)))
            return _Figure(kind="picture", uri=uri, small=max(height, width) <= LOSSLESS_SIDE, note=note)
        case Sound(sample_rate=None):
            return _Figure(kind="sound", uri=uri, note=f"{cell.length:,} samples, rate not known")
        case Sound(sample_rate=rate) if rate is not None:
            player = sound_uri(cell.sound[:, : cell.length], rate)
            return _Figure(kind="sound", uri=uri, player=player, note=f"{cell.length / rate:.2f} s at {rate:,} Hz")
        case Bands():
            bands, frames = cell.values.shape
            return _Figure(kind="sound", uri=uri, note=f"{bands} bands, {cell.length} of {frames} frames")
        case Words():
            return _Figure(kind="words", pieces=cell.pieces, note=cell.note)
        case Plain():
            return _Figure(kind="plain", text=cell.text)
    raise AssertionError(cell)


_CELL = """
{% macro show(cell, name, heading) %}
{% if cell.kind == "picture" or cell.kind == "sound" %}
<img src="{{ cell.uri }}" alt="{{ name }}, {{ heading }}"{% if cell.small %} class="small"{% endif %}>
{% if cell.player %}<audio controls preload="none" src="{{ cell.player }}"></audio>{% endif %}
{% elif cell.kind == "words" %}
<p class="words">{% for piece in cell.pieces %}
{% if piece.mark == "deleted" %}<del>{{ piece.text }}</del>
{% elif piece.mark == "inserted" %}<ins>{{ piece.text }}</ins>
{% elif piece.mark == "masked" %}<mark>{{ piece.text }}</mark>
{% else %}{{ piece.text }}
{% endif %}
{% endfor %}</p>
{% else %}<p>{{ cell.text }}</p>{% endif %}
{% endmacro %}
"""

_STYLE = """
body { max-width: 76rem; }
code { font: .875rem/1.5 ui-monospace, monospace; overflow-wrap: anywhere; }
ol.chain { padding-left: 1.5rem; margin: .5rem 0; }
.samples { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 34rem), 1fr)); gap: 1.5rem;
  margin-top: 1.25rem; }
.samples section { border-top: 1px solid #e2e5ea; padding-top: .5rem; min-width: 0; }
.samples h2 { margin: 0 0 .5rem; overflow-wrap: anywhere; }
h3 { font-size: .875rem; margin: .75rem 0 .25rem; color: #596373; } h3 .quiet { font-weight: 400; }
.cells { display: grid; gap: .5rem; grid-template-columns: repeat(auto-fit, minmax(6.5rem, 1fr)); }
.cells.sound { grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); }
.cells.words, .cells.plain { grid-template-columns: 1fr; gap: .25rem; }
figure { margin: 0; min-width: 0; } figure img { width: 100%; height: auto; display: block; }
.cells.words figure, .cells.plain figure { display: grid; grid-template-columns: 4rem 1fr; gap: .5rem; }
img.small { image-rendering: pixelated; } audio { width: 100%; height: 2rem; margin-top: .25rem; }
.words { font-size: .9375rem; overflow-wrap: anywhere; } del { color: #a3262a; background: #fbe3e2; }
ins { color: #17663a; background: #dcf3e3; text-decoration: none; } mark { color: #6b4a00; background: #ffe9a8; }
ins, del, mark { padding: 0 .15em; border-radius: 2px; }
details { margin-top: .5rem; } summary { cursor: pointer; color: #596373; font-size: .875rem; }
details p { font-size: .8125rem; } figcaption { color: #596373; font-size: .8125rem; }
@media (max-width: 30rem) { .cells.sound { grid-template-columns: 1fr; }
  .cells.picture:has(> :nth-child(4):last-child) { grid-template-columns: 1fr 1fr; } }
"""

_TITLE = "fastload preview: {{ p.data }}"

_PAGE = """
<h1>What the model will see of {{ p.data }}</h1>
<p class="quiet">{{ count }} of {{ "{:,}".format(p.total) }} samples, spread evenly over the data, before augmentation
and in {{ "the first epoch" if epochs == 1 else "the first %d epochs"|format(epochs) }}.
</p>
{% if p.augment %}<ol class="chain">{% for each in p.augment %}<li><code>{{ each }}</code></li>{% endfor %}</ol>
{% else %}<p>No augmentation: samples are shown as they are read.</p>{% endif %}
{% if p.by_batch %}<p class="quiet">What these draw may depend on the rest of the batch, and be another in training:
{% for each in p.by_batch %}<code>{{ each }}</code>{{ "" if loop.last else ", " }}{% endfor %}</p>{% endif %}
{% if p.cropped %}<p class="quiet">Reading crops {{ p.cropped|join(" and ") }} at random, another way in each epoch;
<i>before</i> is epoch 0.</p>{% endif %}
<div class="samples">
{% for sample in samples %}<section><h2>{{ sample.title }}</h2>
{% for field in sample.fields %}<h3>{{ field.name }}
{% if field.notes %}<span class="quiet">({{ field.notes|join("; after: ") }})</span>{% endif %}</h3>
<div class="cells {{ field.kind }}">
{% for heading, cell in field.cells %}<figure>
{% if cell.kind in ("words", "plain") %}<figcaption>{{ heading }}</figcaption><div>{{ show(cell, field.name, heading) }}
{% if cell.note %}<p class="quiet">{{ cell.note }}</p>{% endif %}</div>
{% else %}{{ show(cell, field.name, heading) }}
<figcaption>{{ heading }}
{%- if cell.note and cell.kind != "picture" %}: {{ cell.note }}{% endif %}</figcaption>{% endif %}
</figure>{% endfor %}</div>
{% endfor %}
{% if sample.drawn|map("length")|sum %}<details><summary>What was drawn</summary>
{% for drawn in sample.drawn %}<p><b>epoch {{ loop.index0 }}</b> {{ drawn|join("; ") }}</p>{% endfor %}
</details>{% endif %}
</section>{% endfor %}
</div>
"""
