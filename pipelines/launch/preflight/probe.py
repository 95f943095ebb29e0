"""Probes a machine for what training needs. Reports are plain values, which executors send to the driver."""

import importlib.metadata
import importlib.util
import json
import mmap
import os
import platform
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.launch.preflight import packages
from pipelines.system import surroundings, writeback
from pipelines.system.writeback import Takes
from pipelines.train import precision

VERSIONED = ("keras", "petastorm", "pyarrow", "numpy", "mlflow")

_IMPORT_PROBE = """
import json
found = {}
try:
    import tensorflow
    found["tensorflow"] = tensorflow.__version__
except BaseException as error:
    found["tensorflow_error"] = f"{type(error).__name__}: {error}"
try:
    import json as _json, pathlib, importlib.util
    origin = importlib.util.find_spec("horovod").origin
    found["horovod_tensorflow"] = _json.loads((pathlib.Path(origin).parent / "metadata.json").read_text()).get("tensorflow", "")
    import horovod.tensorflow as hvd
    found["gloo"] = bool(hvd.gloo_built())
except BaseException as error:
    found["horovod_error"] = f"{type(error).__name__}: {error}"
print("\\n" + json.dumps(found))
"""


@dataclass(frozen=True, kw_only=True)
class NodeReport:
    """What one machine has. Versions are strings; an empty string means missing."""

    python: str
    host: str = ""
    java: str = ""
    """The version line of `java -version`."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of keras, petastorm, pyarrow, numpy, mlflow, horovod and pyspark, from package metadata, without an import."""
    missing_files: tuple[str, ...] = ()
    """Files that needed packages lack, one per package, as `FILE (PACKAGE)`; probed only thoroughly."""
    tensorflow: str = ""
    tensorflow_error: str = ""
    """Why the import failed."""
    horovod_tensorflow: str = ""
    """The TensorFlow that Horovod was compiled against."""
    horovod_error: str = ""
    gloo: bool = False
    cores: int = 1
    memory: int = 0
    """Bytes that this process may use; 0 if unknown."""
    sees_run_dir: bool = True
    """The run folder exists and shows the files that the driver has put into it."""
    run_dir_takes: Takes = "appends"
    """What the run folder's file system lets this machine write."""
    gpus: int = 0
    """Number of NVIDIA GPUs."""
    nccl: bool = False
    """Horovod was built with NCCL, so it reduces on the GPU; probed only if there is a GPU."""
    bfloat16: tuple[str, ...] = ()
    """The processor's bfloat16 instruction sets."""


def probe_node() -> NodeReport:
    """Probe this machine thoroughly. Raises nothing: what cannot be determined counts as missing."""
    probed = _import_probe()
    return NodeReport(
        python=platform.python_version(),
        host=socket.gethostname(),
        java=_java(),
        versions={name: _version(name) for name in (*VERSIONED, "horovod", "pyspark")},
        missing_files=packages.missing_files(),
        tensorflow=str(probed.get("tensorflow", "")),
        tensorflow_error=str(probed.get("tensorflow_error", "")),
        horovod_tensorflow=str(probed.get("horovod_tensorflow", "")),
        horovod_error=str(probed.get("horovod_error", "")),
        gloo=bool(probed.get("gloo", False)),
        cores=len(os.sched_getaffinity(0)),
        memory=_memory(),
        bfloat16=tuple(sorted(precision.bfloat16_instructions())),
    )


def probe_quickly(run_dir: str = "") -> NodeReport:
    """Probe this machine by package metadata and files, without importing TensorFlow: takes a few milliseconds.

    Every run does this on every executor.

    Args:
        run_dir: the run folder, in which the driver has put something; empty for none.
    """
    tensorflow = _version("tensorflow") or _version("tensorflow-cpu")
    gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
    return NodeReport(
        python=platform.python_version(),
        host=socket.gethostname(),
        versions={name: _version(name) for name in (*VERSIONED, "horovod", "pyspark")},
        tensorflow=tensorflow,
        horovod_tensorflow=_horovod_tensorflow(),
        gloo=_is_inside_horovod(b"GlooController"),
        cores=len(os.sched_getaffinity(0)),
        memory=_memory(),
        sees_run_dir=not run_dir or (Path(run_dir).is_dir() and any(Path(run_dir).iterdir())),
        run_dir_takes=writeback.probe(Path(run_dir)) if run_dir else "appends",
        gpus=gpus,
        nccl=gpus > 0 and _is_inside_horovod(b"NCCLAllreduce"),
        bfloat16=tuple(sorted(precision.bfloat16_instructions())),
    )


def _horovod_folder() -> Path | None:
    spec = importlib.util.find_spec("horovod")
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def _horovod_tensorflow() -> str:
    """Version of the TensorFlow that Horovod was compiled against, as its build recorded it."""
    folder = _horovod_folder()
    try:
        return str(json.loads((folder / "metadata.json").read_text(encoding="utf-8")).get("tensorflow", "")) if folder else ""
    except (OSError, ValueError):
        return ""


def _is_inside_horovod(name: bytes) -> bool:
    """Whether Horovod's TensorFlow library contains a class; those of Gloo and NCCL are compiled in only if they were enabled."""
    folder = _horovod_folder()
    for library in (folder / "tensorflow").glob("mpi_lib*.so") if folder else ():
        with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content.find(name) >= 0:
                return True
    return False


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        # Databricks ships MLflow under this name only.
        return _version("mlflow-skinny") if name == "mlflow" else ""


def _java() -> str:
    home = os.environ.get("JAVA_HOME")
    program = f"{home}/bin/java" if home else shutil.which("java")
    if program is None:
        return ""
    try:
        output = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=30).stderr
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return next((line for line in output.splitlines() if "version" in line), "")


def _import_probe() -> dict[str, Any]:
    """Import TensorFlow and Horovod in a subprocess, and return what it reports."""
    try:
        result = subprocess.run(
            [sys.executable, "-c", _IMPORT_PROBE],
            capture_output=True,
            text=True,
            timeout=240,
            env=surroundings.repaired({**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})[0],
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"tensorflow_error": f"could not be imported: {type(error).__name__}"}
    try:
        probed: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {"tensorflow_error": f"importing it ended Python with exit code {result.returncode}"}
    return probed


def _memory() -> int:
    """Bytes of memory that this process can use; 0 if that is unknown."""
    try:
        # psutil, which it needs, may be missing.
        from pipelines.system.memory_limit import memory

        return memory().limit
    except (ImportError, OSError):
        return 0
