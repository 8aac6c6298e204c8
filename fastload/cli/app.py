"""The program itself: its options, how errors are shown, and what its commands share."""

from __future__ import annotations

import errno
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from fastload import __version__
from fastload.errors import ConfigError, FastloadError

if TYPE_CHECKING:
    from fastload.shards.index import IndexFile

COMMANDS = (
    "pack",
    "index",
    "convert",
    "merge",
    "append",
    "inspect",
    "stats",
    "verify",
    "repair",
    "check",
    "preview",
    "profile",
    "bench",
    "demo",
)  # as --help lists them
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PLAIN_WIDTH = 160  # of tables that do not go to a terminal, so that pipes get whole lines


class Format(StrEnum):
    tar = "tar"
    parquet = "parquet"


class _Group(typer.core.TyperGroup):
    """Prints an error of fastload as one red line, and a warning as one yellow line."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=COMMANDS.index)

    def invoke(self, ctx: Any) -> Any:
        errors = Console(stderr=True, highlight=False)

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            try:
                return super().invoke(ctx)
            except FastloadError as error:
                errors.print(Text(f"error: {error}", style="bold red"), soft_wrap=True)
                raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from None
            except OSError as error:
                if isinstance(error, BrokenPipeError) or _is_of_a_script(error):
                    raise
                errors.print(Text(f"error: {_os_text(error)}", style="bold red"), soft_wrap=True)
                raise typer.Exit(1) from None
            finally:
                for text in dict.fromkeys(str(warning.message) for warning in caught):
                    errors.print(Text(f"warning: {text}", style="yellow"), soft_wrap=True)


def _is_of_a_script(error: OSError) -> bool:
    """Whether a script of the user's raised it: its author needs to see where."""
    return any(frame.f_globals.get("__name__") == "runpy" for frame, _ in traceback.walk_tb(error.__traceback__))


def _os_text(error: OSError) -> str:
    """What the system refused, and of which file."""
    why = error.strerror or str(error)
    if error.errno in NO_SPACE:
        return f"no space{f' for {error.filename}' if error.filename else ''} ({why}); make space and run it again"
    return f"{error.filename} cannot be read or written ({why})" if error.filename else why


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Pack raw samples once into tar or Parquet shards; stream them, shuffled and shared out exactly, to PyTorch.",
)


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


Json = Annotated[bool, typer.Option("--json", help="Print JSON, for other programs.")]
JsonFile = Annotated[Path | None, typer.Option("--json", dir_okay=False, help="Write all numbers to this file.")]
HtmlFile = Annotated[Path | None, typer.Option("--html", dir_okay=False, help="Write the report to this file.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no summary.")]
Fields = Annotated[
    str | None,
    typer.Option(
        help="Such as image:224:random,mask:224:random:L:nearest,label or tokens:1024; default: all, in their own size."
    ),
]
Augment = Annotated[
    str | None,
    typer.Option(
        help="Such as 'RandomHorizontalFlip, ColorJitter(0.4), Normalize', or a name in a file: train.py:ops (the file "
        "is run: keep training under __main__)."
    ),
]
Window = Annotated[
    str | None, typer.Option(help="Shards mixed at a time; default: 64; all: a global shuffle; 0: none.")
]


def say(text: str, style: str = "") -> None:
    Console(highlight=False).print(Text(text, style=style), soft_wrap=True)


def show(table: RenderableType) -> None:
    """Print a table on standard output."""
    Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH).print(table)


def contents(index: IndexFile) -> str:
    """A data set in a few words: samples, splits, files, bytes."""
    from fastload.inspect import size_text

    samples, size = (sum(getattr(shard, what) for shard in index.shards) for what in ("samples", "bytes"))
    splits = ", ".join(f"{name} {index.samples(name):,}" for name in index.splits)
    return f"{samples:,} samples ({splits}) as {len(index.shards):,} {index.shard_format} files, {size_text(size)},"


@contextmanager
def bar(what: str, shown: bool) -> Iterator[Callable[[int, int, int], None] | None]:
    """A bar with rate and time left, on standard error, gone at the end; None where there is no terminal.

    Gives a function of (shards done, shards in all, bytes done).
    """
    from fastload.inspect import size_text

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
