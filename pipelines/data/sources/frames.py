"""Tables and files as Spark's DataFrames, each with what is known about where its rows come from.

Errors of Spark's become one line that names the location and the remedy.
"""

import difflib
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException

from pipelines.data.formats import image_file
from pipelines.data.formats.image_format import Content, ImageFormat, binary_content
from pipelines.data.sources import parquet_files
from pipelines.data.sources.column_types import ColumnKind, column_kind
from pipelines.errors import ConfigError, DataError
from pipelines.system import paths, spark_location
from pipelines.system.secrets import first_line

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

# Without a header the columns would have no names, and without types no numbers.
_OPTIONS = {"csv": {"header": "true", "inferSchema": "true"}}
_SAMPLE_ROWS = 100
_NOT_FOUND = re.compile(r"TABLE_OR_VIEW_NOT_FOUND|SCHEMA_NOT_FOUND|NoSuchTableException|REQUIRES_SINGLE_PART_NAMESPACE")
_NO_FORMAT = re.compile(r"DATA_SOURCE_NOT_FOUND|AVRO_DATA_SOURCE_NOT_ENABLED|Failed to find (the )?data source")


@dataclass(frozen=True)
class Frame:
    """The rows of a location."""

    location: str
    rows: "DataFrame"
    has_files: bool
    """Whether each row knows the file that it is from (`_metadata`). Not so of views."""
    has_row_index: bool
    """Whether it knows its number in that file, too."""
    version: str = ""
    """Version of a Delta table; empty for any other."""

    @property
    def kinds(self) -> dict[str, ColumnKind | None]:
        """What each column holds."""
        return {field.name: column_kind(field.dataType.jsonValue()) for field in self.rows.schema.fields}


def open_frame(spark: "SparkSession", location: str) -> Frame:
    """The rows of a location that Spark reads (`pipelines.system.spark_location`).

    Raises:
        ConfigError: there is no such table, or the session cannot read the format.
        DataError: Spark cannot read the files.
    """
    parsed = spark_location.parse(location)
    assert parsed is not None
    with readable(spark, location):
        if parsed.kind == spark_location.TABLE:
            rows = spark.table(parsed.name)
        elif parsed.kind == "parquet" and parsed.is_path:
            rows = parquet_files.read(spark, parsed.name)
        else:
            path = paths.to_spark(parsed.name) if parsed.is_path else parsed.name
            reader = spark.read.format(parsed.kind).options(**_OPTIONS.get(parsed.kind, {}))
            # Paths may contain characters that Spark takes for a pattern.
            rows = reader.option("__globPaths__", "false").load(path)
        # Spark Connect looks at the files only now.
        fields = {name.lower() for name in rows.schema.names}
    has_files = "_metadata" not in fields and _resolves(rows, "_metadata.file_path")
    return Frame(
        location,
        rows,
        has_files=has_files,
        has_row_index=has_files and _resolves(rows, "_metadata.row_index"),
        version=_delta_version(spark, location) if has_files else "",
    )


def quoted(name: str) -> str:
    """A column's name for Spark, which would take a dot in it for a field of a struct."""
    return f"`{name.replace('`', '``')}`"


def content_of(rows: "DataFrame", name: str, kind: ColumnKind | None, target: ImageFormat) -> Content:
    """What a column holds. Reads the first bytes of some rows if its type leaves that open."""
    if kind not in ("binary", "bytes"):
        return "encoded" if kind == "image" else "lists"
    value = f"{quoted(name)}.bytes" if kind == "bytes" else quoted(name)
    sample = (
        rows.where(f"{value} IS NOT NULL")
        .selectExpr(f"length({value})", f"substring({value}, 1, {image_file.SIGNATURE_BYTES})")
        .limit(_SAMPLE_ROWS)
        .collect()
    )
    return binary_content(((length, bytes(head)) for length, head in sample), target)


@contextmanager
def readable(spark: "SparkSession", location: str) -> Iterator[None]:
    """Turn what Spark raises inside the block into one line."""
    try:
        with _quiet():
            yield
    except (Py4JJavaError, PySparkException) as error:
        text = str(error)
        kind, name = spark_location.parse(location) or ("", "")
        if _NOT_FOUND.search(text):
            near = difflib.get_close_matches(name.rpartition(".")[2], _tables_beside(spark, name), n=1)
            hint = f"did you mean {near[0]}?" if near else "name it as catalog.schema.table, or as schema.table"
            raise ConfigError(f"data.dataset={location}: this Spark session has no such table or view; {hint}") from error
        if _NO_FORMAT.search(text):
            raise ConfigError(
                f"data.dataset={location}: this Spark session cannot read the format '{kind}'; add its package to the session "
                "(spark.jars.packages), or write the rows as Parquet"
            ) from error
        raise DataError(f"{location}: Spark cannot read it: {first_line(text)[:300]}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Spark's client from logging errors that are expected, or told in one line."""
    logger = logging.getLogger("SQLQueryContextLogger")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _resolves(rows: "DataFrame", expression: str) -> bool:
    try:
        with _quiet():
            return bool(rows.selectExpr(expression).schema.names)
    except PySparkException:
        return False


def _tables_beside(spark: "SparkSession", name: str) -> list[str]:
    schema = name.rpartition(".")[0]
    try:
        with _quiet():
            return [table.name for table in (spark.catalog.listTables(schema) if schema else spark.catalog.listTables())]
    except (Py4JJavaError, PySparkException):
        return []


def _delta_version(spark: "SparkSession", location: str) -> str:
    """The newest version of a Delta table, as `DESCRIBE HISTORY` tells it; empty where there is none."""
    parsed = spark_location.parse(location)
    assert parsed is not None
    if parsed.kind not in (spark_location.TABLE, "delta"):
        return ""
    path = paths.to_spark(parsed.name) if parsed.is_path else parsed.name
    what = parsed.name if parsed.kind == spark_location.TABLE else f"delta.{quoted(path)}"
    try:
        with _quiet():
            return str(spark.sql(f"DESCRIBE HISTORY {what} LIMIT 1").collect()[0]["version"])
    except (Py4JJavaError, PySparkException):
        return ""
