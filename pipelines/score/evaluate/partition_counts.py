"""Count the predictions for the rows of a partition. Runs in Spark's Python workers."""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.data.table.schema import ImageSpec
from pipelines.errors import DataError
from pipelines.score import arrow_images
from pipelines.score.spark_model import PackedModel, load

# Workers return two kinds of rows: the counts of a partition, and per batch the predictions as raw array bytes.
OUT_COLUMNS = "counts string, rows binary, labels binary, probabilities binary, worst binary, worst_images binary"
_MAX_MISTAKES = 25
# Keras' bound on probabilities before it takes their logarithm.
_EPSILON = 1e-7


@dataclass
class PartitionCounts:
    """Sums over the rows of a partition."""

    losses: list[float]
    confusions: list[list[list[int]]]
    pairs: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    """Number of rows that both, only the first, only the second, and neither of the first two models get right."""


class _Mistake(NamedTuple):
    confidence: float
    row: int
    image: bytes


def count_batches(
    batches: Iterable[pa.RecordBatch],
    *,
    models: Sequence[PackedModel],
    image: ImageSpec,
    first_rows: Mapping[str, int],
    kept_rows: int,
) -> Iterator[pa.RecordBatch]:
    """Evaluate the rows of a partition. Runs in Spark's workers; yields `OUT_COLUMNS`.

    Args:
        batches: columns image, label, file, row.
        models: the models.
        image: layout of the image bytes.
        first_rows: number of the first row of each file.
        kept_rows: predictions for rows from this number on are counted, but not returned.

    Raises:
        DataError: an image has the wrong number of bytes.
    """
    counts: PartitionCounts | None = None
    worst: list[_Mistake] = []
    for batch in batches:
        if not len(batch):
            continue
        classifiers = [load(model) for model in models]
        num_classes = classifiers[0].info.num_classes
        if counts is None:
            zeros = np.zeros((num_classes, num_classes), np.int64).tolist()
            counts = PartitionCounts([0.0] * len(classifiers), [zeros] * len(classifiers))
        files = batch.column(2).dictionary_encode()
        starts = np.asarray([first_rows[name] for name in files.dictionary.to_pylist()])
        rows = starts[files.indices.to_numpy()] + batch.column(3).to_numpy()
        if (arrow_images.byte_lengths(batch.column(0)) != image.num_bytes).any():
            raise DataError(f"{files.dictionary[0]}: an image does not have the {image.num_bytes} bytes that the manifest says")
        images = arrow_images.raw_images(batch.column(0), image.shape, image.dtype)
        labels = batch.column(1).to_numpy()
        probabilities = [classifier.probabilities(images) for classifier in classifiers]
        _add(counts, labels, probabilities)
        kept = np.flatnonzero(rows < kept_rows)
        if len(kept):
            mistakes = _mistakes(images, labels, probabilities[0], rows, kept)
            worst = sorted(worst + mistakes, key=lambda mistake: (-mistake.confidence, mistake.row))[:_MAX_MISTAKES]
            yield _output(rows=rows[kept], labels=labels[kept], probabilities=probabilities[0][kept])
    if counts is not None:
        yield _output(counts=json.dumps(dataclasses.asdict(counts)))
        if worst:
            worst_rows = np.asarray([mistake.row for mistake in worst], np.int64)
            yield _output(worst=worst_rows, worst_images=b"".join(mistake.image for mistake in worst))


def _add(counts: PartitionCounts, labels: npt.NDArray[Any], probabilities: Sequence[npt.NDArray[np.float32]]) -> None:
    """Add a batch, with the probabilities of each model, to the counts."""
    correct = []
    for model, by_class in enumerate(probabilities):
        predicted = by_class.argmax(axis=1)
        correct.append(predicted == labels)
        counts.losses[model] += float(cross_entropy(labels, by_class).sum())
        num_classes = by_class.shape[1]
        confusion = np.bincount(labels * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)
        counts.confusions[model] = (np.asarray(counts.confusions[model]) + confusion).tolist()
    if len(correct) > 1:
        first, second = correct[:2]
        for index, rows in enumerate((first & second, first & ~second, ~first & second, ~first & ~second)):
            counts.pairs[index] += int(rows.sum())


def cross_entropy(labels: npt.NDArray[Any], probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Cross-entropy of each row [n] in nats, computed as Keras does in training: probabilities are clipped, then renormalized."""
    clipped = probabilities.astype(np.float64).clip(_EPSILON, 1 - _EPSILON)
    of_label = clipped[np.arange(len(labels)), labels]
    losses: npt.NDArray[np.float64] = np.log(clipped.sum(axis=1)) - np.log(of_label)
    return losses


def _mistakes(
    images: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    probabilities: npt.NDArray[np.float32],
    rows: npt.NDArray[np.int64],
    kept: npt.NDArray[np.int64],
) -> list[_Mistake]:
    """The most confident mistakes among the kept rows of a batch."""
    wrong = kept[probabilities[kept].argmax(axis=1) != labels[kept]]
    most_confident = wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")[:_MAX_MISTAKES]]
    return [_Mistake(float(probabilities[i].max()), int(rows[i]), images[i].tobytes()) for i in most_confident]


def _output(
    *,
    counts: str | None = None,
    rows: npt.NDArray[Any] | None = None,
    labels: npt.NDArray[Any] | None = None,
    probabilities: npt.NDArray[Any] | None = None,
    worst: npt.NDArray[Any] | None = None,
    worst_images: bytes | None = None,
) -> pa.RecordBatch:
    arrays = [values.tobytes() if values is not None else None for values in (rows, labels, probabilities, worst)]
    values = [pa.array([counts], pa.string())] + [pa.array([content], pa.binary()) for content in (*arrays, worst_images)]
    return pa.RecordBatch.from_arrays(values, [column.split()[0] for column in OUT_COLUMNS.split(", ")])
