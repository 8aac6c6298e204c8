"""fastload check | profile | bench: what a run will be like, what limits loading, and how fast it is."""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastload.cli.app import Augment, Fields, HtmlFile, Json, JsonFile, Window, app, show
from fastload.errors import ConfigError

if TYPE_CHECKING:
    from fastload.profile import Profile


_OF_LOADER = ("split", "fields", "batch_size", "num_workers", "prefetch_factor", "window", "augment", "device")
_OF_SCRIPT = ("arguments", "loader")
_OF_MEASURING = ("split", "fields", "batch_size", "num_workers", "device", "rounds", "seconds")


class LastBatchKind(StrEnum):
    auto = "auto"
    partial = "partial"
    pad = "pad"
    drop = "drop"
    wrap = "wrap"


@app.command()
def profile(
    context: typer.Context,
    shards: Annotated[str | None, typer.Argument(help="A packed folder, shards, or a pattern of them.")] = None,
    split: Annotated[str | None, typer.Option(help="Only this split.")] = None,
    fields: Fields = None,
    batch_size: Annotated[int, typer.Option(help="Rows of a batch.")] = 64,
    num_workers: Annotated[
        int | None, typer.Option("--workers", "--num-workers", help="Threads; default: one per core.")
    ] = None,
    prefetch_factor: Annotated[int, typer.Option(help="Batches in work or ready ahead.")] = 2,
    window: Window = None,
    augment: Augment = None,
    device: Annotated[str | None, typer.Option(help="Where batches go, such as cuda; default: the CPU.")] = None,
    seconds: Annotated[float, typer.Option(help="How long to measure, about.")] = 20.0,
    script: Annotated[
        Path | None, typer.Option(help="Run this training script and profile its loader against its own step.")
    ] = None,
    arguments: Annotated[str, typer.Option("--args", help="Arguments of the script, in quotes.")] = "",
    loader: Annotated[
        int, typer.Option(help="Which loader of the script, in the order they are first iterated over, from 1.")
    ] = 1,
    try_advice: Annotated[bool, typer.Option("--try", help="Also try what is advised, where arguments do.")] = False,
    json_file: JsonFile = None,
    html_file: HtmlFile = None,
) -> None:
    """Say which stage of loading limits, and what would help.

    Given shards, it measures loading alone, without a training step. With --script, a training script is run until its
    loops over its first fastload.DataLoader have given the profile what it needs, on real and made-up batches, and is
    ended there. Of several ranks run one: torchrun --nproc-per-node 1 -m fastload.cli profile --script ...

    Of shards behind URLs, those of the first batch are fetched before anything but the server is measured, however long
    that takes, and those of more batches for a tenth of the seconds; a line on standard error says how much it is.
    """
    from fastload.profile.script import profile_script
    from fastload.profile.table import render as render_profile

    if (shards is None) == (script is None):
        raise ConfigError("profile: name a data set, or a training script with --script")
    _check_can_write(json_file, html_file)
    if script is not None:
        _refuse(context, _OF_LOADER, "is the script's own business; pass it with --args, or not")
        with _telling():
            found = profile_script(script, _words(arguments), seconds=seconds, loader=loader, try_advice=try_advice)
    else:
        assert shards is not None
        _refuse(context, _OF_SCRIPT, "is for a training script; name one with --script in place of a data set")
        options = {"num_workers": num_workers, "prefetch_factor": prefetch_factor, "device": device}
        with _telling():
            found = _profile_shards(shards, split, fields, augment, window, batch_size, options, seconds, try_advice)
    show(render_profile(found))
    for path, save in ((json_file, found.save_json), (html_file, found.save_html)):
        if path is not None:
            save(path)


@contextmanager
def _telling() -> Iterator[None]:
    """What a profile has to say before it goes on, on standard error."""
    log, handler = logging.getLogger("fastload.profile"), logging.StreamHandler(sys.stderr)
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def _check_can_write(json_file: Path | None, html_file: Path | None) -> None:
    """Measuring takes long; a file that cannot be written is refused before."""
    from fastload.report.page import templates

    if html_file is not None:
        templates()
    for path in (json_file, html_file):
        if path is None:
            continue
        folder = path.parent
        if not folder.is_dir():
            raise ConfigError(f"{path} cannot be written: there is no folder {folder}; make it first")
        if path.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
            raise ConfigError(f"{path} cannot be written: {'a folder' if path.is_dir() else 'no permission'}")


def _refuse(context: typer.Context, names: Sequence[str], why: str) -> None:
    """Options that were given and would change nothing."""
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if option.name in names and source is not None and source.name != "DEFAULT":
            raise ConfigError(f"{context.info_name}: {option.opts[0]} {why}")


def _words(text: str) -> list[str]:
    """As a shell would take it apart."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"--args {text!r}: {str(error).lower()}; close it, or put a \\ in front") from None


def _profile_shards(
    shards: str,
    split: str | None,
    fields: str | None,
    augment: str | None,
    window: str | None,
    batch_size: int,
    options: dict[str, Any],
    seconds: float,
    try_advice: bool,
) -> Profile:
    from fastload.loader import DataLoader
    from fastload.machine import cores
    from fastload.previews.spec import parse_augment
    from fastload.profile import profile as run
    from fastload.profile.spec import parse_fields
    from fastload.shards.open import open_index

    loader = DataLoader(
        shards,
        batch_size,
        **{**options, "num_workers": cores() if options["num_workers"] is None else options["num_workers"]},
        augment=None if augment is None else parse_augment(augment),
        split=split,
        window=_window(window),
        fields=None if fields is None else parse_fields(fields, open_index(shards, split)),
    )
    return run(loader, seconds=seconds, try_advice=try_advice)


def _window(text: str | None) -> Any:
    """A number where it is one; what else it may be, the data set knows."""
    return int(text) if text is not None and text.isdigit() else text


@app.command()
def check(
    shards: Annotated[str, typer.Argument(help="A packed folder, shards, or a pattern such as 'a-{000..099}.tar'.")],
    split: Annotated[str | None, typer.Option(help="Only this split.")] = None,
    fields: Fields = None,
    batch_size: Annotated[int, typer.Option(help="Rows of a batch, of each rank.")] = 64,
    world_size: Annotated[int, typer.Option(help="Ranks.")] = 1,
    num_workers: Annotated[int, typer.Option("--workers", "--num-workers", help="Threads of each rank.")] = 0,
    last_batch: Annotated[
        LastBatchKind,
        typer.Option(
            help="An epoch's remainder. partial: a short batch (one rank only). pad: filled up, marked. drop: not read."
            " wrap: runs into the next epoch. auto: partial, on several ranks pad."
        ),
    ] = LastBatchKind.auto,
    window: Window = None,
    lanes: Annotated[int, typer.Option(help="Number of nodes, each to read shards of its own.")] = 1,
    cache: Annotated[str | None, typer.Option(help="Size of each node's cache, such as 100GB.")] = None,
    as_json: Json = False,
) -> None:
    """Say what a run will be like, and what will hurt, before it starts. Exit code 1: it would not start."""
    from fastload.outlook import check as run
    from fastload.outlook.table import render as render_outlook
    from fastload.profile.spec import parse_fields
    from fastload.shards.open import open_index

    outlook = run(
        shards,
        batch_size,
        world_size=world_size,
        num_workers=num_workers,
        last_batch=last_batch.value,
        cache_size=cache,
        split=split,
        fields=None if fields is None else parse_fields(fields, open_index(shards, split)),
        window=_window(window),
        lanes=lanes,
    )
    if as_json:
        typer.echo(json.dumps(outlook.to_dict(), indent=1))
    else:
        show(render_outlook(outlook))
    if not outlook.ok:
        raise typer.Exit(1)


@app.command()
def bench(
    context: typer.Context,
    shards: Annotated[str | None, typer.Argument(help="A packed folder, shards, or a pattern of them.")] = None,
    split: Annotated[str | None, typer.Option(help="Only this split.")] = None,
    fields: Fields = None,
    batch_size: Annotated[int, typer.Option(help="Rows of a batch.")] = 64,
    num_workers: Annotated[
        int | None, typer.Option("--workers", "--num-workers", help="Most threads; default: one per core.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Where batches go, such as cuda; default: the CPU.")] = None,
    rounds: Annotated[int, typer.Option(help="Of each benchmark.")] = 5,
    seconds: Annotated[float, typer.Option(help="How long to measure, about.")] = 30.0,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(help="Compare two results in place of measuring: before, after.")
    ] = None,
    threshold: Annotated[float, typer.Option(help="The loss that --compare puts up with, as a share.")] = 0.05,
    json_file: JsonFile = None,
    html_file: HtmlFile = None,
) -> None:
    """Measure how fast a data set loads here, or compare two results.

    Exit code 1: slower beyond the threshold. 2: nothing can be told, for no benchmark has 4 rounds in both.
    """
    from fastload.bench import Results, run
    from fastload.bench import compare as run_compare
    from fastload.bench.report import changes_to_html, render, render_changes, to_html
    from fastload.profile.spec import parse_fields
    from fastload.shards.open import open_index

    if (shards is None) == (compare is None):
        raise ConfigError("bench: name a data set to measure, or two files with --compare")
    _check_can_write(json_file, html_file)
    if compare is not None:
        _refuse(context, _OF_MEASURING, "is for measuring, and --compare only reads what was measured; leave it out")
        found = run_compare(Results.load(compare[0]), Results.load(compare[1]), threshold)
        show(render_changes(found))
        if json_file is not None:
            json_file.write_text(json.dumps(found.to_dict(), indent=1) + "\n")
        if html_file is not None:
            html_file.write_text(changes_to_html(found), encoding="utf-8")
        raise typer.Exit(0 if found.ok else 1 if found.told else 2)
    assert shards is not None
    _refuse(context, ("threshold",), "is for --compare: nothing is compared while measuring; leave it out")
    results = run(
        shards,
        batch_size,
        num_workers=num_workers,
        rounds=rounds,
        seconds=seconds,
        device=device,
        split=split,
        fields=None if fields is None else parse_fields(fields, open_index(shards, split)),
    )
    show(render(results))
    if json_file is not None:
        results.save(json_file)
    if html_file is not None:
        html_file.write_text(to_html(results), encoding="utf-8")
