"""What becomes of each field on its way into a shard, from the options of packing."""

from __future__ import annotations

from fastload.pack.jpeg import CropSeekable, JpegMode
from fastload.pack.steps import Recipe, Step
from fastload.pack.table import Table


def recipes_for(table: Table, *, jpeg: JpegMode, pixels: bool) -> dict[str, Recipe]:
    """By field, what becomes of its contents; fields that are stored as they are have none.

    Args:
        table: the samples.
        jpeg: "seekable" makes JPEGs crop-seekable where that can be done.
        pixels: whether the pixels of pictures are summed up.
    """
    steps: tuple[Step, ...] = (CropSeekable(),) if jpeg == "seekable" else ()
    if not steps and not pixels:
        return {}
    return {name: Recipe(kind="image", steps=steps, pixels=pixels) for name in table.pictures}
