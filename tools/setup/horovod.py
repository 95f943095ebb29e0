"""Horovod, compiled once for each Python and TensorFlow and kept in the cache."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
import zipfile
from pathlib import Path

from tools.setup.clone import Clone, SetupError, cache
from tools.setup.steps import Steps, exclusive

_BUILD = {
    "HOROVOD_WITH_TENSORFLOW": "1",
    "HOROVOD_WITHOUT_PYTORCH": "1",
    "HOROVOD_WITHOUT_MXNET": "1",
    "HOROVOD_WITH_GLOO": "1",
    "HOROVOD_WITHOUT_MPI": "1",
}


def wheel_folder(clone: Clone, python: str) -> Path:
    """Where the wheel for a Python version and the locked TensorFlow is kept."""
    tensorflow = _version(clone.packages, "tensorflow(?:-cpu)?")
    tag = "cp" + python.replace(".", "")
    return cache() / "wheels" / f"horovod-{_version(clone.horovod, 'horovod')}-{tag}-tf{tensorflow}-{platform.machine()}"


def wheel_or_compiler(steps: Steps, python: str) -> None:
    """Early, so that a missing compiler is said before the downloads."""
    if list(wheel_folder(steps.clone, python).glob("*.whl")):
        return
    missing = [tool for tool in ("g++", "make") if not shutil.which(tool)]
    if missing:
        steps.install_system_packages(missing, "to compile Horovod")


def install_horovod(steps: Steps, python: str) -> None:
    folder = wheel_folder(steps.clone, python)
    if not list(folder.glob("*.whl")):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(folder.parent / ".lock", "another clone is compiling Horovod; waiting for it"):
            if not list(folder.glob("*.whl")):
                _compile(steps, folder)
    wheel = next(folder.glob("*.whl"))
    steps.uv("Horovod", "install", "--no-deps", "--compile-bytecode", str(wheel))


def _compile(steps: Steps, folder: Path) -> None:
    for leftover in folder.parent.glob(".building-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=str(folder.parent)))
    jobs = len(os.sched_getaffinity(0))
    # Gloo's CMakeLists ask for a CMake older than 3.5. pip's own cache is kept out: it would hand a wheel that was made
    # for one TensorFlow to another.
    extra = {**_BUILD, "MAKEFLAGS": f"-j{jobs}", "CMAKE_POLICY_VERSION_MINIMUM": "3.5", "TMPDIR": str(building)}
    pip = [str(steps.clone.python), "-m", "pip", "--disable-pip-version-check", "wheel", "--no-cache-dir"]
    options = ["--no-build-isolation", "--no-deps", "--require-hashes", "-w", f"{building}/wheel", "-r", str(steps.clone.horovod)]
    steps.run(f"compiling Horovod with {jobs} cores, once for this machine, some minutes", [*pip, *options], extra)
    wheel = next((building / "wheel").glob("*.whl"))
    if "tensorflow" not in zipfile.ZipFile(wheel).read("horovod/metadata.json").decode():
        raise SetupError(f"Horovod was compiled without TensorFlow; {steps.clone.log} says why")
    os.replace(building / "wheel", folder)
    shutil.rmtree(building, ignore_errors=True)


def _version(lock: Path, name: str) -> str:
    found = re.search(rf"^{name}==([^\s;]+)", lock.read_text(), re.M)
    assert found is not None, f"{lock} pins no {name}"
    return found.group(1)
