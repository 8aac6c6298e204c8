"""What other people's trainers do with data, found out from who asks.

Accelerate, and with it the Hugging Face Trainer, shares an iterable data set out over the processes by itself, in one
of two ways; a data set that gives each process its share would then be shared out twice. So it gives Accelerate what
it expects, the samples of all processes:

    DataLoaderDispatcher   process 0 reads for all: batches of process 0, 1, ..., 0, 1, ... in turn (or, with
                           split_batches, as one large batch), which it cuts up and sends
    IterableDatasetShard   each process iterates over everything, and keeps the rows of its own

Lightning counts the batches of a resumed epoch from the epoch's beginning.

Neither tells a data set or a loader of its ways, so that these functions look at the callers.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import FrameType
from typing import Any

from fastload.errors import ConfigError

_ACCELERATE = "accelerate.data_loader"
_LIGHTNING = ("lightning.pytorch.utilities.combined_loader", "pytorch_lightning.utilities.combined_loader")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """How Accelerate shares out a data set.

    Attributes:
        world_size: over how many processes.
        rank: the process whose rows are kept; None: those of all.
        rows: of each process in a batch.
        whole: the rows of all processes are one batch of the loader, and not one batch each.
        drops: the remainder of an epoch is dropped, and not padded.
    """

    world_size: int
    rank: int | None
    rows: int
    whole: bool
    drops: bool


def sharing_of(dataset: object) -> Sharing | None:
    """How Accelerate shares out this data set, if it is Accelerate that asks it for something now, else None.

    A worker process that was forked has the callers of the process that started it.

    Raises:
        ConfigError: the loader makes no batches, so that rows cannot be dealt out.
    """
    if _ACCELERATE not in sys.modules:
        return None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__") == _ACCELERATE:
            asking = frame.f_locals.get("self")
            if getattr(asking, "dataset", None) is dataset:
                return _sharing(asking)
        frame = frame.f_back
    return None


def _sharing(asking: Any) -> Sharing | None:
    kind = type(asking).__name__
    if kind not in ("DataLoaderDispatcher", "IterableDatasetShard"):
        return None
    dispatches = kind == "DataLoaderDispatcher"
    processes = asking.state.num_processes if dispatches else asking.num_processes
    if asking.batch_size is None:
        raise ConfigError("under Accelerate the DataLoader needs a batch_size; or pass it a fastload.DataLoader")
    return Sharing(
        world_size=processes,
        rank=None if dispatches else asking.process_index,
        rows=asking.batch_size // processes if asking.split_batches else asking.batch_size,
        whole=not dispatches or asking.split_batches,
        drops=asking._drop_last if dispatches else asking.drop_last,
    )


def lightning_asks() -> bool:
    """Whether it is Lightning that calls the function that calls this one."""
    return sys._getframe(2).f_globals.get("__name__") in _LIGHTNING
