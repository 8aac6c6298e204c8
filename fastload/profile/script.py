"""A training script profiled as it is: the loader in it, against what the script really does with a batch.

The script is run as a program. Where it iterates over a fastload.DataLoader, it is given the batches of a profile in
place of an epoch's: what it does between two of them is the step. A loop that the script leaves, for it counts its
batches itself, is gone on with where it loops again; what it does between the two is no step. When the profile has what
it needs, the script is ended there, as if it had been interrupted.
"""

from __future__ import annotations

import logging
import runpy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed
import torch.utils.data

from fastload.batch import Batch
from fastload.errors import ConfigError
from fastload.loader import DataLoader
from fastload.meter import STEP, WAITING
from fastload.profile.measuring import Away, Steps
from fastload.profile.run import Profile, profiling

_log = logging.getLogger(__name__)


class _Done(BaseException):
    """The profile has what it needs. No Exception, so that `except Exception` of a training loop lets it through."""


class _Watch:
    """Gives the n-th loader that is iterated over the batches of a profile.

    Attributes:
        loaders: in the order in which they were first iterated over.
        stock: loaders of torch's own were iterated over.
        batches, loops: that the script was given batches in, and how many.
        single: of the loops, those that were left with their first batch.
        found: once there is.
    """

    def __init__(self, number: int, seconds: float, try_advice: bool) -> None:
        self._number, self._seconds, self._try_advice = number, seconds, try_advice
        self.loaders: list[DataLoader] = []
        self.stock = False
        self.batches = self.loops = self.single = 0
        self.found: Profile | None = None
        self._steps: Steps[Profile] | None = None
        self._left: Away | None = None  # when the last loop was left

    def wants(self, loader: DataLoader) -> bool:
        """Whether this is the one; a loader counts when it is first iterated over."""
        if not any(loader is each for each in self.loaders):
            self.loaders.append(loader)
        return self.found is None and len(self.loaders) >= self._number and loader is self.loaders[self._number - 1]

    def profiled(self, loader: DataLoader) -> Iterator[Any]:
        """The batches of a profile; never ends by itself."""
        _refuse_ranks()
        away = None if self._left is None or self._steps is None else Away.now().since(self._left)
        self._left = None
        if self._steps is None:
            self._steps = profiling(loader, self._seconds, self._try_advice)
        self.loops += 1
        loop, given = self.loops, 0
        clock = loader._meter.start(consumer=True)  # for the script may ask for the loader's stats
        try:
            while True:
                clock.enter(WAITING)
                batch, away = self._next(self._steps, away), None
                self.batches, given = self.batches + 1, given + 1
                clock.handed_over(batch.rows)
                clock.enter(STEP)
                yield loader._hand_out(batch)
        finally:
            loader._meter.stop(clock)
            if given == 1:  # next(iter(loader)) is over before the step begins
                self.single += 1
            elif loop == self.loops:  # else it was left for another, and is closed now
                self._left = Away.now()

    def _next(self, steps: Steps[Profile], away: Away | None) -> Batch:
        try:
            return steps.send(away)
        except StopIteration as over:
            self.found = over.value
            raise _Done from None
        except BaseException:
            self._steps = None  # the next loop begins another
            raise

    def saw_stock(self) -> None:
        """A loader of torch's own is iterated over."""
        if not self.stock and not self.loaders:
            _log.info(
                "the script iterates over a torch.utils.data.DataLoader, which is not profiled; it goes on until there "
                "is a fastload.DataLoader. Interrupt it if there is none"
            )
        self.stock = True

    def close(self) -> None:
        """End what makes the batches."""
        if self._steps is not None:
            self._steps.close()


def _refuse_ranks() -> None:
    """Ranks wait for each other in every step, and how many steps one takes depends on its own clock."""
    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    ranks = torch.distributed.get_world_size() if there else 1
    if ranks > 1:
        raise ConfigError(
            f"profile --script on {ranks} ranks: each would take another number of steps, and wait for the others for "
            "ever; run one of them: torchrun --nproc-per-node 1 -m fastload.cli profile --script ..."
        )


@contextmanager
def _watching(watch: _Watch) -> Iterator[None]:
    usual, stock = DataLoader.__iter__, torch.utils.data.DataLoader.__iter__

    def iterate(loader: DataLoader) -> Iterator[Any]:
        return watch.profiled(loader) if watch.wants(loader) else usual(loader)

    def iterate_stock(loader: torch.utils.data.DataLoader[Any]) -> Iterator[Any]:
        watch.saw_stock()
        return stock(loader)

    setattr(DataLoader, "__iter__", iterate)  # noqa: B010 - mypy takes an assignment for a mistake
    setattr(torch.utils.data.DataLoader, "__iter__", iterate_stock)  # noqa: B010
    try:
        yield
    finally:
        setattr(DataLoader, "__iter__", usual)  # noqa: B010
        setattr(torch.utils.data.DataLoader, "__iter__", stock)  # noqa: B010
        watch.close()


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
    thread of this process, for about `seconds` in all its loops; what it does between them is in no figure. It trains
    on real, repeated and made-up batches, and is then ended: whatever it saves on the way is of no use, so point it to
    a scratch folder. Of several ranks run one, as `torchrun --nproc-per-node 1 -m fastload.cli profile --script ...`
    does.

    Args:
        script: a Python file, run as `python script arguments` would.
        seconds: as of `profile`.
        loader: which of its loaders, counted as they are first iterated over, from 1.
        try_advice: as of `profile`.

    Raises:
        ConfigError: no such file, no such loader was iterated over, the script ended too early, or it trains on several
            ranks.
        Exception: whatever the script raises before the profile has what it needs, with a note of what it was given;
            later, it is among the profile's notes.
    """
    path = Path(script)
    if not path.is_file():
        raise ConfigError(f"--script {path}: no such file")
    if loader < 1:
        raise ConfigError(f"--loader {loader}: loaders are counted from 1")
    watch = _Watch(loader, seconds, try_advice)
    notes: list[str] = []
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
                if watch.batches:  # a schedule of so many steps may be over, which it is in no run of its own
                    error.add_note(
                        f"fastload profile had given it {watch.batches:,} batches, real, repeated and made-up ones, in "
                        "place of an epoch's"
                    )
                raise
            notes.append(f"When it was ended, the script raised {type(error).__name__}: {error}")
    if watch.found is None:
        raise ConfigError(_too_early(path, watch, loader))
    if watch.single > 1:
        notes.append(
            f"The script left {watch.single:,} loops with their first batch: what it did until the next counts as the "
            "step"
        )
    if watch.loops - watch.single > 1:
        notes.append(
            f"The script looped {watch.loops:,} times: what it did between, and what beginning a loop takes, is in no "
            "figure"
        )
    return replace(watch.found, notes=(*watch.found.notes, *notes))


def _too_early(path: Path, watch: _Watch, number: int) -> str:
    """Why there is no profile."""
    if watch.batches:
        loops = "its loop" if watch.loops == 1 else f"its {watch.loops:,} loops"
        return (
            f"{path} left {loops} after {watch.batches} batches, before the profile had what it needs; let it run on, "
            "or profile for fewer --seconds"
        )
    stock = ", and over torch's own, which are not profiled," if watch.stock else ","
    return (
        f"{path} ended after iterating over {len(watch.loaders)} fastload.DataLoader(s){stock} and number {number} was "
        "to be profiled; it has to run `for batch in loader:` in this process"
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
