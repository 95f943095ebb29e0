"""Horovod, compiled once per Python and TensorFlow version from its patched source distribution, and cached.

The patch removes two lines:

- one that adds xla_mpi_ops.cc to the TensorFlow library. That file includes XLA headers that TensorFlow 2.19 and later have moved
  or do not ship. All of its code is between `#if HAVE_GPU` and `#endif`, so without a GPU it compiles to nothing; with one it is
  only used by XLA, which Convoy does not use;
- one of FlatBuffers that assigns to a constant in an assignment operator that nobody calls: g++ 14 rejects it all the same.

With this patch, Horovod 0.28.1 compiles against TensorFlow 2.16 to 2.21.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
import zipfile
import zlib
from pathlib import Path

from tools.setup.clone import Clone, SetupError, cache, locked_version
from tools.setup.steps import Steps, exclusive

REMOVED_LINES = {
    "horovod/tensorflow/CMakeLists.txt": 'list(APPEND TF_SOURCES "${PROJECT_SOURCE_DIR}/horovod/tensorflow/xla_mpi_ops.cc")',
    "third_party/flatbuffers/include/flatbuffers/stl_emulation.h": "    count_ = other.count_;",
}
PATCH = hashlib.sha256(json.dumps(REMOVED_LINES).encode()).hexdigest()[:8]
_RECORD = "SHA256"

_BUILD = {
    "HOROVOD_WITH_TENSORFLOW": "1",
    "HOROVOD_WITHOUT_PYTORCH": "1",
    "HOROVOD_WITHOUT_MXNET": "1",
    "HOROVOD_WITH_GLOO": "1",
    "HOROVOD_WITHOUT_MPI": "1",
    # Headers that Horovod and Gloo use without including them; since g++ 13, other headers no longer include them.
    "CXXFLAGS": f"{os.environ.get('CXXFLAGS', '')} -include cstdint -include stdexcept".strip(),
}


def wheel_folder(clone: Clone, python: str) -> Path:
    """Where the wheel for a Python version, the locked TensorFlow and the patch is cached."""
    parts = (
        f"horovod-{locked_version(clone.horovod, 'horovod')}",
        "cp" + python.replace(".", ""),
        f"tf{locked_version(clone.packages, 'tensorflow')}",
        PATCH,
        platform.machine(),
    )
    return cache() / "wheels" / "-".join(parts)


def wheel_or_compiler(steps: Steps, python: str) -> None:
    """Install a compiler if one is needed. Called early, so that a missing one is reported before the downloads."""
    if list(wheel_folder(steps.clone, python).glob("*.whl")):
        return
    missing = [tool for tool in ("g++", "make") if not shutil.which(tool)]
    if missing:
        steps.install_system_packages(missing, "to compile Horovod")


def install_horovod(steps: Steps, python: str) -> None:
    """Install the cached wheel, compiling it first if there is none. Raises SetupError if it is for another TensorFlow."""
    folder = wheel_folder(steps.clone, python)
    if not list(folder.glob("*.whl")):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(folder.parent / ".lock", "another clone is compiling Horovod; waiting for it"):
            if not list(folder.glob("*.whl")):
                _compile(steps, folder)
    wheel = next(folder.glob("*.whl"))
    expected, compiled = locked_version(steps.clone.packages, "tensorflow"), compiled_for(wheel)
    if compiled != expected:
        found = f"for TensorFlow {compiled}" if compiled else "without TensorFlow, or is damaged"
        raise SetupError(f"{wheel} was compiled {found}, but {expected} is needed; delete {folder}, then run ./convoy again")
    steps.uv("Horovod", "install", "--no-deps", "--compile-bytecode", str(wheel))


def patch(source: Path) -> None:
    """Apply the patch to an unpacked source distribution. Raises SetupError if it does not apply."""
    for name, line in REMOVED_LINES.items():
        file = source / name
        text = file.read_text()
        if text.count(f"\n{line}\n") != 1:
            raise SetupError(f"{file} is not from Horovod 0.28.1, the only release that tools/setup/horovod.py can patch")
        file.write_text(text.replace(f"\n{line}\n", "\n"))


def compiled_for(wheel: Path) -> str:
    """The TensorFlow version that a wheel was compiled for; empty if none, or if the wheel is damaged."""
    recorded = wheel.with_name(_RECORD)
    try:
        # Earlier versions have not recorded it.
        if recorded.exists() and recorded.read_text() != hashlib.sha256(wheel.read_bytes()).hexdigest():
            return ""
        with zipfile.ZipFile(wheel) as content:
            return str(json.loads(content.read("horovod/metadata.json")).get("tensorflow", ""))
    except (OSError, KeyError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error):
        return ""


def record(wheel: Path) -> None:
    """Write the SHA-256 of a wheel beside it."""
    wheel.with_name(_RECORD).write_text(hashlib.sha256(wheel.read_bytes()).hexdigest())


def _compile(steps: Steps, folder: Path) -> None:
    for leftover in folder.parent.glob(".building-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=str(folder.parent)))
    jobs = len(os.sched_getaffinity(0))
    # Gloo's CMakeLists require a CMake older than 3.5. pip's cache is bypassed because it would reuse a wheel that was
    # compiled for another TensorFlow.
    extra = {**_BUILD, "MAKEFLAGS": f"-j{jobs}", "CMAKE_POLICY_VERSION_MINIMUM": "3.5", "TMPDIR": str(building)}
    pip = [str(steps.clone.python), "-m", "pip", "--disable-pip-version-check"]
    options = ["--no-cache-dir", "--no-build-isolation", "--no-deps"]
    source = ["--no-binary", "horovod", "--require-hashes", "-r", str(steps.clone.horovod)]
    steps.run("source of Horovod", [*pip, "download", *options, "-d", str(building), *source], extra)
    archive = next(building.glob("horovod-*.tar.gz"))
    shutil.unpack_archive(str(archive), str(building))
    unpacked = building / archive.name[: -len(".tar.gz")]
    patch(unpacked)
    steps.run(
        f"compiling Horovod with {jobs} cores, once for this machine, some minutes",
        [*pip, "wheel", *options, "-w", f"{building}/wheel", str(unpacked)],
        extra,
    )
    wheel = next((building / "wheel").glob("*.whl"))
    if not compiled_for(wheel):
        raise SetupError(f"Horovod was compiled without TensorFlow; {steps.clone.log} says why")
    record(wheel)
    os.replace(building / "wheel", folder)
    shutil.rmtree(building, ignore_errors=True)
