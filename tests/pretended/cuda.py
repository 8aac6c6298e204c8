"""What stands in the place of `torch.cuda`: what the tests use, and no more than the real one takes."""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pretended import graphs, streams, waits
from pretended.tensors import Operations, generator

CYCLES_PER_SECOND = 2e9


class _Device:
    def __init__(self, device: Any) -> None:
        streams.checked(device)

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def _get_rng_state(device: Any = "cuda") -> torch.Tensor:
    streams.checked(device)
    return generator.get_state()


def _set_rng_state(new_state: torch.Tensor, device: Any = "cuda") -> None:
    streams.checked(device)
    generator.set_state(new_state)


def _manual_seed(seed: int) -> None:
    generator.manual_seed(seed)


STAND_INS: dict[str, Callable[..., Any]] = {
    "is_available": lambda: True,
    "_lazy_init": lambda: None,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "get_device_name": lambda device=None: "pretended GPU",
    "get_device_properties": lambda device=None: SimpleNamespace(name="pretended GPU", total_memory=80 << 30),
    "device": _Device,
    "Stream": streams.Stream,
    "Event": streams.Event,
    "stream": streams.stream,
    "current_stream": streams.current_stream,
    "synchronize": streams.synchronize,
    "_sleep": lambda cycles: streams.current_stream().work(cycles / CYCLES_PER_SECOND),
    "set_sync_debug_mode": waits.set_sync_debug_mode,
    "CUDAGraph": graphs.CUDAGraph,
    "graph": graphs.graph,
    "memory_reserved": lambda device=None: 0,
    "get_rng_state": _get_rng_state,
    "set_rng_state": _set_rng_state,
    "manual_seed": _manual_seed,
    "manual_seed_all": _manual_seed,
}


def install(patch: pytest.MonkeyPatch) -> None:
    for name, ours in STAND_INS.items():
        real = getattr(torch.cuda, name)
        more = inspect.signature(ours).parameters.keys() - inspect.signature(real).parameters.keys()
        assert not more, f"torch.cuda.{name} does not take {more}"
        for module in {torch.cuda, sys.modules[real.__module__]}:  # others of torch look for it there
            patch.setattr(module, name, ours, raising=False)
    # Without them torch makes tensors of a device only where there is one: of a wrapper's, and from numbers.
    torch._C._ensureCUDADeviceGuardSet()
    torch._C._set_only_lift_cpu_tensors(True)
    patch.setattr(torch.backends.cudnn, "enabled", False)  # what it does has operators of its own
    patch.setattr(torch, "compile", lambda model, **_: model)  # there is nothing to compile for

    begin = threading.Thread._bootstrap_inner  # type: ignore[attr-defined]

    def begin_with_gpu(thread: threading.Thread) -> None:
        with Operations():  # torch's modes are a thread's own
            begin(thread)

    patch.setattr(threading.Thread, "_bootstrap_inner", begin_with_gpu)
