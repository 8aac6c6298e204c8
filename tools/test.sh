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
exec "$python" -m pytest --all "$@"
