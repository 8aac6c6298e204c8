"""How often a profile names what is slow: `python tools/bottlenecks.py [--times 20] [--json FILE] [NAME ...]`.

Each case of tests/slowed.py is profiled so many times. Printed are the shares of runs in which the verdict named what
is slow, in which the model met the measured rate within 15%, and in which following the advice brought what was
predicted within 15%, measured between two runs without it; and where no advice is given, that none is needed. Exits
with 1 where one of them is below 95%.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import samples
from slowed import CASES, MORE_CASES, SHARDS, Case, rate

import fastload
from fastload.machine import describe

NEAR, ENOUGH = 0.15, 0.95
ALL = {**CASES, **MORE_CASES}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Of one profile.

    Attributes:
        model: predicted over measured samples/s, less 1.
        advice: what came over what was predicted, less 1; None where no advice was given.
    """

    named: bool
    model: float
    advice: float | None

    @property
    def shares(self) -> tuple[bool, bool, bool]:
        return self.named, abs(self.model) <= NEAR, self.advice is None or abs(self.advice) <= NEAR


def one(case: Case, data: Path, seconds: float) -> Outcome:
    verdict = case.profile(data, seconds).verdict
    advice = case.advice(verdict) if case.followed is not None and case.named(verdict) else None
    off = None
    if advice is not None and case.followed is not None:
        before = rate(*case.make(data))
        came = rate(*case.followed(data, advice))
        now = (before + rate(*case.make(data))) / 2
        off = came / now / advice.gain - 1
    return Outcome(named=case.named(verdict), model=verdict.model_error, advice=off)


def told(outcomes: list[Outcome]) -> dict[str, Any]:
    """Of a case, as JSON values."""
    named, model, advice = (sum(each) / len(outcomes) for each in zip(*(one.shares for one in outcomes), strict=True))
    followed = [abs(each.advice) for each in outcomes if each.advice is not None]
    return {
        "profiles": len(outcomes),
        "named": named,
        "model_within": model,
        "model_error_median": statistics.median(abs(each.model) for each in outcomes),
        "advice_followed": len(followed),
        "advice_within": advice,
        "advice_error_median": statistics.median(followed) if followed else None,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(ALL)}; default: all")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each profile")
    parser.add_argument("--json", type=Path, help="also write it there: benchmarks/results/bottlenecks.json")
    options = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    print(f"{'case':22}{'named':>8}{'model within 15%':>20}{'advice within 15%':>20}")
    with tempfile.TemporaryDirectory() as folder:
        data = samples.make(Path(folder) / "data", "tar", SHARDS)
        for name in options.names or ALL:
            case = found[name] = told([one(ALL[name], data, options.seconds) for _ in range(options.times)])
            print(
                f"{name:22}{case['named']:>8.0%}{case['model_within']:>20.0%}{case['advice_within']:>20.0%}", flush=True
            )
    if options.json is not None:
        about = describe() | {
            "fastload": fastload.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        result = {"machine_info": about, "seconds": options.seconds, "near": NEAR, "cases": found}
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    worst = min(case[each] for case in found.values() for each in ("named", "model_within", "advice_within"))
    return 0 if worst >= ENOUGH else 1


if __name__ == "__main__":
    sys.exit(main())
