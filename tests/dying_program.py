"""One rank of a run in which rank 1 dies, or hangs, after two batches: what the others are told, what they leave."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from datetime import timedelta

import ranks
import torch
import torch.distributed

import fastload


def main(out: str, data: str, how: str, workers: str) -> None:
    torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=ranks.GROUP_SECONDS))
    loader = fastload.DataLoader(data, 2, fields={"label": fastload.Scalar()}, num_workers=int(workers))
    error, since = "", time.monotonic()
    try:
        for number, _ in enumerate(loader):
            if number == 2 and torch.distributed.get_rank() == 1:
                os.kill(os.getpid(), signal.SIGKILL if how == "killed" else signal.SIGSTOP)
            since = time.monotonic()
            torch.distributed.all_reduce(torch.ones(1))
    except RuntimeError as caught:
        error = f"{type(caught).__name__}: {caught}"
    seconds = time.monotonic() - since
    threads = [thread.name for thread in threading.enumerate() if thread.name.startswith("fastload-")]
    consumed = loader.state_dict()["consumed"]
    ranks.leave(out, {"error": error, "seconds": seconds, "threads": threads, "consumed": consumed})


if __name__ == "__main__":
    main(*sys.argv[1:])
