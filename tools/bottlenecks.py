"""How often a profile names what is slow: `python tools/bottlenecks.py [--times 20] [--json FILE] [NAME ...]`.

Each case of tests/slowed.py is profiled so many times. Printed are the shares of runs in which the verdict named what
is slow, in which the model met the measured rate within 15%, and in which following the advice brought what was
predicted within 15%, measured in turn without it and with it; and where no advice is given, that none is needed. Where
other programs take the processors, a gain is told as a bound, and not counted here: "busy" is how often. Exits with 1
where one of the shares is below 95%, or nothing could be counted.
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
from fastload.profile.advice import Advice
from fastload.profile.model import Model

NEAR, ENOUGH = 0.15, 0.95
ROUNDS = 3  # of measuring without the advice and with it, in turn
ALL = {**CASES, **MORE_CASES}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Of one profile.

    Attributes:
        model: predicted over measured samples/s, less 1.
        advice: what came over what was predicted, less 1; None where no advice was given.
        busy: other programs took the processors, and the gain was told as a bound.
    """

    named: bool
    model: float
    advice: float | None
    busy: bool


def _busy(model: Model, advice: Advice) -> bool:
    return model.taken_ms > NEAR * model.batch_ms / advice.gain


def one(case: Case, data: Path, seconds: float) -> Outcome:
    found = case.profile(data, case.seconds or seconds)
    verdict = found.verdict
    advice = case.advice(verdict) if case.followed is not None and case.named(verdict) else None
    off = None
    busy = advice is not None and _busy(found.model, advice)
    if advice is not None and case.followed is not None and not busy:
        rates = [
            (rate(*case.make(data), case.timed), rate(*case.followed(data, advice), case.timed)) for _ in range(ROUNDS)
        ]
        off = statistics.median(came / now for now, came in rates) / advice.gain - 1
    return Outcome(named=case.named(verdict), model=verdict.model_error, advice=off, busy=busy)


def told(outcomes: list[Outcome]) -> dict[str, Any]:
    """Of a case, as JSON values."""
    calm = [each for each in outcomes if not each.busy]
    within = sum(each.advice is None or abs(each.advice) <= NEAR for each in calm)
    followed = [abs(each.advice) for each in outcomes if each.advice is not None]
    return {
        "profiles": len(outcomes),
        "named": sum(each.named for each in outcomes) / len(outcomes),
        "model_within": sum(abs(each.model) <= NEAR for each in outcomes) / len(outcomes),
        "model_error_median": statistics.median(abs(each.model) for each in outcomes),
        "advice_followed": len(followed),
        "advice_within": within / len(calm) if calm else 0.0,
        "busy": 1 - len(calm) / len(outcomes),
        "advice_error_median": statistics.median(followed) if followed else None,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(ALL)}; default: all")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each profile, unless a case says otherwise")
    parser.add_argument(
        "--json",
        type=Path,
        help="also write it there, beside other cases that it has: benchmarks/results/bottlenecks.json",
    )
    options = parser.parse_args()
    versions = {"fastload": fastload.__version__, "torch": torch.__version__, "numpy": np.__version__}
    about = describe() | versions
    found: dict[str, dict[str, Any]] = {}
    print(f"{'case':22}{'named':>8}{'model within 15%':>20}{'advice within 15%':>20}{'busy':>8}")
    with tempfile.TemporaryDirectory() as folder:
        data = samples.make(Path(folder) / "data", "tar", SHARDS)
        for name in options.names or ALL:
            case = told([one(ALL[name], data, options.seconds) for _ in range(options.times)])
            found[name] = case | {
                "seconds": ALL[name].seconds or options.seconds,
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
                "machine_info": about,
            }
            print(
                f"{name:22}{case['named']:>8.0%}{case['model_within']:>20.0%}{case['advice_within']:>20.0%}"
                f"{case['busy']:>8.0%}",
                flush=True,
            )
    if options.json is not None:
        before = json.loads(options.json.read_text())["cases"] if options.json.exists() else {}
        options.json.write_text(json.dumps({"near": NEAR, "cases": before | found}, indent=1) + "\n")
    worst = min(case[each] for case in found.values() for each in ("named", "model_within", "advice_within"))
    return 0 if worst >= ENOUGH else 1


if __name__ == "__main__":
    sys.exit(main())
