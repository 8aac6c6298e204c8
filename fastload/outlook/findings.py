"""What a check found, as values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from fastload.order.quality import Mixing


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How the run was meant to be.

    Attributes:
        cache_bytes: of the cache of each node, where shards are fetched; None: none is meant, or no limit.
        disk_bytes: what a cache without a limit has room for on this machine, of shards behind URLs; else None.
        cores: processors that this process may use.
        machine_bytes: memory of this machine, or what its container may use of it.
    """

    batch_size: int
    world_size: int
    num_workers: int
    prefetch_factor: int
    last_batch: str
    window: int
    lanes: int
    cache_bytes: int | None
    disk_bytes: int | None
    cores: int
    machine_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """What there is.

    Attributes:
        samples: of an epoch, over all ranks.
        shards: tars or row groups with samples in them.
        largest: name of the largest shard, by samples; "" where there are none.
        largest_share: of all stored samples, what it holds.
        bytes: of all files.
        remote: some are behind URLs.
    """

    samples: int
    shards: int
    largest: str
    largest_share: float
    bytes: int
    remote: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """What a rank gets of an epoch.

    Attributes:
        global_batch: rows of a batch over all ranks.
        batches: of each rank.
        padded: rows over all ranks that only fill up the last batch; None where batches are planned by length.
        dropped: samples that are left out.
        shards_per_rank: shards that a rank reads from, in the mean.
    """

    global_batch: int
    batches: int
    padded: int | None
    dropped: int | None
    shards_per_rank: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What is mixed at a time.

    Attributes:
        shards: of the largest block that a rank is in, over all lanes that it reads.
        bytes: of those shards.
        room: bytes of the smallest cache that the loader takes, where shards are behind URLs or will be.
        lane_shards: fewest and most shards of a lane, in the first epoch.
        mixing: distinct shards of a global batch; None where there is no whole one, or batches are planned by length.
    """

    shards: int
    bytes: int
    room: int
    lane_shards: tuple[int, int]
    mixing: Mixing | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstBatch:
    """The first batch of rank 0, read.

    Attributes:
        seconds: from making the loader to the batch, on this machine; files may have been in the page cache.
        bytes: what it takes in memory, keys apart.
        objects, fetched_bytes: of shards behind URLs, what it needed that the cache lacked: files, and indexes beside
            them, whose bytes are not counted.
    """

    seconds: float
    bytes: int
    objects: int = 0
    fetched_bytes: int = 0

    @property
    def bytes_per_second(self) -> float:
        """That the server gave at the least: what comes for later batches meanwhile is not counted."""
        return self.fetched_bytes / max(self.seconds, 1e-9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What a rank's loader holds, about.

    Attributes:
        batches: so many at a time: those ahead (without threads, the one in work), the one handed out and the one
            before it.
        batches_bytes: of these.
        row_groups_bytes: open row groups of Parquet; tars are mapped, and in the page cache.
    """

    batches: int
    batches_bytes: int
    row_groups_bytes: int

    @property
    def bytes(self) -> int:
        """Of all."""
        return self.batches_bytes + self.row_groups_bytes


Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Concern:
    """What will hurt.

    Attributes:
        name: which concern it is, e.g. "small-epoch"; stays the same from version to version.
        severity: "error": the run would be refused, or learn nothing.
        what: what is the matter, with its numbers.
        remedy: what to do.
    """

    name: str
    severity: Severity
    what: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What a run will be like.

    Attributes:
        first_batch, memory: None where the first batch could not be read.
        concerns: errors first.
    """

    plan: Plan
    data: Data
    epoch: Epoch
    window: Window
    first_batch: FirstBatch | None
    memory: Memory | None
    concerns: tuple[Concern, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the run would start, and learn something."""
        return not any(concern.severity == "error" for concern in self.concerns)

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {"ok": self.ok, **asdict(self)}
