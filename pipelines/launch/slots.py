"""How many workers the cluster can run at once, and how they share its cores."""

import os
import re
import time

from py4j.protocol import Py4JError
from pyspark.sql import SparkSession

from pipelines.errors import LaunchError

# Executors of a new session register one after the other. Spark itself waits as long for them
# (spark.scheduler.maxRegisteredResourcesWaitingTime), but in Spark's own cluster manager not at all.
_REGISTER_SECONDS = 30.0
# Executors that died start again within seconds. A node that is replaced takes minutes.
_REVIVE_SECONDS = 10.0


def check(spark: SparkSession, workers: int) -> None:
    """Raises LaunchError at once when the workers cannot all run at the same time; Spark would wait or say it less clearly."""
    _check_fixed(spark)
    slots = available(spark)
    if workers > slots:
        raise LaunchError(
            f"launch.workers={workers}: only {slots} task slots are available ({spark.sparkContext.master}); "
            "ask for fewer workers, add nodes, or lower spark.task.cpus"
        )


def wait_for_start(spark: SparkSession, workers: int) -> None:
    """Give the executors of a session that has just begun time to register. Raises LaunchError, as `check`."""
    _check_fixed(spark)
    context = spark.sparkContext
    if not context.master.startswith("local"):
        _wait(spark, workers, context.startTime / 1000 + _REGISTER_SECONDS - time.time())
    check(spark, workers)


def wait_for_return(spark: SparkSession, workers: int, least: int, seconds: float) -> int:
    """Give lost executors time to come back.

    Args:
        spark: the session.
        workers: how many are wanted.
        least: how many will do; 0 for all that are wanted.
        seconds: how long to wait for `least`. For more than that, executors have 10 seconds.

    Returns:
        how many can run, from `least` to `workers`.

    Raises:
        LaunchError: fewer than `least`, as `check` says it.
    """
    if not least:
        _wait(spark, workers, seconds)
        check(spark, workers)
        return workers
    _wait(spark, workers, min(seconds, _REVIVE_SECONDS))
    _wait(spark, least, seconds - _REVIVE_SECONDS)
    left = min(workers, available(spark))
    if left < least:
        raise LaunchError(
            f"launch.min_workers={least}: only {left} task slots are left ({spark.sparkContext.master}); "
            "add nodes and go on with --resume, or allow fewer workers"
        )
    return left


def _wait(spark: SparkSession, workers: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while available(spark) < workers and time.monotonic() < deadline:
        time.sleep(0.2)


def _check_fixed(spark: SparkSession) -> None:
    if spark.sparkContext.getConf().get("spark.dynamicAllocation.enabled", "false") == "true":
        raise LaunchError(
            "spark.dynamicAllocation.enabled=true: workers must all run at once, which Spark's barrier stages refuse to promise "
            "with dynamic allocation; set it to false and fix the number of executors"
        )


def available(spark: SparkSession) -> int:
    """Tasks that can run at the same time, by the count with which Spark itself admits barrier stages."""
    try:
        inner = spark.sparkContext._jsc.sc()
        return int(inner.maxNumConcurrentTasks(inner.resourceProfileManager().defaultResourceProfile()))
    except Py4JError:
        # Not part of Spark's public interface, so another Spark may not have it. This counts two cores where there is one.
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
