"""fastload's kernels on the pretended GPU: run by Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from interpreting import InterpretedFunction, interpreted, triton
from torch.utils._python_dispatch import _disable_current_modes

from fastload.augment import gpu, keyed, rate
from pretended import graphs
from pretended.streams import current_stream
from pretended.tensors import KERNEL_SECONDS, OnGPU, held


class Kernel:
    def __init__(self, usual: Any) -> None:
        self.usual = usual
        self.arg_names = usual.arg_names

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def launch(*args: Any, **constants: Any) -> None:
            if any(isinstance(each, torch.Tensor) and not isinstance(each, OnGPU) for each in args):
                raise ValueError("Pointer argument cannot be accessed from Triton (cpu tensor?)")
            current_stream().work(KERNEL_SECONDS)
            current_stream().catch_up()
            plain = [held(each) for each in args]

            def kernel() -> None:
                with _disable_current_modes():
                    self.usual[grid](*plain, **constants)

            kernel()
            graphs.capture(kernel, None)

        return launch


def fail(error: Exception) -> None:
    """Torch's passes do not take the place of a kernel that does not run."""
    raise error


def install(patch: pytest.MonkeyPatch) -> None:
    found = interpreted()
    block = 4 * found.BLOCK  # the interpreter's time is that of programs, however many pixels each makes
    module = SimpleNamespace(BLOCK=block, one_pass=Kernel(found.one_pass), draws=Kernel(found.draws))
    patch.setattr(triton.language, "sum", InterpretedFunction(triton.language.sum.fn))
    patch.setattr(gpu, "kernels", lambda: module)
    patch.setattr(gpu, "_give_up", fail)
    for asking in (gpu, keyed, rate):  # whether a tensor is none of those that stand in for others, by its type
        patch.setattr(asking, "type", lambda of: torch.Tensor if isinstance(of, OnGPU) else type(of), raising=False)
