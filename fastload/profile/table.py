"""The report as tables for a terminal: the verdict first."""

from __future__ import annotations

import io
from collections.abc import Iterator

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

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

WIDTH = 110  # of the report as a string


def to_text(profile: Findings) -> str:
    """The report without colours."""
    out = io.StringIO()
    Console(file=out, width=WIDTH, highlight=False).print(render(profile))
    return out.getvalue()


def render(profile: Findings) -> RenderableType:
    """The report for a rich console."""
    return Group(*_parts(profile))


def _parts(profile: Findings) -> Iterator[RenderableType]:
    verdict, setting = profile.verdict, profile.setting
    yield Text(verdict.sentence, style="bold")
    yield Text(
        f"{rate(verdict.samples_per_second)} {measured(profile)}, {rate(verdict.predicted)} by the model "
        f"({verdict.model_error:+.0%})"
        + ("" if verdict.doubt or not profile.stepped else f"; {rate(verdict.loader_alone)} if your step took no time")
    )
    if calm(profile):
        yield Text("; ".join(calm(profile)), style="dim")
    yield Text(about(profile), style="dim")
    yield Text(", ".join(f"{name}={value}" for name, value in setting.items()), style="dim")
    for said in (verdict.first_epoch, *of_server(profile), *on_gpu(profile), *profile.notes):
        if said:
            yield Text(said)
    if verdict.doubt:
        yield Text(verdict.doubt, style="yellow")
    if profile.model.queued_share > QUEUED_WORTH_SAYING:
        yield Text(queued(profile.model), style="yellow")
    yield _advice(profile)
    if profile.tried:
        yield _tried(profile)
    yield _stages(profile)
    yield _ladder(profile)
    yield _capacities(profile)
    yield _ready(profile)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    return table


def _advice(profile: Findings) -> RenderableType:
    if not profile.verdict.advice:
        return Text("" if profile.verdict.doubt else "\nNo change of the loader would bring 5% or more.")
    table = _table("What would help, by the model", "change", "gain", "samples/s")
    table.add_column("because")
    for each in profile.verdict.advice:
        table.add_row(each.change, *predicted(profile.verdict, each), each.why)
    return table


def _tried(profile: Findings) -> RenderableType:
    table = _table("What it brought when it was tried", "change", "predicted", "came", "off")
    table.add_column("samples/s without and with it")
    for each in profile.tried:
        told = predicted(profile.verdict, each.advice)[0]
        if each.came is None or each.now is None:
            table.add_row(each.advice.change, told, "", "", untried(each.advice))
            continue
        came = f"× {each.came / each.now:.3g}"
        off = "" if each.off is None or profile.verdict.doubt else f"{each.off:+.0%}"
        rates = f"{rate(each.now)}, {rate(each.came)}" + (", no step" if each.alone else "")
        table.add_row(each.advice.change, told, came, off, rates)
    return table


def _stages(profile: Findings) -> RenderableType:
    model, path = profile.model, profile.model.path_ms()
    table = _table(f"A batch takes {ms(model.batch_ms)} ms", "stage", "busy ms", "of its path, ms", "bytes/s when busy")
    for name, stage in profile.stats.stages.items():
        if name == "step" and not profile.stepped:
            continue
        style = "bold red" if name == profile.verdict.limit else ""
        flow = speed(stage.bytes / stage.busy_seconds if stage.busy_seconds else None)
        table.add_row(name, ms(model.stage_ms[name]), ms(path[name]), flow, style=style)
    table.add_row("waiting", ms(model.waiting_ms), "", "", style="dim")
    if profile.network is not None:
        speed_now = speed(profile.network.pace.bytes_per_second(profile.network.at_a_time()))
        table.add_row("server", "", ms(model.fetch_ms), speed_now, style="dim")
    return table


def _ladder(profile: Findings) -> RenderableType:
    title = "The step fed from" if profile.stepped else "Batches, without a step, from"
    table = _table(title, "source", "ms a step", "more, ms", "for")
    table.columns[3].justify = "left"
    for rung in profile.rungs:
        table.add_row(rung.source, ms(rung.batch_ms), ms(rung.cost_ms), adds(profile, rung.adds))
    return table


def _capacities(profile: Findings) -> RenderableType:
    table = _table("Each stage alone", "stage", "samples/s by threads", "CPU ms a sample", "bytes/s", "contention")
    share = of_ceiling(profile)
    table.columns[1].justify = "left"
    for each in profile.capacities:
        rates = ", ".join(f"{n}: {rate(x)}" for n, x in zip(each.threads, each.rates, strict=True))
        law = f"{each.scaling.contention:.0%}" if each.scaling else "one thread"
        if each.scaling and each.scaling.coherency:
            law += f", coherency {each.scaling.coherency:.1%}"
        moved = speed(each.bytes_per_second)
        if each.stage in share:
            moved += f", {share[each.stage][0]:.0%} of the most by thread"
        table.add_row(each.stage, rates, ms(each.cpu_ms), moved, law)
    best = profile.ceilings
    table.add_row("copying memory", "", "", speed(best.memory_copy), "", style="dim")
    if best.bus:
        table.add_row("copying pinned memory to the GPU", "", "", speed(best.bus), "", style="dim")
    if best.file_read:
        table.add_row("reading a file from the page cache", "", "", speed(best.file_read), "", style="dim")
    return table


def _ready(profile: Findings) -> RenderableType:
    asked = sum(profile.stats.ready)
    if not asked or not profile.model.threads:
        return Text("")
    shares = ", ".join(f"{k}: {count / asked:.0%}" for k, count in enumerate(profile.stats.ready))
    return Text(f"Batches ready when one was asked for: {shares}")
