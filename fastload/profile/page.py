"""The report as one HTML page: no other file, no script; readable on a phone and in print."""

from __future__ import annotations

from typing import Any

from fastload.describe.mix import MACROS, STYLE, class_bars, histograms
from fastload.profile.charts import COLOURS, curves
from fastload.profile.findings import Findings
from fastload.profile.words import (
    QUEUED_WORTH_SAYING,
    about,
    adds,
    calm,
    measured,
    ms,
    of_ceiling,
    of_server,
    on_gpu,
    predicted,
    queued,
    rate,
    speed,
    untried,
)
from fastload.report.page import render_page


def to_html(profile: Findings) -> str:
    """The page.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    return render_page(_TITLE, _PAGE, _values(profile), style=STYLE + _STYLE, macros=MACROS + _BAR)


def _values(profile: Findings) -> dict[str, Any]:
    path, verdict, asked = profile.model.path_ms(), profile.verdict, max(1, sum(profile.stats.ready))
    longest = max([*path.values(), profile.model.batch_ms, profile.model.fetch_ms, 1e-9])
    top = max([rung.batch_ms for rung in profile.rungs] + [1e-9])
    rungs = [
        {
            "rung": rung,
            "before": 100 * min(rung.batch_ms, max(0.0, rung.batch_ms - rung.cost_ms)) / top,
            "more": 100 * max(0.0, rung.cost_ms) / top,
        }
        for rung in profile.rungs
    ]
    return {
        "p": profile,
        "verdict": verdict,
        "stages": [
            (name, took, 100 * took / longest, COLOURS[name])
            for name, took in path.items()
            if profile.stepped or name != "step"
        ],
        "waiting": 100 * profile.model.waiting_ms / longest,
        "rungs": rungs,
        "charts": [(each.stage, curves(each), each) for each in profile.capacities if len(each.threads) > 1],
        "ready": [(k, 100 * count / asked) for k, count in enumerate(profile.stats.ready)],
        "rate": rate,
        "ms": ms,
        "speed": speed,
        "ceilings": of_ceiling(profile),
        "colours": COLOURS,
        "told": _told(profile),
        "stored": [
            (name, each, list(class_bars(each)), list(histograms(each))) for name, each in profile.stored.items()
        ],
        "openly": (verdict.first_epoch, *of_server(profile), *on_gpu(profile), *profile.notes),
        "measured": measured(profile),
        "fetching": 100 * profile.model.fetch_ms / longest,
        "predicted": predicted,
        "untried": untried,
        "about": about(profile),
        "adds": adds,
        "calm": "; ".join(calm(profile)),
        "queued": queued(profile.model) if profile.model.queued_share > QUEUED_WORTH_SAYING else "",
    }


def _told(profile: Findings) -> list[str]:
    """What is in the timeline, in the order of the path."""
    lanes = profile.timeline.lanes if profile.timeline else ()
    found = {stage for lane in lanes for stage, _, _ in lane.spans}
    return [stage for stage in COLOURS if stage in found]


_BAR = """
{% macro bar(width, colour, start=0, ghost="#c9ced6") %}
<svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">
<rect width="100" height="10" fill="#eef0f3"/><rect width="{{ start }}" height="10" fill="{{ ghost }}"/>
<rect x="{{ start }}" width="{{ width }}" height="10" fill="{{ colour }}"/></svg>
{% endmacro %}
"""

_STYLE = """
.row { display: grid; grid-template-columns: 7rem 1fr 5rem; gap: .75rem; align-items: center; margin: .3rem 0; }
.row svg { width: 100%; height: 1rem; display: block; border-radius: 2px; }
.row span:last-child { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.wide { grid-template-columns: 13rem 1fr 5rem; }
.row.lane { grid-template-columns: 7rem 1fr; } .key { display: inline-block; width: .7em; height: .7em; }
.told { white-space: nowrap; } .limit { font-weight: 700; }
ol { padding-left: 1.25rem; } li { margin: .5rem 0; overflow-wrap: anywhere; }
.charts { display: flex; flex-wrap: wrap; gap: 1rem; } .charts figure { margin: 0; flex: 1 1 18rem; max-width: 22rem; }
.charts svg { width: 100%; height: auto; }
@media (max-width: 34rem) { .wide { grid-template-columns: 1fr 5rem; }
  .wide svg { grid-column: 1 / 3; grid-row: 2; } .row { grid-template-columns: 5rem 1fr 4.5rem; gap: .5rem; }
  .row.wide { grid-template-columns: 1fr 5rem; } .row.lane { grid-template-columns: 5rem 1fr; }
  .stack tr:first-child, .stack td:empty { display: none; }
  .stack, .stack tbody, .stack tr, .stack td { display: block; }
  .stack tr { border-bottom: 1px solid #e2e5ea; padding: .3rem 0; } .stack td { border: 0; padding: .1rem 0; }
  .stack td.n:not(:empty) { display: flex; justify-content: space-between; }
  .stack td.n::before { content: attr(data-of); } }
"""

_TITLE = "fastload profile: {{ verdict.limit }} limits"

_PAGE = """
<h1>{{ verdict.sentence }}</h1>
<div class="numbers">
<div><b>{{ rate(verdict.samples_per_second) }}</b>{{ measured }}</div>
<div><b>{{ rate(verdict.predicted) }}</b>by the model, {{ "%+.0f"|format(100 * verdict.model_error) }}%</div>
{% if p.stepped and not verdict.doubt %}
<div><b>{{ rate(verdict.loader_alone) }}</b>if your step took no time</div>{% endif %}
</div>
{% for said in openly if said %}<p>{{ said }}</p>{% endfor %}
{% if verdict.doubt %}<p><b>{{ verdict.doubt }}</b></p>{% endif %}
<p class="quiet">{{ about }}</p>
{% if calm %}<p class="quiet">{{ calm }}</p>{% endif %}
<p class="quiet">{% for name, value in p.setting.items() %}{{ name }}={{ value }}{{ "" if loop.last else ", " }}
{%- endfor %}</p>

{% if queued %}<p><b>{{ queued }}</b></p>{% endif %}

<section><h2>What would help, by the model</h2>
{% if verdict.advice %}<ol>{% for each in verdict.advice %}
<li><b>{{ each.change }}</b>{% if not verdict.doubt %}: {{ predicted(verdict, each)|join(", ") }} samples/s
{%- endif %}. <span class="quiet">{{ each.why }}.</span></li>{% endfor %}</ol>
{% elif verdict.doubt %}<p>Nothing that this run could tell.</p>
{% else %}<p>No change of the loader would bring 5% or more.</p>{% endif %}</section>

{% if p.tried %}<section><h2>What it brought when it was tried</h2><ol>{% for each in p.tried %}
<li><b>{{ each.advice.change }}</b>: {% if each.came is none %}{{ untried(each.advice) }}.{% else %}
{% if not verdict.doubt %}predicted {{ predicted(verdict, each.advice)[0] }}, {% endif %}
came × {{ "%.3g"|format(each.came / each.now) }}
{%- if each.off is not none and not verdict.doubt %} ({{ "%+.0f"|format(100 * each.off) }}%){% endif %}.
<span class="quiet">{{ rate(each.now) }} samples/s without it, {{ rate(each.came) }} with it
{{- ", both without your step" if each.alone else "" }}.</span>{% endif %}</li>{% endfor %}</ol></section>
{% endif %}

<section><h2>A batch takes {{ ms(p.model.batch_ms) }} ms</h2>
{% for name, took, width, colour in stages %}
<div class="row{{ " limit" if name == verdict.limit else "" }}"><span>{{ name }}</span>
{{ bar(width, colour) }}<span>{{ ms(took) }} ms</span></div>
{% endfor %}
<div class="row quiet"><span>waiting</span>{{ bar(waiting, "#8a93a1") }}
<span>{{ ms(p.model.waiting_ms) }} ms</span></div>
{% if p.network %}<div class="row{{ " limit" if p.model.fetch_limits else "" }}"><span>server</span>
{{ bar(fetching, colours["read"]) }}<span>{{ ms(p.model.fetch_ms) }} ms</span></div>{% endif %}
<p class="quiet">{% if p.model.threads %}Read and decode: busy time over the number of threads, {{ p.model.threads }};
they run beside the other stages, which follow one another.{% else %}Without threads, all stages follow one another,
and waiting is the first four.{% endif %} Waiting: for a batch, planning it, and putting it together.
{%- if p.network %} The server: giving the stored bytes of a batch that have to be fetched, beside all else.
{%- endif %}</p></section>

{% if p.timeline %}<section><h2>A few batches, as they went</h2>
{% for lane in p.timeline.lanes %}<div class="row lane"><span>{{ lane.name }}</span>
<svg viewBox="0 0 {{ p.timeline.milliseconds }} 10" preserveAspectRatio="none" role="img"
aria-label="what the {{ lane.name }} did"><rect width="100%" height="10" fill="#eef0f3"/>
{% for stage, start, stop in lane.spans %}<rect x="{{ "%.4f"|format(start) }}" width="{{ "%.4f"|format(stop - start) }}"
height="10" fill="{{ colours[stage] }}"/>{% endfor %}</svg></div>
{% endfor %}
<p class="quiet">{{ ms(p.timeline.milliseconds) }} ms from left to right; light is idle.
{% for stage in told %}<span class="told"><span class="key" style="background: {{ colours[stage] }}"></span>
{{ stage }}</span>
{% endfor %}</p></section>{% endif %}

<section><h2>{{ "Your step fed from" if p.stepped else "Batches, without a step, from" }}</h2>
{% for each in rungs %}
<div class="row wide"><span>{{ each.rung.source }}</span>{{ bar(each.more, "#2b6cb0", each.before) }}
<span>{{ ms(each.rung.batch_ms) }} ms</span></div>
{% endfor %}
<p class="quiet">Blue is what the rung costs more than the one before, as far as prefetching does not hide it:
{% for each in rungs %}{{ adds(p, each.rung.adds) }} {{ ms(each.rung.cost_ms) }} ms{{ "." if loop.last else ", " }}
{%- endfor %}</p></section>

{% if charts %}<section><h2>Stages alone, by threads</h2><div class="charts">
{% for name, chart, each in charts %}<figure>{{ chart|safe }}<figcaption class="quiet">{{ name }}: dots measured, line
fitted; contention {{ "%.0f"|format(100 * each.scaling.contention) }}%, coherency
{{ "%.1f"|format(100 * each.scaling.coherency) }}%, other programs included</figcaption></figure>
{% endfor %}</div></section>{% endif %}

{% if ceilings %}<section><h2>Against what the machine does</h2>
{% for name, (share, most) in ceilings.items() %}<div class="row"><span>{{ name }}</span>
{{ bar([100 * share, 100]|min, colours[name]) }}<span>{{ "%.0f"|format(100 * share) }}%</span></div>
<p class="quiet">Of the bytes/s that {{ most }}, by thread.</p>{% endfor %}</section>{% endif %}

<section><h2>Each stage alone</h2><div class="scroll"><table class="stack">
<tr><th>stage</th><th class="n">samples/s</th><th class="n">threads</th><th class="n">CPU ms a sample</th>
<th class="n">bytes/s</th></tr>
{% for each in p.capacities %}<tr><td>{{ each.stage }}</td>
<td class="n" data-of="samples/s">{{ rate(each.rates[-1]) }}</td>
<td class="n" data-of="threads">{{ each.threads[-1] }}</td>
<td class="n" data-of="CPU ms a sample">{{ ms(each.cpu_ms) }}</td>
<td class="n" data-of="bytes/s">{{ speed(each.bytes_per_second) }}</td></tr>
{% endfor %}
<tr class="quiet"><td>copying memory</td><td></td><td class="n" data-of="threads">1</td><td></td>
<td class="n" data-of="bytes/s">{{ speed(p.ceilings.memory_copy) }}</td></tr>
{% if p.ceilings.bus %}<tr class="quiet"><td>copying to the GPU</td><td></td><td class="n" data-of="threads">1</td>
<td></td><td class="n" data-of="bytes/s">{{ speed(p.ceilings.bus) }}</td></tr>{% endif %}
{% if p.ceilings.file_read %}<tr class="quiet"><td>reading a file</td><td></td><td class="n" data-of="threads">1</td>
<td></td><td class="n" data-of="bytes/s">{{ speed(p.ceilings.file_read) }}</td></tr>{% endif %}
</table></div></section>

{% if p.model.threads %}<section><h2>Batches ready when one was asked for</h2>
{% for k, share in ready %}<div class="row"><span>{{ k }}</span>{{ bar(share, "#5a7d9a") }}
<span>{{ "%.0f"|format(share) }}%</span></div>
{% endfor %}<p class="quiet">0 means that the step waited.</p></section>{% endif %}

{% for name, each, classes, charts in stored %}{% if classes or charts %}
<section><h2>What is stored{% if stored|length > 1 %}: {{ name }}{% endif %}</h2>
{% if each.samples < p.about.samples and stored|length == 1 %}<p class="quiet">Of {{ "{:,}".format(each.samples) }}
samples, in files spread over all of them.</p>{% endif %}
{{ mix(classes, charts) }}</section>{% endif %}{% endfor %}
"""
