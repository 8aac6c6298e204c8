"""A program that is left in the middle of an epoch, in the way it is told; for test_leaving."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch.utils.data

import fastload

FIELDS = {"image": fastload.Image(16, crop="random"), "label": fastload.Scalar()}


def batches_of(data: str, kind: str, state: Path) -> Any:
    """An iterator in mid-epoch, its loader, and workers at work: "threads" or "processes"."""
    dataset = fastload.StreamingDataset(data, fields=FIELDS)
    if kind == "processes":
        torch.utils.data._utils.worker.MP_STATUS_CHECK_INTERVAL = 0.5  # looks for its parent as often; else each 5 s
        return iter(torch.utils.data.DataLoader(dataset, 2, num_workers=2, prefetch_factor=4)), None
    loader = fastload.DataLoader(dataset, 2, num_workers=3, prefetch_factor=8)
    if state.exists():
        loader.load_state_dict(json.loads(state.read_text()))
    return iter(loader), loader


def main(data: str, kind: str, how: str, notes: str) -> None:
    """Writes the ids of each batch to notes/ids, and the state after it to notes/state, both at once."""
    folder = Path(notes)
    batches, loader = batches_of(data, kind, folder / "state")
    globals()["kept"] = batches  # still there when the interpreter goes down
    for number, batch in enumerate(batches):
        with open(folder / "ids", "a") as file:
            file.write("".join(f"{i}\n" for i in batch["label"].tolist()))
        if loader is not None:
            (folder / "state.new").write_text(json.dumps(loader.state_dict()))
            os.replace(folder / "state.new", folder / "state")
        if number == 2:
            print("begun", flush=True)
            leave(how, batches)
        if number >= 2:
            time.sleep(0.002)


def leave(how: str, batches: Any) -> None:
    match how:
        case "end of the program":
            sys.exit(0)
        case "error":
            raise ArithmeticError("the consumer's own")
        case "fork":
            fork(batches)
        case "wait":  # for a signal, in the middle of the epoch
            pass


def fork(batches: Any) -> None:
    """A child that has threads' iterator is told; one of its own it may have; the parent goes on."""
    child = os.fork()
    if child == 0:
        told = False
        try:
            next(batches)
        except fastload.FastloadError as error:
            told = "forked while iterating; make its iterator in the child process" in str(error)
        own = fastload.DataLoader(sys.argv[1], 2, fields=FIELDS, num_workers=2)
        own.dataset.set_epoch(3)
        os._exit(42 if told and sum(batch.rows for batch in own) == 60 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that runs the tests behind it has it ignored
    main(*sys.argv[1:])
