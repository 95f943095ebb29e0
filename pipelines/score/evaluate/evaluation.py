"""Evaluate models on a table in Spark's workers: every row exactly once, with the same result for any number of partitions.

Several models see the same rows in one pass, so that they can be compared row by row.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F

from pipelines import tasks
from pipelines.data.ingest import spark_jobs
from pipelines.data.ingest.spark_jobs import arrow_batches, job_group
from pipelines.data.sources import parquet_reader
from pipelines.data.table import row_parts
from pipelines.data.table.schema import Split, Table, TableManifest
from pipelines.errors import DataError
from pipelines.score.evaluate import own_rows
from pipelines.score.evaluate.compatibility import check_compatible, output_order, reading_note
from pipelines.score.evaluate.own_rows import OwnRows, Recognized
from pipelines.score.evaluate.partition_counts import OUT_COLUMNS, Contestant, PartitionCounts, count_batches
from pipelines.score.model_info import ModelInfo
from pipelines.score.spark_model import packed_models
from pipelines.tasks.metric import Totals
from pipelines.tasks.task import PairedTest, Task
from pipelines.track.rundir.figure_data import Predictions

# Limit on the outputs that the driver keeps for figures, 80 MB. Loss and metrics cover all rows.
_MAX_OUTPUTS = 20_000_000
_MIN_ROWS_PER_TASK = 20_000


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """Metrics of one model on the rows of a table."""

    loss: float
    """Mean over the rows: of classes the cross-entropy in nats, of numbers the squared error over the variance of the training
    rows."""
    metrics: Mapping[str, float]
    """Those of the task (`pipelines.tasks`), by name."""
    rows: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    results: tuple[EvaluationResult, ...]
    """One per model."""
    pairs: PairedTest | None
    """The comparison of the first two models."""
    predictions: Predictions
    """The first model's predictions, in table order."""
    splits: tuple[Split, ...]
    """The splits whose rows were counted."""
    left_out: int
    """Rows of these splits that were not counted, because a model was trained with them."""
    notes: tuple[str, ...]
    """Lines for the user about the rows."""


def evaluate(
    spark: SparkSession,
    models: Sequence[ModelInfo],
    table: Table,
    splits: Sequence[Split],
    *,
    keep_own_splits: bool = False,
) -> Comparison:
    """Evaluate models on some splits of a table, without the rows that any of them was trained with.

    Args:
        spark: reads the table.
        models: one or more.
        table: the table.
        splits: the rows to evaluate on. Rows are numbered through the splits in this order.
        keep_own_splits: count the training rows, or the validation rows, of a model's own table if only these are asked for.

    Raises:
        DataError: the table does not fit the models, is damaged, or has no rows in these splits that can be counted.
    """
    manifest = table.manifest
    for info in models:
        check_compatible(info, manifest, table.uri)
    plans = [own_rows.plan(info, table, splits, keep=keep_own_splits) for info in models]
    splits = own_rows.remaining_splits(plans, models, splits)
    orders = [output_order(info, manifest, table.uri) for info in models]
    contestants = [(info, order, own.compare) for info, order, own in zip(models, orders, plans, strict=True)]
    output = _counted(spark, contestants, table, splits)
    counts = [PartitionCounts(**json.loads(row.counts)) for row in output if row.counts is not None]
    rows, expected = sum(partition.rows for partition in counts), sum(manifest.rows(split) for split in splits)
    if rows != expected:
        raise DataError(f"table {table.uri}: has {rows} rows, but its manifest says {expected}; ingest it again")
    notes = tuple(filter(None, (reading_note(info, manifest, table.uri) for info in models)))
    notes += _notes(models, plans, counts, rows)
    task = tasks.of(manifest.spec.task)
    results = tuple(_result(counts, index, task) for index in range(len(models)))
    return Comparison(
        results=results,
        pairs=task.compared(np.sum([partition.pairs for partition in counts], axis=0)) if len(models) > 1 else None,
        predictions=_predictions([row for row in output if row.counts is None], manifest),
        splits=splits,
        left_out=rows - results[0].rows,
        notes=notes,
    )


def _counted(
    spark: SparkSession, models: Sequence[tuple[ModelInfo, Sequence[int], bool]], table: Table, splits: Sequence[Split]
) -> list[Row]:
    """The rows of `OUT_COLUMNS` from all partitions. Each model comes with the other two fields of `Contestant`."""
    manifest = table.manifest
    spec, rows = manifest.spec, sum(manifest.rows(split) for split in splits)
    files, first_rows = _files(table, splits)
    frame = (
        parquet_reader.read_parquet(spark, [f"{table.uri.rstrip('/')}/{file}" for file in files])
        # A table's files are named by the last two parts of their path.
        .select(
            *[F.col(part.column) for part in row_parts.of_table(manifest)],
            F.substring_index(F.col("_metadata.file_path"), "/", -2).alias("file"),
            F.col("_metadata.row_index").alias("row"),
        )
    )
    # Each task's process loads the model, which costs as much time as many rows. If Spark reads fewer partitions, they stay.
    partitions = max(1, rows // _MIN_ROWS_PER_TASK)
    try:
        packed = packed_models(spark, [info for info, _, _ in models])
        with arrow_batches(spark, spec.num_values), job_group(spark, "Convoy evaluation"):
            work = partial(
                count_batches,
                models=[
                    Contestant(model, order, leaves_out) for model, (_, order, leaves_out) in zip(packed, models, strict=True)
                ],
                manifest=dataclasses.replace(manifest, splits={}, sources=()),
                first_rows=first_rows,
                kept_rows=_MAX_OUTPUTS // manifest.num_outputs,
            )
            return list(frame.coalesce(partitions).mapInArrow(work, OUT_COLUMNS).collect())
    except (Py4JJavaError, PySparkException) as error:
        raise spark_jobs.as_data_error(error, f"table {table.uri}: could not be evaluated") from error


def _notes(
    models: Sequence[ModelInfo], plans: Sequence[OwnRows], counts: Sequence[PartitionCounts], rows: int
) -> tuple[str, ...]:
    found = [own.note for own in plans]
    for index, info in enumerate(models):
        known, comparable = (sum(numbers) for numbers in zip(*(partition.own[index] for partition in counts), strict=True))
        found.append(own_rows.describe(info, Recognized(known=known, comparable=comparable, rows=rows)))
    return tuple(note for note in found if note)


def _result(counts: Sequence[PartitionCounts], model_index: int, task: Task) -> EvaluationResult:
    rows = sum(partition.counted for partition in counts)
    if not rows:
        raise DataError("there are no rows to evaluate, except those that a model was trained with; choose other data")
    loss = sum(partition.losses[model_index] for partition in counts)
    totals = Totals(task.metrics)
    for partition in counts:
        totals.merge(partition.sums[model_index])
    return EvaluationResult(loss=loss / rows, metrics=totals.values(), rows=rows)


def _predictions(output: Sequence[Any], manifest: TableManifest) -> Predictions:
    batches = [row for row in output if row.rows is not None]
    rows = np.concatenate([np.frombuffer(row.rows, np.int64) for row in batches])
    order = np.argsort(rows)
    outputs = np.concatenate([np.frombuffer(row.outputs, np.float32) for row in batches])
    target = row_parts.of_table(manifest)[1]
    targets = np.concatenate([np.frombuffer(row.targets, target.dtype) for row in batches]).reshape(-1, *target.shape)
    index_of_row = dict(zip(rows[order].tolist(), range(len(rows)), strict=True))
    mistakes = [row for row in output if row.worst is not None]
    worst = [index_of_row[number] for row in mistakes for number in np.frombuffer(row.worst, np.int64).tolist()]
    dtype = np.dtype(manifest.spec.dtype)
    images = np.frombuffer(b"".join(row.worst_images for row in mistakes), dtype).reshape(-1, *manifest.spec.shape)
    return Predictions(
        rows=rows[order],
        targets=targets[order],
        outputs=outputs.reshape(-1, manifest.num_outputs)[order],
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
