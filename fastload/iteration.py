"""One pass of a loader: what has to be closed at its end, however it ends."""

from __future__ import annotations

import atexit
import contextlib
import weakref
from collections.abc import Generator
from inspect import GEN_CLOSED, getgeneratorstate
from typing import Any

from fastload.batch import Batch
from fastload.engine import Engine
from fastload.meter import Meter, Stats
from fastload.trainers import Passage


class Iteration:
    """One pass of a loader.

    Its iterator closes it when it ends, is closed or dropped. An interrupt may come in the middle of that, and the
    traceback that a notebook keeps would keep the engine's threads too: so the loader remembers its iterations, and
    sees to those that have ended and are not closed.

    Attributes:
        epoch: that it is of.
        engine: what makes its batches; None before there is one.
        passage: what Accelerate knows of it; None where it is not used.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.engine: Engine[Batch] | None = None
        self.passage: Passage | None = None
        self._iterator: weakref.ref[Generator[Any, None, None]] | None = None
        self._before: Stats | None = None

    def handed_to(self, iterator: Generator[Any, None, None]) -> None:
        """This is what it is iterated by; it is closed at the exit of the interpreter, if it is still there."""
        self._iterator = weakref.ref(iterator)
        _iterators.add(iterator)

    def begin(self, epoch: int, meter: Meter) -> None:
        """Its iterator was asked for its first batch."""
        self.epoch, self._before = epoch, meter.stats()

    @property
    def has_ended(self) -> bool:
        """Whether its iterator has come to its end or is gone."""
        iterator = None if self._iterator is None else self._iterator()
        return iterator is None or getgeneratorstate(iterator) == GEN_CLOSED

    def close(self, meter: Meter) -> None:
        """End its threads and its clock; any number of times."""
        if self.passage is not None:
            self.passage.end()
        if self.engine is not None:
            self.engine.close()
            meter.stop(self.engine.clock)

    def took(self, meter: Meter) -> Stats:
        """Where the time since its begin went."""
        assert self._before is not None
        return meter.stats() - self._before


_iterators: weakref.WeakSet[Generator[Any, None, None]] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Iterators that are closed only when the interpreter takes itself apart find nothing left to close with."""
    for iterator in list(_iterators):
        with contextlib.suppress(ValueError):  # it is running in another thread
            iterator.close()
