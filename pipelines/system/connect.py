"""What a session of Spark Connect does differently: it has neither a SparkContext nor RDDs, and may be on another machine."""

import contextlib
import os
import re
import socket
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# What `setJobGroup` sets.
_GROUP_PROPERTIES = ("spark.jobGroup.id", "spark.job.description", "spark.job.interruptOnCancel")
_PORT = 15002
_ANSWER_SECONDS = 20
_SPLITS = re.compile(r"\bsplits=(\d+)")


def is_remote(spark: "SparkSession") -> bool:
    """Whether this is a session of Spark Connect."""
    return any(kind.__module__.startswith("pyspark.sql.connect") for kind in type(spark).__mro__)


def requested() -> str:
    """The address of Spark Connect that a new session will use: `sc://...`, `local` or `local[N]`; empty for classic Spark."""
    return os.environ.get("SPARK_REMOTE", "")


def check_reachable(address: str) -> None:
    """Connect to a server, as Spark's client would go on trying for ten minutes. Through a proxy it is not tried.

    Raises:
        OSError: it does not answer.
        ValueError: the address is malformed.
    """
    parts = urllib.parse.urlsplit(address)
    if parts.scheme != "sc" or not parts.hostname:
        raise ValueError("must be sc://HOST:PORT, local or local[N]")
    if not urllib.request.getproxies():
        with socket.create_connection((parts.hostname, parts.port or _PORT), _ANSWER_SECONDS):
            pass


def server_is_here(spark: "SparkSession") -> bool:
    """Whether this process has started the session's Spark Connect server, as with `SPARK_REMOTE=local`."""
    return is_remote(spark) and "SPARK_LOCAL_REMOTE" in os.environ


def setting(spark: "SparkSession", name: str, default: str = "") -> str:
    """A setting that Spark was started with. On some clusters not all of them can be read; such a one counts as not set."""
    if not is_remote(spark):
        return str(spark.sparkContext.getConf().get(name, default))
    try:
        return str(spark.conf.get(name, default))
    # Databricks raises an error of its own for settings that its users may not see.
    except Exception:
        return default


def master(spark: "SparkSession") -> str:
    """The master URL, for messages; of a Spark Connect server, as far as it tells."""
    if not is_remote(spark):
        return str(spark.sparkContext.master)
    return f"Spark Connect, {setting(spark, 'spark.master', 'unknown master')}"


def parallelism(spark: "SparkSession") -> int:
    """Spark's default parallelism: the number of cores of all executors, unless the user set another."""
    if not is_remote(spark):
        return int(spark.sparkContext.defaultParallelism)
    # A job that counts the parts would wait for a free slot.
    return _planned_parts(spark) or _counted_parts(spark)


def _planned_parts(spark: "SparkSession") -> int:
    """The parts into which Spark divides a range by default, according to its plan; 0 if that is written otherwise."""
    plan = str(spark.sql("EXPLAIN SELECT id FROM range(1)").collect()[0][0])
    splits = _SPLITS.search(plan)
    return int(splits[1]) if splits is not None else 0


def _counted_parts(spark: "SparkSession") -> int:
    parts = spark.range(2**16).selectExpr("spark_partition_id() AS part").selectExpr("max(part)").collect()
    return int(parts[0][0]) + 1


class JobGroup:
    """The jobs that the thread starts within the context. Any thread can cancel them.

    The end of the context restores the group of before, by which a notebook cancels a cell.
    Spark Connect has tags instead of groups, and always interrupts the threads of cancelled tasks.
    """

    def __init__(self, spark: "SparkSession", description: str, *, interrupt: bool = False) -> None:
        """`interrupt`: end the Python worker of a cancelled task at once."""
        self._spark, self._description, self._interrupt = spark, description, interrupt
        self._name = f"convoy-{uuid.uuid4()}"
        self._before: dict[str, str | None] = {}

    def __enter__(self) -> "JobGroup":
        if is_remote(self._spark):
            self._spark.addTag(self._name)
        else:
            context = self._spark.sparkContext
            self._before = {key: context.getLocalProperty(key) for key in _GROUP_PROPERTIES}
            context.setJobGroup(self._name, self._description, interruptOnCancel=self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        if is_remote(self._spark):
            self._spark.removeTag(self._name)
            return
        for key, value in self._before.items():
            self._spark.sparkContext.setLocalProperty(key, value)

    def cancel(self) -> None:
        """Cancel what is running. Raises what Spark raises, for example if it has exited."""
        if is_remote(self._spark):
            self._spark.interruptTag(self._name)
        else:
            self._spark.sparkContext.cancelJobGroup(self._name)


def add_file(spark: "SparkSession", path: Path) -> None:
    """Copy a file to all nodes, where `pyspark.SparkFiles` finds it by its name."""
    if is_remote(spark):
        spark.addArtifacts(str(path), file=True)
    else:
        spark.sparkContext.addFile(str(path))


@contextlib.contextmanager
def kept_address() -> Iterator[None]:
    """Keep `SPARK_REMOTE`: a session that has started its own server unsets it when it stops, and the next would be classic."""
    before = requested()
    try:
        yield
    finally:
        if before:
            os.environ["SPARK_REMOTE"] = before
