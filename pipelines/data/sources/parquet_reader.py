"""Parquet read by Spark, with the names of files taken literally."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipelines.system import path_rules, paths

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_GLOB_CHARACTERS = re.compile(f"[{re.escape(path_rules.GLOB_CHARACTERS)}]")


@contextmanager
def partitions_as_text(spark: "SparkSession") -> Iterator[None]:
    """Sub-folders KEY=VALUE become columns of text. Spark Connect looks at the files only when a job runs."""
    with setting(spark, "spark.sql.sources.partitionColumnTypeInference.enabled", "false"):
        yield


@contextmanager
def setting(spark: "SparkSession", name: str, value: str) -> Iterator[None]:
    """A setting of Spark's within the block. It is restored, because the session may belong to a notebook."""
    before = spark.conf.get(name)
    try:
        spark.conf.set(name, value)
        yield
    finally:
        if before is not None:
            spark.conf.set(name, before)


def read_parquet(
    spark: "SparkSession", locations: Sequence[str], root: str = "", *, columns_of_all_files: bool = False
) -> "DataFrame":
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
