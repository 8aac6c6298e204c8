"""A training script profiled as it is: the loader in it, against what the script really does with a batch.

The script is run as a program. Where it iterates over a fastload.DataLoader, it is given the batches of a profile in
place of an epoch: what it does between two of them is the step. When the profile has what it needs, the script is ended
there, as if it had been interrupted.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastload.errors import ConfigError
from fastload.loader import DataLoader
from fastload.profile.run import Profile, profiling


class _Done(BaseException):
    """The profile has what it needs. No Exception, so that `except Exception` of a training loop lets it through."""


class _Watch:
    """Gives the n-th loader that is iterated over the batches of a profile."""

    def __init__(self, number: int, seconds: float, try_advice: bool) -> None:
        self._number, self._seconds, self._try_advice = number, seconds, try_advice
        self.loaders: list[DataLoader] = []
        self.batches = 0
        self.found: Profile | None = None

    def wants(self, loader: DataLoader) -> bool:
        """Whether this is the one; a loader counts when it is first iterated over."""
        if not any(loader is each for each in self.loaders):
            self.loaders.append(loader)
        return self.found is None and len(self.loaders) >= self._number and loader is self.loaders[self._number - 1]

    def profiled(self, loader: DataLoader) -> Iterator[Any]:
        """The batches of a profile; never ends by itself."""
        steps = profiling(loader, self._seconds, self._try_advice)
        try:
            while True:
                batch = next(steps)
                self.batches += 1
                yield loader._hand_out(batch)
        except StopIteration as over:
            self.found = over.value
        raise _Done


@contextmanager
def _watching(watch: _Watch) -> Iterator[None]:
    usual = DataLoader.__iter__

    def iterate(loader: DataLoader) -> Iterator[Any]:
        return watch.profiled(loader) if watch.wants(loader) else usual(loader)

    setattr(DataLoader, "__iter__", iterate)  # noqa: B010 - mypy takes an assignment for a mistake
    try:
        yield
    finally:
        setattr(DataLoader, "__iter__", usual)  # noqa: B010


def profile_script(
    script: str | Path,
    arguments: Sequence[str] = (),
    *,
    seconds: float = 20.0,
    loader: int = 1,
    try_advice: bool = False,
) -> Profile:
    """Profile a loader of a training script against the script's own step.

    The script has to iterate over a fastload.DataLoader (`for batch in loader:`, or a trainer that does), from the main
    thread of this process, and must not leave the loop before about `seconds` are over. It trains on real, repeated and
    made-up batches, and is then ended: whatever it saves on the way is of no use, so point it to a scratch folder.

    Args:
        script: a Python file, run as `python script arguments` would.
        seconds: as of `profile`.
        loader: which of its loaders, counted as they are first iterated over, from 1.
        try_advice: as of `profile`.

    Raises:
        ConfigError: no such file, no such loader was iterated over, or the loop was left too early.
        Exception: whatever the script raises before the profile has what it needs; later, it is among its notes.
    """
    path = Path(script)
    if not path.is_file():
        raise ConfigError(f"--script {path}: no such file")
    if loader < 1:
        raise ConfigError(f"--loader {loader}: loaders are counted from 1")
    watch = _Watch(loader, seconds, try_advice)
    notes: tuple[str, ...] = ()
    with _watching(watch), _as_program(path, arguments):
        try:
            runpy.run_path(str(path), run_name="__main__")
        except _Done:
            pass
        except SystemExit as left:
            if watch.found is None and left.code not in (None, 0):
                raise
        except Exception as error:
            if watch.found is None:
                raise
            notes = (f"When it was ended, the script raised {type(error).__name__}: {error}",)
    if watch.found is not None:
        return replace(watch.found, notes=(*watch.found.notes, *notes))
    if watch.batches:
        raise ConfigError(
            f"{path} left its loop after {watch.batches} batches, before the profile had what it needs; let it run on, "
            "or profile for fewer --seconds"
        )
    raise ConfigError(
        f"{path} ended after iterating over {len(watch.loaders)} fastload.DataLoader(s), and number {loader} was to be "
        "profiled; it has to run `for batch in loader:` in this process"
    )


@contextmanager
def _as_program(path: Path, arguments: Sequence[str]) -> Iterator[None]:
    """sys.argv and sys.path as the script expects them."""
    before = sys.argv, list(sys.path)
    sys.argv = [str(path), *arguments]
    sys.path.insert(0, str(path.resolve().parent))
    try:
        yield
    finally:
        sys.argv, sys.path[:] = before
