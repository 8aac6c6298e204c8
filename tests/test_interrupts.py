"""Ctrl-C may come between any two lines. Wherever it does, the loader goes on exactly where its state says, and no
thread stays behind, though the traceback is kept, as a notebook keeps it."""

from __future__ import annotations

import dis
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from samples import Leftovers
from webserver import Server

import fastload
from fastload import DataLoader, Image, Scalar, StreamingDataset, Tensor

Packed = Callable[..., Path]
PACKAGE = str(Path(fastload.__file__).parent)
SIZES = [5, 4]
Place = tuple[str, int]


class Interrupted(KeyboardInterrupt):
    """Raised by `interrupted`, and by nothing else."""


LOAD_CONST, SWAP, NOP = (dis.opmap[name] for name in ("LOAD_CONST", "SWAP", "NOP"))


def can_be_interrupted(frame: FrameType) -> bool:
    """Not at a `try:` and not where a `with` is left, its __exit__ called with three times None: these count as lines,
    but there the interpreter does not look for signals."""
    code, at = frame.f_code.co_code, frame.f_lasti
    if code[at] == SWAP:  # below a value that is returned
        at += 2
    return code[at] != NOP and list(code[at : at + 6 : 2]) != [LOAD_CONST] * 3


def events(run: Callable[[], object]) -> list[Place]:
    """The lines of the package that this thread goes through."""
    found: list[Place] = []

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line" and can_be_interrupted(frame):
            found.append((frame.f_code.co_filename, frame.f_lineno))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return found


def interrupted(run: Callable[[], object], place: Place, turn: int) -> Interrupted | None:
    """Run it, interrupted before that line at the turn-th time; None if it does not get there, or goes on from it."""
    left = turn

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename != place[0]:
            return None
        if event == "line" and frame.f_lineno == place[1] and can_be_interrupted(frame):
            left -= 1
            if left == 0:
                raise Interrupted
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    except Interrupted as error:
        return error
    finally:
        sys.settrace(before)
    return None


def spots(run: Callable[[], object]) -> Iterator[tuple[Place, int]]:
    """Every line that it goes through: the first and the last time."""
    passed = events(run)
    for place in dict.fromkeys(passed):
        times = passed.count(place)
        for turn in sorted({1, times}):
            yield place, turn


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt inside a __del__ is printed and lost, in any program."""
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)


def fastload_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("fastload")]


@pytest.mark.parametrize("kind", ["threads", "crew", "caller", "remote"])
def test_an_interrupt_before_any_line(packed: Packed, tmp_path: Path, kind: str) -> None:
    folder = packed("tar", SIZES, ("image", "label", "tensor"))
    fields: dict[str, Any] = {"label": Scalar(), **({"tensor": Tensor()} if kind == "crew" else {"image": Image(8)})}
    workers = 0 if kind == "caller" else 2
    with Server(folder) if kind == "remote" else nullcontext() as server:
        options = {} if server is None else {"cache_dir": str(tmp_path / "cache")}
        data = StreamingDataset(folder if server is None else server.url, fields=fields, seed=1, **options)
        run = DataLoader(data, 2, num_workers=workers)
        beginning = run.state_dict()
        expected = labels(run)

        def epoch() -> None:
            for _ in run:
                pass

        run.load_state_dict(beginning)
        found = [(place, turn) for place, turn in spots(epoch) if turn == 1 or kind == "threads"]
        tried = [assert_goes_on(run, beginning, expected, epoch, *spot) for spot in found]
    assert len(found) > 200
    assert sum(tried) > 0.9 * len(found)


def assert_goes_on(
    run: DataLoader, beginning: dict[str, Any], expected: list[int], epoch: Callable[[], None], place: Place, turn: int
) -> bool:
    """Whether it was interrupted there; if so, it goes on as it should."""
    run.load_state_dict(beginning)
    before = Leftovers()
    error = interrupted(epoch, place, turn)
    if error is None:
        return False
    where = f"{place}, time {turn}"
    state = run.state_dict()
    run.load_state_dict(state)
    assert fastload_threads() == [], where
    consumed = state["consumed"]
    assert consumed == len(expected) or labels(run) == expected[consumed:], where
    before.assert_none()
    return True


def labels(run: DataLoader) -> list[int]:
    return [label for batch in run for label in batch["label"].tolist()]


def test_an_interrupt_of_a_stock_loader_ends_its_downloads(packed: Packed, tmp_path: Path) -> None:
    with Server(packed("tar", SIZES)) as server:
        data = StreamingDataset(server.url, fields={"label": Scalar()}, cache_dir=str(tmp_path / "cache"))
        stock = torch.utils.data.DataLoader(data, batch_size=2)
        try:
            for _ in stock:
                raise Interrupted
        except Interrupted as error:
            kept = error
        del stock
        assert fastload_threads() == [], kept
