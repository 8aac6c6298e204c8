"""Leaves out what this machine cannot run, tests marked `gpu` where torch sees no NVIDIA GPU; and, without --all, what
takes long, as long.txt has it: real trainers, processes that are killed, compilers. `tools/test.sh` runs all, in two
shares side by side: `--share 1/2` is one of them.

Tests may import the helpers of this folder (`conformance`, `samples`).
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

SHARED = ("dropin/", "profile/test_run.py", "test_distributed.py")  # what all tests of these share takes long
SHORT_SECONDS = 0.05  # of a test that long.txt does not name


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="also what takes long")
    parser.addoption("--share", metavar="K/N", help="of the files the K-th of N shares that take about equally long")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    long = long_tests()
    named = any(Path(argument.split("::")[0]).exists() for argument in config.invocation_params.args)
    if not config.getoption("--all") and not named:
        keep(config, items, lambda item: name_of(item) not in long and not name_of(item).startswith(SHARED))
    if any(item.get_closest_marker("gpu") for item in items):
        import torch

        if not torch.cuda.is_available():
            keep(config, items, lambda item: item.get_closest_marker("gpu") is None)
    if config.getoption("--share"):
        number, shares = map(int, config.getoption("--share").split("/"))
        dealt = deal(items, long, shares)
        keep(config, items, lambda item: dealt[item.path] == number)


def pytest_sessionfinish() -> None:
    if "warm" in sys.modules:
        sys.modules["warm"].end()


def keep(config: pytest.Config, items: list[pytest.Item], wanted: Callable[[pytest.Item], bool]) -> None:
    config.hook.pytest_deselected(items=[item for item in items if not wanted(item)])
    items[:] = [item for item in items if wanted(item)]


def name_of(item: pytest.Item) -> str:
    return f"{item.path.relative_to(HERE).as_posix()}::{getattr(item, 'originalname', item.name)}"


def long_tests() -> dict[str, float]:
    """Seconds that all cases of a test take together, by its name."""
    lines = [line.split() for line in (HERE / "long.txt").read_text().splitlines() if not line.startswith("#")]
    return {name: float(seconds) for seconds, name in lines}


def deal(items: list[pytest.Item], long: dict[str, float], shares: int) -> dict[Path, int]:
    """Which share each file is in, counted from 1: the longest first, each to who has least."""
    took: dict[Path, int] = defaultdict(int)  # milliseconds: sums of floats depend on the order, another in each share
    for path, name in {(item.path, name_of(item)) for item in items}:
        took[path] += round(1000 * long.get(name, SHORT_SECONDS))
    totals, dealt = [0] * shares, {}
    for path in sorted(took, key=lambda path: (-took[path], path)):
        least = totals.index(min(totals))
        totals[least] += took[path]
        dealt[path] = least + 1
    return dealt


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
