"""Helpers for Spark jobs in a session that may belong to a notebook: bounded batches, cancellation, errors."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from pipelines.data.sources.parquet_reader import setting
from pipelines.errors import DataError
from pipelines.system import connect
from pipelines.system.secrets import first_line

# Last line of a Python worker's traceback, for errors with a message for the user.
_USER_ERROR = re.compile(r"^(?:pipelines\.errors\.)?(?:DataError|ConfigError|ConvoyError): (.+)$", re.MULTILINE)

# Arrow batches are built in memory, and a line of text can be ten times as large as its image ("784:0.123456 ").
_VALUES_PER_ARROW_BATCH = 16 * 2**20
_MAX_ROWS_PER_ARROW_BATCH = 10_000


@contextmanager
def arrow_batches(spark: SparkSession, values_per_row: int) -> Iterator[None]:
    """Bound the size of the batches sent to Python. Restores the setting, because the session may belong to a notebook."""
    rows = max(1, min(_MAX_ROWS_PER_ARROW_BATCH, _VALUES_PER_ARROW_BATCH // values_per_row))
    with setting(spark, "spark.sql.execution.arrow.maxRecordsPerBatch", str(rows)):
        yield


@contextmanager
def job_group(spark: SparkSession, name: str) -> Iterator[None]:
    """Cancel our own jobs on any exception; they would keep writing to a folder that is being removed."""
    with connect.JobGroup(spark, name) as group:
        try:
            yield
        except BaseException:
            group.cancel()
            raise


def root_cause(error: Py4JJavaError | PySparkException) -> str:
    """The innermost cause, in one line."""
    text = str(error.java_exception) if isinstance(error, Py4JJavaError) else str(error)
    _, in_python, traceback = text.rpartition("Traceback (most recent call last):\n")
    if in_python:
        # Frames are indented; the error itself is not.
        reason = next((line for line in traceback.splitlines() if line[:1].strip()), "a Python worker failed")
    else:
        causes = [line.partition("Caused by: ")[2] for line in text.splitlines() if line.startswith("Caused by: ")]
        reason = causes[-1] if causes else first_line(text)
    if "No space left" in reason:
        return f"{reason[:300]}; free disk space there, or for Spark's scratch files (spark.local.dir)"
    return reason[:300]


def as_data_error(error: Py4JJavaError | PySparkException, what: str) -> DataError:
    """A DataError raised by a worker, unchanged; otherwise `what` and the innermost cause."""
    text = str(error.java_exception) if isinstance(error, Py4JJavaError) else str(error)
    own = _USER_ERROR.search(text)
    if own is not None:
        return DataError(own.group(1).strip())
    return DataError(f"{what}: {root_cause(error)}")
