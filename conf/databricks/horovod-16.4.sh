#!/bin/bash
# Cluster init script for 16.4 LTS ML (16.4.x-cpu-ml-scala2.12: Python 3.12, TensorFlow 2.17, pyarrow 15), which ships neither Horovod
# nor Petastorm. Puts both on every node; Horovod is compiled by the first node that comes, and its wheel kept on a volume.
#
# State: EXPERIMENTAL. Tried on Python 3.12.1 with TensorFlow 2.17.0, Keras 3.9.0 and numpy 1.26.4: Horovod compiles, is installed
# from the kept wheel in three seconds the second time, and reduces with Gloo in one process. Petastorm 0.13.1 with pyarrow
# 14.0.2, numpy 1.26.4 and setuptools 74.0.0, as the runtime has it (without, distutils is missing), reads MNIST's table through
# pipelines.stream, all 54,000 rows. Not tried on a cluster, and not enough by itself: Petastorm needs pyarrow < 15, so this
# replaces the runtime's pyarrow 15.0.2 by 14.0.2, and what Spark's own Arrow code makes of that is not known; Convoy's wheel and
# its preflight ask for Python < 3.12. Use 15.4 LTS ML where you can.
#
# CONVOY_WHEELS: where wheels are kept (a folder of a volume). PYTHON: the cluster's.
set -euo pipefail

PYTHON=${PYTHON:-/databricks/python/bin/python}
CONVOY_WHEELS=${CONVOY_WHEELS:-/Volumes/main/default/convoy/wheels}
HOROVOD=0.28.1
# What the wheel fits: it is compiled against one TensorFlow.
tag=$("$PYTHON" -c 'import sys, importlib.metadata as m; print("cp%d%d-tf%s" % (*sys.version_info[:2], m.version("tensorflow")))')
kept="$CONVOY_WHEELS/horovod-$HOROVOD-$tag"

if ! compgen -G "$kept/horovod-*.whl" > /dev/null; then
    building=$(mktemp -d)
    trap 'rm -rf "$building"' EXIT
    # cmake 4 refuses the projects inside Horovod; setuptools 70 removed what its setup.py imports.
    "$PYTHON" -m pip install --quiet --target "$building/tools" 'cmake<4' 'setuptools<70' wheel packaging
    PATH="$building/tools/bin:$PATH" PYTHONPATH="$building/tools" CMAKE_POLICY_VERSION_MINIMUM=3.5 \
        HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1 HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_MPI=1 \
        MAKEFLAGS="-j$(nproc)" \
        "$PYTHON" -m pip wheel --quiet --no-cache-dir --no-build-isolation --no-deps --wheel-dir "$building/wheel" "horovod==$HOROVOD"
    # Volumes take whole files and renames of files; another node may be doing the same.
    mkdir -p "$kept"
    wheel=$(basename "$building"/wheel/horovod-*.whl)
    cp "$building/wheel/$wheel" "$kept/.$wheel.$HOSTNAME"
    mv "$kept/.$wheel.$HOSTNAME" "$kept/$wheel"
fi

"$PYTHON" -m pip install --quiet --no-deps "$kept"/horovod-*.whl
"$PYTHON" -m pip install --quiet --no-deps 'petastorm==0.13.1' 'pyarrow==14.0.2' 'diskcache' 'future'
