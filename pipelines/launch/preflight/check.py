"""Whether training could work here: found, needed, remedy.

`look` gathers what a machine has, `judge` turns it into rows. Without `--workers` the driver's machine is looked at thoroughly,
TensorFlow and Horovod being imported in a process of their own, where a crash is a row, too. With it a Spark session is started,
and every executor that would run a worker is looked at. Every training does the quick half of that before it reads data.
"""

import os
import shutil
import sys
from collections.abc import Sequence

from pyspark.sql import SparkSession

from pipelines.errors import LaunchError
from pipelines.launch import session, slots
from pipelines.launch.preflight.probe import Found, look_quickly
from pipelines.launch.preflight.requirements import Row, judge_executor
from pipelines.launch.preflight.spark_conf import judge_settings


def check(spark: SparkSession, workers: int, run_dir: str = "") -> list[str]:
    """Refuse what could not work, before data is read. Gives a line for each thing that is not as it should be and may work.

    Args:
        spark: the session.
        workers: how many are wanted.
        run_dir: the folder of the run, which all nodes must see.

    Raises:
        LaunchError: too few slots, dynamic allocation, or a part on an executor that is missing, wrong, or not as on the driver.
    """
    slots.wait_for_start(spark, workers)
    judged = _judged_executors(spark, workers, look_quickly(), run_dir)
    for found, rows in judged:
        for row in rows:
            if row.state == "fail":
                raise LaunchError(f"executor on {found.host}: {row.name} is {row.found}, needed is {row.needed}; {row.remedy}")
    settings = _judged_settings(spark, workers, [found for found, _ in judged])
    for row in settings:
        if row.state == "fail":
            raise LaunchError(f"{row.name}: {row.found}, needed is {row.needed}; {row.remedy}")
    everything = [*(row for _, rows in judged for row in rows), *settings]
    notes = [f"{row.name}: {row.found}, better is {row.needed}; {row.remedy}" for row in everything if row.state == "note"]
    return list(dict.fromkeys(notes))


def executors(spark: SparkSession, workers: int, run_dir: str = "") -> list[Found]:
    """What the executors have; those that have the same count once.

    Where they are on this machine and start this Python, that is what this process sees. Otherwise as many tasks as there are
    slots: Spark gives them out in turn, so that every executor gets some. Not a barrier stage, which waits up to a second for its
    tasks to be placed.

    Raises:
        LaunchError: Spark could not run it, as with another Python on the executors.
    """
    python = shutil.which(spark.sparkContext.pythonExec)
    if session.runs_here(spark) and python is not None and os.path.abspath(python) == os.path.abspath(sys.executable):
        return [look_quickly(run_dir)]
    tasks = max(workers, slots.available(spark))
    try:
        stage = spark.sparkContext.parallelize(range(tasks), tasks)
        everything: list[Found] = stage.map(lambda _: look_quickly(run_dir)).collect()
    except Exception as error:
        raise LaunchError(_reason(str(error))) from error
    return [found for number, found in enumerate(everything) if found not in everything[:number]]


def _judged_executors(spark: SparkSession, workers: int, driver: Found, run_dir: str) -> list[tuple[Found, list[Row]]]:
    return [(found, judge_executor(found, driver)) for found in executors(spark, workers, run_dir)]


def _judged_settings(spark: SparkSession, workers: int, found: Sequence[Found]) -> list[Row]:
    context = spark.sparkContext
    return judge_settings(dict(context.getConf().getAll()), context.master, found, workers)


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


def table(rows: Sequence[Row]) -> str:
    """Text for a terminal; a remedy stands below its row."""
    width = [max(len(text) for text in column) for column in zip(*((row.name, row.found) for row in rows), strict=True)]
    lines = [f"      {'':{width[0]}}  {'found':{width[1]}}  needed"]
    for row in rows:
        lines.append(f"{row.state:4}  {row.name:{width[0]}}  {row.found:{width[1]}}  {row.needed}".rstrip())
        if row.remedy:
            lines.append(f"      {'':{width[0]}}  -> {row.remedy}")
    return "\n".join(lines)


def look_with_spark(driver: Found, workers: int) -> list[Row]:
    """Rows about the session and its executors; those of executors that are well come to one row each."""
    try:
        with session.open_session("convoy-doctor") as spark:
            slots.wait_for_start(spark, workers)
            judged = _judged_executors(spark, workers, driver, "")
            rows = [Row("task slots", str(slots.available(spark)), f"{workers} for {workers} worker{'s' if workers > 1 else ''}")]
            rows += _judged_settings(spark, workers, [found for found, _ in judged])
    except LaunchError as error:
        return [Row("Spark", "not able", "able to run the workers", "fail", str(error))]
    for number, (found, parts) in enumerate(judged):
        name = f"executor {number} ({found.host})"
        wrong = [part for part in parts if part.state == "fail"]
        rows += [Row(f"{name}: {part.name}", part.found, part.needed, "fail", part.remedy) for part in wrong]
        if not wrong:
            rows.append(Row(name, f"Python {found.python}, TensorFlow {found.tensorflow}", "as on the driver"))
    return rows
