"""How well an order mixes, as numbers: the shards that a batch draws from, against what its window allows.

Batches that draw from few shards are alike inside where shards are (one class, one day, one source), and their
gradients are noisier than their size promises.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fastload.order.buckets import BoundBuckets
from fastload.order.cursor import Ordering
from fastload.order.mix import visit
from fastload.order.shuffle import EpochLayout, Ints, Order, interleave

BATCHES_LOOKED_AT = 64  # spread over an epoch; their mean is within 1% of all batches' for windows from 4 shards on


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixing:
    """Distinct shards in a global batch, in the mean over an epoch.

    Attributes:
        found: in batches of the order itself.
        window_allows: what ideal draws from the blocks of the window would give; None where the order has no blocks
            (no shuffle, or a sampler's).
        most: what ideal draws from all shards would give.
    """

    found: float
    window_allows: float | None
    most: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """The runs of shards that an epoch mixes at a time.

    Attributes:
        lane: which lane each is in, int64 [blocks].
        samples: int64 [blocks].
        shards: the shards that each has a part of, and how many samples of it.
    """

    lane: Ints
    samples: Ints
    shards: tuple[tuple[Ints, Ints], ...]


def expected_distinct(sizes: npt.ArrayLike, draws: int) -> float:
    """Shards that `draws` samples come from, in the mean, when drawn without replacement from shards of these sizes.

    Shard s is missed with probability C(n - s, k) / C(n, k), of n samples in all and k draws.
    """
    unique, counts = np.unique(np.asarray(sizes, np.int64), return_counts=True)
    total = int((unique * counts).sum())
    draws = min(draws, total)

    def missed(size: int) -> float:
        if total - size < draws:
            return 0.0
        return math.exp(_log_choose(total - size, draws) - _log_choose(total, draws))

    return float(sum(count * (1 - missed(size)) for size, count in zip(unique.tolist(), counts.tolist(), strict=True)))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def blocks_of(order: Order, epoch: int = 0) -> Blocks:
    """The blocks of one epoch, in the order in which their lanes reach them."""
    layout = order.layout(epoch)
    lane_starts = interleave(np.arange(min(order.lanes, order.samples)), order.samples, order.lanes)
    lanes = np.searchsorted(lane_starts, layout.block_starts, "right") - 1
    return Blocks(
        lane=np.asarray(lanes, np.int64),
        samples=layout.block_sizes,
        shards=tuple(
            _parts(layout, start, start + size)
            for start, size in zip(layout.block_starts.tolist(), layout.block_sizes.tolist(), strict=True)
        ),
    )


def _parts(layout: EpochLayout, start: int, stop: int) -> tuple[Ints, Ints]:
    """The shards with samples in [start, stop) of the epoch, and how many."""
    first, last = np.searchsorted(layout.ends, start, "right"), np.searchsorted(layout.starts, stop, "left")
    inside = np.minimum(layout.ends[first:last], stop) - np.maximum(layout.starts[first:last], start)
    some = inside > 0
    return layout.shards[first:last][some], inside[some]


def mixing(order: Ordering, sizes: Sequence[int] | Ints, global_batch: int) -> Mixing | None:
    """Distinct shards in a global batch; None where there is no whole one, or where batches are planned as a whole
    (LengthBuckets).

    Args:
        sizes: samples of each shard, [S].
        global_batch: samples of a batch over all ranks.
    """
    if isinstance(order, BoundBuckets) or order.samples < global_batch:
        return None
    return Mixing(
        found=_found(order, global_batch),
        window_allows=min(_allowed(order, global_batch), float(np.count_nonzero(sizes)))
        if isinstance(order, Order) and order.window
        else None,
        most=expected_distinct(sizes, global_batch),
    )


def _found(order: Ordering, global_batch: int) -> float:
    batches = order.samples // global_batch
    some = np.unique(np.linspace(0, batches - 1, min(batches, BATCHES_LOOKED_AT)).astype(np.int64))
    counts = []
    for number in some.tolist():
        positions = np.arange(number * global_batch, (number + 1) * global_batch)
        _, shards, _ = visit(order, np.zeros(global_batch, np.int64), positions)
        counts.append(len(np.unique(shards)))
    return float(np.mean(counts))


def _allowed(order: Order, global_batch: int) -> float:
    """A batch takes an equal part from the block that each lane is in; blocks count by their samples."""
    blocks, lanes = blocks_of(order), min(order.lanes, order.samples)
    each = max(1, global_batch // lanes)
    drawn = [expected_distinct(inside, each) for _, inside in blocks.shards]
    return float(lanes * (np.array(drawn) * blocks.samples).sum() / order.samples)
