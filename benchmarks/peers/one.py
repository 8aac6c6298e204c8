"""One loader, one workload, in a process of its own: prints what was measured as a line of JSON.

python one.py PEER pack WORKLOAD RAW OUT
python one.py PEER read WORKLOAD OUT
python one.py PEER resume WORKLOAD OUT
"""

from __future__ import annotations

import importlib
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

LEAST_SECONDS = 1.5  # that reading is timed for: an epoch of small records takes some loaders 50 ms


def pack(peer: Any, workload: str, raw: Path, out: Path) -> dict[str, float]:
    shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    peer.prepare(workload, raw, out)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "bytes": sum(p.stat().st_size for p in out.rglob("*") if p.is_file())}


def read(peer: Any, workload: str, out: Path) -> dict[str, float]:
    start = time.perf_counter()
    epochs = peer.epochs(workload, out)
    batches = next(epochs)
    items = next(batches)
    first = time.perf_counter() - start
    items += sum(batches)  # the rest of the first epoch warms caches and workers
    start, again, seconds = time.perf_counter(), 0, 0.0
    while seconds < LEAST_SECONDS:  # whole epochs, with what it takes to begin one
        again += sum(next(epochs))
        seconds = time.perf_counter() - start
    return {"first_batch_seconds": first, "items": again, "first_epoch_items": items, "seconds": seconds}


def main() -> None:
    name, action, workload, *paths = sys.argv[1:]
    peer = importlib.import_module(f"peer_{name}")
    if action == "resume":
        seconds = peer.resume(workload, *map(Path, paths)) if hasattr(peer, "resume") else None
        print(json.dumps({"seconds": seconds}), flush=True)
        return
    run = pack if action == "pack" else read
    print(json.dumps(run(peer, workload, *map(Path, paths))), flush=True)


if __name__ == "__main__":
    main()
