#!/usr/bin/env bash
# On a machine with an NVIDIA GPU: run the tests marked `gpu` and the benchmarks that have a CUDA variant, in under eight
# minutes and without a network. Writes benchmarks/results/gpu-*.json; prints a short table last. Benchmarks that did not
# all finish are in gpu-benchmarks-partial.json, and those of an earlier run stay.
#
#   tools/gpu.sh               PYTHON=/path/to/python tools/gpu.sh; COMMIT=... where .git did not come along
#   tools/gpu.sh --wheels      fetch into .whl/ what a bare machine lacks (12 MB; FOR=3.12 is its Python); before, with a network
#   tools/gpu.sh --rehearse    the same on the CPU, of a few benchmarks, and nothing is left in benchmarks/results
#   tools/gpu.sh --pretend     only the tests, on a GPU that tests/pretended makes of the CPU: they are the GPU's own, with
#                              what CUDA refuses, streams, copies that come late and the kernels' arithmetic; it knows
#                              nothing of races, speed, memory and numbers of a GPU, and nothing of compilers for it
#
# Needs Python >= 3.11 with torch, torchaudio, torchvision, numpy, pyarrow and Pillow. What else fastload and its tests
# need and this Python lacks is taken from wheels in .whl/, where there are any.
#
# Exit codes: 0 all passed; 1 a test or benchmark failed, or was not run; 2 something is missing; 3 there is no GPU.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
python="${PYTHON:-python3}"
all_seconds=470 tests_seconds=220 # benchmarks have what is left, at least 30
# module and package of all that is needed beyond torch's own family, what they need themselves included
needed=(xxhash simplejpeg rich markdown_it:markdown-it-py mdurl pygments kornia kornia_rs:kornia-rs packaging
    pytest iniconfig pluggy hypothesis sortedcontainers psutil)
for_benchmarks=(pytest_benchmark:pytest-benchmark cpuinfo:py-cpuinfo2)

mode="${1:-run}"
case "$mode" in
    run | --rehearse | --pretend) ;;
    --wheels)
        exec "$python" -m pip download -q --no-deps --only-binary=:all: --python-version "${FOR:-3.12}" \
            -c tools/constraints.txt -d .whl "${needed[@]##*:}" "${for_benchmarks[@]##*:}"
        ;;
    *)
        echo "gpu.sh: $mode is none of --wheels, --rehearse and --pretend" >&2
        exit 2
        ;;
esac

# Once for both: torch may take half a minute to import for the first time.
"$python" -c 'import sys, numpy, PIL, pyarrow, torch, torchaudio, torchvision; sys.exit(0 if torch.cuda.is_available() else 3)'
case $? in
    0) ;;
    3)
        if [[ $mode == run ]]; then
            echo "gpu.sh: torch sees no NVIDIA GPU here, so there is nothing to run; the other tests are tools/test.sh" >&2
            exit 3
        fi
        ;;
    *)
        echo "gpu.sh: $python lacks what stands above; pass another one: PYTHON=... tools/gpu.sh" >&2
        exit 2
        ;;
esac

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
export PYTHONPATH="$PWD:$work/site${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONDONTWRITEBYTECODE=1 TORCHINDUCTOR_CACHE_DIR="$work/inductor" HYPOTHESIS_STORAGE_DIRECTORY="$work/hypothesis"

# Packages of those modules that this Python lacks, a line each.
lacking() {
    "$python" - "$@" <<'PYTHON'
import importlib.util
import sys

for name in sys.argv[1:]:
    module, _, package = name.partition(":")
    if importlib.util.find_spec(module) is None:
        print(package or module)
PYTHON
}

# Wheels are archives of what is imported: unpacked in a second, where pip, if there is one, takes that for each of them.
"$python" - "$work/site" $(lacking "${needed[@]}" "${for_benchmarks[@]}") <<'PYTHON'
import platform
import sys
from pathlib import Path
from zipfile import BadZipFile, ZipFile

site, wanted = sys.argv[1], {name.replace("-", "_").lower() for name in sys.argv[2:]}
this = f"cp{sys.version_info.major}{sys.version_info.minor}"
found = {}
for wheel in sorted(Path(".whl").glob("*.whl")):
    name, *_, pythons, abis, platforms = wheel.stem.split("-")
    runs = {"py3", this} & set(pythons.split(".")) and {"none", this} & set(abis.split("."))
    runs = runs or ("abi3" in abis and pythons.startswith("cp3"))
    here = platforms == "any" or ("linux" in platforms and platform.machine() in platforms)
    if runs and here:
        found[name.replace("-", "_").lower()] = wheel
for name in wanted & found.keys():
    wheel = found[name]
    try:
        ZipFile(wheel).extractall(site)
    except (BadZipFile, OSError) as error:
        print(f"gpu.sh: {wheel}: {error}", file=sys.stderr)
PYTHON
mapfile -t missing < <(lacking "${needed[@]}")
if [[ ${#missing[@]} -gt 0 ]]; then
    echo "gpu.sh: missing here: ${missing[*]}; where there is a network, run tools/gpu.sh --wheels and bring .whl/" >&2
    exit 2
fi
mapfile -t no_benchmarks < <(lacking "${for_benchmarks[@]}")

results=benchmarks/results which=(-m gpu) what=cuda
if [[ $mode == --rehearse ]]; then
    results="$work/results" which=(-k cpu) what='cpu and (flip or specaugment or chain)'
elif [[ $mode == --pretend ]]; then
    results="$work/results" which+=(-p pretended.plugin) tests_seconds=600
    export PYTHONPATH="$PYTHONPATH:$PWD/tests"
fi
mkdir -p "$results"
mapfile -t tests < <(grep -rlE 'mark\.gpu|made import.*DEVICES|    DEVICES,' tests --include='test_*.py' | sort)
mapfile -t benchmarks < <(grep -lE 'cuda' benchmarks/bench_*.py | sort)

# Interrupted and not killed when the time is up: pytest then still writes down what it has. A shell that starts this in
# the background (`gpu.sh &`, CI) has interrupts ignored by all in it, which `env` puts right.
hearing=(env --default-signal=INT)
"${hearing[@]}" true 2>/dev/null || hearing=()
timeout --signal=INT --kill-after=20 "$tests_seconds" "${hearing[@]}" "$python" -m pytest "${tests[@]}" "${which[@]}" \
    -q --no-header -p no:cacheprovider -o filterwarnings=default --continue-on-collection-errors --junitxml="$work/tests.xml"
tests_status=$?
[[ $mode != --pretend ]] || exit "$tests_status"
benchmarks_status=1
if [[ ${#no_benchmarks[@]} -eq 0 ]]; then
    left=$((all_seconds - SECONDS - 15))
    [[ $left -ge 30 ]] || left=30
    timeout --signal=INT --kill-after=15 "$left" "${hearing[@]}" "$python" -m pytest "${benchmarks[@]}" \
        -c benchmarks/pytest.ini --rootdir benchmarks -k "$what" -q --no-header -p no:cacheprovider \
        --benchmark-json="$work/benchmarks.json"
    benchmarks_status=$?
fi

commit="${COMMIT:-$(git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)}"
"$python" - "$work" "$results" "$commit" "$tests_status" "$benchmarks_status" "${no_benchmarks[@]}" <<'PYTHON'
"""Results into the folder, and the table."""
import json
import sys
import xml.etree.ElementTree as xml
from pathlib import Path

import torch

work, results = map(Path, sys.argv[1:3])
tests_status, benchmarks_status = map(int, sys.argv[4:6])
without = sys.argv[6:]
TIME_IS_UP = (124, 137)  # of timeout
gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
machine = {"gpu": gpu, "torch": torch.__version__, "cuda": torch.version.cuda, "commit": sys.argv[3]}
print("\n" + ", ".join(f"{name} {value}" for name, value in machine.items()))

counts = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0, "seconds": 0.0}
failed = []
written = work / "tests.xml"
if written.exists() and written.stat().st_size:
    root = xml.parse(written).getroot()
    for suite in root.iter("testsuite"):
        for name in ("tests", "failures", "errors", "skipped"):
            counts[name] += int(suite.get(name, 0))
        counts["seconds"] += float(suite.get("time", 0))
    failed = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in root.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
finished = tests_status not in TIME_IS_UP
(results / "gpu-tests.json").write_text(
    json.dumps({**machine, **counts, "finished": finished, "failed": failed}, indent=2) + "\n"
)
print(f"tests: {counts['tests']}, failed {counts['failures'] + counts['errors']}, in {counts['seconds']:.0f} s"
      + ("" if finished else "; not finished in time"))
for name in failed[:20]:
    print(f"  failed: {name}")

path = work / "benchmarks.json"
if without:
    print(f"benchmarks: not run, {' and '.join(without)} missing; bring the wheel in .whl/")
elif not path.exists() or not path.stat().st_size:
    print(f"benchmarks: none finished, pytest's status was {benchmarks_status}")
else:
    found = json.loads(path.read_text())
    found["machine_info"] |= machine
    found["finished"] = benchmarks_status == 0
    name = "gpu-benchmarks.json" if found["finished"] else "gpu-benchmarks-partial.json"
    (results / name).write_text(json.dumps(found, indent=2) + "\n")
    print(f"{'benchmark':44} {'per second':>14} {'ratio':>7}  reference")
    for entry in found["benchmarks"]:
        info = entry["extra_info"]
        if "ratio" in info:  # one that failed on the way has none
            print(f"{entry['name'][:44]:44} {info['per_second']:>14,} {info['ratio']:>7}  {info['reference']}")
        for ours, times in info.get("times", {}).items():
            told = ", ".join(f"{ratio['median']} times {other}" for other, ratio in times.items())
            print(f"    {ours}: {told}")
        for other, why in info.get("left_out", {}).items():
            print(f"    left out: {other}: {why}")
    if benchmarks_status:
        print("benchmarks: not all of them" + (" finished in time" if benchmarks_status in TIME_IS_UP else " passed"))
PYTHON
table=$?
[[ $tests_status -eq 0 && $benchmarks_status -eq 0 && $table -eq 0 ]]
