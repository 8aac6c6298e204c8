"""Streams, events, and the clock of the pretended GPU.

Kernels are run when they are queued; what a stream has in its queue are copies that CUDA does not wait for, and waits
for other streams. Those are made as late as CUDA allows: once a kernel follows on the stream, or somebody waited.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

_streams: weakref.WeakSet[Stream] = weakref.WeakSet()


class Stream:
    def __init__(self, device: object = None, priority: int = 0) -> None:
        self.device = checked(device)
        self.idle_at = 0.0  # when all of its work is done, in time.perf_counter()'s seconds
        self.queue: deque[Callable[[], object]] = deque()
        self.made = 0  # of what was ever in the queue
        _streams.add(self)

    def work(self, seconds: float) -> None:
        self.idle_at = max(self.idle_at, time.perf_counter()) + seconds

    def catch_up(self, until: float = float("inf")) -> None:
        """Make what is in the queue; `until`: as many of all that ever were."""
        while self.queue and self.made < until:
            job = self.queue.popleft()
            self.made += 1
            job()

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        self.idle_at = max(self.idle_at, event.at)
        self.queue.append(event.reach)

    def wait_stream(self, stream: Stream) -> None:
        self.wait_event(stream.record_event())

    def synchronize(self) -> None:
        self.record_event().synchronize()


class Event:
    def __init__(self, enable_timing: bool = False, blocking: bool = False) -> None:
        self.timing = enable_timing
        self.stream: Stream | None = None
        self.at = 0.0

    def record(self, stream: Stream | None = None) -> None:
        self.stream = stream or current_stream()
        self.at = max(time.perf_counter(), self.stream.idle_at)
        self.after = self.stream.made + len(self.stream.queue)

    def reach(self) -> None:
        if self.stream is not None:
            self.stream.catch_up(self.after)

    def query(self) -> bool:
        if time.perf_counter() < self.at:
            return False
        self.reach()
        return True

    def synchronize(self) -> None:
        time.sleep(max(0.0, self.at - time.perf_counter()))
        self.reach()

    def elapsed_time(self, end_event: Event) -> float:
        if not (self.timing and end_event.timing):
            raise RuntimeError("Both events must be created with argument 'enable_timing=True'.")
        if not (self.stream and end_event.stream and self.query() and end_event.query()):
            raise RuntimeError("Both events must be recorded and completed before calculating elapsed time.")
        return 1000 * (end_event.at - self.at)


def checked(device: object) -> torch.device:
    """The one device there is."""
    index = device if isinstance(device, int) else torch.device(device or "cuda").index  # type: ignore[call-overload]
    if index not in (None, 0):
        raise RuntimeError("CUDA error: invalid device ordinal")
    return torch.device("cuda", 0)


class _Current(threading.local):
    """A thread's own stream, which is the default stream at first, as CUDA has it."""

    def __init__(self) -> None:
        self.stream = DEFAULT


DEFAULT = Stream()
_current = _Current()


def current_stream(device: object = None) -> Stream:
    checked(device)
    return _current.stream


@contextmanager
def stream(stream: Stream) -> Iterator[None]:
    before, _current.stream = _current.stream, stream
    try:
        yield
    finally:
        _current.stream = before


def synchronize(device: object = None) -> None:
    checked(device)
    for each in list(_streams):
        each.synchronize()
