"""Task slots: how many workers the cluster can run at once, and how they share its cores."""

import contextlib
import os
import re
import time

from py4j.protocol import Py4JError
from pyspark.sql import SparkSession

from pipelines.errors import LaunchError
from pipelines.system import connect

# Executors of a new session register one by one. Spark itself waits as long for them
# (spark.scheduler.maxRegisteredResourcesWaitingTime), but not at all in its standalone cluster manager.
_REGISTER_SECONDS = 30.0
# A dead executor is restarted within seconds. The replacement of a node takes minutes.
_REVIVE_SECONDS = 10.0


def check(spark: SparkSession, workers: int) -> None:
    """Raises LaunchError if the workers cannot all run at once; Spark would wait, or fail with a less clear message."""
    _check_fixed(spark)
    slots = available(spark)
    if workers > slots:
        raise LaunchError(
            f"launch.workers={workers}: only {slots} task slots are available ({connect.master(spark)}); "
            "ask for fewer workers, add nodes, or lower spark.task.cpus"
        )


def wait_for_start(spark: SparkSession, workers: int) -> None:
    """Wait for the executors of a new session to register. Raises LaunchError like `check`."""
    _check_fixed(spark)
    if connect.is_remote(spark):
        # How long its executors have had is not known.
        _wait(spark, workers, 0 if connect.server_is_here(spark) else _REGISTER_SECONDS)
    elif not spark.sparkContext.master.startswith("local"):
        _wait(spark, workers, spark.sparkContext.startTime / 1000 + _REGISTER_SECONDS - time.time())
    check(spark, workers)


def wait_for_return(spark: SparkSession, workers: int, least: int, seconds: float, shards: int = 0) -> int:
    """Wait for lost executors to restart.

    Args:
        spark: the session.
        workers: number of workers requested.
        least: the smallest acceptable number; 0 for `workers`.
        seconds: how long to wait for `least`. For more than that the wait is 10 seconds.
        shards: `training.canonical_shards`, which workers must divide equally; 0 for any number of workers.

    Returns:
        how many workers can run, from `least` to `workers`.

    Raises:
        LaunchError: fewer than `least` can run.
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
            f"launch.min_workers={least}: only {left} task slots are left ({connect.master(spark)}); "
            "add nodes and continue with --resume, or allow fewer workers"
        )
    # Not fewer than `least`, which divides the shards, too.
    return next(number for number in range(left, 0, -1) if shards % number == 0)


def _wait(spark: SparkSession, workers: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while available(spark) < workers and time.monotonic() < deadline:
        time.sleep(0.2)


def _check_fixed(spark: SparkSession) -> None:
    if connect.setting(spark, "spark.dynamicAllocation.enabled") == "true":
        raise LaunchError(
            "spark.dynamicAllocation.enabled=true: workers must all run at once, which Spark's barrier stages do not support "
            "with dynamic allocation; set it to false and fix the number of executors"
        )


def available(spark: SparkSession) -> int:
    """Number of tasks that can run at once, as Spark counts them for barrier stages."""
    if not connect.is_remote(spark):
        # Not a public interface of Spark, so it may be missing.
        with contextlib.suppress(Py4JError):
            inner = spark.sparkContext._jsc.sc()
            return int(inner.maxNumConcurrentTasks(inner.resourceProfileManager().defaultResourceProfile()))
    # Counts two cores if there is one, or none.
    return cores(spark) // int(connect.setting(spark, "spark.task.cpus", "1"))


def cores(spark: SparkSession) -> int:
    """Number of cores as Spark counts them; in local mode its number of threads."""
    if connect.is_remote(spark):
        return connect.parallelism(spark)
    local = re.fullmatch(r"local(?:\[(\*|\d+)(?:,\s*\d+)?\])?", spark.sparkContext.master)
    if local is not None:
        threads = local.group(1) or "1"
        return own_cores() if threads == "*" else int(threads)
    # The sum of the executors' cores, unless the user set it.
    return connect.parallelism(spark)


def own_cores() -> int:
    """Number of cores this process may use. In a container it can be less than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_per_worker(requested: int, cores: int, local_workers: int) -> int:
    """TensorFlow threads of one worker: the requested number, or if 0 an equal share of its node's cores."""
    return requested or max(1, cores // local_workers)
