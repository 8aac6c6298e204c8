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

# True where system packages can be installed: as root, on Debian and its kin.
can_install() {
    [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null
}

install_packages() {
    echo "installing system packages: $*"
    apt-get update -qq &&
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}

# Make system packages available, or say what to install and stop.
need_packages() {
    can_install || fail "fastload's set-up needs these system packages: $*" "as root: apt-get install $*"
    install_packages "$@"
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

# Print the files that the optional native code is built from, one a line.
native_sources() {
    find "$root" -maxdepth 1 -name setup.py
    find "$root/fastload" -name '*.[ch]' | LC_ALL=C sort
}

# True if there is a C compiler with the headers of Python, libjpeg and xxHash.
can_compile() {
    printf '#include <stdio.h>\n#include <Python.h>\n#include <jpeglib.h>\n#include <xxhash.h>\n' |
        cc -fsyntax-only -I"$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')" -x c - 2>/dev/null
}

# Get what the native code is built with. It only makes things faster, so that without it the set-up goes on.
want_compiler() {
    local packages
    packages=(gcc libc6-dev libjpeg-dev libxxhash-dev "$("$python" -c 'import sys; print("libpython%d.%d-dev" % sys.version_info[:2])')")
    [[ -n $(native_sources) ]] && ! can_compile || return 0
    if ! can_install || ! install_packages "${packages[@]}"; then
        echo "no C compiler with the headers of Python, libjpeg and xxHash: fastload is set up without its faster native code" >&2
        echo "to have it, run this again after: apt-get install ${packages[*]}" >&2
    fi
}

# Print a digest of all that decides what is installed, the place of the checkout included: an editable install points there.
fingerprint() {
    {
        echo "$root"
        "$python" -VV
        can_compile && echo "native code"
        cat "$root/pyproject.toml" "$root/tools/constraints.txt"
        native_sources | tr '\n' '\0' | xargs -0 -r cat
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
    if ! installed "$extras" "$(fingerprint)"; then
        want_compiler
        echo "installing fastload[$extras] into $venv (torch is large: minutes the first time)"
        rm -f "$venv"/.fastload-*
        # To compile all 19,000 modules takes more than a minute; those that are imported are compiled then.
        "$python" -m pip install --quiet --disable-pip-version-check --no-compile \
            --constraint "$root/tools/constraints.txt" --editable "${root}[$extras]"
        # Last, so that an install that was cut off is done again.
        print=$(fingerprint)
        for extra in ${extras//,/ }; do
            echo "$print" >"$venv/.fastload-$extra"
        done
    fi
    exec 9<&-
}
