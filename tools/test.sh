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
if [[ $# != 0 ]]; then
    "$python" -m mypy --strict fastload
    exec "$python" -m pytest --all "$@"
fi

# Many tests wait for other processes, so that two that take the files in turn need little more than half the time, if
# torch's threads of one do not wait, busily, for processors that the other has. What the others say is shown at the end.
export OMP_NUM_THREADS=1
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$work"' EXIT
mkdir "$work/claims"
"$python" -m mypy --strict fastload >"$work/types" 2>&1 &
types=$!
"$python" -m pytest --all --claim="$work/claims" -p no:cacheprovider >"$work/tests" 2>&1 &
others=$!
# The other one begins when this one has claimed a file: after an installation, importing compiles thousands of modules,
# which both would do.
while [[ -z $(ls -A "$work/claims") ]] && kill -0 "$others" 2>/dev/null; do
    sleep 0.2
done
status=0
"$python" -m pytest --all --claim="$work/claims" || status=$?
wait "$others" || status=$?
wait "$types" || status=$?
cat "$work/tests" "$work/types"
exit "$status"
