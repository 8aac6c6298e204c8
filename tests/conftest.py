"""Leaves out what this machine cannot run, tests marked `gpu` where torch sees no NVIDIA GPU; and, without --all, what
takes long: real trainers, processes that are killed, profiles. `tools/test.sh` runs all.

Tests may import the helpers of this folder (`conformance`, `samples`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


LONG = (
    "augment/test_inductor.py", "dropin", "profile/test_run.py", "profile/test_command.py", "profile/test_script.py",
    "pack/test_cluster.py", "pack/test_crash.py", "pack/test_prepare_crash.py", "pack/test_clean_crash.py",
    "pack/test_any_source.py",
    "reshape/test_crash.py",
    "demo/test_flow.py", "remote/test_faults.py",
    "test_distributed.py", "test_leaving.py", "test_processes.py", "test_readme.py",
)  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="also what takes long")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    named = any(Path(argument.split("::")[0]).exists() for argument in config.invocation_params.args)
    if not config.getoption("--all") and not named:
        here = Path(__file__).parent
        long = [item for item in items if item.path.relative_to(here).as_posix().startswith(LONG)]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
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
