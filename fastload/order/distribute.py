"""Who gets which part of the sequence: global batches, and each rank's rows of them.

A run reads g = 0, 1, 2, ... over all epochs: epoch, i = divmod(g, n). A global batch of G = world_size x batch_size is
a run of g, and rank r takes r, r + world_size, r + 2 world_size, ... of it. So every world size with the same G sees
the same global batches, a sample goes to exactly one rank, and how many have been consumed is the whole state.

Lanes of the order that divide the world size are shared out by nodes, whose ranks launchers number in a row: the first
world_size / lanes ranks read lane 0, the next as many lane 1, and so on. Of 4 ranks and 2 lanes, which each run of 4
samples goes round as 0, 1, 0, 1, ranks 0 to 3 take numbers 0, 2, 1, 3.

    last_batch   the remainder of an epoch of n samples, shorter than G
    partial      is a short batch (one rank only)
    pad          is a full batch on every rank, its missing rows marked invalid
    drop         is not read
    wrap         is filled up from the next epoch
"""

from __future__ import annotations

from collections.abc import Mapping
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
        batch_size: rows per rank; under a schedule, at its start.
        last_batch: "auto" is resolved by `Share.auto`.
        schedule: (samples consumed, rows per rank from there on), ascending; empty for one batch size throughout.
        lanes: of the order, see `shuffle.Order`; where they do not divide the world size, rank r takes place r.

    Raises:
        ConfigError: a value that is not an integer or is out of range, or "partial" on several ranks (their numbers of
            rows would differ).
    """

    rank: int
    world_size: int
    batch_size: int
    last_batch: LastBatch
    schedule: tuple[tuple[int, int], ...] = ()
    lanes: int = 1

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("world_size", 1), ("lanes", 1), ("rank", None)):
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
    def auto(
        *,
        rank: int,
        world_size: int,
        batch_size: int | Mapping[int, int],
        last_batch: LastBatch | Literal["auto"],
        lanes: int = 1,
    ) -> Share:
        """A share with "auto" resolved: partial on one rank, pad on several. A mapping is a schedule: samples consumed
        -> batch size from there on; it begins at 0."""
        resolved: LastBatch = ("pad" if world_size > 1 else "partial") if last_batch == "auto" else last_batch
        schedule = _schedule(batch_size) if isinstance(batch_size, Mapping) else ()
        first = schedule[0][1] if schedule else batch_size
        assert not isinstance(first, Mapping)
        return Share(
            rank=rank, world_size=world_size, batch_size=first, last_batch=resolved, schedule=schedule, lanes=lanes
        )

    def rows_at(self, consumed: int) -> int:
        """Rows per rank of the batch that begins at `consumed`."""
        rows = self.batch_size
        for start, size in self.schedule:
            if start > consumed:
                break
            rows = size
        return rows

    def global_batch(self, consumed: int = 0) -> int:
        """Rows of the global batch that begins at `consumed`."""
        return self.world_size * self.rows_at(consumed)

    def batches_left(self, samples: int, consumed: int) -> int:
        """Global batches from `consumed` to the end of its epoch; at an epoch's edge, of the epoch that begins."""
        if samples == 0:
            return 0
        edge, batches = (consumed // samples + 1) * samples, 0
        for change in (*(start for start, _ in self.schedule if consumed < start < edge), edge):
            rows = self.global_batch(consumed)
            here = max(0, -(-(change - consumed) // rows))  # batches that begin before the size changes
            if self.last_batch == "drop":
                here = min(here, (edge - consumed) // rows)
            batches, consumed = batches + here, min(edge, consumed + here * rows)
        return batches

    def span(self, samples: int, consumed: int) -> tuple[int, int, int]:
        """The global batch that begins at `consumed`: start and stop of its g, and `consumed` after it."""
        stop = consumed + self.global_batch(consumed)
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
        place = place_of(self.rank, self.world_size, self.lanes)
        return np.arange(start + place, stop, self.world_size, dtype=np.int64)


def place_of(rank: int, world_size: int, lanes: int) -> int:
    """Which of each `world_size` samples in a row is a rank's own."""
    if lanes == 1 or world_size % lanes:
        return rank
    lane, local = divmod(rank, world_size // lanes)
    return local * lanes + lane


def _schedule(sizes: Mapping[int, int]) -> tuple[tuple[int, int], ...]:
    steps = sorted(
        (integer("batch_size", start, least=0), integer("batch_size", size, least=1)) for start, size in sizes.items()
    )
    if not steps or steps[0][0] != 0:
        raise ConfigError(f"batch_size={dict(sizes)!r}: a schedule begins at 0 samples, e.g. {{0: 64, 100_000: 128}}")
    return tuple(steps)
