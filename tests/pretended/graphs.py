"""CUDA graphs: a list of kernels, run again on the memory that they were captured with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves

from pretended.streams import Stream, stream


class CUDAGraph:
    def __init__(self) -> None:
        self.kernels: list[Callable[[], None]] = []

    def replay(self) -> None:
        with _disable_current_modes():
            for kernel in self.kernels:
                kernel()


captured: CUDAGraph | None = None


@contextmanager
def graph(cuda_graph: CUDAGraph) -> Iterator[None]:
    global captured
    captured = cuda_graph
    try:
        with stream(Stream()):
            yield
    finally:
        captured = None


def capture(kernel: Callable[[], Any], found: Any) -> None:
    """While a graph is captured: it runs the kernel too, and puts what that finds where it is now."""
    if captured is None:
        return

    def again() -> None:
        for old, new in zip(tree_leaves(found), tree_leaves(kernel()), strict=True):
            if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():  # else a view, or written in place
                old.copy_(new)

    captured.kernels.append(again)
