#!/usr/bin/env bash
# Set fastload up in .venv and check it: style, types, tests. Arguments go to pytest: tools/test.sh tests/order -k resume.
# The quick loop is .venv/bin/pytest -q -x, which leaves out what takes long.
set -euo pipefail
# shellcheck source=tools/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup all,dev
cd "$root"
"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m mypy --strict fastload
[[ $# == 0 ]] || exec "$python" -m pytest --all "$@"

# Many tests wait for other processes, so that two halves side by side take little more than half the time, if torch's
# threads of one do not wait, busily, for processors that the other has. What the second one says is shown when both have
# ended.
export OMP_NUM_THREADS=1
log=$(mktemp)
"$python" -m pytest --all --share 2/2 -p no:cacheprovider >"$log" 2>&1 &
second=$!
trap 'kill "$second" 2>/dev/null || true; rm -f "$log"' EXIT
status=0
"$python" -m pytest --all --share 1/2 || status=$?
wait "$second" || status=$?
cat "$log"
exit "$status"
