"""fastload merge | append: packed data sets made into others."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from fastload.cli.app import Format, Quiet, app, bar, contents, say
from fastload.cli.packing import SourceKind


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


@app.command()
def append(
    source: Annotated[str, typer.Argument(help="What `fastload pack` takes, or packed shards.")],
    out: Annotated[Path, typer.Argument(help="The packed folder that gets more samples.")],
    split: Annotated[
        str | None, typer.Option(help="Such as train=1 or train=0.9,val=0.1; default: as the folder was split.")
    ] = None,
    prefix: Annotated[str, typer.Option(help="Put before each new key, such as more/.")] = "",
    columns: Annotated[str | None, typer.Option(help="Columns of a manifest: image:path,label,caption:text.")] = None,
    label_regex: Annotated[str | None, typer.Option(help="Finds the label in a file's path.")] = None,
    kind: Annotated[SourceKind | None, typer.Option(help="What the source is, where its files do not tell.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; default: one per core.")] = None,
    quiet: Quiet = False,
) -> None:
    """Add samples to a packed folder as further shards. None that is there is written again; readers go on."""
    from fastload.reshape import append as run

    started = time.perf_counter()
    given: dict[str, Any] = {"split": split, "columns": columns, "label_regex": label_regex, "workers": workers}
    given["kind"] = None if kind is None else kind.value
    options = {name: value for name, value in given.items() if value is not None}
    made = run(source, out, prefix=prefix, progress=not quiet and sys.stderr.isatty(), **options)
    if not quiet:
        last = made.packed["history"][-1]
        what = f"appended {last['samples']:,} samples in {last['shards']:,} shards to {out}, version {last['version']}"
        say(f"{what}: now {contents(made)} {time.perf_counter() - started:.1f} s")
