"""Who gets which part of the sequence: global batches, and each rank's rows of them.

A run reads g = 0, 1, 2, ... over all epochs: epoch, i = divmod(g, n). A global batch of G = world_size x batch_size is
a run of g, and rank r takes r, r + world_size, r + 2 world_size, ... of it. So every world size with the same G sees
the same global batches, a sample goes to exactly one rank, and how many have been consumed is the whole state.

    last_batch   the remainder of an epoch of n samples, shorter than G
    partial      is a short batch (one rank only)
    pad          is a full batch on every rank, its missing rows marked invalid
    drop         is not read
    wrap         is filled up from the next epoch
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from fastload.errors import ConfigError
from fastload.order.arguments import integer

LastBatch = Literal["partial", "pad", "drop", "wrap"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One rank's part of every global batch.

    Attributes:
        rank: in [0, world_size).
        batch_size: rows per rank.
        last_batch: "auto" is resolved by `Share.auto`.

    Raises:
        ConfigError: a value that is not an integer or is out of range, or "partial" on several ranks (their numbers of
            rows would differ).
    """

    rank: int
    world_size: int
    batch_size: int
    last_batch: LastBatch

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("world_size", 1), ("rank", None)):
            object.__setattr__(self, name, integer(name, getattr(self, name), least=least))
        if not 0 <= self.rank < self.world_size:
            raise ConfigError(f"rank={self.rank}: must be in [0, {self.world_size}), the world size")
        if self.last_batch not in ("partial", "pad", "drop", "wrap"):
            raise ConfigError(f"last_batch={self.last_batch!r}: pass 'auto', 'partial', 'pad', 'drop' or 'wrap'")
        if self.last_batch == "partial" and self.world_size > 1:
            raise ConfigError(
                f"last_batch='partial' on {self.world_size} ranks would give them batches of different sizes; "
                "pass 'pad', 'drop' or 'wrap'"
            )

    @staticmethod
    def auto(*, rank: int, world_size: int, batch_size: int, last_batch: LastBatch | Literal["auto"]) -> Share:
        """A share with "auto" resolved: partial on one rank, pad on several."""
        resolved: LastBatch = ("pad" if world_size > 1 else "partial") if last_batch == "auto" else last_batch
        return Share(rank=rank, world_size=world_size, batch_size=batch_size, last_batch=resolved)

    @property
    def global_batch(self) -> int:
        return self.world_size * self.batch_size

    def batches_left(self, samples: int, consumed: int) -> int:
        """Global batches from `consumed` to the end of its epoch; at an epoch's edge, of the epoch that begins."""
        if samples == 0:
            return 0
        left = samples - consumed % samples
        return left // self.global_batch if self.last_batch == "drop" else -(-left // self.global_batch)

    def span(self, samples: int, consumed: int) -> tuple[int, int, int]:
        """The global batch that begins at `consumed`: start and stop of its g, and `consumed` after it."""
        stop = consumed + self.global_batch
        if self.last_batch == "wrap":
            return consumed, stop, stop
        edge = (consumed // samples + 1) * samples
        stop = min(stop, edge)
        return consumed, stop, self.settle(samples, stop)

    def settle(self, samples: int, consumed: int) -> int:
        """`consumed`, moved on to the next epoch where this one has no batch left (drop's remainder)."""
        if samples and consumed % samples and self.batches_left(samples, consumed) == 0:
            return (consumed // samples + 1) * samples
        return consumed

    def rows(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """The g of this rank's rows in the global batch [start, stop): int64 [at most batch_size]."""
        return np.arange(start + self.rank, stop, self.world_size, dtype=np.int64)
