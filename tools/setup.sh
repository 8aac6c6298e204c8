# Sourced by demo.sh and test.sh: `setup EXTRAS` leaves fastload, editable, with these extras in .venv at the
# repository's root and names that environment's interpreter in $python. A second call installs nothing.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
python=$venv/bin/python

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

# Make system packages available: install them as root on Debian and its kin, else say what to install and stop.
need_packages() {
    if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
        echo "installing system packages: $*"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
    else
        fail "fastload's set-up needs these system packages: $*" "as root: apt-get install $*"
    fi
}

# Print the first interpreter of Python 3.11 or later that there is.
find_python() {
    local name
    for name in python3.11 python3.12 python3.13 python3; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    return 1
}

make_venv() {
    local base
    if ! base=$(find_python); then
        need_packages python3 python3-venv
        base=$(find_python) || fail "fastload needs Python 3.11 or later, and this system's packages have none." \
            "Install one, so that python3.11, python3.12, python3.13 or python3 starts it, and run this again."
    fi
    if ! "$base" -c 'import ensurepip, venv' 2>/dev/null; then
        need_packages "$("$base" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
    fi
    echo "making a virtual environment in $venv with $base"
    "$base" -m venv --clear "$venv"
}

# Print a digest of all that decides what is installed, the place of the checkout included: an editable install points there.
fingerprint() {
    {
        echo "$root"
        "$python" -VV
        cat "$root/pyproject.toml" "$root/tools/constraints.txt"
    } | sha256sum
}

# True if every extra of the comma-separated list was installed in full at this fingerprint.
installed() {
    local extra
    for extra in ${1//,/ }; do
        [[ $(cat "$venv/.fastload-$extra" 2>/dev/null) == "$2" ]] || return 1
    done
}

setup() {
    local extras=$1 extra print
    # One set-up at a time; the lock goes when this shell closes the descriptor or dies.
    exec 9<"$root/pyproject.toml"
    flock 9
    # A venv that was cut off while being made has no working pip.
    "$python" -m pip --version >/dev/null 2>&1 || make_venv
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$venv holds $("$python" -V), and fastload needs Python 3.11 or later; remove that folder and run this again."
    print=$(fingerprint)
    if ! installed "$extras" "$print"; then
        echo "installing fastload[$extras] into $venv (torch is large: minutes the first time)"
        rm -f "$venv"/.fastload-*
        "$python" -m pip install --quiet --disable-pip-version-check \
            --constraint "$root/tools/constraints.txt" --editable "${root}[$extras]"
        # Last, so that an install that was cut off is done again.
        for extra in ${extras//,/ }; do
            echo "$print" >"$venv/.fastload-$extra"
        done
    fi
    exec 9<&-
}
