#!/usr/bin/env bash
# Builds a wheel of what git holds, and looks at it: tools/wheel.sh
# It must hold the six native parts and no C source, and be importable from where it is unpacked. Takes a minute; needs a
# C compiler, the headers that setup.py names, and setuptools from the package index.
set -euo pipefail
# shellcheck source=tools/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/tree"
git -C "$root" archive HEAD | tar -x -C "$work/tree"
"$python" -m pip wheel -q --no-deps -w "$work" "$work/tree"
"$python" -m zipfile -e "$work"/fastload-*.whl "$work/wheel"
sources=$(find "$work/wheel" -name '*.c' -o -name '*.h')
[[ -z $sources ]] || fail "the wheel holds sources:" "$sources"
for part in decode/_jpeg decode/_polyphase shards/_rows order/_order pack/_files _clock; do
    compgen -G "$work/wheel/fastload/$part.*.so" >/dev/null || fail "the wheel lacks fastload/$part"
done
cd "$work"
PYTHONPATH=$work/wheel "$python" - "$work/wheel" <<'END'
import sys
import fastload, fastload._clock, fastload.decode._jpeg, fastload.decode._polyphase, fastload.pack._files, fastload.shards._rows, fastload.order._order
assert fastload.__file__.startswith(sys.argv[1]), fastload.__file__
END
echo "the wheel is whole"
