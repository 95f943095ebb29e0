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
    remove_line "$1/horovod/tensorflow/CMakeLists.txt" 'list(APPEND TF_SOURCES "${PROJECT_SOURCE_DIR}/horovod/tensorflow/xla_mpi_ops.cc")' &&
        remove_line "$1/third_party/flatbuffers/include/flatbuffers/stl_emulation.h" '    count_ = other.count_;'
}
# How often a builder renews its claim, and after how long without renewal it counts as dead.
HEARTBEAT_SECONDS=${HEARTBEAT_SECONDS:-15}
GONE_SECONDS=${GONE_SECONDS:-120}
# How long a volume may take to show what another node has written.
SETTLE_SECONDS=${SETTLE_SECONDS:-5}

say() { echo "convoy: $*"; }

say_unwritable() { say "$1 cannot be written; create the volume, or set CONVOY_WHEELS to a folder that can be" >&2; }

version() { "$PYTHON" -c 'import importlib.metadata as m, sys
for name in sys.argv[1:]:
    try: print(m.version(name)); break
    except m.PackageNotFoundError: pass' "$@"; }

pip() { # ARGUMENT...
    "$PYTHON" -m pip --quiet --disable-pip-version-check "$@" 2>"$scratch/pip.txt" && return
    if is_unreached "$scratch/pip.txt"; then
        say "the package index cannot be reached; connect this node, or set an index (PIP_INDEX_URL) or a proxy" \
            "(https_proxy) that it can reach in the cluster's spark_env_vars" >&2
    else
        cat "$scratch/pip.txt" >&2
    fi
    return 1
}

# As tools/setup/network.py tells it: pip treats an index that it cannot reach as one without packages.
is_unreached() { # OUTPUT OF PIP
    ! grep -qiE 'SSLError|CertificateError|certificate verify failed' "$1" &&
        grep -qzE -e 'Retrying \(Retry\(.*\(from versions: none\)' \
            -e 'Max retries exceeded with url|Read timed out|error: (proxy-)?connection-(failed|timeout)' "$1"
}

# Install packages without changing those that are installed.
add() {
    "$PYTHON" -m pip list --format=freeze --disable-pip-version-check 2>/dev/null >"$scratch/there.txt"
    pip install --constraint "$scratch/there.txt" "$@"
}

remove_line() { # FILE LINE
    [ "$(grep -cxF "$2" "$1")" = 1 ] || { say "$1 is not that of Horovod $HOROVOD; the patch does not apply"; exit 1; }
    grep -vxF "$2" "$1" >"$1.patched"
    mv "$1.patched" "$1"
}

# Each step ends a failed build itself, because `set -e` has no effect inside the caller's condition.
build_wheel() { # FOLDER
    local build=$scratch/build tool missing=()
    for tool in g++ make; do command -v "$tool" >/dev/null || missing+=("$tool"); done
    [ ${#missing[@]} = 0 ] || {
        say "to compile Horovod, this node needs ${missing[*]}; install what is missing with an init script before this one" \
            "(apt-get install -y ${missing[*]})"
        exit 1
    }
    mkdir -p "$build"
    # cmake 4 refuses the projects inside Horovod; setuptools 70 removed what its setup.py imports.
    pip install --target "$build/tools" 'cmake<4' 'setuptools<70' wheel packaging || exit 1
    export PATH="$build/tools/bin:$PATH" PYTHONPATH="$build/tools" CMAKE_POLICY_VERSION_MINIMUM=3.5 MAKEFLAGS="-j$(nproc)" \
        CXXFLAGS='-include cstdint -include stdexcept' \
        HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1 HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_MPI=1
    echo "horovod==$HOROVOD --hash=sha256:$HOROVOD_HASH" >"$build/horovod.txt"
    pip download --no-build-isolation --no-deps --no-binary horovod --require-hashes -d "$build" -r "$build/horovod.txt" || exit 1
    tar -xzf "$build/horovod-$HOROVOD.tar.gz" -C "$build" || exit 1
    patch_source "$build/horovod-$HOROVOD" || exit 1
    pip wheel --no-cache-dir --no-build-isolation --no-deps --wheel-dir "$1" "$build/horovod-$HOROVOD" || exit 1
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
    if [ -z "$(wheel_in "$kept")" ]; then
        mkdir -p "$claims" && claim "$claims/$own" || { say_unwritable "$kept"; return 1; }
        sleep "$SETTLE_SECONDS"
    fi
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
        cp "$built/$wheel" "$kept/.$wheel.$own" && mv "$kept/.$wheel.$own" "$kept/$wheel" ||
            { kill "$heart"; rm -f "$claims/$own"; say_unwritable "$kept"; return 1; }
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
