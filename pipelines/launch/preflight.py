"""Whether training could work here: found, needed, remedy.

    python -m pipelines.launch.preflight [--workers N]

`look` gathers what a machine has, as plain values; `judge` turns them into rows. They are apart so that an executor can look
and the driver can judge. TensorFlow and Horovod are imported in a process of their own: a crash there is a row, too.
Exits 1 when a row says that training could not work.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipelines.train import precision

State = Literal["ok", "note", "fail"]

SETUP = "run ./convoy setup"
GIGABYTE = 1024**3
MEMORY_PER_WORKER_GB = 1.5
"""A process that trained a small ConvNet on MNIST from memory peaked at 0.8 GB (resident); the rest is room, by estimate."""
MEMORY_BASE_GB = 1.5
"""The driver, a JVM and a Python process: an estimate."""

_VERSIONED = ("keras", "petastorm", "pyarrow", "numpy", "mlflow")

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
class Found:
    """What one machine has. Versions are texts; an empty text means missing. Plain values, so that it travels."""

    python: str
    java: str = ""
    """The version line of `java -version`."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of keras, petastorm, pyarrow, numpy, mlflow and horovod, as their package data tell it, without an import."""
    tensorflow: str = ""
    tensorflow_error: str = ""
    """Why the import failed."""
    horovod_tensorflow: str = ""
    """The TensorFlow that Horovod was compiled against."""
    horovod_error: str = ""
    gloo: bool = False
    cores: int = 1
    memory: int = 0
    """Bytes that this process may use; 0 where unknown."""
    bfloat16: tuple[str, ...] = ()
    """Instruction sets of the processor that compute in bfloat16."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    found: str
    needed: str
    state: State = "ok"
    remedy: str = ""


def look() -> Found:
    """What this machine has. Raises nothing: what cannot be found out counts as missing."""
    probed = _import_probe()
    return Found(
        python=platform.python_version(),
        java=_java(),
        versions={name: _version(name) for name in (*_VERSIONED, "horovod")},
        tensorflow=str(probed.get("tensorflow", "")),
        tensorflow_error=str(probed.get("tensorflow_error", "")),
        horovod_tensorflow=str(probed.get("horovod_tensorflow", "")),
        horovod_error=str(probed.get("horovod_error", "")),
        gloo=bool(probed.get("gloo", False)),
        cores=len(os.sched_getaffinity(0)),
        memory=_memory(),
        bfloat16=tuple(sorted(precision.bfloat16_instructions())),
    )


def judge(found: Found, workers: int = 1) -> list[Row]:
    """The table, in the order of the road.

    Args:
        found: what a machine has.
        workers: how many of them shall run on it.
    """
    versions = found.versions
    return [
        _between("Python", found.python, "3.10", "3.12", "3.10 or 3.11", "install Python 3.11, delete .venv, " + SETUP),
        _java_row(found.java),
        _tensorflow_row(found),
        _between("Keras", versions.get("keras", ""), "3.0", "4.0", "3.x"),
        *_horovod_rows(found),
        _between("Petastorm", versions.get("petastorm", ""), "0.12", "0.14", "0.12 or 0.13"),
        _between("pyarrow", versions.get("pyarrow", ""), "0", "15", "below 15, for Petastorm"),
        _between("numpy", versions.get("numpy", ""), "1.23", "2.0", "1.23 to 1.26, for TensorFlow's and pyarrow's builds"),
        _between("MLflow", versions.get("mlflow", ""), "2.13", "4.0", "2.13 or later"),
        _cores_row(found.cores, workers),
        _memory_row(found.memory, workers),
        _precision_row(found.bfloat16),
    ]


def works(rows: Sequence[Row]) -> bool:
    """False when training could not work."""
    return all(row.state != "fail" for row in rows)


def table(rows: Sequence[Row]) -> str:
    """Text for a terminal; a remedy stands below its row."""
    width = [max(len(text) for text in column) for column in zip(*((row.name, row.found) for row in rows), strict=True)]
    lines = [f"      {'':{width[0]}}  {'found':{width[1]}}  needed"]
    for row in rows:
        lines.append(f"{row.state:4}  {row.name:{width[0]}}  {row.found:{width[1]}}  {row.needed}".rstrip())
        if row.remedy:
            lines.append(f"      {'':{width[0]}}  -> {row.remedy}")
    return "\n".join(lines)


def _between(name: str, found: str, least: str, below: str, needed: str, remedy: str = SETUP) -> Row:
    if not found:
        return Row(name, "missing", needed, "fail", remedy)
    fits = _numbers(least) <= _numbers(found) < _numbers(below)
    return Row(name, found, needed) if fits else Row(name, found, needed, "fail", remedy)


def _java_row(line: str) -> Row:
    needed = "17, 11 or 8"
    remedy = f"unset JAVA_HOME or let it name a Java 17, then {SETUP}"
    match = re.search(r'"(?:1\.)?(\d+)[^"]*"', line)
    if not match:
        return Row("Java", "missing", needed, "fail", remedy)
    version = int(match.group(1))
    return Row("Java", str(version), needed) if version in (8, 11, 17) else Row("Java", str(version), needed, "fail", remedy)


def _tensorflow_row(found: Found) -> Row:
    if found.tensorflow_error:
        return Row("TensorFlow", _short(found.tensorflow_error), "2.16 to 2.18", "fail", SETUP)
    return _between("TensorFlow", found.tensorflow, "2.16", "2.19", "2.16 to 2.18")


def _horovod_rows(found: Found) -> list[Row]:
    """Its version, the TensorFlow it was compiled for, and Gloo."""
    version = _between("Horovod", found.versions.get("horovod", ""), "0.28.1", "0.29", "0.28.1")
    if version.state == "fail":
        return [version]
    needed = f"compiled for TensorFlow {found.tensorflow}" if found.tensorflow else "compiled for the installed TensorFlow"
    compiled = f"for TensorFlow {found.horovod_tensorflow}" if found.horovod_tensorflow else "without TensorFlow"
    if found.horovod_tensorflow != found.tensorflow or not found.tensorflow:
        return [version, Row("Horovod build", compiled, needed, "fail", f"delete .venv, {SETUP}: it compiles Horovod again")]
    if found.horovod_error:
        remedy = f"delete .venv and the wheels folder in CONVOY_CACHE (~/.cache/convoy), {SETUP}"
        return [version, Row("Horovod build", _short(found.horovod_error), needed, "fail", remedy)]
    gloo = Row("Horovod Gloo", "built", "built")
    if not found.gloo:
        remedy = f"delete the wheels folder in CONVOY_CACHE (~/.cache/convoy) and .venv, {SETUP}"
        gloo = Row("Horovod Gloo", "not built", "built", "fail", remedy)
    return [version, Row("Horovod build", compiled, needed), gloo]


def _cores_row(cores: int, workers: int) -> Row:
    needed = f"{workers} for {workers} worker{'s' if workers > 1 else ''}"
    if cores >= workers:
        return Row("cores", str(cores), needed)
    return Row("cores", str(cores), needed, "fail", f"use --workers {cores} or fewer: local[*] has one slot per core")


def _memory_row(memory: int, workers: int) -> Row:
    wanted = MEMORY_BASE_GB + workers * MEMORY_PER_WORKER_GB
    needed = f"about {wanted:.1f} GB for {workers} worker{'s' if workers > 1 else ''}"
    if memory == 0:
        return Row("memory", "unknown", needed, "note")
    found = f"{memory / GIGABYTE:.1f} GB"
    if memory >= wanted * GIGABYTE:
        return Row("memory", found, needed)
    return Row("memory", found, needed, "note", "use fewer workers, or a smaller stream.memory_limit_mb")


def _precision_row(instructions: Sequence[str]) -> Row:
    if instructions:
        return Row("precision", f"bfloat16 ({', '.join(instructions)})", "either")
    return Row("precision", "float32 (no bfloat16 instructions)", "either", "note")


def _numbers(version: str) -> tuple[int, ...]:
    """(2, 18, 1) for 2.18.1; what follows the numbers, as in 3.0.0rc1 or 1.2+cpu, does not count."""
    return tuple(int(part) for part in re.findall(r"^[\d.]+", version)[0].strip(".").split(".")) if version[:1].isdigit() else ()


def _short(message: str) -> str:
    line = message.strip().splitlines()[0] if message.strip() else "failed without a message"
    return line if len(line) <= 70 else line[:67] + "..."


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _java() -> str:
    home = os.environ.get("JAVA_HOME")
    program = f"{home}/bin/java" if home else shutil.which("java")
    if program is None:
        return ""
    try:
        shown = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=30).stderr
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return next((line for line in shown.splitlines() if "version" in line), "")


def _import_probe() -> dict[str, Any]:
    """TensorFlow and Horovod, imported in another process."""
    try:
        result = subprocess.run(
            [sys.executable, "-c", _IMPORT_PROBE],
            capture_output=True,
            text=True,
            timeout=240,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"tensorflow_error": f"could not be imported: {type(error).__name__}"}
    try:
        probed: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {"tensorflow_error": f"the import ended Python with exit code {result.returncode}"}
    return probed


def _memory() -> int:
    """Of the machine, or of the control group where that allows less."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return 0
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="./convoy doctor", description="Whether training could work here.")
    parser.add_argument("--workers", metavar="N", type=int, default=1, help="how many workers shall run on this machine")
    options = parser.parse_args(arguments)
    if options.workers < 1:
        parser.error(f"--workers {options.workers}: must be at least 1")
    rows = judge(look(), options.workers)
    print(table(rows))
    print("training can work here" if works(rows) else "training could not work here")
    return 0 if works(rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
