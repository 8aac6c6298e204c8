"""fastload preview: what the model will see."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastload.cli.app import Augment, Fields, app, say


@app.command()
def preview(
    shards: Annotated[str, typer.Argument(help="A packed folder, shards, or a pattern such as 'a-{000..099}.tar'.")],
    out: Annotated[Path, typer.Option(help="Folder for index.html and a contact sheet of each field.")],
    fields: Fields = None,
    augment: Augment = None,
    samples: Annotated[int, typer.Option(help="How many, spread evenly over the data.")] = 12,
    epochs: Annotated[int, typer.Option(help="Variants of each: the first epochs of a training.")] = 2,
    seed: Annotated[int, typer.Option(help="The training's.")] = 0,
    split: Annotated[str | None, typer.Option(help="Only this split.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="A tokenizer.json, or a folder with one, to show tokens as text; or bytes.")
    ] = None,
) -> None:
    """Draw samples before and after augmentation: pictures, sounds, changes of text."""
    from fastload.pack.vocabulary import load_vocabulary
    from fastload.previews import preview as run
    from fastload.previews.spec import parse_augment
    from fastload.profile.spec import parse_fields
    from fastload.shards.open import open_index

    found = run(
        shards,
        fields=None if fields is None else parse_fields(fields, open_index(shards, split)),
        augment=None if augment is None else parse_augment(augment),
        samples=samples,
        epochs=epochs,
        seed=seed,
        split=split,
        words=None if tokenizer is None else load_vocabulary(tokenizer).token,
    )
    for path in found.save(out):
        say(str(path))
