"""How large prepared samples will be, from some of them: shards are planned before the rest is read."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

import numpy as np

from fastload.pack.contents import fill
from fastload.pack.plan import parquet_width
from fastload.pack.steps import Chain, Recipe
from fastload.pack.table import Int64s, Table
from fastload.shards.index import ShardFormat
from fastload.shards.ustar import BLOCK, padded

TRIED_SAMPLES = 64
TRIED_BYTES = 8 << 20  # of the source: half a second of pictures, or a minute of sound


def source_size(size: int, table: Table, rows: Int64s, recipes: Mapping[str, Recipe], shard_format: ShardFormat) -> int:
    """How many bytes of the source make a shard of `size` bytes.

    Samples spread evenly over the table are prepared and compared with what they were, so the same source gives the
    same answer; how near it is depends on how alike samples are.

    Args:
        size: wanted of a shard, in bytes.
        table: of what will be stored, with the sizes of the source.
        rows: which samples are packed, int64 [m].
        recipes: by field, what becomes of its contents.
        shard_format: a tar has a header for each content, and pads it.

    Raises: PackError: one of these samples is faulty.
    """
    changed = {name: recipe for name, recipe in recipes.items() if recipe.steps}
    if not changed:
        return size
    spread = rows[np.linspace(0, len(rows) - 1, min(len(rows), TRIED_SAMPLES)).astype(np.int64)]
    read = accumulate(np.sum([table.columns[name].sizes[spread] for name in changed], axis=0).tolist())
    tried = spread[: 1 + sum(done < TRIED_BYTES for done in read)]
    before = after = 0
    for name, column in table.columns.items():
        sizes = column.sizes[tried]
        made = _made(table, name, tried, changed[name]) if name in changed else sizes
        width = parquet_width(table.fields[name])
        before, after = (
            total + int((padded(some) + BLOCK).sum() if shard_format == "tar" else some.sum() * width)
            for total, some in ((before, sizes), (after, made))
        )
    return max(1, size * before // after)


def _made(table: Table, name: str, rows: Int64s, recipe: Recipe) -> Int64s:
    """Bytes of what some contents become, int64 [n]."""
    sizes = table.columns[name].sizes[rows].copy()
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    chain = Chain(name, Recipe(kind=recipe.kind, steps=recipe.steps), table.fields[name].kind)
    fill(table, name, rows, np.empty(int(starts[-1]) + 1, np.uint8).data, starts[:-1], chain)
    for at, content in chain.made.items():
        sizes[at] = len(content)
    return sizes
