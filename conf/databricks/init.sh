#!/bin/bash
# Cluster init script: installs what Convoy needs and the ML runtime lacks on each node. Replaces no package of the runtime.
#
#   15.4 LTS ML               nothing: everything is included
#   16.4, 17.3 and 18 LTS ML  Horovod and Petastorm
#   19 ML                     TensorFlow, Horovod and Petastorm
#
# The first node compiles Horovod, which takes some minutes, and stores the wheel on a volume by Python, TensorFlow and patch; the
# other nodes wait for it. Tested in environments with the runtimes' versions, not on a cluster: docs/runtimes.md.
#
# PYTHON: the cluster's Python. CONVOY_WHEELS: the folder for wheels, on a volume.
set -euo pipefail

PYTHON=${PYTHON:-/databricks/python/bin/python}
CONVOY_WHEELS=${CONVOY_WHEELS:-/Volumes/main/default/convoy/wheels}
TENSORFLOW=2.21.0
PETASTORM=0.12.1
HOROVOD=0.28.1
HOROVOD_HASH=92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0
# The patch of tools/setup/horovod.py, which gives the reasons, and its digest there.
PATCH=8cb05f5c
patch_source() { # FOLDER
    remove_line "$1/horovod/tensorflow/CMakeLists.txt" 'list(APPEND TF_SOURCES "${PROJECT_SOURCE_DIR}/horovod/tensorflow/xla_mpi_ops.cc")'
    remove_line "$1/third_party/flatbuffers/include/flatbuffers/stl_emulation.h" '    count_ = other.count_;'
}
# How often a builder renews its claim, and after how long without renewal it counts as dead.
HEARTBEAT_SECONDS=${HEARTBEAT_SECONDS:-15}
GONE_SECONDS=${GONE_SECONDS:-120}
# How long a volume may take to show what another node has written.
SETTLE_SECONDS=${SETTLE_SECONDS:-5}

say() { echo "convoy: $*"; }

version() { "$PYTHON" -c 'import importlib.metadata as m, sys
for name in sys.argv[1:]:
    try: print(m.version(name)); break
    except m.PackageNotFoundError: pass' "$@"; }

# Install packages without changing those that are installed.
add() {
    "$PYTHON" -m pip list --format=freeze --disable-pip-version-check 2>/dev/null >"$scratch/there.txt"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --constraint "$scratch/there.txt" "$@"
}

remove_line() { # FILE LINE
    [ "$(grep -cxF "$2" "$1")" = 1 ] || { say "$1 is not that of Horovod $HOROVOD; the patch does not apply"; exit 1; }
    grep -vxF "$2" "$1" >"$1.patched"
    mv "$1.patched" "$1"
}

build_wheel() { # FOLDER
    command -v g++ >/dev/null && command -v make >/dev/null || { say "g++ and make are missing; Horovod cannot be compiled here"; exit 1; }
    local build=$scratch/build
    mkdir -p "$build"
    # cmake 4 refuses the projects inside Horovod; setuptools 70 removed what its setup.py imports.
    "$PYTHON" -m pip install --quiet --target "$build/tools" 'cmake<4' 'setuptools<70' wheel packaging
    export PATH="$build/tools/bin:$PATH" PYTHONPATH="$build/tools" CMAKE_POLICY_VERSION_MINIMUM=3.5 MAKEFLAGS="-j$(nproc)" \
        CXXFLAGS='-include cstdint -include stdexcept' \
        HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1 HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_MPI=1
    echo "horovod==$HOROVOD --hash=sha256:$HOROVOD_HASH" >"$build/horovod.txt"
    "$PYTHON" -m pip download --quiet --no-build-isolation --no-deps --no-binary horovod --require-hashes -d "$build" -r "$build/horovod.txt"
    tar -xzf "$build/horovod-$HOROVOD.tar.gz" -C "$build"
    patch_source "$build/horovod-$HOROVOD"
    "$PYTHON" -m pip wheel --quiet --no-cache-dir --no-build-isolation --no-deps --wheel-dir "$1" "$build/horovod-$HOROVOD"
}

# Volumes have no locks. Every node that finds no wheel writes a claim; the first of the live claims builds. Slow mounts could lead
# to two builders at once, which costs time but does no harm, since a wheel is renamed into place when complete.
claim() { # FILE
    date +%s >"$scratch/claim"
    cp "$scratch/claim" "$1"
}

is_first() { # CLAIMS OWN
    local now file at
    now=$(date +%s)
    for file in $(ls "$1"); do
        [ "$file" = "$2" ] && return 0
        at=$(cat "$1/$file" 2>/dev/null || echo 0)
        [ $((now - ${at:-0})) -lt "$GONE_SECONDS" ] && return 1
    done
    return 0
}

wheel_in() { compgen -G "$1/horovod-*.whl" | head -n 1 || true; }

kept_wheel() { # FOLDER: prints the path of the wheel, built by this node or another
    local kept=$1 claims=$1/claims own heart wheel built
    own=$(date +%s%N)-${HOSTNAME:-node}-$$
    [ -n "$(wheel_in "$kept")" ] || { mkdir -p "$claims"; claim "$claims/$own"; sleep "$SETTLE_SECONDS"; }
    while [ -z "$(wheel_in "$kept")" ]; do
        claim "$claims/$own"
        if ! is_first "$claims" "$own"; then
            sleep "$SETTLE_SECONDS"
            continue
        fi
        # Move to the front before starting, so that a node whose claim becomes visible late does not start as well.
        if [ "${own#0-}" = "$own" ]; then
            rm -f "$claims/$own"
            own=0-$(date +%s%N)-$own
            claim "$claims/$own"
            sleep "$SETTLE_SECONDS"
            continue
        fi
        say "compiling Horovod for $(basename "$kept"); the other nodes wait for it" >&2
        (while sleep "$HEARTBEAT_SECONDS" && kill -0 $$; do claim "$claims/$own"; done) >/dev/null 2>&1 &
        heart=$!
        built=$scratch/wheel
        (build_wheel "$built") >&2 || { kill "$heart"; rm -f "$claims/$own"; return 1; }
        wheel=$(basename "$(wheel_in "$built")")
        cp "$built/$wheel" "$kept/.$wheel.$own"
        mv "$kept/.$wheel.$own" "$kept/$wheel"
        kill "$heart"
    done
    rm -f "$claims/$own" 2>/dev/null || true
    wheel_in "$kept"
}

main() {
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    [ -n "$(version tensorflow tensorflow-cpu)" ] || add "tensorflow-cpu==$TENSORFLOW"
    if [ -z "$(version horovod)" ]; then
        local tag wheel
        tag=$("$PYTHON" -c 'import sys, platform; print("cp%d%d" % sys.version_info[:2], platform.machine())')
        wheel=$(kept_wheel "$CONVOY_WHEELS/horovod-$HOROVOD-${tag% *}-tf$(version tensorflow tensorflow-cpu)-$PATCH-${tag#* }")
        add --no-deps "$wheel"
    fi
    if [ -z "$(version petastorm)" ]; then
        # Without its own requirements, which include pyspark: on a cluster, Spark is not installed as a package.
        add --no-deps "petastorm==$PETASTORM"
        add cloudpickle dill diskcache fsspec future packaging psutil pyyaml pyzmq six
    fi
    say "TensorFlow $(version tensorflow tensorflow-cpu), Horovod $(version horovod), Petastorm $(version petastorm)"
}

# Tests source this file.
[ "${BASH_SOURCE[0]}" != "$0" ] || main
