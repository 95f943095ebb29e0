"""Configures the installed Spark so that plain `spark-submit` behaves as `./convoy train` does."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path

from pipelines.system import surroundings
from tools.setup.clone import Clone, replace
from tools.setup.java import CLASSES, SIZE

# The package's own script finds Spark only in an activated environment. Java uses a class data archive only if no folder on the
# class path contains a file, and Spark puts its configuration folder there. Java crashes on an archive with changed bits if it is
# not told to verify it, and on one whose end is missing in any case.
_SUBMIT = """#!/usr/bin/env bash
# Written by ./convoy setup.
export SPARK_HOME={spark}
venv={venv}
if [ "${{SPARK_CONF_DIR:-$venv/no-spark-conf}}" = "$venv/no-spark-conf" ]; then
    set -a
    . "$SPARK_HOME/conf/spark-env.sh"
    SPARK_CONF_DIR="$venv/no-spark-conf"
    SPARK_SUBMIT_OPTS="-Dlog4j2.configurationFile=\\"$SPARK_HOME/conf/log4j2.properties\\" ${{SPARK_SUBMIT_OPTS:-}}"
    if [ -e "$venv/{archive}" ] && [ "$(wc -c <"$venv/{archive}")" -eq "$(cat "$venv/{size}" 2>/dev/null || echo 0)" ]; then
        SPARK_SUBMIT_OPTS="-XX:SharedArchiveFile=\\"$venv/{archive}\\" -XX:+VerifySharedSpaces -Xlog:cds*=off $SPARK_SUBMIT_OPTS"
    fi
    set +a
    set -- --properties-file "$SPARK_HOME/conf/spark-defaults.conf" "$@"
fi
exec "$venv/bin/python" -I -S {surroundings} {packages} "$SPARK_HOME/bin/spark-submit" "$@"
"""


# Spark 4 starts Java with a module that only Spark ML's linear algebra uses. The Java of the wheel lacks it; with any other it
# causes a warning and a slower start.
_JAVA = """#!/bin/sh
# Written by ./convoy setup.
for argument; do
    shift
    [ "$argument" = --add-modules=jdk.incubator.vector ] || set -- "$@" "$argument"
done
exec {java} "$@"
"""


def environment(clone: Clone) -> dict[str, str]:
    """All environment variables of a program of the project."""
    variables, notes = surroundings.repaired({**os.environ, **_project_variables(clone)}, str(clone.site_packages))
    for note in notes:
        # What a command prints may be for programs.
        print(f"convoy: {note}", file=sys.stderr, flush=True)
    variables["PATH"] = f"{clone.venv}/bin{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    for name in ("PYTHONDONTWRITEBYTECODE", "SPARK_CONF_DIR"):
        variables.pop(name, None)
    return variables


def run_environment(clone: Clone) -> dict[str, str]:
    """Environment variables of a job. An older MLflow cannot open the store of a newer one, so each runtime has its own store."""
    variables = environment(clone)
    if clone.runtime != "local":
        variables.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{clone.root}/mlflow-{clone.runtime}.db")
    return variables


def write_spark_conf(clone: Clone, java_home: str) -> None:
    """Write Spark's configuration, `spark-submit`, and a .pth file that keeps Spark's archives off Python's path."""
    spark = clone.site_packages / "pyspark"
    (spark / "conf").mkdir(exist_ok=True)
    for template in clone.spark_conf.iterdir():
        # Java reads properties as ISO 8859-1, with other characters as escapes.
        root = json.dumps(str(clone.root))[1:-1]
        replace(spark / "conf" / template.name, template.read_text().replace("@CONVOY_HOME@", root))
    keep = ("CONVOY_HOME", "SPARK_LOCAL_IP", "SPARK_LAUNCHER_OPTS", "TF_CPP_MIN_LOG_LEVEL", "MLFLOW_DISABLE_TELEMETRY")
    lines = [
        (f'[ -n "${{{name}:-}}" ] || ' if name in keep else "") + f"{name}={shlex.quote(value)}"
        for name, value in _project_variables(clone).items()
    ]
    replace(spark / "conf/spark-env.sh", "\n".join(["# Written by ./convoy setup.", *lines, 'PATH="$VIRTUAL_ENV/bin:$PATH"', ""]))
    replace(
        clone.venv / "bin/spark-submit",
        _SUBMIT.format(
            spark=shlex.quote(str(spark)),
            venv=shlex.quote(str(clone.venv)),
            archive=CLASSES,
            size=SIZE,
            surroundings=shlex.quote(str(clone.root / "pipelines/system/surroundings.py")),
            packages=shlex.quote(str(clone.site_packages)),
        ),
        0o755,
    )
    (clone.venv / "no-spark-conf").mkdir(exist_ok=True)
    (_spark_java(clone) / "bin").mkdir(parents=True, exist_ok=True)
    replace(_spark_java(clone) / "bin/java", _JAVA.format(java=shlex.quote(f"{java_home}/bin/java")), 0o755)
    # Spark adds itself to its Python programs' path, as archives that every task of a worker lists anew. It is installed already.
    # In ASCII, because Python reads the file in the encoding of its locale.
    archives = tuple(str(spark / folder) + os.sep for folder in ("jars", "python/lib"))
    line = f"import sys; sys.path[:] = [path for path in sys.path if not path.startswith({archives!a})]\n"
    replace(clone.site_packages / "convoy-spark-path.pth", line)


def _spark_java(clone: Clone) -> Path:
    """A Java home whose `java` is a script that starts the real one."""
    return clone.venv / "spark-java"


def _project_variables(clone: Clone) -> dict[str, str]:
    return {
        "VIRTUAL_ENV": str(clone.venv),
        "CONVOY_HOME": str(clone.root),
        "JAVA_HOME": str(_spark_java(clone)),
        "SPARK_HOME": str(clone.site_packages / "pyspark"),
        "PYSPARK_PYTHON": str(clone.python),
        "PYSPARK_DRIVER_PYTHON": str(clone.python),
        # Spark would fail to start on a machine whose own host name does not resolve.
        "SPARK_LOCAL_IP": "127.0.0.1",
        # For the small Java program that assembles the command line of the large one.
        "SPARK_LAUNCHER_OPTS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        # MLflow would start a dozen processes beside its web page for features that are not used here.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # MLflow prints a long warning if git is not installed.
        "GIT_PYTHON_REFRESH": "quiet",
    }
