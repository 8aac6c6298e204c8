"""How well a profile tells what a server gives: `python tools/servers.py [--times 10] [--json FILE] [NAME ...]`.

Servers that are slow in one way each run on loopback, in a process of their own. A loader of their shards is profiled
with an empty cache; then epochs with an empty cache are timed in turn, as the loader is and as the first advice says.
Printed are the shares of profiles in which the verdict named the server, in which its samples/s were within 15% of the
epochs', and in which the advice brought what was predicted within 15%. Exits with 1 where one is below 95%.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import samples

import fastload
from fastload.machine import describe
from fastload.profile import profile

NEAR, ENOUGH = 0.15, 0.95
SHARDS, ROWS, EACH, BATCH = 48, 32, 1 << 14, 32  # tars of half a MiB
DOWNLOADS = 2
SERVER = """
import sys
from pathlib import Path
sys.path.insert(0, str(Path(sys.argv[1]).parent))
from webserver import Server
with Server(Path(sys.argv[2])) as server:
    setattr(server, sys.argv[3], float(sys.argv[4]))
    print(server.url, flush=True)
    sys.stdin.read()
"""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How a server is slow, and whether more downloads at a time bring more."""

    slow: str
    value: float
    more_helps: bool


KINDS = {
    "answers late": Kind(slow="latency_seconds", value=0.1, more_helps=True),
    "slow connections": Kind(slow="bytes_per_second", value=2e6, more_helps=True),
    "slow altogether": Kind(slow="all_bytes_per_second", value=8e6, more_helps=False),
}


@contextmanager
def serving(kind: Kind, data: Path) -> Iterator[str]:
    """The URL of such a server, until the block ends."""
    command = [sys.executable, "-c", SERVER, samples.__file__, str(data), kind.slow, str(kind.value)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.stdin.close()


def loader(url: str, downloads: int, cache: str) -> fastload.DataLoader:
    remote = fastload.Remote(downloads=downloads, cache_dir=cache)
    return fastload.DataLoader(url, BATCH, fields={"bytes": fastload.Bytes(EACH)}, num_workers=1, remote=remote)


def rate(url: str, downloads: int) -> float:
    """Samples/s of an epoch with an empty cache."""
    with tempfile.TemporaryDirectory() as cache:
        taken = loader(url, downloads, cache)
        for _ in taken:
            pass
        stats = taken.stats()
        return stats.samples / stats.consumer_seconds


def one(kind: Kind, data: Path, seconds: float) -> dict[str, Any]:
    """Of one profile."""
    with serving(kind, data) as url, tempfile.TemporaryDirectory() as cache:
        found = profile(loader(url, DOWNLOADS, cache), None, seconds=seconds)
        more = next((each for each in found.verdict.advice if "downloads" in each.setting), None)
        rates = [(rate(url, DOWNLOADS), more and rate(url, int(more.setting["downloads"]))) for _ in range(3)]
    came = statistics.median(now for now, _ in rates)
    gains = [later / now for now, later in rates if later]
    off = statistics.median(gains) / more.gain - 1 if more is not None else (1.0 if kind.more_helps else None)
    return {
        "named": found.model.fetch_limits and found.verdict.limit == "read",
        "rate": found.model.measured_rate / came - 1,
        "advice": off,
    }


def told(outcomes: list[dict[str, Any]]) -> dict[str, Any]:
    followed = [abs(each["advice"]) for each in outcomes if each["advice"] is not None]
    return {
        "profiles": len(outcomes),
        "named": sum(each["named"] for each in outcomes) / len(outcomes),
        "rate_within": sum(abs(each["rate"]) <= NEAR for each in outcomes) / len(outcomes),
        "rate_error_median": round(statistics.median(abs(each["rate"]) for each in outcomes), 4),
        "advice_followed": len(followed),
        "advice_within": sum(each <= NEAR for each in followed) / len(followed) if followed else 1.0,
        "advice_error_median": round(statistics.median(followed), 4) if followed else None,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(KINDS)}; default: all")
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each profile")
    parser.add_argument("--json", type=Path, help="also write it there: benchmarks/results/servers.json")
    options = parser.parse_args()
    contents: dict[int, dict[str, bytes | None]] = {i: {"bytes": os.urandom(EACH)} for i in range(SHARDS * ROWS)}
    found: dict[str, dict[str, Any]] = {}
    print(f"{'server':20}{'named':>8}{'rate within 15%':>18}{'advice within 15%':>20}")
    with tempfile.TemporaryDirectory() as folder:
        data = samples.make(Path(folder) / "data", "tar", [ROWS] * SHARDS, ("bytes",), replace=contents)
        for name in options.names or KINDS:
            case = told([one(KINDS[name], data, options.seconds) for _ in range(options.times)])
            found[name] = case
            print(
                f"{name:20}{case['named']:>8.0%}{case['rate_within']:>18.0%}{case['advice_within']:>20.0%}", flush=True
            )
    if options.json is not None:
        about = describe() | {"fastload": fastload.__version__, "time": datetime.now(UTC).isoformat(timespec="seconds")}
        options.json.write_text(json.dumps({"machine_info": about, "near": NEAR, "servers": found}, indent=1) + "\n")
    worst = min(case[each] for case in found.values() for each in ("named", "rate_within", "advice_within"))
    return 0 if worst >= ENOUGH else 1


if __name__ == "__main__":
    sys.exit(main())
