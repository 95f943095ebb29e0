"""Whether training could work here: found, needed, remedy.

`probe_node` gathers what a machine has, `check_node` turns it into rows. Without `--workers` the driver's machine is looked at
thoroughly, TensorFlow and Horovod being imported in a process of their own, where a crash is a row, too. With it a Spark session
is started, and every executor that would run a worker is looked at. Every training does the quick half of that before it reads
data.
"""

import os
import shutil
import sys
from collections.abc import Sequence

from pyspark.sql import SparkSession

from pipelines.errors import LaunchError
from pipelines.launch import session, slots
from pipelines.launch.preflight.probe import NodeReport, probe_quickly
from pipelines.launch.preflight.requirements import CheckResult, check_executor
from pipelines.launch.preflight.spark_conf import check_spark_conf


def check_cluster(spark: SparkSession, workers: int, run_dir: str = "") -> list[str]:
    """Refuse what could not work, before data is read. Gives a line for each thing that is not as it should be and may work.

    Args:
        spark: the session.
        workers: how many are wanted.
        run_dir: the folder of the run, which all nodes must see.

    Raises:
        LaunchError: too few slots, dynamic allocation, or a part on an executor that is missing, wrong, or not as on the driver.
    """
    slots.wait_for_start(spark, workers)
    checked = _check_executors(spark, workers, probe_quickly(), run_dir)
    for found, rows in checked:
        for row in rows:
            if row.state == "fail":
                raise LaunchError(f"executor on {found.host}: {row.name} is {row.found}, needed is {row.needed}; {row.remedy}")
    settings = _check_settings(spark, workers, [found for found, _ in checked])
    for row in settings:
        if row.state == "fail":
            raise LaunchError(f"{row.name}: {row.found}, needed is {row.needed}; {row.remedy}")
    everything = [*(row for _, rows in checked for row in rows), *settings]
    notes = [f"{row.name}: {row.found}, better is {row.needed}; {row.remedy}" for row in everything if row.state == "note"]
    return list(dict.fromkeys(notes))


def probe_executors(spark: SparkSession, workers: int, run_dir: str = "") -> list[NodeReport]:
    """What the executors have; those that have the same count once.

    Where they are on this machine and start this Python, that is what this process sees. Otherwise as many tasks as there are
    slots: Spark gives them out in turn, so that every executor gets some. Not a barrier stage, which waits up to a second for its
    tasks to be placed.

    Raises:
        LaunchError: Spark could not run it, as with another Python on the executors.
    """
    python = shutil.which(spark.sparkContext.pythonExec)
    if session.runs_here(spark) and python is not None and os.path.abspath(python) == os.path.abspath(sys.executable):
        return [probe_quickly(run_dir)]
    tasks = max(workers, slots.available(spark))
    try:
        stage = spark.sparkContext.parallelize(range(tasks), tasks)
        everything: list[NodeReport] = stage.map(lambda _: probe_quickly(run_dir)).collect()
    except Exception as error:
        raise LaunchError(_reason(str(error))) from error
    return [found for number, found in enumerate(everything) if found not in everything[:number]]


def _check_executors(
    spark: SparkSession, workers: int, driver: NodeReport, run_dir: str
) -> list[tuple[NodeReport, list[CheckResult]]]:
    return [(found, check_executor(found, driver)) for found in probe_executors(spark, workers, run_dir)]


def _check_settings(spark: SparkSession, workers: int, found: Sequence[NodeReport]) -> list[CheckResult]:
    context = spark.sparkContext
    return check_spark_conf(dict(context.getConf().getAll()), context.master, found, workers)


def _reason(error: str) -> str:
    if "PYTHON_VERSION_MISMATCH" in error or "different version" in error:
        return "executors run another Python than the driver; set PYSPARK_PYTHON to the same one on all nodes"
    if "No module named 'pipelines'" in error:
        return "executors cannot import pipelines; install Convoy's wheel on all nodes"
    if "Cannot run program" in error:
        program = error.partition('Cannot run program "')[2].partition('"')[0]
        return f"executors cannot start Python ({program}); set PYSPARK_PYTHON to one that all nodes have"
    lines = [line.strip() for line in error.splitlines() if "Error" in line or "[SPARK" in line]
    return f"executors could not be looked at: {(lines or [error.strip() or 'no reason given'])[-1]}"


def table(rows: Sequence[CheckResult]) -> str:
    """Text for a terminal; a remedy stands below its row."""
    width = [max(len(text) for text in column) for column in zip(*((row.name, row.found) for row in rows), strict=True)]
    lines = [f"      {'':{width[0]}}  {'found':{width[1]}}  needed"]
    for row in rows:
        lines.append(f"{row.state:4}  {row.name:{width[0]}}  {row.found:{width[1]}}  {row.needed}".rstrip())
        if row.remedy:
            lines.append(f"      {'':{width[0]}}  -> {row.remedy}")
    return "\n".join(lines)


def check_with_spark(driver: NodeReport, workers: int) -> list[CheckResult]:
    """Rows about the session and its executors; those of executors that are well come to one row each."""
    try:
        with session.open_session("convoy-doctor") as spark:
            slots.wait_for_start(spark, workers)
            checked = _check_executors(spark, workers, driver, "")
            rows = [
                CheckResult(
                    "task slots", str(slots.available(spark)), f"{workers} for {workers} worker{'s' if workers > 1 else ''}"
                )
            ]
            rows += _check_settings(spark, workers, [found for found, _ in checked])
    except LaunchError as error:
        return [CheckResult("Spark", "not able", "able to run the workers", "fail", str(error))]
    for number, (found, parts) in enumerate(checked):
        name = f"executor {number} ({found.host})"
        wrong = [part for part in parts if part.state == "fail"]
        rows += [CheckResult(f"{name}: {part.name}", part.found, part.needed, "fail", part.remedy) for part in wrong]
        if not wrong:
            rows.append(CheckResult(name, f"Python {found.python}, TensorFlow {found.tensorflow}", "as on the driver"))
    return rows
