"""Brings batches to the device while the consumer works on the one before.

On CUDA: copies run on a stream of their own one batch ahead, and an event orders them before the consumer's stream; a
host batch is let go only when its copy is done. A consumer that only queues its work is kept a few batches ahead of the
GPU at most: what was copied on another stream takes memory of its own until the consumer's stream has passed it.

Host buffers of fields with a declared size are pinned; scalars, lengths, keys, `valid` and lists of tensors are not,
and to copy these takes the host's own time. On the CPU batches pass through.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import torch

from fastload.batch import Batch, tensors_in
from fastload.errors import ConfigError


def resolve_device(device: torch.device | str | None) -> torch.device:
    """The device meant; None is the CPU.

    Raises:
        ConfigError: not a device, or CUDA where there is none.
    """
    try:
        resolved = torch.device("cpu" if device is None else device)
    except RuntimeError as error:
        raise ConfigError(f"device={device!r}: {str(error).splitlines()[0]}") from None
    if resolved.type == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(f"device={device!r}: torch sees no CUDA device here; pass device=None for the CPU")
        if resolved.index is None:
            return torch.device("cuda", torch.cuda.current_device())
        if resolved.index >= torch.cuda.device_count():
            raise ConfigError(f"device={device!r}: there are {torch.cuda.device_count()} CUDA devices here")
    return resolved


def move(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The same batches with their tensors on `device`."""
    if device.type == "cpu":
        return batches
    if device.type == "cuda":
        return _move_cuda(batches, device)
    return (batch.to(device) for batch in batches)


QUEUED = 8  # batches that the consumer may be ahead of the GPU, which so never waits for the next

# One for each device, for good. Memory that torch's allocator took for a stream is given to that stream alone, so that
# with a new stream each epoch would take memory of its own.
_sides: dict[torch.device, torch.cuda.Stream] = {}


def _side(device: torch.device) -> torch.cuda.Stream:
    """The stream that batches are copied on."""
    if device not in _sides:
        _sides[device] = torch.cuda.Stream(device)
    return _sides[device]


def _move_cuda(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    side = _side(device)
    copying: deque[tuple[torch.cuda.Event, Batch]] = deque()  # host batches whose copies may still run
    queued: deque[torch.cuda.Event] = deque()  # what the consumer had queued when it asked for the next batch
    ready: tuple[torch.cuda.Event, Batch] | None = None
    try:
        for host in batches:
            with torch.cuda.stream(side):
                moved = host.to(device, non_blocking=True)
                event = torch.cuda.Event()
                event.record(side)
            copying.append((event, host))
            while copying and copying[0][0].query():
                copying.popleft()
            if ready is not None:
                yield _hand_over(*ready, device)
                _wait_for_all_but_a_few(queued, device)
            ready = (event, moved)
        if ready is not None:
            yield _hand_over(*ready, device)
    except Exception:  # of the batch after the one that is ready
        if ready is not None:
            yield _hand_over(*ready, device)
        raise
    finally:  # also where the consumer stops early: the last batch it holds may still be on its way
        if copying:
            copying[-1][0].synchronize()


def _wait_for_all_but_a_few(queued: deque[torch.cuda.Event], device: torch.device) -> None:
    """Of the batches that the consumer's stream has still to pass."""
    event = torch.cuda.Event(blocking=True)  # leaves the processor to the threads that decode
    event.record(torch.cuda.current_stream(device))
    queued.append(event)
    if len(queued) > QUEUED:
        queued.popleft().synchronize()


def _hand_over(event: torch.cuda.Event, batch: Batch, device: torch.device) -> Batch:
    """Order the copy before the consumer's stream, and tell the allocator that this stream uses the memory too."""
    stream = torch.cuda.current_stream(device)
    stream.wait_event(event)
    for tensor in tensors_in(batch):
        if tensor.is_cuda:
            tensor.record_stream(stream)
    return batch
