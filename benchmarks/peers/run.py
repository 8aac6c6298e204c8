"""The same work through fastload and its peers: each in fresh processes, in turn, medians over the rounds.

    python benchmarks/peers/run.py --python PYTHON [--images DIR] [--rounds 5] [--peers a,b] [--workloads images,...]

PYTHON is an interpreter whose environment has fastload and the peers (`tools/peers.sh` makes it and runs this). Writes
benchmarks/results/peers.json; `benchmarks/peers/table.py` makes the README's table of it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
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
    "fastload": "fastload", "torchvision": "torchvision", "pillow": "pillow", "numpy": "numpy",
}  # fmt: skip
WORKERS = 2  # of every loader, but in the runs that vary it
COUNTS = {"images": 1024, "audio": 4000, "records": 20_000, "tokens": 8192}
Failed = dict[str, str]  # peer -> what it said last


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


def call(python: str, *arguments: str, workers: int = WORKERS, seconds: float = 300) -> dict[str, Any] | str:
    """Run one.py; its JSON line with the peak memory, or what it said last if it failed."""
    command = [python, str(HERE / "one.py"), *arguments]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{HERE}:{HERE.parents[1]}",
        "HF_HUB_OFFLINE": "1",
        "PYTHONWARNINGS": "ignore",
        "PEERS_WORKERS": str(workers),
    }
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, start_new_session=True, **pipes) as child:
        peak = [0]
        over = threading.Event()

        def watch() -> None:
            pause = 0.1
            while not over.wait(pause):
                start = time.perf_counter()
                peak[0] = max(peak[0], tree_pss(child.pid))
                pause = max(0.1, 20 * (time.perf_counter() - start))  # it stops the processes that it looks at

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            out, err = child.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)  # its workers too, which hold the pipes
            out, err = child.communicate()
            err += f"\nkilled after {seconds} s"
        over.set()
        watcher.join()
    lines = [line for line in out.splitlines() if line.startswith("{")]
    if child.returncode or not lines:
        said = (err.strip().splitlines() or [f"exit code {child.returncode}"])[-1]
        print(f"    failed: {' '.join(arguments[:3])}: {said}", flush=True)
        return said
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


def rate(result: dict[str, Any]) -> float:
    return float(result["items"] / result["seconds"])


def measure(
    python: str, workload: str, peers: list[str], rounds: int, sweeps: int, raw: Path, work: Path
) -> Iterator[dict[str, Any]]:
    """After each round over all peers, what each reached so far; and under "failed", why others are not there."""
    packs: dict[str, list[Any]] = {peer: [] for peer in peers}
    reads: dict[str, list[Any]] = {peer: [] for peer in peers}
    resumes: dict[str, list[float]] = {peer: [] for peer in peers}
    failed: Failed = {}
    for number in range(rounds):
        for peer in peers:
            if peer in failed or (peer == "fastload_keep" and workload != "images"):
                continue
            out = str(work / f"{workload}-{peer}")
            copies = not packs[peer] or packs[peer][0]["bytes"] > 1 << 20  # else it reads the files as they are
            packed = call(python, peer, "pack", workload, str(raw), out) if copies else packs[peer][0]
            result = packed if isinstance(packed, str) else call(python, peer, "read", workload, out)
            if isinstance(packed, str) or isinstance(result, str):
                failed[peer] = str(result)
                continue
            packs[peer].append(packed)
            reads[peer].append(result)
            if number == 0 or resumes[peer]:
                again = call(python, peer, "resume", workload, out)
                if not isinstance(again, str) and again["seconds"] is not None:
                    resumes[peer].append(again["seconds"])
            print(f"  round {number}: {workload:8} {peer:13} {rate(result):10,.0f}/s", flush=True)
        alive = [peer for peer in peers if reads[peer] and peer not in failed]
        table = summary(alive, packs, reads, resumes)
        yield {"rounds": number + 1, "peers": table, "failed": failed}
    if workload == "images" and sweeps:
        for peer, by_workers in sweep(python, workload, alive, sweeps, work).items():
            table[peer]["by_workers"] = by_workers | {str(WORKERS): table[peer]["items_per_second"]}
        yield {"rounds": rounds, "peers": table, "failed": failed}


def summary(
    peers: list[str], packs: dict[str, list[Any]], reads: dict[str, list[Any]], resumes: dict[str, list[float]]
) -> dict[str, Any]:
    """Medians and ranges of each peer."""
    table: dict[str, Any] = {}
    for peer in peers:
        rates, ours = [rate(r) for r in reads[peer]], [rate(r) for r in reads[peers[0]]]
        seconds = {
            "first_batch_seconds": [r["first_batch_seconds"] for r in reads[peer]],
            "pack_seconds": [p["seconds"] for p in packs[peer]],
            "resume_seconds": resumes[peer],
        }
        table[peer] = {
            "items_per_second": median(rates),
            "items_per_second_min_max": [round(min(rates), 1), round(max(rates), 1)],
            "of_fastload": median([a / b for a, b in zip(rates, ours, strict=False)]),
            "items": reads[peer][0]["items"],
            "peak_mib": round(statistics.median(r["peak_bytes"] for r in reads[peer]) / 2**20),
            "packed_bytes": packs[peer][0]["bytes"],
        }
        for name, values in seconds.items():
            table[peer][name] = median(values) if values else None
            table[peer][f"{name}_min_max"] = [round(min(values), 4), round(max(values), 4)] if values else None
    return table


def sweep(python: str, workload: str, peers: list[str], rounds: int, work: Path) -> dict[str, dict[str, float]]:
    """Items a second with each other number of workers that the machine has cores for."""
    found: dict[str, dict[str, list[float]]] = {peer: {} for peer in peers}
    others = [workers for workers in range(1, (os.cpu_count() or 1) + 1) if workers != WORKERS]
    for number in range(rounds):
        for workers in others:
            for peer in peers:
                result = call(python, peer, "read", workload, str(work / f"{workload}-{peer}"), workers=workers)
                if not isinstance(result, str):
                    found[peer].setdefault(str(workers), []).append(rate(result))
                    print(
                        f"  round {number}: {workload:8} {peer:13} {rate(result):10,.0f}/s with {workers}", flush=True
                    )
    return {peer: {workers: median(rates) for workers, rates in by.items()} for peer, by in found.items()}


VERSIONS = """
import importlib.metadata, json, sys
def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
print(json.dumps({key: version(name) for key, name in json.loads(sys.argv[1]).items()}))
"""


def versions(python: str) -> dict[str, str | None]:
    """Of fastload, the peers and what decodes for them; None where one is not installed."""
    command = [python, "-c", VERSIONS, json.dumps(PACKAGES)]
    found: dict[str, str | None] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return found


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return {
        "cpu": next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), ""),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def commit() -> str:
    command = ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sweeps", type=int, default=2, help="rounds of pictures with other numbers of workers")
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--workloads", default="images,audio,records,tokens")
    parser.add_argument("--out", type=Path, default=HERE.parent / "results/peers.json")
    arguments = parser.parse_args()
    setting = {"machine": machine(), "versions": versions(arguments.python), "workers": WORKERS, "counts": COUNTS}
    result: dict[str, Any] = setting | {"workloads": {}}
    if arguments.out.exists():  # what was measured in the same setting stays, if it is not measured again
        before = json.loads(arguments.out.read_text())
        if {key: before.get(key) for key in setting} == setting:
            result = before
    missing = [peer for peer in arguments.peers.split(",") if result["versions"].get(peer, "") is None]
    peers = [peer for peer in arguments.peers.split(",") if peer not in missing]
    if missing:
        print(f"not installed, and left out: {', '.join(missing)}")
    with tempfile.TemporaryDirectory() as temporary:
        for workload in arguments.workloads.split(","):
            raw = make_raw(workload, arguments.images, Path(temporary) / f"raw-{workload}")
            about: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "commit": commit()}
            if workload == "images":
                about["pictures"] = "made" if arguments.images is None else "photographs"
            rounds = (arguments.rounds, arguments.sweeps)
            for found in measure(arguments.python, workload, peers, *rounds, raw, Path(temporary)):
                found["failed"] = found["failed"] | dict.fromkeys(missing, "not installed")
                result["workloads"][workload] = about | found
                arguments.out.parent.mkdir(parents=True, exist_ok=True)
                arguments.out.write_text(json.dumps(result, indent=1) + "\n")  # a run that is cut off loses a round


if __name__ == "__main__":
    main()
