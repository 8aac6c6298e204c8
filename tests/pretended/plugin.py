"""pytest's plugin: there is a GPU while it runs."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

patch = pytest.MonkeyPatch()


def pytest_configure(config: pytest.Config) -> None:
    if find_spec("triton") is None:
        raise pytest.UsageError("pretended.plugin: Triton, which runs the kernels, is missing here")
    sys.path.insert(0, str(Path(__file__).parents[1] / "augment"))  # has `interpreting`
    from pretended import cuda, kernels
    from pretended.tensors import Operations

    cuda.install(patch)
    kernels.install(patch)
    mode = Operations()
    mode.__enter__()
    config.add_cleanup(patch.undo)
    config.add_cleanup(lambda: mode.__exit__(None, None, None))
