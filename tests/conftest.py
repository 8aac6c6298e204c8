"""Leaves out what this machine cannot run: tests marked `gpu` where torch sees no NVIDIA GPU.

Tests may import the helpers of this folder (`conformance`, `samples`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not on_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        config.hook.pytest_deselected(items=on_gpu)
        items[:] = [item for item in items if item not in on_gpu]


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`packed("tar", [5, 3], ("image", "label"))` is a folder of `samples.make`, made once; not to be written to."""
    import samples

    made: dict[object, Path] = {}

    def get(shard_format: str, sizes: Sequence[int], fields: Iterable[str] = ("image", "label")) -> Path:
        what = (shard_format, tuple(sizes), tuple(fields))
        if what not in made:
            folder = tmp_path_factory.mktemp("packed") / "data"
            made[what] = samples.make(folder, shard_format, sizes, fields)  # type: ignore[arg-type]
        return made[what]

    return get
