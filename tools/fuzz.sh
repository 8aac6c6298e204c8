#!/usr/bin/env bash
# Fuzz the JPEG kernel with address and undefined-behaviour sanitizers: tools/fuzz.sh [inputs] [working folder]
# Needs clang with its run-time libraries and libjpeg62-turbo-dev. What it finds is left in the working folder as crash-*.
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
exec nice -n 19 ./fuzz_jpeg -runs="$inputs" -max_len=16384 -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="$work/crash-" corpus seeds
