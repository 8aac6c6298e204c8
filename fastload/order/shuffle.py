"""The order of a data set: a pure function from (epoch, position) to (shard, row), for all epochs.

    position i -> p = interleave(i, lanes) -> the block of `window` shuffled shards that p lies in
               -> a bijection inside the block -> (shard, row)

Nothing is stored but the shards' order of the epochs in use, O(shards). Any position is reached in the same time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from fastload.errors import ConfigError
from fastload.order.arguments import integer
from fastload.order.hashing import U64, combine, combine_array
from fastload.order.permute import MAX_DOMAIN, permute

try:
    from fastload.order import _order
except ImportError:  # not built: the same in numpy, in ten times the time
    _order = None  # type: ignore[assignment]

Ints = npt.NDArray[np.int64]

ORDER_VERSION = 1  # raised when the same arguments give another order; saved states name it

# A batch of 256 then draws from 63 of 64 shards in the mean (98% of what 64 allow) and memory holds 64 row groups of
# 8 MiB, half a GiB. Packed sets are shuffled over their shards already, so the window has only to part neighbours
# again.
DEFAULT_WINDOW = 64

_SHARD_ORDER, _BLOCK_KEYS = 1, 2  # what a key is for


def interleave(i: Ints, n: int, lanes: int) -> Ints:
    """A bijection of [0, n): consecutive i go round the lanes, and each lane is a contiguous run of the result."""
    quotient, remainder = divmod(n, lanes)
    lane = i % lanes
    return lane * quotient + np.minimum(lane, remainder) + i // lanes


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochLayout:
    """One epoch: shards in their order, and where shards and blocks start."""

    shards: Ints  # [S] shard at each place
    starts: Ints  # [S] first position of each place
    ends: Ints  # [S] position after its last
    block_starts: Ints  # [blocks]
    block_sizes: Ints  # [blocks] samples
    block_keys: U64  # [blocks]


class Order:
    """Maps (epoch, position) to (shard, row).

    Args:
        sizes: samples of each shard, int [S]; zeros are allowed.
        seed: any integer; it counts modulo 2**64.
        window: shards mixed at a time. 0: no shuffle, as stored. 1: shards are shuffled, and rows inside each. S or
            more: a global shuffle. Blocks are evened out, so that none is left over small (65 shards, window 64:
            33 + 32).
        lanes: contiguous parts of the epoch that consecutive positions go round; a divisor of the world size gives
            world_size / lanes ranks in a row their own shards, see `distribute`. A block never reaches across lanes, so
            that each lane shares but the shard at either end with its neighbours, whatever the window.

    Raises:
        ConfigError: sizes that are not a row of counts or sum up to more than 2**52, a negative window, lanes below 1.
    """

    def __init__(self, sizes: npt.ArrayLike, *, seed: int, window: int, lanes: int = 1) -> None:
        self.seed, self.window, self.lanes = integer("seed", seed), integer("window", window), integer("lanes", lanes)
        if self.window < 0:
            raise ConfigError(f"window={window}: pass 0 (no shuffle), a number of shards, or 'all'")
        if self.lanes < 1:
            raise ConfigError(f"lanes={lanes}: must be at least 1")
        self.sizes = _counts(sizes)
        self.samples = int(self.sizes.sum())
        self._layout = lru_cache(maxsize=3)(self._build_layout)  # this epoch, the next, and one that is being compared

    def __reduce__(self) -> tuple[Any, ...]:  # layouts are built again where a worker process needs them
        return partial(Order, seed=self.seed, window=self.window, lanes=self.lanes), (self.sizes,)

    def locate(self, epochs: npt.ArrayLike, positions: npt.ArrayLike) -> tuple[Ints, Ints]:
        """Shard and row of each position.

        Args:
            epochs: int, or int [k].
            positions: int [k], each in [0, samples).

        Returns:
            shards, rows: int64 [k] each.

        Raises:
            IndexError: a position outside [0, samples).
        """
        i = np.asarray(positions, np.int64).reshape(-1)
        if i.size and not 0 <= i.min() <= i.max() < self.samples:
            raise IndexError(f"positions {i.min()} to {i.max()}: an epoch has positions in [0, {self.samples})")
        per_position = np.broadcast_to(np.asarray(epochs, np.int64), i.shape)
        if i.size and (per_position == per_position[0]).all():  # nearly always
            return self._locate(int(per_position[0]), i)
        shards, rows = np.empty_like(i), np.empty_like(i)
        for epoch in np.unique(per_position).tolist():
            here = np.flatnonzero(per_position == epoch)
            shards[here], rows[here] = self._locate(epoch, i[here])
        return shards, rows

    def layout(self, epoch: int) -> EpochLayout:
        """Where an epoch's shards and blocks lie."""
        return self._layout(epoch)

    def _locate(self, epoch: int, i: Ints) -> tuple[Ints, Ints]:
        layout = self._layout(epoch)
        if _order is not None:
            shards, rows = np.empty(i.shape, np.int64), np.empty(i.shape, np.int64)
            blocks = slice(None if self.window else 0)
            _order.locate(
                np.ascontiguousarray(i),
                self.samples,
                self.lanes,
                layout.block_starts[blocks],
                layout.block_sizes[blocks],
                layout.block_keys[blocks],
                layout.ends,
                layout.starts,
                layout.shards,
                shards,
                rows,
            )
            return shards, rows
        p = interleave(i, self.samples, self.lanes)
        if self.window:
            block: Any = np.searchsorted(layout.block_starts, p, "right") - 1
            if block.size and block.min() == block.max():  # one size and one key for all: a third off the time
                block = int(block[0])
            low = layout.block_starts[block]
            p = low + permute(p - low, layout.block_sizes[block], layout.block_keys[block])
        place = np.searchsorted(layout.ends, p, "right")
        return layout.shards[place], p - layout.starts[place]

    def _build_layout(self, epoch: int) -> EpochLayout:
        count = len(self.sizes)
        key = combine(self.seed, epoch)
        if self.window:
            shards = np.argsort(combine_array(combine(self.seed, epoch, _SHARD_ORDER), np.arange(count)), kind="stable")
        else:
            shards = np.arange(count)
        ends = np.cumsum(self.sizes[shards])
        starts = ends - self.sizes[shards]
        block_starts = _block_starts(starts, self.samples, max(1, min(self.window, count)), self.lanes)
        return EpochLayout(
            shards=shards,
            starts=starts,
            ends=ends,
            block_starts=block_starts,
            block_sizes=np.diff(np.append(block_starts, self.samples)),
            block_keys=combine_array(combine(key, _BLOCK_KEYS), np.arange(len(block_starts))),
        )


def _counts(sizes: npt.ArrayLike) -> Ints:
    """A copy of `sizes` as int64 [S], once it is known to be counts whose sum the arithmetic can hold."""
    array = np.asarray(sizes)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ConfigError(f"sizes of shape {array.shape} and dtype {array.dtype}: pass one number of samples per shard")
    negative = np.flatnonzero(array < 0)
    if len(negative):
        raise ConfigError(f"sizes[{negative[0]}]={array[negative[0]]}: a shard cannot have fewer than 0 samples")
    total = float(array.sum(dtype=np.float64))  # int64 might wrap round before it is compared
    if total > MAX_DOMAIN:
        raise ConfigError(f"the shards hold {total:.4g} samples: at most 2**52")
    return array.astype(np.int64)


def _block_starts(starts: Ints, samples: int, window: int, lanes: int) -> Ints:
    """First position of each block, ascending: each lane's shards in runs of at most `window`, as even as can be.

    A shard counts for the lane that it begins in; the end of one that began earlier goes into the lane's first block.
    """
    lane_starts = interleave(np.arange(min(lanes, samples)), samples, lanes)  # [L]
    places = np.searchsorted(starts, np.append(lane_starts, samples))  # [L + 1] first shard that begins in each lane
    counts = np.diff(places)
    blocks = np.maximum(1, -(-counts // window))  # [L]
    lane = np.repeat(np.arange(len(blocks)), blocks)  # [all blocks], as what follows
    number = np.arange(len(lane)) - (np.cumsum(blocks) - blocks)[lane]  # inside the lane
    place = places[lane] + number * counts[lane] // blocks[lane]
    return np.where(number, starts[np.minimum(place, len(starts) - 1)], lane_starts[lane])
