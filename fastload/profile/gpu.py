"""What the GPU's own clock says: events that its stream passes, for the host only sees what it queues.

    stream   | step 1 |  between  | step 2 |  between  | step 3 |
             begin    end         begin    end         begin    end

What lies between two steps on the stream that trains is waiting for a copy, augmenting, and nothing at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import torch

from fastload.device import QUEUED


class Event(Protocol):
    """What a device passes."""

    def record(self) -> Any:
        """Put it at the end of the queue of the device's current stream."""
        ...

    def elapsed_time(self, later: Any) -> float:
        """Milliseconds between two that the stream has passed."""
        ...

    def synchronize(self) -> Any:
        """Wait until the stream has passed it."""
        ...


MakeEvent = Callable[[], Event]


def events_of(device: torch.device) -> MakeEvent | None:
    """How to make events of a device; None where there are none."""
    if device.type != "cuda":
        return None
    return lambda: _EventOf(device)


class _EventOf:
    """An event of a GPU, which need not be the one that is current: torch's own would be recorded there."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._event = device, torch.cuda.Event(enable_timing=True)

    def record(self) -> None:
        self._event.record(torch.cuda.current_stream(self._device))

    def elapsed_time(self, later: _EventOf) -> float:
        return float(self._event.elapsed_time(later._event))

    def synchronize(self) -> None:
        self._event.synchronize()


class StepsOnStream:
    """Where steps begin and end on the stream."""

    def __init__(self, make: MakeEvent | None) -> None:
        self._make = make
        self._begun: list[Event] = []
        self._ended: list[Event] = []

    def begin(self) -> None:
        """A step is about to be queued."""
        self._put(self._begun)

    def end(self) -> None:
        """It is queued. Waits until the device is only a few steps behind: of a step that is a single launch, as a CUDA
        graph is, a thousand fit into the queue, and all would have to be waited for in the end."""
        self._put(self._ended)
        if len(self._ended) > QUEUED:
            self._ended[-1 - QUEUED].synchronize()

    def forget(self) -> None:
        """What was seen so far was warming up."""
        self._begun, self._ended = [], []

    def _put(self, events: list[Event]) -> None:
        if self._make is not None:
            event = self._make()
            event.record()
            events.append(event)

    def between_share(self) -> float | None:
        """Of the stream's time from the first step to the last, what lies between steps, 0 to 1; None of fewer than two
        steps, or without events. The device has to be waited for before."""
        steps = min(len(self._begun), len(self._ended))
        if steps < 2:
            return None
        whole = self._begun[0].elapsed_time(self._ended[steps - 1])
        gaps = [self._ended[i].elapsed_time(self._begun[i + 1]) for i in range(steps - 1)]
        return min(1.0, sum(max(0.0, gap) for gap in gaps) / max(whole, 1e-9))


def queued_and_run(
    work: Callable[[], object], make: MakeEvent, synchronize: Callable[[], object], times: int
) -> tuple[float, float]:
    """Milliseconds, in the mean, that the host takes to queue some work, and that the device takes to do it, from the
    first that it is given on. Where both are about the same, the device waits for the host: larger batches or fewer
    operations help, a faster GPU does not."""
    queued, pairs = 0.0, []
    for _ in range(times):
        synchronize()
        before, after = make(), make()
        before.record()
        started = time.perf_counter()
        work()
        queued += time.perf_counter() - started
        after.record()
        pairs.append((before, after))
    synchronize()
    return 1e3 * queued / times, sum(a.elapsed_time(b) for a, b in pairs) / times
