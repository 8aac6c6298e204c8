"""Triton's kernels on a machine without a GPU: run by Triton's interpreter."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from fastload.augment import gpu

triton = pytest.importorskip("triton", reason="Triton comes with torch for NVIDIA GPUs")
InterpretedFunction = pytest.importorskip("triton.runtime.interpreter").InterpretedFunction


@cache
def interpreted() -> Any:
    """The module of kernels, each a function of the interpreter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        path = Path(str(gpu.__file__)).with_name("kernels.py")
        found = importlib.util.spec_from_file_location("interpreted_kernels", path)
        assert found is not None
        assert found.loader is not None
        module = importlib.util.module_from_spec(found)
        patch.setitem(sys.modules, found.name, module)
        found.loader.exec_module(module)
    return module


@contextmanager
def put_back() -> Iterator[None]:
    """What the interpreter changes in Triton's language, and leaves changed, is as before."""
    language = triton.language
    places = (language, language.core, language.math, language.tensor, language.dtype)
    before = [dict(vars(place)) for place in places]
    try:
        yield
    finally:
        for place, was in zip(places, before, strict=True):
            for name, value in list(vars(place).items()):
                if name not in was:
                    delattr(place, name)
                elif value is not was[name]:
                    setattr(place, name, was[name])


@contextmanager
def kernels_on(device: str, kernel: str, launched: list[dict[str, Any]] | None = None) -> Iterator[None]:
    """Kernels take what they can, on a CPU too; the arguments of each launch of one of them are noted."""
    module = interpreted() if device == "cpu" else gpu.kernels()
    usual = getattr(module, kernel)

    class Noted:
        def __getitem__(self, grid: Any) -> Callable[..., Any]:
            def launch(*args: Any, **constants: Any) -> None:
                if launched is not None:
                    launched.append({**dict(zip(usual.arg_names, args, strict=False)), **constants})
                usual[grid](*args, **constants)

            return launch

    with put_back(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, kernel, Noted())
        patch.setattr(gpu, "kernels", lambda: module)
        patch.setattr(gpu, "_gave_up", [])
        if device == "cpu":
            patch.setattr(gpu, "_on_gpu", lambda tensor: True)
            patch.setattr(triton.language, "sum", InterpretedFunction(triton.language.sum.fn))
        yield


@contextmanager
def by_torch() -> Iterator[None]:
    """No kernel is used."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "_on_gpu", lambda tensor: False)
        yield
