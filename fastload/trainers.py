"""What other people's trainers do with data, found out from who asks.

Accelerate, and with it the Hugging Face Trainer, shares an iterable data set out over the processes by itself, in one
of two ways; a data set that gives each process its share would then be shared out twice. So it gives Accelerate what
it expects, the samples of all processes:

    DataLoaderDispatcher   process 0 reads for all: batches of process 0, 1, ..., 0, 1, ... in turn (or, with
                           split_batches, as one large batch), which it cuts up and sends
    IterableDatasetShard   each process iterates over everything, and keeps the rows of its own

What Accelerate shares out may also be a wrapper that reads the data set: each process then has its share already, and
every other sample would be lost.

Lightning counts the batches of a resumed epoch from the epoch's beginning, and a loader that has no state begins the
epoch anew.

Accelerate's `accumulate` takes a step at the last batch of an epoch, which it asks the loaders that it has wrapped for;
a fastload.DataLoader is not wrapped, and tells it of each of its passes.

Neither tells a data set or a loader of its ways, so that these functions look at the callers.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

from fastload.errors import ConfigError, StateError

_ACCELERATE = "accelerate.data_loader"
_ACCELERATE_STATE = "accelerate.state"
_TRANSFORMERS = "transformers.trainer"
_LIGHTNING = ("lightning.pytorch.utilities.combined_loader", "pytorch_lightning.utilities.combined_loader")
_FIT_LOOP = ("lightning.pytorch.loops.fit_loop", "pytorch_lightning.loops.fit_loop")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """How Accelerate shares out a data set.

    Attributes:
        world_size: over how many processes.
        rank: the process whose rows are kept; None: those of all.
        rows: of each process in a batch.
        whole: the rows of all processes are one batch of the loader, and not one batch each.
        drops: the remainder of an epoch is dropped, and not padded.
        evaluates: the Hugging Face Trainer measures a model with it; the names that the model's forward() takes.
        wrapper: the type of what is shared out in place of the data set, and reads it; None: the data set itself.
    """

    world_size: int
    rank: int | None
    rows: int
    whole: bool
    drops: bool
    evaluates: tuple[str, ...] | None = None
    wrapper: str | None = None

    def check(self) -> None:
        """Raise ConfigError if what would be shared out is shared out already."""
        if self.wrapper is not None:
            raise ConfigError(
                f"Accelerate would share out a second time, over {self.world_size} processes, what a {self.wrapper} "
                "reads from fastload, and samples would be lost: give the DataLoader the StreamingDataset itself; or "
                "pass Accelerate a fastload.DataLoader, whose augment= takes functions of a batch; or make the "
                "StreamingDataset with rank=0, world_size=1, so that Accelerate alone shares it out"
            )


def sharing_of(data: object, world_size: int) -> Sharing | None:
    """How Accelerate shares out this data set or what wraps it, if it is Accelerate that asks for something now, else
    None.

    A worker process that was forked has the callers of the process that started it.

    Args:
        data: a data set, or a loader, which can only be wrapped.
        world_size: over how many ranks it shares itself out; a wrapper around what one rank reads is no matter.

    Raises:
        ConfigError: the loader makes no batches, so that rows cannot be dealt out.
    """
    if _ACCELERATE not in sys.modules:
        return None
    for frame in _callers():
        if frame.f_globals.get("__name__") != _ACCELERATE:
            continue
        asking = frame.f_locals.get("self")
        if getattr(asking, "dataset", None) is data:
            return _sharing(asking, frame)
        if world_size > 1 and _processes(asking) > 1:
            wrapper = type(asking.dataset).__name__  # type: ignore[union-attr]
            return Sharing(world_size=_processes(asking), rank=None, rows=1, whole=True, drops=False, wrapper=wrapper)
    return None


def _callers() -> Iterator[FrameType]:
    """The callers of who asks this, the nearest first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _processes(asking: Any) -> int:
    """Over how many processes this object of Accelerate shares out; 0 if it is none that does."""
    match type(asking).__name__:
        case "DataLoaderDispatcher":
            return int(asking.state.num_processes)
        case "IterableDatasetShard":
            return int(asking.num_processes)
    return 0


def _sharing(asking: Any, frame: FrameType) -> Sharing | None:
    processes, dispatches = _processes(asking), type(asking).__name__ == "DataLoaderDispatcher"
    if not processes:
        return None
    if asking.batch_size is None:
        raise ConfigError("under Accelerate the DataLoader needs a batch_size; or pass it a fastload.DataLoader")
    return Sharing(
        world_size=processes,
        rank=None if dispatches else asking.process_index,
        rows=asking.batch_size // processes if asking.split_batches else asking.batch_size,
        whole=not dispatches or asking.split_batches,
        drops=asking._drop_last if dispatches else asking.drop_last,
        evaluates=_evaluated(frame),
    )


def _evaluated(frame: FrameType | None) -> tuple[str, ...] | None:
    """What the model takes that the Hugging Face Trainer evaluates, if that is what calls this frame."""
    while frame is not None:
        if frame.f_globals.get("__name__") == _TRANSFORMERS and frame.f_code.co_name == "evaluation_loop":
            trainer = frame.f_locals["self"]
            return tuple(trainer._signature_columns or inspect.signature(trainer.model.forward).parameters)
        frame = frame.f_back
    return None


class Passage:
    """One pass of a loader, which Accelerate knows as it knows those of loaders that it has wrapped: of the newest that
    has not ended, it asks these attributes.

    Attributes:
        end_of_dataloader: the batch that was handed over is the last one.
        remainder: rows of the last batch that `gather_for_metrics` keeps; 0: all, since `valid` tells the padding.
    """

    remainder = 0

    def __init__(self, state: Any, batches: int) -> None:
        self.end_of_dataloader = False
        self._left, self._state = batches, state
        state._add_dataloader(self)

    def hand_over(self) -> None:
        """A batch goes to the consumer now."""
        self._left -= 1
        self.end_of_dataloader = self._left == 0

    def end(self) -> None:
        """It has ended, or was broken off; any number of times."""
        self._state._remove_dataloader(self)


def passage(batches: Callable[[], int]) -> Passage | None:
    """Tell Accelerate, if the program uses it, of a pass of so many batches that begins now. None also where nobody
    knows how many there will be, and where a loader that Accelerate has wrapped reads from this one: that one tells."""
    states: Any = getattr(sys.modules.get(_ACCELERATE_STATE), "GradientState", None)
    if not getattr(states, "_shared_state", None):  # no Accelerator was made
        return None
    if any(frame.f_globals.get("__name__") == _ACCELERATE for frame in _callers()):
        return None
    try:
        return Passage(states(), batches())
    except TypeError:  # as of len()
        return None


def refuse_skipping() -> NoReturn:
    """What a fastload.DataLoader says when it is asked for `drop_last`, which it has not.

    Raises:
        ConfigError: Accelerate asks, to make a stock DataLoader of the data set that skips batches: one that knows
            nothing of augmentation, devices and the place in the run.
        AttributeError: anybody else asks.
    """
    asking = sys._getframe(2)
    if asking.f_globals.get("__name__") == _ACCELERATE and asking.f_code.co_name == "skip_first_batches":
        raise ConfigError(
            "skip_first_batches would go on with another loader, without augment=: a fastload.DataLoader goes on "
            "after load_state_dict(), with what state_dict() gave at the checkpoint. With the Hugging Face Trainer, "
            "set ignore_data_skip=True and load it in a callback's on_train_begin"
        )
    raise AttributeError("a fastload.DataLoader has no drop_last; its last_batch says what becomes of the remainder")


def lightning_asks() -> bool:
    """Whether it is Lightning that calls the function that calls this one."""
    return sys._getframe(2).f_globals.get("__name__") in _LIGHTNING


def lightning_begins_an_epoch() -> bool:
    """Whether Lightning calls, about to go on from a checkpoint of an epoch's end."""
    loop = _resuming_loop()
    return loop is not None and not _is_inside_epoch(loop)


def refuse_restart(dataset: object) -> None:
    """Raise StateError if Lightning is about to go on inside an epoch with a loader of this data set that begins it
    anew."""
    loop = _resuming_loop()
    if loop is None or not _is_inside_epoch(loop):
        return
    loaders = [each for each in loop._combined_loader.flattened if getattr(each, "dataset", None) is dataset]
    if any(not hasattr(each, "load_state_dict") for each in loaders):
        raise StateError(
            f"the checkpoint was saved after {loop.epoch_loop.batch_progress.current.processed} batches of an epoch, "
            "and a stock DataLoader begins the epoch anew: samples would come twice, others not at all. Pass a "
            "fastload.DataLoader to fit, which goes on there, or resume from a checkpoint of an epoch's end"
        )


def _resuming_loop() -> Any:
    """The loop of Lightning's that sets up its loaders now, to go on from a checkpoint; None if there is none."""
    if not any(name in sys.modules for name in _FIT_LOOP):
        return None
    for frame in _callers():
        if frame.f_globals.get("__name__") in _FIT_LOOP and frame.f_code.co_name == "setup_data":
            loop = frame.f_locals["self"]
            return loop if loop.restarting else None
    return None


def _is_inside_epoch(loop: Any) -> bool:
    """Whether the checkpoint that a loop goes on from was saved before the last batch of an epoch."""
    progress = loop.epoch_loop.batch_progress
    return bool(progress.current.processed) and not progress.is_last_batch
