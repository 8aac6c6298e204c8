#!/usr/bin/env bash
# Fuzz what is in C with address and undefined-behaviour sanitizers: tools/fuzz.sh [inputs] [working folder] [target ...]
# Targets: jpeg (the JPEG kernel), rows (the reader of rows, from tables that an index may hold), polyphase (sample rates), files
# (many files in one call) and order (where samples lie); all if none is named. Needs clang with its run-time libraries,
# libjpeg62-turbo-dev, libxxhash-dev and Python's headers. What it finds is left in the working folder as crash-*; a run that
# finds nothing is noted in benchmarks/results/fuzz.json.
set -euo pipefail
# shellcheck source=tools/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
inputs=${1:-2000000}
work=${2:-$root/build/fuzz}
targets=(jpeg rows polyphase files order)
[ $# -lt 3 ] || targets=("${@:3}")
command -v clang >/dev/null || need_packages clang libjpeg62-turbo-dev libxxhash-dev
version=$(clang -dumpversion)
compgen -G "$(clang -print-resource-dir)/lib/linux/libclang_rt.fuzzer-*.a" >/dev/null ||
    need_packages "libclang-rt-${version%%.*}-dev"
python_var() { "$python" -c "import sysconfig; print(sysconfig.$1)"; }
checked=(clang -g -O1 -std=gnu11 -ffp-contract=off "-fsanitize=fuzzer,address,undefined" -fno-sanitize-recover=undefined)

build_jpeg() {
    "${checked[@]}" "$root"/tests/fuzz/fuzz_jpeg.c "$root"/fastload/decode/_jpeg_*.c -o "$1" -ljpeg -lm
    PYTHONPATH=$root "$python" "$root/tests/fuzz/seeds.py" "$work/jpeg/seeds"
}

# A harness that holds an interpreter, and seeds that are long enough for all arguments: where it goes, the sources.
build_extension() {
    local libraries
    libraries=$(python_var 'get_config_var("LIBDIR")')
    "${checked[@]}" -pthread -I"$(python_var 'get_paths()["include"]')" "${@:2}" -o "$1" \
        -L"$libraries" -Wl,-rpath,"$libraries" -lpython"$(python_var 'get_python_version()')"
    "$python" - "$(dirname "$1")/seeds" <<'END'
import pathlib, random, sys
for seed in range(32):
    pathlib.Path(sys.argv[1], str(seed)).write_bytes(random.Random(seed).randbytes(1500))
END
}

build_rows() { build_extension "$1" "$root"/tests/fuzz/fuzz_rows.c "$root"/fastload/shards/_rows_{crew,base}.c; }
build_polyphase() { build_extension "$1" "$root/tests/fuzz/fuzz_polyphase.c"; }
build_files() { build_extension "$1" "$root/tests/fuzz/fuzz_files.c"; }
build_order() { build_extension "$1" "$root/tests/fuzz/fuzz_order.c"; }

for target in "${targets[@]}"; do
    mkdir -p "$work/$target/corpus" "$work/$target/seeds"
    "build_$target" "$work/$target/fuzz"
    cd "$work/$target"
    # Python's own allocator would hide reads beyond an object's end.
    PYTHONMALLOC=malloc nice -n 19 ./fuzz -runs="$inputs" -max_len=16384 -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="$work/crash-" corpus seeds 2>&1 | tee "$work/$target.log"
    # Of a run that found nothing: what was run, for the record.
    "$python" - "$work/$target.log" "$root" "$target" <<'END'
import json, pathlib, re, subprocess, sys, time
log, root, target = pathlib.Path(sys.argv[1]).read_text(), pathlib.Path(sys.argv[2]), f"tests/fuzz/fuzz_{sys.argv[3]}.c"
commit = subprocess.run(["git", "-C", root, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
record = {
    "target": target,
    "sanitizers": ["address", "undefined"],
    "inputs": int(re.search(r"stat::number_of_executed_units: (\d+)", log)[1]),
    "peak_rss_mib": int(re.search(r"stat::peak_rss_mb: +(\d+)", log)[1]),
    "findings": 0,
    "commit": commit,
    "date": time.strftime("%Y-%m-%d"),
}
results = root / "benchmarks/results/fuzz.json"
others = [run for run in json.loads(results.read_text()) if run["target"] != target]
results.write_text(json.dumps(sorted([*others, record], key=lambda run: run["target"]), indent=1) + "\n")
print(json.dumps(record))
END
done
