"""The report as tables: concerns first."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fastload.inspect import many, size_text
from fastload.outlook.findings import FirstBatch, Outlook


def render(outlook: Outlook) -> RenderableType:
    """The report for a rich console."""
    return Group(*_concerns(outlook), _table(outlook))


def _concerns(outlook: Outlook) -> Iterator[RenderableType]:
    if not outlook.concerns:
        yield Text("nothing will hurt, as far as can be known beforehand", style="bold")
    for concern in outlook.concerns:
        style = "bold red" if concern.severity == "error" else "yellow"
        yield Text(f"{concern.severity}: {concern.name}: {concern.what}; {concern.remedy}", style=style)


def _table(outlook: Outlook) -> Table:
    table = Table(box=box.SIMPLE, show_header=False)
    table.add_column(style="bold")
    table.add_column()
    for name, value in [*_epoch(outlook), *_mixing(outlook), *_costs(outlook)]:
        table.add_row(name, value)
    return table


def _epoch(outlook: Outlook) -> Iterator[tuple[str, str]]:
    plan, data, epoch = outlook.plan, outlook.data, outlook.epoch
    yield "data", f"{data.samples:,} samples an epoch, {many(data.shards, 'shard')}, {size_text(data.bytes)}"
    yield "global batch", f"{epoch.global_batch:,} = {many(plan.world_size, 'rank')} x {plan.batch_size:,}"
    left = {"padded": epoch.padded, "dropped": epoch.dropped}
    more = ", ".join(f"{count:,} rows {what}" for what, count in left.items() if count)
    yield "batches of a rank", f"{epoch.batches:,} an epoch, last_batch={plan.last_batch}{', ' + more if more else ''}"
    yield "shards of a rank", f"{epoch.shards_per_rank:,.0f} an epoch"


def _mixing(outlook: Outlook) -> Iterator[tuple[str, str]]:
    plan, window, mixing = outlook.plan, outlook.window, outlook.window.mixing
    lanes = f", lanes={plan.lanes} of {window.lane_shards[0]} to {window.lane_shards[1]} shards"
    yield "mixed at a time", f"{many(window.shards, 'shard')} (window={plan.window}){lanes if plan.lanes > 1 else ''}"
    if mixing is not None:
        allows = f"; the window allows {mixing.window_allows:.1f}" if mixing.window_allows is not None else ""
        yield "shards in a batch", f"{mixing.found:.1f}{allows}, all shards {mixing.most:.1f}"


def _costs(outlook: Outlook) -> Iterator[tuple[str, str]]:
    plan, first, memory = outlook.plan, outlook.first_batch, outlook.memory
    if first is not None and memory is not None:
        groups = f", {size_text(memory.row_groups_bytes)} of row groups" if memory.row_groups_bytes else ""
        yield (
            "memory of a rank",
            f"about {size_text(memory.bytes)}: {memory.batches} batches of {size_text(first.bytes)}{groups}",
        )
        yield "first batch", f"after {first.seconds:.2f} s on this machine"
        if first.objects:
            yield "fetched for it", _fetched(outlook, first)
    cache = f", of a cache of {size_text(plan.cache_bytes)}" if plan.cache_bytes is not None else ""
    if plan.disk_bytes is not None:
        cache = f", of a disk with room for {size_text(plan.disk_bytes)}"
    yield "disk of a node", f"{size_text(outlook.window.bytes)} at hand at a time{cache}"


def _fetched(outlook: Outlook, first: FirstBatch) -> str:
    speed = first.bytes_per_second
    said = f"{many(first.objects, 'object')} of a server, {size_text(first.fetched_bytes)}"
    if not speed:
        return said
    whole = outlook.data.bytes / speed
    time = f"{whole:,.0f} s" if whole < 600 else f"{whole / 60:,.0f} min"
    return f"{said}: at least {size_text(round(speed))}/s, at which all of the data takes {time}"
