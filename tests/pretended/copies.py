"""Pinned memory, and copies between the CPU and the GPU, whose tensors are here plain ones, too."""

from __future__ import annotations

import weakref

import numpy as np
import torch

from pretended.streams import current_stream
from pretended.waits import host_waits

LATE_SECONDS = 2e-3  # a real one takes less, and is there in time by luck

_pinned: weakref.WeakValueDictionary[int, np.ndarray] = weakref.WeakValueDictionary()  # by its address


def pinned(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in pinned memory, which lives as long as tensors and arrays in it do."""
    memory = np.empty(max(tensor.nbytes, 1), np.uint8)
    _pinned[memory.__array_interface__["data"][0]] = memory
    return torch.from_numpy(memory)[: tensor.nbytes].view(tensor.dtype).reshape(tensor.shape).copy_(tensor)


def is_pinned(tensor: torch.Tensor) -> bool:
    """Whether it lies in pinned memory, wherever there, as CUDA asks the driver of the address."""
    blocks = [(address, memory()) for address, memory in list(_pinned.data.items())]
    at = tensor.data_ptr()
    return any(memory is not None and address <= at < address + memory.nbytes for address, memory in blocks)


def transfer(source: torch.Tensor, to: torch.Tensor, to_gpu: bool, non_blocking: bool, why: object) -> None:
    """Later, where it need not be waited for: all but copies to pageable memory. What comes from there the host first
    brings to pinned memory of CUDA's own."""
    stream = current_stream()
    if non_blocking and (to_gpu or is_pinned(to)):
        read = source.clone() if to_gpu and not is_pinned(source) else source
        stream.work(LATE_SECONDS)
        stream.queue.append(lambda: to.copy_(read))
        return
    stream.catch_up()
    to.copy_(source)
    if not non_blocking:
        host_waits(why)
