"""Evaluate models on a table in Spark's workers: every row exactly once, with the same result for any number of partitions.

Several models see the same rows in one pass, so that they can be compared row by row.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from pipelines.data.ingest import spark_jobs
from pipelines.data.ingest.spark_jobs import arrow_batches, job_group
from pipelines.data.table.schema import IMAGE_COLUMN, LABEL_COLUMN, Split, Table, TableManifest
from pipelines.errors import DataError
from pipelines.score.evaluate.mcnemar import PairedCounts
from pipelines.score.evaluate.partition_counts import OUT_COLUMNS, PartitionCounts, count_batches
from pipelines.score.model_info import ModelInfo
from pipelines.score.spark_model import packed_models
from pipelines.system import paths
from pipelines.track.rundir.figure_data import Predictions

# Limit on the probabilities that the driver keeps for figures, 80 MB. Loss, accuracy and counts cover all rows.
_MAX_PROBABILITIES = 20_000_000
_MIN_ROWS_PER_TASK = 20_000


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """Metrics of one model on the rows of a table."""

    loss: float
    """Mean cross-entropy in nats."""
    accuracy: float
    rows: int
    confusion: npt.NDArray[np.int64]
    """Number of rows by [true class, predicted class]."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    results: tuple[EvaluationResult, ...]
    """One per model."""
    pairs: PairedCounts | None
    """Paired counts of the first two models."""
    predictions: Predictions
    """The first model's predictions, in table order."""


def evaluate(spark: SparkSession, models: Sequence[ModelInfo], table: Table, splits: Sequence[Split]) -> Comparison:
    """Evaluate models on some splits of a table.

    Args:
        spark: reads the table.
        models: one or more.
        table: the table.
        splits: the rows to evaluate on. Rows are numbered through the splits in this order.

    Raises:
        DataError: the table does not fit the models, is damaged, or has no rows in these splits.
    """
    manifest, image = table.manifest, table.manifest.image
    for info in models:
        check_compatible(info, manifest, table.uri)
    files, first_rows = _files(table, splits)
    frame = (
        spark.read.parquet(*[paths.to_spark(f"{table.uri.rstrip('/')}/{file}") for file in files])
        # A table's files are named by the last two parts of their path.
        .select(
            F.col(IMAGE_COLUMN),
            F.col(LABEL_COLUMN),
            F.substring_index(F.col("_metadata.file_path"), "/", -2).alias("file"),
            F.col("_metadata.row_index").alias("row"),
        )
    )
    expected = sum(manifest.rows(split) for split in splits)
    # Each task's process loads the model, which costs as much time as many rows. If Spark reads fewer partitions, they stay.
    partitions = max(1, expected // _MIN_ROWS_PER_TASK)
    try:
        with (
            packed_models(spark, models) as packed,
            arrow_batches(spark, image.num_values),
            job_group(spark, "Convoy evaluation"),
        ):
            work = partial(
                count_batches,
                models=packed,
                image=image,
                first_rows=first_rows,
                kept_rows=_MAX_PROBABILITIES // manifest.num_classes,
            )
            output = frame.coalesce(partitions).mapInArrow(work, OUT_COLUMNS).collect()
    except (Py4JJavaError, PySparkException) as error:
        raise spark_jobs.as_data_error(error, f"table {table.uri}: could not be evaluated") from error
    counts = [PartitionCounts(**json.loads(row.counts)) for row in output if row.counts is not None]
    results = tuple(_result(counts, index) for index in range(len(models)))
    if results[0].rows != expected:
        raise DataError(f"table {table.uri}: has {results[0].rows} rows, but its manifest says {expected}; ingest it again")
    pairs = np.sum([partition.pairs for partition in counts], axis=0).tolist()
    return Comparison(
        results=results,
        pairs=PairedCounts(both=pairs[0], only_first=pairs[1], only_second=pairs[2], neither=pairs[3])
        if len(models) > 1
        else None,
        predictions=_predictions([row for row in output if row.counts is None], manifest),
    )


def check_compatible(info: ModelInfo, manifest: TableManifest, uri: str, *, with_classes: bool = True) -> None:
    """Raises DataError unless a table's images, and with `with_classes` its classes, are those of the model."""
    compared: dict[str, tuple[Any, Any]] = {"image shape": (manifest.image.shape, info.image_shape)}
    if info.describes_classes:
        compared["value range"] = (manifest.image.value_range, info.value_range)
    if with_classes:
        compared["number of classes"] = (manifest.num_classes, info.num_classes)
    if with_classes and info.describes_classes:
        compared["labels"] = (manifest.labels, info.labels)
    for property_name, (actual, expected) in compared.items():
        if actual != expected:
            raise DataError(
                f"table {uri}: has {property_name} {_shortened(actual)}, but model {info.uri} was trained on "
                f"{_shortened(expected)}; name data that fit this model"
            )


def _result(counts: Sequence[PartitionCounts], model_index: int) -> EvaluationResult:
    if not counts:
        raise DataError("there are no rows to evaluate; choose other splits or other data")
    confusion = np.sum([np.asarray(partition.confusions[model_index]) for partition in counts], axis=0)
    rows = int(confusion.sum())
    loss = sum(partition.losses[model_index] for partition in counts)
    return EvaluationResult(loss=loss / rows, accuracy=float(np.trace(confusion)) / rows, rows=rows, confusion=confusion)


def _predictions(output: Sequence[Any], manifest: TableManifest) -> Predictions:
    batches = [row for row in output if row.rows is not None]
    rows = np.concatenate([np.frombuffer(row.rows, np.int64) for row in batches])
    order = np.argsort(rows)
    probabilities = np.concatenate([np.frombuffer(row.probabilities, np.float32) for row in batches])
    index_of_row = dict(zip(rows[order].tolist(), range(len(rows)), strict=True))
    mistakes = [row for row in output if row.worst is not None]
    worst = [index_of_row[number] for row in mistakes for number in np.frombuffer(row.worst, np.int64).tolist()]
    dtype = np.dtype(manifest.image.dtype)
    images = np.frombuffer(b"".join(row.worst_images for row in mistakes), dtype).reshape(-1, *manifest.image.shape)
    return Predictions(
        rows=rows[order],
        labels=np.concatenate([np.frombuffer(row.labels, np.int32) for row in batches])[order],
        probabilities=probabilities.reshape(-1, manifest.num_classes)[order],
        worst=np.asarray(worst, np.int64),
        worst_images=images,
    )


def _files(table: Table, splits: Sequence[Split]) -> tuple[list[str], dict[str, int]]:
    """Paths of the splits' files within the table, and the number of each file's first row."""
    files, first_rows, row = [], {}, 0
    for split in splits:
        for file in table.manifest.splits[split].files if split in table.manifest.splits else ():
            files.append(file.path)
            first_rows[file.path] = row
            row += file.rows
    if not files:
        raise DataError(f"table {table.uri}: has no rows in {' and '.join(splits)}; choose another --split")
    return files, first_rows


def _shortened(value: Any) -> str:
    text = str(list(value)) if isinstance(value, tuple) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."
