"""What a machine has, compared with what training needs: one row for each part, with the remedy."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipelines.launch.preflight.probe import VERSIONED, NodeReport
from pipelines.system.secrets import first_line

State = Literal["ok", "note", "fail"]

SETUP = "run ./convoy setup"
GIGABYTE = 1024**3
MEMORY_PER_WORKER_GB = 1.5
"""A process that trained a small ConvNet on MNIST from memory peaked at 0.8 GB (resident); the rest is estimated headroom."""
MEMORY_BASE_GB = 1.5
"""Estimate for the driver: a JVM and a Python process."""


@dataclass(frozen=True)
class CheckResult:
    """One line of the table."""

    name: str
    found: str
    needed: str
    state: State = "ok"
    remedy: str = ""


def check_node(found: NodeReport, workers: int = 1) -> list[CheckResult]:
    """The table's rows, in the order of the pipeline.

    Args:
        found: report of the machine.
        workers: number of workers that will run on it.
    """
    return [
        _python_row(found.python),
        _java_row(found.java),
        _tensorflow_row(found),
        *_horovod_rows(found),
        *_range_rows(found.versions),
        _cores_row(found.cores, workers),
        _memory_row(found.memory, workers),
        _precision_row(found.bfloat16),
    ]


def check_executor(found: NodeReport, driver: NodeReport) -> list[CheckResult]:
    """Rows that say whether a worker could run on an executor: its parts, and whether they match the driver's."""
    return [
        _python_row(found.python),
        _tensorflow_row(found),
        *_horovod_rows(found),
        *_range_rows(found.versions),
        *(_same(name, found.versions.get(name, ""), driver.versions.get(name, "")) for name in (*VERSIONED, "horovod")),
        _same("TensorFlow", found.tensorflow, driver.tensorflow),
        _same("Python", ".".join(found.python.split(".")[:2]), ".".join(driver.python.split(".")[:2])),
        _run_dir_row(found),
    ]


def all_pass(rows: Sequence[CheckResult]) -> bool:
    """Whether no row fails."""
    return all(row.state != "fail" for row in rows)


def _between(name: str, found: str, least: str, below: str, needed: str, remedy: str = SETUP) -> CheckResult:
    if not found:
        return CheckResult(name, "missing", needed, "fail", remedy)
    fits = _numbers(least) <= _numbers(found) < _numbers(below)
    return CheckResult(name, found, needed) if fits else CheckResult(name, found, needed, "fail", remedy)


def _python_row(version: str) -> CheckResult:
    return _between("Python", version, "3.10", "3.12", "3.10 or 3.11", "install Python 3.11, delete .venv, then " + SETUP)


def _range_rows(versions: Mapping[str, str]) -> list[CheckResult]:
    return [
        _between("Keras", versions.get("keras", ""), "3.0", "4.0", "3.x"),
        _between("Petastorm", versions.get("petastorm", ""), "0.12", "0.14", "0.12 or 0.13"),
        _between("pyarrow", versions.get("pyarrow", ""), "0", "15", "below 15, for Petastorm"),
        _between("numpy", versions.get("numpy", ""), "1.23", "2.0", "1.23 to 1.26, for TensorFlow's and pyarrow's builds"),
        _between("MLflow", versions.get("mlflow", ""), "2.13", "4.0", "2.13 or later"),
    ]


def _java_row(line: str) -> CheckResult:
    needed = "17, 11 or 8"
    remedy = f"unset JAVA_HOME or let it name a Java 17, then {SETUP}"
    match = re.search(r'"(?:1\.)?(\d+)[^"]*"', line)
    if not match:
        return CheckResult("Java", "missing", needed, "fail", remedy)
    version = int(match.group(1))
    return (
        CheckResult("Java", str(version), needed)
        if version in (8, 11, 17)
        else CheckResult("Java", str(version), needed, "fail", remedy)
    )


def _tensorflow_row(found: NodeReport) -> CheckResult:
    if found.tensorflow_error:
        return CheckResult("TensorFlow", _short(found.tensorflow_error), "2.16 to 2.18", "fail", SETUP)
    return _between("TensorFlow", found.tensorflow, "2.16", "2.19", "2.16 to 2.18")


def _horovod_rows(found: NodeReport) -> list[CheckResult]:
    """Rows for Horovod's version, the TensorFlow it was compiled for, and Gloo."""
    version = _between("Horovod", found.versions.get("horovod", ""), "0.28.1", "0.29", "0.28.1")
    if version.state == "fail":
        return [version]
    needed = f"compiled for TensorFlow {found.tensorflow}" if found.tensorflow else "compiled for the installed TensorFlow"
    compiled = f"for TensorFlow {found.horovod_tensorflow}" if found.horovod_tensorflow else "without TensorFlow"
    if found.horovod_tensorflow != found.tensorflow or not found.tensorflow:
        return [
            version,
            CheckResult("Horovod build", compiled, needed, "fail", f"delete .venv, then {SETUP}, which compiles Horovod again"),
        ]
    if found.horovod_error:
        remedy = f"delete .venv and the wheels folder in CONVOY_CACHE (~/.cache/convoy), then {SETUP}"
        return [version, CheckResult("Horovod build", _short(found.horovod_error), needed, "fail", remedy)]
    gloo = CheckResult("Horovod Gloo", "built", "built")
    if not found.gloo:
        remedy = f"delete .venv and the wheels folder in CONVOY_CACHE (~/.cache/convoy), then {SETUP}"
        gloo = CheckResult("Horovod Gloo", "not built", "built", "fail", remedy)
    return [version, CheckResult("Horovod build", compiled, needed), gloo]


def _cores_row(cores: int, workers: int) -> CheckResult:
    needed = f"{workers} for {workers} worker{'s' if workers > 1 else ''}"
    if cores >= workers:
        return CheckResult("cores", str(cores), needed)
    return CheckResult("cores", str(cores), needed, "fail", f"use --workers {cores} or fewer: local[*] has one slot per core")


def _memory_row(memory: int, workers: int) -> CheckResult:
    required = MEMORY_BASE_GB + workers * MEMORY_PER_WORKER_GB
    needed = f"about {required:.1f} GB for {workers} worker{'s' if workers > 1 else ''}"
    if memory == 0:
        return CheckResult("memory", "unknown", needed, "note")
    found = f"{memory / GIGABYTE:.1f} GB"
    if memory >= required * GIGABYTE:
        return CheckResult("memory", found, needed)
    return CheckResult("memory", found, needed, "note", "use fewer workers, or lower stream.memory_limit_mb")


def _precision_row(instructions: Sequence[str]) -> CheckResult:
    if instructions:
        return CheckResult("precision", f"bfloat16 ({', '.join(instructions)})", "either")
    return CheckResult("precision", "float32 (no bfloat16 instructions)", "either", "note")


def _numbers(version: str) -> tuple[int, ...]:
    """(2, 18, 1) for 2.18.1; suffixes as in 3.0.0rc1 or 1.2+cpu are ignored."""
    return tuple(int(part) for part in re.findall(r"^[\d.]+", version)[0].strip(".").split(".")) if version[:1].isdigit() else ()


def _short(message: str) -> str:
    line = first_line(message) or "failed without a message"
    return line if len(line) <= 70 else line[:67] + "..."


def _same(name: str, found: str, on_driver: str) -> CheckResult:
    row_name = f"{name}, as on the driver"
    if found == on_driver:
        return CheckResult(row_name, found or "missing", on_driver or "missing")
    return CheckResult(row_name, found or "missing", on_driver or "missing", "fail", "install the same versions on all nodes")


def _run_dir_row(found: NodeReport) -> CheckResult:
    if not found.sees_run_dir:
        return CheckResult(
            "run folder", "not visible", "visible to all nodes", "fail", "set launch.runs_uri to a folder that all nodes share"
        )
    if found.run_dir_takes == "nothing":
        return CheckResult(
            "run folder", "not writable", "writable on all nodes", "fail", "fix its permissions, or set launch.runs_uri"
        )
    if found.run_dir_takes == "whole files":
        remedy = "logs and metrics are copied there about once a second, and a process that is killed can lose its last second"
        return CheckResult("run folder", "on a file system that takes no appends", "one that does", "note", remedy)
    return CheckResult("run folder", "visible", "visible to all nodes")
