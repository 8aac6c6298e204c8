"""fastload profile: what limits loading."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastload.cli.app import app, show
from fastload.shards.open import open_index


@app.command()
def profile(
    shards: Annotated[str, typer.Argument(help="A packed folder, shards, or a pattern such as 'a-{000..099}.tar'.")],
    split: Annotated[str | None, typer.Option(help="Only this split.")] = None,
    fields: Annotated[
        str | None, typer.Option(help="Such as image:224:random,label or tokens:1024; default: all, as stored.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Rows of a batch.")] = 64,
    num_workers: Annotated[int | None, typer.Option(help="Threads; default: one per core.")] = None,
    device: Annotated[str | None, typer.Option(help="Where batches go, such as cuda; default: the CPU.")] = None,
    seconds: Annotated[float, typer.Option(help="How long to measure, about.")] = 20.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all numbers here.")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", help="Write the report as a page here.")] = None,
) -> None:
    """Say which stage of loading limits, and what would help. No step is run: call fastload.profile with yours."""
    from fastload.loader import DataLoader
    from fastload.profile import profile as run
    from fastload.profile.capacity import cores
    from fastload.profile.spec import parse_fields
    from fastload.profile.table import render as render_profile

    loader = DataLoader(
        shards,
        batch_size,
        num_workers=cores() if num_workers is None else num_workers,
        device=device,
        split=split,
        fields=None if fields is None else parse_fields(fields, open_index(shards, split)),
    )
    found = run(loader, seconds=seconds)
    for path, save in ((json_file, found.save_json), (html_file, found.save_html)):
        if path is not None:
            save(path)
    show(render_profile(found))
