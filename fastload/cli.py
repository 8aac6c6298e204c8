"""The command line: fastload pack | index | convert | inspect | verify | profile | demo.

Exit codes: 0 done; 1 it failed, or verify found faults; 2 the arguments are wrong. Results go to standard output,
progress and errors to standard error.

Imported inside their commands, because each loads torch (a second) and `fastload --help` should not wait for it:
fastload.pack, fastload.check, fastload.loader, fastload.profile, fastload.demo.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from fastload import __version__
from fastload.errors import ConfigError, FastloadError
from fastload.inspect import jpeg_text, render, size_text, summary
from fastload.shards.index import IndexFile
from fastload.shards.open import index_folder, open_index

FAULTS_SHOWN = 20  # of one shard; a swapped .idx makes every sample of its shard one
PLAIN_WIDTH = 160  # of tables that do not go to a terminal, so that pipes get whole lines


class Format(StrEnum):
    tar = "tar"
    parquet = "parquet"


class SourceKind(StrEnum):
    image = "image"
    audio = "audio"
    text = "text"
    manifest = "manifest"


class Jpeg(StrEnum):
    seekable = "seekable"
    keep = "keep"


class DemoKind(StrEnum):
    image = "image"
    audio = "audio"
    text = "text"


class _Group(typer.core.TyperGroup):
    """Prints an error of fastload as one red line, and a warning as one yellow line."""

    def invoke(self, ctx: Any) -> Any:
        errors = Console(stderr=True, highlight=False)

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            try:
                return super().invoke(ctx)
            except FastloadError as error:
                errors.print(Text(f"error: {error}", style="bold red"), soft_wrap=True)
                raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from None
            finally:
                for text in dict.fromkeys(str(warning.message) for warning in caught):
                    errors.print(Text(f"warning: {text}", style="yellow"), soft_wrap=True)


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Pack raw samples once into tar or Parquet shards; stream them, shuffled and shared out exactly, to PyTorch.",
)


def main() -> None:
    """Entry point of the `fastload` program."""
    app()


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fastload {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of the program itself."""


Json = Annotated[bool, typer.Option("--json", help="JSON for other programs.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no summary.")]


@app.command()
def pack(
    source: Annotated[Path, typer.Argument(help="A folder of files, a manifest (.csv, .tsv, .jsonl) or a .txt file.")],
    out: Annotated[Path, typer.Argument(help="The folder to make. Run again to go on after an interruption.")],
    format: Annotated[Format, typer.Option(help="tar (WebDataset) or parquet (Hugging Face datasets).")] = Format.tar,
    shard_size: Annotated[str, typer.Option(help="Largest size of a shard, such as 256MiB or 1GB.")] = "256MiB",
    split: Annotated[str | None, typer.Option(help="Shares of splits, such as train=0.9,val=0.1.")] = None,
    seed: Annotated[int, typer.Option(help="Of the shuffle and the splits.")] = 0,
    workers: Annotated[int | None, typer.Option(help="Processes; default: one per core.")] = None,
    columns: Annotated[str | None, typer.Option(help="Columns of a manifest: image:path,label,caption:text.")] = None,
    label_regex: Annotated[str | None, typer.Option(help="Finds the label in a file's path.")] = None,
    kind: Annotated[SourceKind | None, typer.Option(help="What the source is, where its files do not tell.")] = None,
    jpeg: Annotated[
        Jpeg, typer.Option(help="seekable: lossless, and crops read half the bytes. keep: store files as they are.")
    ] = Jpeg.seekable,
    shuffle: Annotated[bool, typer.Option("--shuffle/--no-shuffle", help="Mix samples over the shards.")] = True,
    quiet: Quiet = False,
) -> None:
    """Pack raw samples into shards and their index."""
    from fastload.pack import pack as run

    started = time.perf_counter()
    index = run(
        source,
        out,
        format=format.value,
        shard_size=shard_size,
        split=split,
        seed=seed,
        shuffle=shuffle,
        workers=workers,
        columns=columns,
        label_regex=label_regex,
        kind=None if kind is None else kind.value,
        jpeg=jpeg.value,
        progress=not quiet and sys.stderr.isatty(),
    )
    if not quiet:
        _say(f"packed {_contents(index)} into {out}, {time.perf_counter() - started:.1f} s{_jpegs(index)}")


@app.command()
def index(
    folder: Annotated[Path, typer.Argument(help="Tar or Parquet files; subfolders are splits.")],
    quiet: Quiet = False,
) -> None:
    """Make the index of shards that other tools wrote, or make a damaged one again."""
    started = time.perf_counter()
    made = index_folder(folder)
    if not quiet:
        _say(f"indexed {_contents(made)} in {folder}, {time.perf_counter() - started:.1f} s")


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="A data set of MosaicML (MDS) or LitData, or a folder of splits.")],
    out: Annotated[Path, typer.Argument(help="The folder to make. Run again to go on after an interruption.")],
    format: Annotated[Format, typer.Option(help="tar (WebDataset) or parquet (Hugging Face datasets).")] = Format.tar,
    quiet: Quiet = False,
) -> None:
    """Convert shards of MosaicML Streaming or LitData."""
    from fastload.pack.convert import convert as run

    started = time.perf_counter()
    with _bar("converting", shown=not quiet) as advance:
        made = run(source, out, format=format.value, progress=advance)
    if not quiet:
        _say(f"converted {_contents(made)} into {out}, {time.perf_counter() - started:.1f} s")


@app.command()
def inspect(
    data: Annotated[str, typer.Argument(help="A packed folder, shards, or a pattern such as 'a-{000..099}.tar'.")],
    split: Annotated[str | None, typer.Option(help="Only this split.")] = None,
    as_json: Json = False,
) -> None:
    """Show splits, fields, classes and sizes; no sample is read."""
    about = summary(data, split)
    if as_json:
        typer.echo(json.dumps(about, indent=1, ensure_ascii=False))
        return
    Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH).print(render(about))


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="A folder with an index.json.")],
    decode: Annotated[bool, typer.Option("--decode", help="Also decode every field of every sample.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check every byte against the index; name each fault by shard, offset and key."""
    from fastload.check import verify as run

    started = time.perf_counter()
    with _bar("verifying", shown=not (quiet or as_json)) as advance:
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
                _say(str(fault), style="red")
        for shard, count in shown.items():
            if count > FAULTS_SHOWN:
                _say(f"{shard}: and {count - FAULTS_SHOWN} more", style="red")
        if not quiet:
            found = f"{len(report.faults)} faults" if report.faults else "all whole"
            what = f"{report.samples:,} samples in {report.shards:,} shards, {size_text(report.bytes)}"
            _say(f"{found}: {what}{', decoded' if decode else ''}, {time.perf_counter() - started:.1f} s")
    if not report.ok:
        raise typer.Exit(1)


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
    Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH).print(render_profile(found))


@app.command()
def demo(
    kind: Annotated[DemoKind, typer.Argument(help="What the samples are.")] = DemoKind.image,
    out: Annotated[Path | None, typer.Option(help="Where samples, shards and pictures go.")] = None,
) -> None:
    """Make samples, pack them, stream them into a small training run, and draw what came of it."""
    from fastload.demo import run

    run(kind.value, out)


def _contents(index: IndexFile) -> str:
    samples, size = (sum(getattr(shard, what) for shard in index.shards) for what in ("samples", "bytes"))
    splits = ", ".join(f"{name} {index.samples(name):,}" for name in index.splits)
    return f"{samples:,} samples ({splits}) as {len(index.shards):,} {index.shard_format} files, {size_text(size)},"


def _jpegs(index: IndexFile) -> str:
    """What became of the JPEGs of all splits; empty if there are none, or they were to be kept."""
    splits = index.statistics.get("jpeg", {}).values()
    kept: Counter[str] = Counter()
    for split in splits:
        kept.update(split["kept"])
    counts = {"seekable": sum(split["seekable"] for split in splits), "kept": dict(sorted(kept.items()))}
    return f"; {jpeg_text(counts)}" if splits else ""


def _say(text: str, style: str = "") -> None:
    Console(highlight=False).print(Text(text, style=style), soft_wrap=True)


@contextmanager
def _bar(what: str, shown: bool) -> Iterator[Callable[[int, int, int], None] | None]:
    """A bar with rate and time left, on standard error, gone at the end; None where there is no terminal.

    Gives a function of (shards done, shards in all, bytes done).
    """
    console = Console(stderr=True)
    if not (shown and console.is_terminal):
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("shards"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    started = time.perf_counter()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=None, rate="")

        def advance(done: int, total: int, written: int) -> None:
            rate = size_text(round(written / max(time.perf_counter() - started, 1e-3)))
            progress.update(task, completed=done, total=total, rate=f"{rate}/s")

        yield advance


if __name__ == "__main__":
    main()
