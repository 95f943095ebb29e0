"""libsvm text to be scored: read and judged as ingest does, in the order of the text."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from pipelines import paths
from pipelines.config import Config
from pipelines.ingest import build, quarantine, sources
from pipelines.ingest.passes import IS_IMAGE
from pipelines.ingest.sources import Source, is_libsvm
from pipelines.score.data import Report
from pipelines.score.scoring import Input

KEPT_COLUMNS = ("file", "line", "label")


@contextmanager
def opened(spark: SparkSession, config: Config, report: Report, folder: Path) -> Iterator[tuple[Input, int]]:
    """The rows of `data.dataset`, and how many lines were set aside into `folder`. Kept are file, line (from 1) and label value.

    Raises:
        DataError: a line is malformed, or too many are (`ingest.on_bad_rows`); begins `FILE:LINE: reason`.
    """
    source = find(config, report)
    with build.parsed_text(spark, config, source) as text:
        for warning in text.rejected.warnings:
            report(warning)
        if text.rejected.rows:
            quarantine.write(text.frame, source, text.reports, text.rejected.rows, folder)
        first_lines = quarantine.first_lines(text.reports)
        blocks = spark.createDataFrame(
            [(file, block, source.files[file][0], line) for (file, block), line in first_lines.items()],
            "file int, block bigint, uri string, first_line bigint",
        )
        labels = F.array(*[F.lit(label) for label in config.data.label_values])
        frame = (
            text.frame.where(IS_IMAGE)
            .join(F.broadcast(blocks), ["file", "block"])
            .select(
                F.col("uri").alias("file"),
                (F.col("first_line") + F.col("line") + 1).alias("line"),
                labels[F.col("label")].alias("label"),
                "content",
                F.col("uri").alias("__origin"),
                F.col("line").alias("__row"),
            )
        )
        yield Input(frame, "content", KEPT_COLUMNS, "__origin", "__row"), text.rejected.rows


def find(config: Config, report: Report) -> Source:
    """The files of `data.dataset`: those of a data set, one file, or all of a folder.

    Raises:
        ConfigError: there is no such data set.
        DataError: it cannot be had on this machine.
    """
    location = config.data.dataset
    if location in sources.NAMES:
        return sources.resolve(config.data, report)
    path = paths.to_python(location)
    if path.is_file():
        return Source(path.name, ((location, "test"),))
    names = sorted(str(found.relative_to(path)) for found in path.rglob("*") if found.is_file() and is_libsvm(found))
    return Source(path.name, tuple((f"{location.rstrip('/')}/{name}", "test") for name in names))
