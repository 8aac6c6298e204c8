"""fastload inspect | stats | verify: what is in shards, and whether it is whole."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from fastload.cli.app import Json, Quiet, app, bar, say, show
from fastload.errors import ConfigError

FAULTS_SHOWN = 20  # of one shard; a swapped .idx makes every sample of its shard one


@app.command()
def inspect(
    data: Annotated[str, typer.Argument(help="A packed folder, shards, or a pattern such as 'a-{000..099}.tar'.")],
    split: Annotated[str | None, typer.Option(help="Only this split.")] = None,
    html: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write a page with samples and histograms here.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show splits, fields, classes and sizes; no sample is read, but for the page."""
    from fastload.inspect import render, summary

    if html is not None and as_json:
        raise ConfigError("inspect: --html and --json are two ways to show it; run it once for each")
    if html is not None:
        from fastload.describe.page import save_page

        save_page(data, html, split)
        say(f"wrote {html}")
        return
    about = summary(data, split)
    if as_json:
        typer.echo(json.dumps(about, indent=1, ensure_ascii=False))
        return
    show(render(about))


@app.command()
def stats(
    data: Annotated[str, typer.Argument(help="A packed folder, shards, or a pattern such as 'a-{000..099}.tar'.")],
    split: Annotated[str | None, typer.Option(help="Only this split.")] = None,
    pixels: Annotated[bool, typer.Option("--pixels", help="Also mean and std of all pixels; decodes them.")] = False,
    as_json: Json = False,
) -> None:
    """Show class balance, sizes and lengths by split and field, from the index."""
    from fastload.describe import describe
    from fastload.describe.table import render as render_numbers

    about = describe(data, split, pixels=pixels)
    if as_json:
        typer.echo(json.dumps(about, indent=1, ensure_ascii=False))
    else:
        show(render_numbers(about))


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="A folder with an index.json.")],
    decode: Annotated[bool, typer.Option("--decode", help="Also decode every field of every sample.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check every byte against the index; name each fault by shard, offset (of Parquet: rows) and key."""
    from fastload.inspect import size_text
    from fastload.verify import verify as run

    started = time.perf_counter()
    with bar("verifying", shown=not (quiet or as_json)) as advance:
        report = run(folder, decode, advance)
    if as_json:
        about = {"ok": report.ok, "shards": report.shards, "samples": report.samples, "bytes": report.bytes}
        faults = [
            {"shard": fault.shard, "offset": fault.offset, "key": fault.key, "what": fault.what}
            for fault in report.faults
        ]
        typer.echo(json.dumps(about | {"decoded": report.decoded, "faults": faults}, indent=1, ensure_ascii=False))
    else:
        shown: Counter[str] = Counter()
        for fault in report.faults:
            shown[fault.shard] += 1
            if shown[fault.shard] <= FAULTS_SHOWN:
                say(str(fault), style="red")
        for shard, count in shown.items():
            if count > FAULTS_SHOWN:
                say(f"{shard}: and {count - FAULTS_SHOWN} more", style="red")
        if not quiet:
            found = f"{len(report.faults)} faults" if report.faults else "all whole"
            what = f"{report.samples:,} samples in {report.shards:,} shards, {size_text(report.bytes)}"
            say(f"{found}: {what}{', decoded' if decode else ''}, {time.perf_counter() - started:.1f} s")
    if not report.ok:
        raise typer.Exit(1)
