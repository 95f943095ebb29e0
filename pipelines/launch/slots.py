"""How many workers the cluster can run at once, and how they share its cores."""

import os
import re
import time

from pyspark.sql import SparkSession

from pipelines.errors import LaunchError


def check(spark: SparkSession, workers: int) -> None:
    """Raises LaunchError at once when the workers cannot all run at the same time; Spark would wait or say it less clearly."""
    conf = spark.sparkContext.getConf()
    if conf.get("spark.dynamicAllocation.enabled", "false") == "true":
        raise LaunchError(
            "spark.dynamicAllocation.enabled=true: workers must all run at once, which Spark's barrier stages refuse to promise "
            "with dynamic allocation; set it to false and fix the number of executors"
        )
    slots = available(spark)
    if workers > slots:
        raise LaunchError(
            f"launch.workers={workers}: only {slots} task slots are available ({spark.sparkContext.master}); "
            "ask for fewer workers, add nodes, or lower spark.task.cpus"
        )


def wait(spark: SparkSession, workers: int, seconds: float) -> None:
    """Give lost executors so long to come back. Raises LaunchError, as `check`, when there are still too few task slots."""
    deadline = time.monotonic() + seconds
    while available(spark) < workers and time.monotonic() < deadline:
        time.sleep(1)
    check(spark, workers)


def available(spark: SparkSession) -> int:
    """Tasks that can run at the same time."""
    return cores(spark) // int(spark.sparkContext.getConf().get("spark.task.cpus", "1"))


def cores(spark: SparkSession) -> int:
    """Cores that Spark counts, which on one machine are threads."""
    context = spark.sparkContext
    local = re.fullmatch(r"local(?:\[(\*|\d+)(?:,\s*\d+)?\])?", context.master)
    if local is not None:
        threads = local.group(1) or "1"
        return own_cores() if threads == "*" else int(threads)
    # defaultParallelism is the sum of the executors' cores, unless it was set by hand.
    return int(context.defaultParallelism)


def own_cores() -> int:
    """Cores that this process may use, which in a container can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_per_worker(asked: int, cores: int, local_workers: int) -> int:
    """TensorFlow threads of one worker: what was asked for, or an equal share of its node's cores."""
    return asked or max(1, cores // local_workers)
