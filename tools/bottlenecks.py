"""How often a profile names what is slow: `python tools/bottlenecks.py [--times 20] [--seconds 2] [NAME ...]`.

Each case of tests/slowed.py is profiled so many times. Printed are the shares of runs in which the verdict named what
is slow, in which the model met the measured rate within 15%, and in which following the advice brought what was
predicted within 15%. Exits with 1 where one of the first two is below 95%: the last is of another run, and on a machine
that others use, two runs differ by as much.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import samples
from slowed import CASES, SHARDS, Case, rate

NEAR, ENOUGH = 0.15, 0.95


def near(value: float, expected: float) -> bool:
    return abs(value / expected - 1) <= NEAR


def one(case: Case, data: Path, seconds: float) -> tuple[bool, bool, bool]:
    """Whether it was named, the model was right, and the advice brought what it promised."""
    verdict = case.profile(data, seconds).verdict
    named, right = case.named(verdict), near(verdict.predicted, verdict.samples_per_second)
    if case.followed is None or not named:
        return named, right, named
    advice = case.advice(verdict)
    return named, right, near(rate(*case.followed(data, advice)), advice.samples_per_second)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(CASES)}; default: all")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each profile")
    options = parser.parse_args()
    worst = 1.0
    print(f"{'case':22}{'named':>8}{'model within 15%':>20}{'advice within 15%':>20}")
    with tempfile.TemporaryDirectory() as folder:
        data = samples.make(Path(folder) / "data", "tar", SHARDS)
        for name in options.names or CASES:
            runs = [one(CASES[name], data, options.seconds) for _ in range(options.times)]
            shares = [sum(each) / len(runs) for each in zip(*runs, strict=True)]
            worst = min(worst, *shares[:2])
            print(f"{name:22}{shares[0]:>8.0%}{shares[1]:>20.0%}{shares[2]:>20.0%}", flush=True)
    return 0 if worst >= ENOUGH else 1


if __name__ == "__main__":
    sys.exit(main())
