#!/bin/bash
# Cluster init script: puts on each node what Convoy needs and the ML runtime lacks, and replaces nothing that the runtime brings.
#
#   15.4 LTS ML               nothing: it has all
#   16.4, 17.3 and 18 LTS ML  Horovod and Petastorm
#   19 ML                     TensorFlow, Horovod and Petastorm
#
# Horovod is compiled by the first node that comes, in some minutes, and its wheel is kept on a volume by Python, TensorFlow and
# patch; the other nodes wait for it. Tried in environments of the runtimes' versions, never on a cluster: docs/runtimes.md.
#
# PYTHON: the cluster's. CONVOY_WHEELS: where wheels are kept, a folder of a volume.
set -euo pipefail

PYTHON=${PYTHON:-/databricks/python/bin/python}
CONVOY_WHEELS=${CONVOY_WHEELS:-/Volumes/main/default/convoy/wheels}
TENSORFLOW=2.21.0
PETASTORM=0.12.1
HOROVOD=0.28.1
HOROVOD_HASH=92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0
# As in tools/setup/horovod.py, which says why, with the digest that it gives to the patch.
PATCH=8cb05f5c
patch_source() { # FOLDER
    remove_line "$1/horovod/tensorflow/CMakeLists.txt" 'list(APPEND TF_SOURCES "${PROJECT_SOURCE_DIR}/horovod/tensorflow/xla_mpi_ops.cc")'
    remove_line "$1/third_party/flatbuffers/include/flatbuffers/stl_emulation.h" '    count_ = other.count_;'
}
# A builder says this often that it is at work, and counts as gone after this long without a word.
HEARTBEAT_SECONDS=${HEARTBEAT_SECONDS:-15}
GONE_SECONDS=${GONE_SECONDS:-120}
# A volume shows what another node wrote some seconds later.
SETTLE_SECONDS=${SETTLE_SECONDS:-5}

say() { echo "convoy: $*"; }

version() { "$PYTHON" -c 'import importlib.metadata as m, sys
for name in sys.argv[1:]:
    try: print(m.version(name)); break
    except m.PackageNotFoundError: pass' "$@"; }

# Install without a change to what is there.
add() {
    "$PYTHON" -m pip list --format=freeze --disable-pip-version-check 2>/dev/null >"$scratch/there.txt"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --constraint "$scratch/there.txt" "$@"
}

remove_line() { # FILE LINE
    [ "$(grep -cxF "$2" "$1")" = 1 ] || { say "$1 is not that of Horovod $HOROVOD; the patch does not fit"; exit 1; }
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

# Volumes have no locks. Every node that finds no wheel writes a claim; of the claims with a sign of life the first in order builds.
# Two builders at once, which slow mounts could lead to, cost time and do no harm: wheels appear whole.
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

kept_wheel() { # FOLDER: prints the wheel, which this node or another has built
    local kept=$1 claims=$1/claims own heart wheel built
    own=$(date +%s%N)-${HOSTNAME:-node}-$$
    [ -n "$(wheel_in "$kept")" ] || { mkdir -p "$claims"; claim "$claims/$own"; sleep "$SETTLE_SECONDS"; }
    while [ -z "$(wheel_in "$kept")" ]; do
        claim "$claims/$own"
        if ! is_first "$claims" "$own"; then
            sleep "$SETTLE_SECONDS"
            continue
        fi
        # Before it begins it moves to the front, so that one whose claim is seen late does not begin, too.
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
        # Not with its own requirements: among them is Spark, which is on a cluster, but not as a package.
        add --no-deps "petastorm==$PETASTORM"
        add cloudpickle dill diskcache fsspec future packaging psutil pyyaml pyzmq six
    fi
    say "TensorFlow $(version tensorflow tensorflow-cpu), Horovod $(version horovod), Petastorm $(version petastorm)"
}

# Sourced by tests.
[ "${BASH_SOURCE[0]}" != "$0" ] || main
