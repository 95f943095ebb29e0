"""What a machine has, compared with what training needs: one row for each part, with the remedy."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipelines.launch.preflight.probe import VERSIONED, NodeReport
from pipelines.launch.preflight.tested import TESTED, conflict, javas, numbers
from pipelines.models.memory import EVALUATION_BYTES
from pipelines.system import connect
from pipelines.system.secrets import first_line

State = Literal["ok", "note", "fail"]

SETUP = "run ./convoy setup"
GIGABYTE = 1024**3
MEMORY_PER_WORKER_GB = 1.25 + EVALUATION_BYTES / GIGABYTE
"""A process that trained a small ConvNet on MNIST from memory peaked at 0.8 GB (resident). An evaluation takes up to
EVALUATION_BYTES; the rest is estimated headroom."""
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
        _python_row(found),
        _java_row(found.java, found.versions.get("pyspark", "")),
        _tensorflow_row(found),
        *_horovod_rows(found),
        *_range_rows(found),
        _packages_row(found.missing_files),
        _cores_row(found.cores, workers),
        _memory_row(found.memory, workers),
        _precision_row(found.bfloat16),
    ]


def check_executor(found: NodeReport, driver: NodeReport) -> list[CheckResult]:
    """Rows that say whether a worker could run on an executor: its parts, and whether they match the driver's."""
    return [
        _python_row(found),
        _tensorflow_row(found),
        *_horovod_rows(found),
        *_range_rows(found),
        *(_same(name, found.versions.get(name, ""), driver.versions.get(name, "")) for name in (*VERSIONED, "horovod")),
        _same("TensorFlow", found.tensorflow, driver.tensorflow),
        _same("Python", ".".join(found.python.split(".")[:2]), ".".join(driver.python.split(".")[:2])),
        _run_dir_row(found),
    ]


def all_pass(rows: Sequence[CheckResult]) -> bool:
    """Whether no row fails."""
    return all(row.state != "fail" for row in rows)


def _version_row(name: str, versions: Mapping[str, str], remedy: str = SETUP) -> CheckResult:
    """A library held against what was tested: as tested, newer (a note), known not to work (refused), or missing."""
    expected, found = TESTED[name], versions.get(name, "")
    if not found:
        return CheckResult(expected.name, "missing", f"{expected.text} (tested)", "fail", remedy)
    standing, reason = expected.standing(found), conflict(name, versions)
    if reason or standing == "known not to work":
        needed = f"{expected.text} (tested); {found} is known not to work: {reason or expected.reason}"
        return CheckResult(expected.name, found, needed, "fail", remedy)
    if standing == "tested":
        return CheckResult(expected.name, found, f"{expected.text} (tested)")
    advice = "it may work; where it does not, take a version that was tested"
    return CheckResult(expected.name, f"{found}, {standing}", f"{expected.text} (tested)", "note", advice)


def _versions(found: NodeReport) -> dict[str, str]:
    """All versions that the table of what was tested knows."""
    return {**found.versions, "python": found.python, "tensorflow": found.tensorflow}


def _python_row(found: NodeReport) -> CheckResult:
    return _version_row("python", _versions(found), f"install Python {TESTED['python'].newest}, delete .venv, {SETUP}")


def _range_rows(found: NodeReport) -> list[CheckResult]:
    versions = _versions(found)
    rows = [_version_row(name, versions) for name in ("keras", "petastorm", "pyarrow", "numpy", "mlflow")]
    # A cluster's own Spark may not be a package of its Python.
    return [_version_row("pyspark", versions), *rows] if versions.get("pyspark") else rows


def _java_row(line: str, spark: str) -> CheckResult:
    if connect.requested().startswith("sc://"):
        return CheckResult("Java", "none looked for", "none: Spark runs on another machine (SPARK_REMOTE)")
    suitable = javas(spark)
    needed = " or ".join(str(version) for version in reversed(suitable))
    remedy = f"unset JAVA_HOME or let it name a Java {suitable[-1]}, then {SETUP}"
    match = re.search(r'"(?:1\.)?(\d+)[^"]*"', line)
    if not match:
        return CheckResult("Java", "missing", needed, "fail", remedy)
    version = int(match.group(1))
    if version in suitable:
        return CheckResult("Java", str(version), needed)
    if version > max(suitable) and numbers(spark)[:1] > (3,):
        return CheckResult("Java", f"{version}, newer than tested", needed, "note", remedy)
    return CheckResult("Java", str(version), f"{needed}; Spark {spark} is known not to run on it", "fail", remedy)


def _tensorflow_row(found: NodeReport) -> CheckResult:
    if found.tensorflow_error:
        expected = TESTED["tensorflow"]
        return CheckResult(expected.name, _short(found.tensorflow_error), f"{expected.text} (tested)", "fail", SETUP)
    return _version_row("tensorflow", _versions(found))


def _horovod_rows(found: NodeReport) -> list[CheckResult]:
    """Rows for Horovod's version, the TensorFlow it was compiled for, and Gloo."""
    version = _version_row("horovod", found.versions)
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


def _packages_row(missing: Sequence[str]) -> CheckResult:
    if not missing:
        return CheckResult("packages", "complete", "complete")
    more = f" and files of {len(missing) - 1} more" if len(missing) > 1 else ""
    return CheckResult("packages", f"without {missing[0]}{more}", "complete", "fail", SETUP)


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
