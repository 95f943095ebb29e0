"""Count the predictions for the rows of a partition. Runs in Spark's Python workers."""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines import tasks
from pipelines.data.formats import arrow_images
from pipelines.data.table import row_parts
from pipelines.data.table.row_hashes import TrainingRows, hash_images
from pipelines.data.table.row_parts import Part
from pipelines.data.table.schema import TableManifest
from pipelines.errors import DataError
from pipelines.score.classifier import Classifier
from pipelines.score.spark_model import PackedModel, load
from pipelines.tasks.metric import Totals
from pipelines.tasks.task import Task

# Workers return two kinds of rows: the counts of a partition, and per batch the predictions as raw array bytes.
OUT_COLUMNS = "counts string, rows binary, targets binary, outputs binary, worst binary, worst_images binary"
_MAX_MISTAKES = 25


@dataclass(frozen=True)
class Contestant:
    """A model that is evaluated."""

    model: PackedModel
    order: Sequence[int]
    """Its output for each class, or number, of the table."""
    leaves_out_own_rows: bool
    """Do not count the rows that it was trained with. It must record them."""


@dataclass
class PartitionCounts:
    """Sums over the rows of a partition. Rows that a model was trained with are part of `rows` and `own` only."""

    rows: int
    own: list[list[int]]
    """By model: the rows that it was trained with, and those that its record covers."""
    losses: list[float]
    sums: list[dict[str, float]]
    """By model: the sums of the metrics (`Totals.by_name`)."""
    pairs: list[float] = field(default_factory=list)
    """What compares the first two models (`Task.pair_sums`)."""
    counted: int = 0
    """Rows in `losses` and `sums`."""


class _Mistake(NamedTuple):
    confidence: float
    row: int
    image: bytes


def count_batches(
    batches: Iterable[pa.RecordBatch],
    *,
    models: Sequence[Contestant],
    manifest: TableManifest,
    first_rows: Mapping[str, int],
    kept_rows: int,
) -> Iterator[pa.RecordBatch]:
    """Evaluate the rows of a partition. Runs in Spark's workers; yields `OUT_COLUMNS`.

    Args:
        batches: the table's columns of input, target and, if there are any, weights; then file and row.
        models: the models, all with the outputs of the table.
        manifest: manifest of the table, without its splits.
        first_rows: number of the first row of each file.
        kept_rows: predictions for rows from this number on are counted, but not returned.

    Raises:
        DataError: an input or a target has the wrong number of bytes.
    """
    parts, task = row_parts.of_table(manifest), tasks.of(manifest.spec.task)
    counts: PartitionCounts | None = None
    worst: list[_Mistake] = []
    for batch in batches:
        if not len(batch):
            continue
        classifiers = [load(contestant.model) for contestant in models]
        deviations = [_deviations(contestant, classifier) for contestant, classifier in zip(models, classifiers, strict=True)]
        if counts is None:
            counts = PartitionCounts(0, [[0, 0] for _ in models], [0.0] * len(models), [{} for _ in models])
            own_rows = [
                classifier.info.training_rows() if contestant.leaves_out_own_rows else None
                for contestant, classifier in zip(models, classifiers, strict=True)
            ]
        files = batch.column(len(parts)).dictionary_encode()
        starts = np.asarray([first_rows[name] for name in files.dictionary.to_pylist()])
        rows = starts[files.indices.to_numpy()] + batch.column(len(parts) + 1).to_numpy()
        values = [_decoded(batch.column(index), part, files.dictionary[0].as_py()) for index, part in enumerate(parts)]
        are_own = _are_own(counts, values[0], own_rows)
        if are_own.any():
            rows, values = rows[~are_own], [each[~are_own] for each in values]
        inputs, targets, *weights = values
        outputs = _outputs(models, classifiers, inputs)
        _add(counts, task, targets, outputs, weights[0] if weights else None, deviations)
        kept = np.flatnonzero(rows < kept_rows)
        if len(kept):
            mistakes = _mistakes(inputs, task.confidence_of_mistakes(targets, outputs[0]), rows, kept)
            worst = sorted(worst + mistakes, key=lambda mistake: (-mistake.confidence, mistake.row))[:_MAX_MISTAKES]
            yield _output(rows=rows[kept], targets=targets[kept], outputs=outputs[0][kept])
    if counts is not None:
        yield _output(counts=json.dumps(dataclasses.asdict(counts)))
        if worst:
            worst_rows = np.asarray([mistake.row for mistake in worst], np.int64)
            yield _output(worst=worst_rows, worst_images=b"".join(mistake.image for mistake in worst))


def _decoded(column: pa.Array, part: Part, file: str) -> npt.NDArray[Any]:
    """The values of a column, [n, *part.shape]."""
    if not part.is_binary or part.dtype == "int32":
        numbers: npt.NDArray[Any] = column.to_numpy()
        return numbers
    if (arrow_images.byte_lengths(column) != part.num_bytes).any():
        raise DataError(
            f"{file}: a value of column {part.column} does not have the {part.num_bytes} bytes that the manifest says"
        )
    return arrow_images.raw_images(column, part.shape, part.dtype)


def _outputs(
    models: Sequence[Contestant], classifiers: Sequence[Classifier], inputs: npt.NDArray[Any]
) -> list[npt.NDArray[np.float32]]:
    """The outputs of each model, in the order of the table's classes or numbers [n, outputs]."""
    return [classifier.outputs(inputs)[:, contestant.order] for contestant, classifier in zip(models, classifiers, strict=True)]


def _deviations(contestant: Contestant, classifier: Classifier) -> Sequence[float]:
    """The standard deviation of each number of the table among the model's training rows; empty for classes."""
    deviations = classifier.info.target_deviations
    return [deviations[position] for position in contestant.order] if deviations else ()


def _are_own(counts: PartitionCounts, inputs: npt.NDArray[Any], own_rows: Sequence[TrainingRows | None]) -> npt.NDArray[np.bool_]:
    """Whether a model was trained with each row [n]. Adds what is found to the counts."""
    are_own = np.zeros(len(inputs), np.bool_)
    counts.rows += len(inputs)
    hashes = hash_images(inputs) if any(record is not None for record in own_rows) else None
    for own, record in zip(counts.own, own_rows, strict=True):
        if record is None or hashes is None:
            continue
        known = record.contain(hashes)
        own[0] += int(known.sum())
        own[1] += int((hashes <= np.uint64(record.limit)).sum())
        are_own |= known
    return are_own


def _add(
    counts: PartitionCounts,
    task: Task,
    targets: npt.NDArray[Any],
    outputs: Sequence[npt.NDArray[np.float32]],
    weights: npt.NDArray[Any] | None,
    deviations: Sequence[Sequence[float]],
) -> None:
    """Add a batch, with the outputs of each model and the deviations of the numbers among its training rows, to the counts."""
    counts.counted += len(targets)
    for model, predicted in enumerate(outputs):
        losses = task.row_losses(task.losses[0], targets, predicted, deviations[model])
        counts.losses[model] += float((losses if weights is None else losses * weights).sum())
        totals = Totals(task.metrics)
        totals.merge(counts.sums[model])
        totals.add(targets, predicted, weights)
        counts.sums[model] = totals.by_name
    if len(outputs) > 1:
        pairs = task.pair_sums(targets, outputs[0], outputs[1], deviations[1])
        counts.pairs = (pairs + (np.asarray(counts.pairs) if counts.pairs else 0)).tolist()


def _mistakes(
    inputs: npt.NDArray[Any],
    confidence: npt.NDArray[np.float64],
    rows: npt.NDArray[np.int64],
    kept: npt.NDArray[np.int64],
) -> list[_Mistake]:
    """The most confident mistakes among the kept rows of a batch."""
    wrong = kept[confidence[kept] > 0]
    most_confident = wrong[np.argsort(-confidence[wrong], kind="stable")[:_MAX_MISTAKES]]
    return [_Mistake(float(confidence[i]), int(rows[i]), inputs[i].tobytes()) for i in most_confident]


def _output(
    *,
    counts: str | None = None,
    rows: npt.NDArray[Any] | None = None,
    targets: npt.NDArray[Any] | None = None,
    outputs: npt.NDArray[Any] | None = None,
    worst: npt.NDArray[Any] | None = None,
    worst_images: bytes | None = None,
) -> pa.RecordBatch:
    arrays = [values.tobytes() if values is not None else None for values in (rows, targets, outputs, worst)]
    values = [pa.array([counts], pa.string())] + [pa.array([content], pa.binary()) for content in (*arrays, worst_images)]
    return pa.RecordBatch.from_arrays(values, [column.split()[0] for column in OUT_COLUMNS.split(", ")])
