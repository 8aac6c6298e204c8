"""The same work through fastload and its peers: each in fresh processes, in turn, medians over the rounds.

    python benchmarks/peers/run.py --python PYTHON [--images DIR] [--rounds 5] [--peers a,b] [--workloads images,...]

PYTHON is an interpreter whose environment has fastload and the peers (see `peers.txt`). Writes
benchmarks/results/peers.json; `benchmarks/peers/table.py` makes the README's table of it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from samples import clip_folder, image_folder, record_folder  # noqa: E402

PEERS = [
    "fastload", "fastload_keep", "torch", "webdataset", "mosaicml", "litdata", "grain", "spdl", "dali", "datasets",
    "ffcv",
]  # fmt: skip
PACKAGES = {
    "torch": "torch", "webdataset": "webdataset", "mosaicml": "mosaicml-streaming", "litdata": "litdata",
    "grain": "grain", "spdl": "spdl", "dali": "nvidia-dali-cuda120", "datasets": "datasets", "ffcv": "ffcv",
    "fastload": "fastload",
}  # fmt: skip
WORKERS = 2  # of every loader, but in the runs that vary it
PACKS, SWEEPS, RESUMES = 3, 2, 3  # rounds of packing, of other numbers of workers, and of resuming
COUNTS = {"images": 2048, "audio": 8000, "records": 50_000, "tokens": 8192}


def tree_pss(pid: int) -> int:
    """Bytes of memory of a process and its descendants, shared pages in proportion."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(("Pss_Anon", "Pss_Shmem")):
                total += int(line.split()[1]) * 1024
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            total += tree_pss(int(child))
    except (OSError, ProcessLookupError):
        return total
    return total


def call(python: str, *arguments: str, workers: int = WORKERS, seconds: float = 600) -> dict[str, Any] | None:
    """Run one.py; its JSON line with the peak memory, or None if it failed."""
    command = [python, str(HERE / "one.py"), *arguments]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{HERE}:{HERE.parents[1]}",
        "HF_HUB_OFFLINE": "1",
        "PYTHONWARNINGS": "ignore",
        "PEERS_WORKERS": str(workers),
    }
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as child:
        peak = [0]
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.1):
                peak[0] = max(peak[0], tree_pss(child.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            out, err = child.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            out, err = child.communicate()
            err += f"\nkilled after {seconds} s"
        over.set()
        watcher.join()
    lines = [line for line in out.splitlines() if line.startswith("{")]
    if child.returncode or not lines:
        print(f"    failed: {' '.join(arguments[:3])}: {err.strip().splitlines()[-1:] or child.returncode}", flush=True)
        return None
    result: dict[str, Any] = json.loads(lines[-1])
    return result | {"peak_bytes": peak[0]}


def make_raw(workload: str, images: Path | None, folder: Path) -> Path:
    if workload == "tokens":
        folder.mkdir(parents=True)
        rows = np.random.default_rng(0).integers(0, 50_000, (COUNTS["tokens"], 2048), np.int32)
        np.save(folder / "tokens.npy", rows)
        return folder
    if workload == "audio":
        return clip_folder(folder, COUNTS["audio"])
    if workload == "records":
        return record_folder(folder, COUNTS["records"])
    return image_folder(folder, images, COUNTS["images"])


def median(values: list[float]) -> float:
    return round(statistics.median(values), 4)


def measure(python: str, workload: str, peers: list[str], rounds: int, raw: Path, work: Path) -> dict[str, Any]:
    packs: dict[str, list[Any]] = {peer: [] for peer in peers}
    reads: dict[str, list[Any]] = {peer: [] for peer in peers}
    dead: set[str] = set()
    for number in range(rounds):
        for peer in peers:
            if peer in dead or (peer == "fastload_keep" and workload != "images"):
                continue
            out = work / f"{workload}-{peer}"
            packed = call(python, peer, "pack", workload, str(raw), str(out)) if number < PACKS else packs[peer][-1]
            result = packed and call(python, peer, "read", workload, str(out))
            if packed is None or result is None:
                dead.add(peer)
                continue
            if number < PACKS:
                packs[peer].append(packed)
            reads[peer].append(result)
            rate = result["items"] / result["seconds"]
            print(
                f"  round {number}: {workload:8} {peer:11} {rate:10,.0f}/s, packed in {packed['seconds']:.2f} s",
                flush=True,
            )
    table = {}
    alive = [peer for peer in peers if reads[peer] and peer not in dead]
    resumes = resume(python, workload, alive, work)
    by_workers = sweep(python, workload, alive, min(rounds, SWEEPS), work) if workload == "images" else {}
    for peer in alive:
        rates = [r["items"] / r["seconds"] for r in reads[peer]]
        ratios = [
            (r["items"] / r["seconds"]) / (f["items"] / f["seconds"])
            for r, f in zip(reads[peer], reads[peers[0]], strict=True)
        ]
        table[peer] = {
            "items_per_second": median(rates),
            "items_per_second_min_max": [round(min(rates), 1), round(max(rates), 1)],
            "of_fastload": median(ratios),
            "items": reads[peer][0]["items"],
            "first_batch_seconds": median([r["first_batch_seconds"] for r in reads[peer]]),
            "peak_mib": round(statistics.median(r["peak_bytes"] for r in reads[peer]) / 2**20),
            "pack_seconds": median([p["seconds"] for p in packs[peer]]),
            "packed_bytes": packs[peer][0]["bytes"],
            "resume_seconds": resumes[peer],
        }
        if peer in by_workers:
            table[peer]["by_workers"] = by_workers[peer] | {str(WORKERS): median(rates)}
    return table


def resume(python: str, workload: str, peers: list[str], work: Path) -> dict[str, float | None]:
    """Seconds from a new loader to the batch after 90% of an epoch; None for peers that cannot resume."""
    found: dict[str, list[float]] = {peer: [] for peer in peers}
    for _ in range(RESUMES):
        for peer in peers:
            result = call(python, peer, "resume", workload, str(work / f"{workload}-{peer}"))
            if result is not None and result["seconds"] is not None:
                found[peer].append(result["seconds"])
    return {peer: median(seconds) if seconds else None for peer, seconds in found.items()}


def sweep(python: str, workload: str, peers: list[str], rounds: int, work: Path) -> dict[str, dict[str, float]]:
    """Items a second with each other number of workers that the machine has cores for."""
    found: dict[str, dict[str, list[float]]] = {peer: {} for peer in peers}
    others = [workers for workers in range(1, (os.cpu_count() or 1) + 1) if workers != WORKERS]
    for number in range(rounds):
        for workers in others:
            for peer in peers:
                result = call(python, peer, "read", workload, str(work / f"{workload}-{peer}"), workers=workers)
                if result is not None:
                    rate = result["items"] / result["seconds"]
                    found[peer].setdefault(str(workers), []).append(rate)
                    print(f"  round {number}: {workload:8} {peer:11} {rate:10,.0f}/s with {workers}", flush=True)
    return {peer: {workers: median(rates) for workers, rates in by.items()} for peer, by in found.items()}


def versions(python: str) -> dict[str, str]:
    program = (
        f"import importlib.metadata as m, json; print(json.dumps({{k: m.version(v) for k, v in {PACKAGES!r}.items()}}))"
    )
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--workloads", default="images,audio,records,tokens")
    parser.add_argument("--out", type=Path, default=HERE.parent / "results/peers.json")
    arguments = parser.parse_args()
    peers = arguments.peers.split(",")
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    result: dict[str, Any] = {
        "machine": {
            "cpu": cpu,
            "cores": os.cpu_count(),
            "system": platform.system(),
            "python": platform.python_version(),
        },
        "versions": versions(arguments.python),
        "rounds": arguments.rounds,
        "workers": WORKERS,
        "counts": COUNTS,
        "date": time.strftime("%Y-%m-%d"),
        "workloads": {},
    }
    with tempfile.TemporaryDirectory() as temporary:
        for workload in arguments.workloads.split(","):
            raw = make_raw(workload, arguments.images, Path(temporary) / f"raw-{workload}")
            table = measure(arguments.python, workload, peers, arguments.rounds, raw, Path(temporary))
            result["workloads"][workload] = table
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
