"""How good are models on a table? Every row exactly once, counted by Spark's workers, whatever the number of partitions.

Several models are shown the same rows in one pass, so that they can be compared row by row.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from pipelines.data.ingest import spark_jobs
from pipelines.data.ingest.spark_jobs import arrow_batches, job_group
from pipelines.data.table.schema import IMAGE_COLUMN, LABEL_COLUMN, ImageSpec, Split, Table, TableManifest
from pipelines.errors import DataError
from pipelines.score import arrow_images
from pipelines.score.classifier import ModelInfo
from pipelines.score.evaluate.mcnemar import PairedCounts
from pipelines.score.spark_model import Shipment, load, shipped
from pipelines.system import paths
from pipelines.track.rundir.figure_data import Predictions

# Two kinds of rows come back: one tally a partition, and the answers to a batch of rows as arrays in their bytes.
_OUT_COLUMNS = "tally string, rows binary, labels binary, probabilities binary, worst binary, worst_images binary"
# Probabilities that the driver keeps for figures, 80 MB. Loss, accuracy and counts are of all rows.
_MOST_PROBABILITIES = 20_000_000
_MISTAKES = 25
_LEAST_ROWS_PER_TASK = 20_000
# As Keras bounds probabilities before it takes their logarithm.
_EPSILON = 1e-7


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """One model on the rows of a table."""

    loss: float
    """Mean cross-entropy in nats."""
    accuracy: float
    rows: int
    confusion: npt.NDArray[np.int64]
    """Rows by [true class, predicted class]."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    results: tuple[EvaluationResult, ...]
    """One a model."""
    pairs: PairedCounts | None
    """Of the first two models."""
    predictions: Predictions
    """Of the first model, in table order."""


@dataclass
class _Tally:
    """Sums over the rows of a partition."""

    losses: list[float]
    confusions: list[list[list[int]]]
    pairs: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    """Rows that both, only the first, only the second, and neither of the first two models get right."""


def evaluate(spark: SparkSession, models: Sequence[ModelInfo], table: Table, splits: Sequence[Split]) -> Comparison:
    """Show models the rows of some splits of a table.

    Args:
        spark: reads the table.
        models: one or more.
        table: the last of `splits` follows the first in row numbers.
        splits: which rows.

    Raises:
        DataError: the table does not hold what these models take, is damaged, or has no rows in these splits.
    """
    manifest, image = table.manifest, table.manifest.image
    for info in models:
        check_fit(info, manifest, table.uri)
    files, first_rows = _files(table, splits)
    read = (
        spark.read.parquet(*[paths.to_spark(f"{table.uri.rstrip('/')}/{file}") for file in files])
        # The last two parts of its path name a file of a table.
        .select(
            F.col(IMAGE_COLUMN),
            F.col(LABEL_COLUMN),
            F.substring_index(F.col("_metadata.file_path"), "/", -2).alias("file"),
            F.col("_metadata.row_index").alias("row"),
        )
    )
    expected = sum(manifest.rows(split) for split in splits)
    # Each task's process loads the model, which takes as long as many rows.
    partitions = max(1, min(read.rdd.getNumPartitions(), expected // _LEAST_ROWS_PER_TASK))
    try:
        with shipped(spark, models) as shipments, arrow_batches(spark, image.num_values), job_group(spark, "Convoy evaluation"):
            work = partial(
                tally_batches,
                shipments=shipments,
                image=image,
                first_rows=first_rows,
                kept_rows=_MOST_PROBABILITIES // manifest.num_classes,
            )
            collected = read.coalesce(partitions).mapInArrow(work, _OUT_COLUMNS).collect()
    except (Py4JJavaError, PySparkException) as error:
        raise spark_jobs.as_data_error(error, f"table {table.uri}: could not be evaluated") from error
    tallies = [_Tally(**json.loads(row.tally)) for row in collected if row.tally is not None]
    results = tuple(_result(tallies, place) for place in range(len(models)))
    if results[0].rows != expected:
        raise DataError(f"table {table.uri}: {results[0].rows} rows where the manifest says {expected}; ingest it again")
    pairs = np.sum([tally.pairs for tally in tallies], axis=0).tolist()
    return Comparison(
        results=results,
        pairs=PairedCounts(both=pairs[0], only_first=pairs[1], only_second=pairs[2], neither=pairs[3])
        if len(models) > 1
        else None,
        predictions=_predictions([row for row in collected if row.tally is None], manifest),
    )


def check_fit(info: ModelInfo, manifest: TableManifest, uri: str, *, with_classes: bool = True) -> None:
    """Raises DataError when the rows of a table are not what a model takes, or its classes are not those of the model."""
    compared: dict[str, tuple[Any, Any]] = {"image shape": (manifest.image.shape, info.image_shape)}
    if info.describes_classes:
        compared["value range"] = (manifest.image.value_range, info.value_range)
    if with_classes:
        compared["number of classes"] = (manifest.num_classes, info.num_classes)
    if with_classes and info.describes_classes:
        compared["labels"] = (manifest.labels, info.labels)
    for what, (found, wanted) in compared.items():
        if found != wanted:
            raise DataError(
                f"table {uri}: has {what} {_shown(found)}, model {info.uri} was trained on {_shown(wanted)}; "
                "name the data that this model is for"
            )


def tally_batches(
    batches: Iterable[pa.RecordBatch],
    *,
    shipments: Sequence[Shipment],
    image: ImageSpec,
    first_rows: Mapping[str, int],
    kept_rows: int,
) -> Iterator[pa.RecordBatch]:
    """Runs in Spark's workers. Takes columns image, label, file, row; see `_OUT_COLUMNS` for what it gives.

    Args:
        batches: the rows of a partition.
        shipments: the models.
        image: how to read the bytes.
        first_rows: number of the first row of each file.
        kept_rows: answers to rows from this number on are only counted.

    Raises:
        DataError: an image has the wrong number of bytes.
    """
    tally: _Tally | None = None
    worst: list[tuple[float, int, bytes]] = []
    for batch in batches:
        if not len(batch):
            continue
        classifiers = [load(shipment) for shipment in shipments]
        num_classes = classifiers[0].info.num_classes
        if tally is None:
            nothing = np.zeros((num_classes, num_classes), np.int64).tolist()
            tally = _Tally([0.0] * len(classifiers), [nothing] * len(classifiers))
        files = batch.column(2).dictionary_encode()
        starts = np.asarray([first_rows[name] for name in files.dictionary.to_pylist()])
        rows = starts[files.indices.to_numpy()] + batch.column(3).to_numpy()
        if (arrow_images.lengths(batch.column(0)) != image.num_bytes).any():
            raise DataError(f"{files.dictionary[0]}: an image does not hold the {image.num_bytes} bytes of its manifest")
        pixels = arrow_images.images(batch.column(0), image.shape, image.dtype)
        labels = batch.column(1).to_numpy()
        answers = [classifier.probabilities(pixels) for classifier in classifiers]
        _count(tally, labels, answers)
        kept = np.flatnonzero(rows < kept_rows)
        if len(kept):
            worst = _worst(worst, pixels, labels, answers[0], rows, kept)
            yield _out(rows=rows[kept], labels=labels[kept], probabilities=answers[0][kept])
    if tally is not None:
        places = np.asarray([row for _, row, _ in worst], np.int64)
        yield _out(tally=json.dumps(dataclasses.asdict(tally)))
        if worst:
            yield _out(worst=places, worst_images=b"".join(content for _, _, content in worst))


def _count(tally: _Tally, labels: npt.NDArray[Any], answers: Sequence[npt.NDArray[np.float32]]) -> None:
    right = []
    for place, probabilities in enumerate(answers):
        predicted = probabilities.argmax(axis=1)
        right.append(predicted == labels)
        tally.losses[place] += float(cross_entropy(labels, probabilities).sum())
        num_classes = probabilities.shape[1]
        counts = np.bincount(labels * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)
        tally.confusions[place] = (np.asarray(tally.confusions[place]) + counts).tolist()
    if len(right) > 1:
        first, second = right[:2]
        for place, chosen in enumerate((first & second, first & ~second, ~first & second, ~first & ~second)):
            tally.pairs[place] += int(chosen.sum())


def cross_entropy(labels: npt.NDArray[Any], probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Of each row [n], in nats, as Keras computes it in training: bounded probabilities, made to sum to 1 again."""
    bounded = probabilities.astype(np.float64).clip(_EPSILON, 1 - _EPSILON)
    chosen = bounded[np.arange(len(labels)), labels]
    losses: npt.NDArray[np.float64] = np.log(bounded.sum(axis=1)) - np.log(chosen)
    return losses


def _worst(
    worst: list[tuple[float, int, bytes]],
    pixels: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    probabilities: npt.NDArray[np.float32],
    rows: npt.NDArray[np.int64],
    kept: npt.NDArray[np.int64],
) -> list[tuple[float, int, bytes]]:
    wrong = kept[probabilities[kept].argmax(axis=1) != labels[kept]]
    surest = wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")[:_MISTAKES]]
    found = [(float(probabilities[place].max()), int(rows[place]), pixels[place].tobytes()) for place in surest]
    return sorted(worst + found, key=lambda mistake: (-mistake[0], mistake[1]))[:_MISTAKES]


def _out(
    *,
    tally: str | None = None,
    rows: npt.NDArray[Any] | None = None,
    labels: npt.NDArray[Any] | None = None,
    probabilities: npt.NDArray[Any] | None = None,
    worst: npt.NDArray[Any] | None = None,
    worst_images: bytes | None = None,
) -> pa.RecordBatch:
    arrays = [values.tobytes() if values is not None else None for values in (rows, labels, probabilities, worst)]
    values = [pa.array([tally], pa.string())] + [pa.array([content], pa.binary()) for content in (*arrays, worst_images)]
    return pa.RecordBatch.from_arrays(values, [column.split()[0] for column in _OUT_COLUMNS.split(", ")])


def _result(tallies: Sequence[_Tally], place: int) -> EvaluationResult:
    if not tallies:
        raise DataError("there are no rows to evaluate; choose other splits or other data")
    confusion = np.sum([np.asarray(tally.confusions[place]) for tally in tallies], axis=0)
    rows = int(confusion.sum())
    loss = sum(tally.losses[place] for tally in tallies)
    return EvaluationResult(loss=loss / rows, accuracy=float(np.trace(confusion)) / rows, rows=rows, confusion=confusion)


def _predictions(collected: Sequence[Any], manifest: TableManifest) -> Predictions:
    batches = [row for row in collected if row.rows is not None]
    rows = np.concatenate([np.frombuffer(row.rows, np.int64) for row in batches])
    order = np.argsort(rows)
    probabilities = np.concatenate([np.frombuffer(row.probabilities, np.float32) for row in batches])
    place_of = dict(zip(rows[order].tolist(), range(len(rows)), strict=True))
    mistakes = [row for row in collected if row.worst is not None]
    places = [place_of[number] for row in mistakes for number in np.frombuffer(row.worst, np.int64).tolist()]
    dtype = np.dtype(manifest.image.dtype)
    images = np.frombuffer(b"".join(row.worst_images for row in mistakes), dtype).reshape(-1, *manifest.image.shape)
    return Predictions(
        rows=rows[order],
        labels=np.concatenate([np.frombuffer(row.labels, np.int32) for row in batches])[order],
        probabilities=probabilities.reshape(-1, manifest.num_classes)[order],
        worst=np.asarray(places, np.int64),
        worst_images=images,
    )


def _files(table: Table, splits: Sequence[Split]) -> tuple[list[str], dict[str, int]]:
    """Paths of the files within the table, and the number of the first row of each."""
    files, first_rows, row = [], {}, 0
    for split in splits:
        for file in table.manifest.splits[split].files if split in table.manifest.splits else ():
            files.append(file.path)
            first_rows[file.path] = row
            row += file.rows
    if not files:
        raise DataError(f"table {table.uri}: has no rows in {' and '.join(splits)}; choose another --split")
    return files, first_rows


def _shown(value: Any) -> str:
    text = str(list(value)) if isinstance(value, tuple) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."
