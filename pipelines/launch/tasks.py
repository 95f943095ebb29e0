"""Calls a function in Spark tasks, through classic Spark or through Spark Connect.

Classic Spark runs it on an RDD: the first DataFrame of a session costs two seconds more (benchmarks/README.md), which a training
on a finished table would wait for, and executors without pyarrow can still report what they have. Spark Connect has no RDDs.
"""

import pickle
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from pipelines.system import connect

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import SparkSession

T = TypeVar("T")
_COLUMNS = "task int, result binary"


def run(spark: "SparkSession", function: Callable[[], T], count: int, *, barrier: bool = False) -> list[T]:
    """Call a function in `count` tasks at most once each.

    Args:
        spark: the session.
        function: from a module that all nodes have, or a `partial` of one. It finds its number by Spark's `TaskContext`.
        count: number of tasks.
        barrier: start all tasks at once or none; they then have a `BarrierTaskContext`.

    Returns:
        what the function returned, by task.

    Raises:
        py4j.protocol.Py4JJavaError, pyspark.errors.PySparkException: a task failed.
    """
    if not connect.is_remote(spark):
        parts = spark.sparkContext.parallelize(range(count), count)
        calls = partial(_call, function)
        found: list[T] = (parts.barrier().mapPartitions(calls) if barrier else parts.mapPartitions(calls)).collect()
        return found
    frame = spark.range(count, numPartitions=count)
    rows = frame.mapInArrow(partial(_call_for_rows, function=function), _COLUMNS, barrier=barrier).collect()
    return [pickle.loads(row.result) for row in sorted(rows, key=lambda row: row.task)]


def _call(function: Callable[[], T], _: Iterable[int]) -> list[T]:
    return [function()]


def _call_for_rows(batches: Iterable["pa.RecordBatch"], function: Callable[[], Any]) -> Iterator["pa.RecordBatch"]:
    import pyarrow as pa

    numbers = [number for batch in batches for number in batch.column(0).to_pylist()]
    columns = {"task": pa.array(numbers, pa.int32()), "result": pa.array([pickle.dumps(function())], pa.binary())}
    yield pa.RecordBatch.from_pydict(columns)
