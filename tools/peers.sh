#!/usr/bin/env bash
# The comparison with other loaders, in one command: sets up an environment that holds them all in .venv-peers, runs the
# same work through each in turn, and writes benchmarks/results/peers.json, peers.svg and the README's table.
#
#   tools/peers.sh                     five rounds, about an hour; arguments go to benchmarks/peers/run.py
#   tools/peers.sh --images DIR        pictures of your own, DIR/<class>/*.jpg, in place of made ones
#   tools/peers.sh --setup             only the environment
#
# What of them cannot be installed is left out, and said.
set -euo pipefail
# shellcheck source=tools/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
venv=$root/.venv-peers
python=$venv/bin/python
setup audio,text,remote,report
cd "$root"

# Versions of what several of them share are fastload's, and theirs are those of peers.txt; what a peer asks for beyond
# that is told to pip by name, because no set of versions satisfies all of their statements at once.
get() {
    "$python" -m pip install --quiet --disable-pip-version-check --constraint tools/constraints.txt "$@"
}

version_of() {
    sed -n "s/^\($1==[^ ]*\).*/\1/p" benchmarks/peers/peers.txt
}

lacks() {
    ! "$python" -c "import $1" 2>/dev/null
}

want() {
    local module=$1
    shift
    lacks "$module" || return 0
    echo "installing $1"
    "$@" && ! lacks "$module" || echo "$module cannot be installed here: it is left out of the comparison" >&2
}

torchvision() { get torchvision; }
mosaicml() { get --no-deps "$(version_of mosaicml-streaming)" && get brotli zstd python-snappy catalogue transformers; }
litdata() {
    get --no-deps "$(version_of litdata)" && get requests lightning-utilities tifffile obstore &&
        get --no-deps boto3 botocore jmespath s3transfer # resolved against the constraints, pip searches for an hour
}
grain() { get "$(version_of grain)"; }
spdl() { get "$(version_of spdl)"; }
dali() { get --no-deps "$(version_of nvidia-dali-cuda120)" && get optree astunparse gast dm-tree makefun &&
        get --no-deps nvidia-nvimgcodec-cu12; }
datasets() { get "$(version_of datasets)"; }
ffcv() {
    if can_install; then install_packages g++ pkg-config libopencv-dev libturbojpeg0-dev; fi
    get numba opencv-python-headless tqdm terminaltables imgcat pytorch-pfn-extras fastargs assertpy psutil || return
    get --no-deps --no-build-isolation "$(version_of ffcv)"
}

want torchvision torchvision
want streaming mosaicml
want litdata litdata
want grain grain
want spdl.pipeline spdl
want nvidia.dali dali
want datasets datasets
want ffcv ffcv
[[ ${1:-} == --setup ]] && exit
"$python" benchmarks/peers/run.py "$@"
"$python" benchmarks/peers/table.py
