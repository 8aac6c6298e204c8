"""fastload demo: the whole path on samples made on the spot."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fastload.cli.app import app


class DemoKind(StrEnum):
    image = "image"
    audio = "audio"
    text = "text"


@app.command()
def demo(
    kind: Annotated[DemoKind, typer.Argument(help="What the samples are.")] = DemoKind.image,
    out: Annotated[
        Path | None, typer.Option(help="Where samples, shards and pictures go; default: demo-out/KIND.")
    ] = None,
) -> None:
    """Make samples, pack them, stream them into a small training run, and draw what came of it."""
    from fastload.demo import run

    run(kind.value, out)
