"""fastload merge | append | repair: packed data sets made into others."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from fastload.cli.app import Format, Json, Quiet, app, bar, contents, say
from fastload.cli.packing import SourceKind

LOST_SHOWN = 20  # keys of one shard


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
    label_regex: Annotated[str | None, typer.Option(help="Its first group in a file's name is the class.")] = None,
    label_level: Annotated[int | None, typer.Option(help="Folders that name the class: 1, 2, ...; 0: all.")] = None,
    kind: Annotated[SourceKind | None, typer.Option(help="What the source is, where its files do not tell.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; default: one per core.")] = None,
    quiet: Quiet = False,
) -> None:
    """Add samples to a packed folder as further shards. None that is there is written again; readers go on."""
    from fastload.reshape import append as run

    started = time.perf_counter()
    given: dict[str, Any] = {"split": split, "columns": columns, "workers": workers}
    given |= {"label_regex": label_regex, "label_level": label_level, "kind": None if kind is None else kind.value}
    options = {name: value for name, value in given.items() if value is not None}
    made = run(source, out, prefix=prefix, progress=not quiet and sys.stderr.isatty(), **options)
    if not quiet:
        last = made.packed["history"][-1]
        what = f"appended {last['samples']:,} samples in {last['shards']:,} shards to {out}, version {last['version']}"
        say(f"{what}: now {contents(made)} {time.perf_counter() - started:.1f} s")


@app.command()
def repair(
    out: Annotated[Path, typer.Argument(help="The packed folder.")],
    drop_damaged: Annotated[
        bool, typer.Option("--drop-damaged", help="Drop samples whose bytes are damaged, and shards that are missing.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a damaged folder whole again, as far as its files allow. What is whole stays; originals are kept."""
    from fastload.reshape import repair as run

    with bar("looking", shown=not (quiet or as_json)) as advance:
        done = run(out, drop_damaged=drop_damaged, dry_run=dry_run, progress=advance)
    if as_json:
        mended = [
            {"name": one.name, "what": one.what, "lost_samples": one.lost_samples, "lost": list(one.lost)}
            for one in done.mended
        ]
        about = {"mended": mended, "left": list(done.left), "samples": done.samples, "dry_run": dry_run}
        backup = None if done.backup is None else str(done.backup)
        typer.echo(json.dumps({**about, "backup": backup}, indent=1, ensure_ascii=False))
    else:
        for one in done.mended:
            say(f"{one.name}: {one.what}", style="yellow" if one.lost_samples else "")
            for key in one.lost[:LOST_SHOWN]:
                say(f"  lost {key!r}", style="yellow")
            if len(one.lost) > LOST_SHOWN:
                say(f"  and {len(one.lost) - LOST_SHOWN:,} more", style="yellow")
        for text in done.left:
            say(text, style="red")
        if not quiet:
            left = len(done.left)
            say(_outcome(done.samples, done.lost_samples, left, done.backup, bool(done.mended), dry_run))
            if left and not drop_damaged:
                say("--drop-damaged drops samples that are damaged, and shards that are missing")
    if done.left:
        raise typer.Exit(1)


def _outcome(samples: int, lost: int, left: int, backup: Path | None, mended: bool, dry_run: bool) -> str:
    """The last line of a repair."""
    said = f"{samples:,} samples, {lost:,} lost" if lost else f"{samples:,} samples, none lost"
    if left:
        said += f"; {left} {'fault stays' if left == 1 else 'faults stay'}"
    if dry_run and mended:
        return f"would have {said}; nothing was changed"
    if not mended:
        return f"nothing to repair: {said}" if not left else f"nothing was changed: {said}"
    return f"repaired: {said}; originals and the list of what was lost are in {backup}"
