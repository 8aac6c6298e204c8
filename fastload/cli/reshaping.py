"""fastload merge: packed data sets made into others."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from fastload.cli.app import Format, Quiet, app, bar, contents, say


@app.command()
def merge(
    sources: Annotated[list[str], typer.Argument(help="Two or more packed data sets, then the folder to make.")],
    format: Annotated[
        Format | None, typer.Option(help="tar (WebDataset) or parquet; default: that of the sources.")
    ] = None,
    shard_size: Annotated[
        str | None, typer.Option(help="Largest size of a shard, such as 256MiB; default: one for each of the sources'.")
    ] = None,
    prefix: Annotated[bool, typer.Option("--prefix", help="Put the source's name before each key.")] = False,
    quiet: Quiet = False,
) -> None:
    """Make one data set of several: A B ... OUT. Splits stay, classes are matched by name."""
    from fastload.reshape import merge as run

    started, (*inputs, out) = time.perf_counter(), sources
    with bar("merging", shown=not quiet) as advance:
        made = run(
            inputs,
            Path(out),
            format=None if format is None else format.value,
            shard_size=shard_size,
            prefix=prefix,
            progress=advance,
        )
    if not quiet:
        say(f"merged {contents(made)} into {out}, {time.perf_counter() - started:.1f} s")
