#!/usr/bin/env bash
# Set fastload up in .venv and show it at work: tools/demo.sh [image|audio|text] [options of `fastload demo`]
set -euo pipefail
# shellcheck source=tools/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup all
exec "$venv/bin/fastload" demo "$@"
