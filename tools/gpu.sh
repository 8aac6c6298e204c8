#!/usr/bin/env bash
# On a machine with an NVIDIA GPU: run the tests marked `gpu` and the benchmarks that have a CUDA variant, in under eight
# minutes and without a network. Writes benchmarks/results/gpu-*.json; prints a short table last.
#
# Needs Python >= 3.11 with torch, torchaudio, torchvision, numpy, pyarrow, Pillow and pytest. What else fastload and its
# tests need is taken from wheels in .whl/, where there are any (pip download --only-binary=:all: -d .whl NAME ...).
#
#   tools/gpu.sh            PYTHON=/path/to/python tools/gpu.sh
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
python="${PYTHON:-python3}"
tests_seconds=220 benchmarks_seconds=200

if ! "$python" -c 'import torch' 2>/dev/null; then
    echo "gpu.sh: $python has no torch; pass another one: PYTHON=... tools/gpu.sh" >&2
    exit 2
fi
if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "gpu.sh: torch sees no NVIDIA GPU here, so there is nothing to run; the other tests are tools/test.sh" >&2
    exit 3
fi

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONDONTWRITEBYTECODE=1 TORCHINDUCTOR_CACHE_DIR="$work/inductor"
if compgen -G ".whl/*.whl" >/dev/null; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$work/site" .whl/*.whl || exit 2
    export PYTHONPATH="$PYTHONPATH:$work/site"
fi
if ! missing="$("$python" -c 'import fastload.augment, pytest, pytest_benchmark, hypothesis, torchvision, kornia' 2>&1)"; then
    echo "gpu.sh: something is missing here; add its wheel to .whl/: ${missing##*$'\n'}" >&2
    exit 2
fi

mkdir -p benchmarks/results
mapfile -t tests < <(grep -rlE 'mark\.gpu|made import.*DEVICES|    DEVICES,' tests --include='test_*.py' | sort)
mapfile -t benchmarks < <(grep -lE 'cuda' benchmarks/bench_*.py | sort)

timeout "$tests_seconds" "$python" -m pytest "${tests[@]}" -m gpu -q --no-header -p no:cacheprovider \
    -o filterwarnings=default --continue-on-collection-errors --junitxml="$work/tests.xml"
tests_status=$?
timeout "$benchmarks_seconds" "$python" -m pytest "${benchmarks[@]}" -c benchmarks/pytest.ini --rootdir benchmarks \
    -k cuda -q --no-header -p no:cacheprovider --benchmark-json="$work/benchmarks.json"
benchmarks_status=$?

"$python" - "$work" "$tests_status" "$benchmarks_status" <<'PYTHON'
"""Results into benchmarks/results, and the table."""
import json
import sys
import xml.etree.ElementTree as xml
from pathlib import Path

import torch

work, results = Path(sys.argv[1]), Path("benchmarks/results")
machine = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": torch.version.cuda}
print("\n" + ", ".join(f"{name} {value}" for name, value in machine.items()))

counts = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0, "seconds": 0.0}
failed = []
if (work / "tests.xml").exists():
    root = xml.parse(work / "tests.xml").getroot()
    for suite in root.iter("testsuite"):
        for name in ("tests", "failures", "errors", "skipped"):
            counts[name] += int(suite.get(name, 0))
        counts["seconds"] += float(suite.get("time", 0))
    failed = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in root.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
counts["finished"] = (work / "tests.xml").exists()
(results / "gpu-tests.json").write_text(json.dumps({**machine, **counts, "failed": failed}, indent=2) + "\n")
print(f"tests: {counts['tests']}, failed {counts['failures'] + counts['errors']}, in {counts['seconds']:.0f} s"
      + ("" if counts["finished"] else "; not finished in time"))
for name in failed[:20]:
    print(f"  failed: {name}")

path = work / "benchmarks.json"
if not path.exists() or not path.stat().st_size:
    print("benchmarks: none finished in time")
else:
    found = json.loads(path.read_text())
    found["machine_info"] |= machine
    (results / "gpu-benchmarks.json").write_text(json.dumps(found, indent=2) + "\n")
    print(f"{'benchmark':44} {'per second':>14} {'ratio':>7}  reference")
    for entry in found["benchmarks"]:
        info = entry["extra_info"]
        print(f"{entry['name'][:44]:44} {info['per_second']:>14,} {info['ratio']:>7}  {info['reference']}")
PYTHON
[[ $tests_status -eq 0 && $benchmarks_status -eq 0 ]]
