#!/usr/bin/env bash
# Fuzz the JPEG kernel with address and undefined-behaviour sanitizers: tools/fuzz.sh [inputs] [working folder]
# Needs clang with its run-time libraries and libjpeg62-turbo-dev. What it finds is left in the working folder as crash-*;
# a run that finds nothing is noted in benchmarks/results/fuzz.json.
set -euo pipefail
# shellcheck source=tools/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
inputs=${1:-2000000}
work=${2:-$root/build/fuzz}
command -v clang >/dev/null || need_packages clang libjpeg62-turbo-dev
version=$(clang -dumpversion)
compgen -G "$(clang -print-resource-dir)/lib/linux/libclang_rt.fuzzer-*.a" >/dev/null ||
    need_packages "libclang-rt-${version%%.*}-dev"
mkdir -p "$work/corpus"
clang -g -O1 -std=gnu11 -ffp-contract=off -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined \
    "$root"/tests/fuzz/fuzz_jpeg.c "$root"/fastload/decode/_jpeg_*.c -o "$work/fuzz_jpeg" -ljpeg -lm
PYTHONPATH=$root "$python" "$root/tests/fuzz/seeds.py" "$work/seeds"
cd "$work"
log=$work/fuzz.log
nice -n 19 ./fuzz_jpeg -runs="$inputs" -max_len=16384 -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="$work/crash-" corpus seeds 2>&1 | tee "$log"
# Of a run that found nothing: what was run, for the record.
"$python" - "$log" "$root" <<'END'
import json, pathlib, re, subprocess, sys, time
log, root = pathlib.Path(sys.argv[1]).read_text(), pathlib.Path(sys.argv[2])
commit = subprocess.run(["git", "-C", root, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
record = {
    "target": "tests/fuzz/fuzz_jpeg.c",
    "sanitizers": ["address", "undefined"],
    "inputs": int(re.search(r"stat::number_of_executed_units: (\d+)", log)[1]),
    "peak_rss_mib": int(re.search(r"stat::peak_rss_mb: +(\d+)", log)[1]),
    "findings": 0,
    "commit": commit,
    "date": time.strftime("%Y-%m-%d"),
}
(root / "benchmarks/results/fuzz.json").write_text(json.dumps(record, indent=1) + "\n")
print(json.dumps(record))
END
