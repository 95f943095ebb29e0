"""Preflight checks: whether training can work here, as a table of what was found, what is needed, and the remedy.

`probe_node` collects what a machine has, `check_node` turns that into rows. Without `--workers`, only the driver's machine is
checked, but thoroughly: TensorFlow and Horovod are imported in a subprocess, so that even a crash becomes a row. With it, a Spark
session is started and every executor that would run a worker is checked. Every training runs the quick half of these checks
before it reads data.
"""

import dataclasses
import os
import shutil
import sys
from collections.abc import Sequence
from functools import partial

from pyspark.sql import SparkSession

from pipelines.errors import LaunchError
from pipelines.launch import session, slots, tasks
from pipelines.launch.preflight.probe import NodeReport, probe_quickly
from pipelines.launch.preflight.requirements import CheckResult, all_pass, check_executor
from pipelines.launch.preflight.spark_conf import SETTINGS, check_spark_conf
from pipelines.system import connect
from pipelines.system.memory_limit import memory

# `mnist-5k` with two workers took 1.6 GB: Java, the driver with MLflow, and what the ranks share.
_LEAST_BYTES, _LEAST_BYTES_OF_WORKER = 1_200_000_000, 200_000_000


def check_memory(workers: int) -> None:
    """Fail before anything is started if a training on this machine is bound to run out of memory.

    The kernel would kill a process of the group at a time of its choice, and say nothing to the one that it kills.

    Raises:
        LaunchError: the machine or the control group has too little.
    """
    available, needed = memory(), _LEAST_BYTES + workers * _LEAST_BYTES_OF_WORKER
    if available.limit < needed:
        plural, fewer = ("s", ", or lower launch.workers") if workers > 1 else ("", "")
        raise LaunchError(
            f"only {available.limit / 1e9:.1f} GB of memory may be used here (the limit of {available.whose}), and a training "
            f"with {workers} worker{plural} on one machine takes {needed / 1e9:.1f} GB at least; raise the limit{fewer}"
        )


def check_cluster(spark: SparkSession, workers: int, run_dir: str = "") -> list[str]:
    """Fail before any data is read if the cluster cannot run the workers.

    Args:
        spark: the session.
        workers: number of workers.
        run_dir: the run folder, which all nodes must see.

    Returns:
        a warning for each thing that may work but is not ideal.

    Raises:
        LaunchError: too few slots, dynamic allocation, or an executor that lacks a part, or has another version than the driver.
    """
    slots.wait_for_start(spark, workers)
    checked = _check_executors(spark, workers, probe_quickly(), run_dir)
    for report, rows in checked:
        for row in rows:
            if row.state == "fail":
                raise LaunchError(f"executor on {report.host}: {row.name} is {row.found}, needed: {row.needed}; {row.remedy}")
    settings = _check_settings(spark, workers, [report for report, _ in checked])
    for row in settings:
        if row.state == "fail":
            raise LaunchError(f"{row.name}: {row.found}, needed: {row.needed}; {row.remedy}")
    all_rows = [*(row for _, rows in checked for row in rows), *settings]
    notes = [f"{row.name}: {row.found}, preferred: {row.needed}; {row.remedy}" for row in all_rows if row.state == "note"]
    return list(dict.fromkeys(notes))


def probe_executors(spark: SparkSession, workers: int, run_dir: str = "") -> list[NodeReport]:
    """Reports of the executors; identical ones are listed once.

    If classic Spark's executors run on this machine with this Python, this process probes for them. Otherwise one task runs for
    each slot:
    Spark assigns tasks round-robin, so every executor gets some. A barrier stage would wait up to a second to place its tasks.

    Raises:
        LaunchError: Spark could not run the tasks, for example because the executors have another Python.
    """
    if _share_this_python(spark):
        return [probe_quickly(run_dir)]
    try:
        reports = tasks.run(spark, partial(probe_quickly, run_dir), max(workers, slots.available(spark)))
    except Exception as error:
        raise LaunchError(_reason(str(error))) from error
    return [report for number, report in enumerate(reports) if report not in reports[:number]]


def _share_this_python(spark: SparkSession) -> bool:
    if connect.is_remote(spark) or not session.runs_here(spark):
        return False
    python = shutil.which(spark.sparkContext.pythonExec)
    return python is not None and os.path.abspath(python) == os.path.abspath(sys.executable)


def _check_executors(
    spark: SparkSession, workers: int, driver: NodeReport, run_dir: str
) -> list[tuple[NodeReport, list[CheckResult]]]:
    return [(report, check_executor(report, driver)) for report in probe_executors(spark, workers, run_dir)]


def _check_settings(spark: SparkSession, workers: int, reports: Sequence[NodeReport]) -> list[CheckResult]:
    conf = {name: value for name in SETTINGS if (value := connect.setting(spark, name))}
    return check_spark_conf(conf, connect.setting(spark, "spark.master"), reports, workers)


def _reason(error: str) -> str:
    if "PYTHON_VERSION_MISMATCH" in error or "different version" in error:
        return "executors run a different Python than the driver; set PYSPARK_PYTHON to the same Python on all nodes"
    if "No module named 'pipelines'" in error:
        return "executors cannot import pipelines; install Convoy's wheel on all nodes"
    if "Cannot run program" in error:
        program = error.partition('Cannot run program "')[2].partition('"')[0]
        return f"executors cannot start Python ({program}); set PYSPARK_PYTHON to a Python that all nodes have"
    lines = [line.strip() for line in error.splitlines() if "Error" in line or "[SPARK" in line]
    return f"executors could not be checked: {(lines or [error.strip() or 'no reason given'])[-1]}"


def table(rows: Sequence[CheckResult]) -> str:
    """The rows as text for a terminal, each remedy below its row."""
    width = [max(len(text) for text in column) for column in zip(*((row.name, row.found) for row in rows), strict=True)]
    lines = [f"      {'':{width[0]}}  {'found':{width[1]}}  needed"]
    for row in rows:
        lines.append(f"{row.state:4}  {row.name:{width[0]}}  {row.found:{width[1]}}  {row.needed}".rstrip())
        if row.remedy:
            lines.append(f"      {'':{width[0]}}  -> {row.remedy}")
    return "\n".join(lines)


def check_with_spark(driver: NodeReport, workers: int) -> list[CheckResult]:
    """Rows for the session and its executors; of an executor, its failures and warnings, and one row if none fails."""
    try:
        with session.open_session("convoy-doctor") as spark:
            slots.wait_for_start(spark, workers)
            checked = _check_executors(spark, workers, driver, "")
            rows = [
                CheckResult(
                    "task slots", str(slots.available(spark)), f"{workers} for {workers} worker{'s' if workers > 1 else ''}"
                )
            ]
            rows += _check_settings(spark, workers, [report for report, _ in checked])
    except LaunchError as error:
        return [CheckResult("Spark", "cannot run the workers", "runs the workers", "fail", str(error))]
    for number, (report, parts) in enumerate(checked):
        name = f"executor {number} ({report.host})"
        rows += [dataclasses.replace(part, name=f"{name}: {part.name}") for part in parts if part.state != "ok"]
        if all_pass(parts):
            rows.append(CheckResult(name, f"Python {report.python}, TensorFlow {report.tensorflow}", "same as driver"))
    return rows
