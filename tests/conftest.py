"""Leaves out what this machine cannot run, tests marked `gpu` where torch sees no NVIDIA GPU; and, without --all, what
takes long, as long.txt has it: real trainers, processes that are killed, compilers. `tools/test.sh` runs all, by two
processes that take files in turn: `--claim=FOLDER` is given to both.

Tests may import the helpers of this folder (`conformance`, `samples`).
"""

from __future__ import annotations

import gc
import os
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

SHARED = ("dropin/", "profile/test_run.py", "test_distributed.py")  # what all tests of these share takes long
SHORT_SECONDS = 0.05  # of a test that long.txt does not name
LAST = ("remote/", "pack/test_target.py")  # fsspec's thread stays, beside which packing cannot fork its workers
IN_MEMORY = ("pack/", "reshape/")  # write many small files, and would wait for the disk at each
ROOM_BYTES = 1 << 30  # that is left in memory for one test; the largest take some 100 MB


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="also what takes long")
    parser.addoption("--claim", metavar="FOLDER", help="files in turn with whoever else is given this folder (with =)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    long = long_tests()
    named = any(Path(argument.split("::")[0]).exists() for argument in config.invocation_params.args)
    if not config.getoption("--all") and not named:
        keep(config, items, lambda item: name_of(item) not in long and not name_of(item).startswith(SHARED))
    if any(item.get_closest_marker("gpu") for item in items):
        import torch

        if not torch.cuda.is_available():
            keep(config, items, lambda item: item.get_closest_marker("gpu") is None)
    if config.getoption("--claim"):
        took = seconds_of(items, long)  # the longest first, so that all end at about once
        items.sort(key=lambda item: (name_of(item).startswith(LAST), -took[item.path], item.path))


def pytest_collection_finish() -> None:
    gc.freeze()  # what is imported stays: neither this process nor those that it forks need look through it again


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    folder = session.config.getoption("--claim")
    if not folder or session.testsfailed or session.config.option.collectonly:
        return None
    items = claimed(session.items, Path(folder))
    item = next(items, None)
    while item is not None:
        following = next(items, None)  # a file is claimed when the last test of the one before begins
        session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        item = following
    return True


def claimed(items: list[pytest.Item], folder: Path) -> Iterator[pytest.Item]:
    """Those of files that no other process has, as they are asked for."""
    for path, tests in groupby(items, lambda item: item.path):
        if claim(folder / path.relative_to(HERE).as_posix().replace("/", ".")):
            yield from tests


def claim(file: Path) -> bool:
    """Make this file, unless somebody has."""
    try:
        os.close(os.open(file, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


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


def seconds_of(items: list[pytest.Item], long: dict[str, float]) -> dict[Path, float]:
    """What the tests of each file take, about."""
    took: dict[Path, float] = defaultdict(float)
    for path, name in sorted({(item.path, name_of(item)) for item in items}):
        took[path] += long.get(name, SHORT_SECONDS)
    return took


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """As that of pytest; for tests of IN_MEMORY, where there is room for it, a folder in memory that is removed. A
    process that is killed loses nothing there that a disk would have kept."""
    memory = Path("/dev/shm")
    wanted = request.path.relative_to(HERE).as_posix().startswith(IN_MEMORY)
    if not wanted or not os.access(memory, os.W_OK) or shutil.disk_usage(memory).free < ROOM_BYTES:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture
def disk_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is not in memory, wherever the test is."""
    return tmp_path_factory.mktemp("disk")


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
