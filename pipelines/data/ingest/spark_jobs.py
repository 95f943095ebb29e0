"""Helpers for Spark jobs in a session that may belong to a notebook: literal paths, bounded batches, cancellation, errors."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from pipelines.errors import DataError
from pipelines.system import connect, path_rules, paths
from pipelines.system.secrets import first_line

# Last line of a Python worker's traceback, for errors with a message for the user.
_USER_ERROR = re.compile(r"^(?:pipelines\.errors\.)?(?:DataError|ConfigError|ConvoyError): (.+)$", re.MULTILINE)

_GLOB_CHARACTERS = re.compile(f"[{re.escape(path_rules.GLOB_CHARACTERS)}]")
# Arrow batches are built in memory, and a line of text can be ten times as large as its image ("784:0.123456 ").
_VALUES_PER_ARROW_BATCH = 16 * 2**20
_MAX_ROWS_PER_ARROW_BATCH = 10_000


@contextmanager
def arrow_batches(spark: SparkSession, values_per_row: int) -> Iterator[None]:
    """Bound the size of the batches sent to Python. Restores the setting, because the session may belong to a notebook."""
    rows = max(1, min(_MAX_ROWS_PER_ARROW_BATCH, _VALUES_PER_ARROW_BATCH // values_per_row))
    with _setting(spark, "spark.sql.execution.arrow.maxRecordsPerBatch", str(rows)):
        yield


@contextmanager
def partitions_as_text(spark: SparkSession) -> Iterator[None]:
    """Sub-folders KEY=VALUE become columns of text. Spark Connect looks at the files only when a job runs."""
    with _setting(spark, "spark.sql.sources.partitionColumnTypeInference.enabled", "false"):
        yield


@contextmanager
def _setting(spark: SparkSession, name: str, value: str) -> Iterator[None]:
    before = spark.conf.get(name)
    try:
        spark.conf.set(name, value)
        yield
    finally:
        if before is not None:
            spark.conf.set(name, before)


def read_parquet(
    spark: SparkSession, locations: Sequence[str], root: str = "", *, columns_of_all_files: bool = False
) -> DataFrame:
    """Parquet files whose names are taken literally. By default Spark reads brackets, braces, `*` and `?` as patterns.

    Args:
        spark: the session.
        locations: files.
        root: folder above them whose sub-folders KEY=VALUE become columns, of text: as numbers 007 and 7 would be the same.
        columns_of_all_files: read the columns that any file has, instead of those of one file.

    Raises:
        PySparkException, Py4JJavaError: a file cannot be read, or two files have columns of one name and different types.
    """
    reader = spark.read.option("mergeSchema", str(columns_of_all_files).lower())
    if root:
        reader = reader.option("basePath", paths.to_spark(root))
    with partitions_as_text(spark):
        # With the option __globPaths__ Spark would read all files once more for each path that has such a character in it.
        return reader.parquet(*[_GLOB_CHARACTERS.sub(r"\\\g<0>", paths.to_spark(location)) for location in locations])


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
    raised = re.findall(r"^\w[\w.]*(?:Error|Exception): .+$", text, re.MULTILINE)
    return DataError(f"{what}: {raised[-1][:300] if raised else root_cause(error)}")
