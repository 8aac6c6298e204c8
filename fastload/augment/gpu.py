"""Triton kernels in the place of torch's operators, on a GPU where Triton runs: it comes with torch for Linux.

Who has a kernel has the same in torch too, for all other places: a CPU, another device, the inside of `torch.compile`,
which makes kernels of its own, and machines on which Triton turns out not to run.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.autograd import forward_ad


def usable(tensor: torch.Tensor) -> bool:
    """Whether kernels run on this tensor."""
    if torch.compiler.is_compiling() or _gave_up or not _on_gpu(tensor) or _traced():
        return False
    return kernels() is not None


def launch(name: str, grid: tuple[int, ...], on: torch.Tensor, *arguments: Any, **constants: Any) -> bool:
    """Run a kernel of `kernels.py` on the device of `on`. False where it does not run, which is said once: from then on
    no kernel is `usable`."""
    try:
        with _device(on):
            getattr(kernels(), name)[grid](*arguments, **constants)
    except Exception as error:  # no compiler for what launches it, a GPU that Triton does not know, ...
        _give_up(error)
        return False
    return True


@functools.cache
def kernels() -> Any:
    """The module of kernels; None where there is no Triton, or another one than they are written for."""
    try:
        return importlib.import_module("fastload.augment.kernels")
    except ImportError:
        return None
    except Exception as error:
        _give_up(error)
        return None


_gave_up: list[str] = []


def _give_up(error: Exception) -> None:
    if not _gave_up:
        _gave_up.append(f"{type(error).__name__}: {error}")
        warnings.warn(
            f"fastload.augment: Triton's kernels do not run here, and torch's passes, which are slower, take their "
            f"place ({_gave_up[0]})",
            RuntimeWarning,
            stacklevel=2,
        )


def _device(tensor: torch.Tensor) -> AbstractContextManager[Any]:
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def _on_gpu(tensor: torch.Tensor) -> bool:
    return tensor.is_cuda and type(tensor) is torch.Tensor


def _traced() -> bool:
    """Whether torch follows what becomes of tensors otherwise than by `requires_grad`: torch.func, forward-mode
    differentiation, torch.jit.trace. It sees nothing of a kernel."""
    functions: int | None = torch._C._functorch.maybe_current_level()
    return functions is not None or forward_ad._current_level >= 0 or torch._C._is_tracing()
