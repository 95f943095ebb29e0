"""Count the predictions for the rows of a partition. Runs in Spark's Python workers."""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.data.formats import arrow_images
from pipelines.data.table.row_hashes import TrainingRows, hash_images
from pipelines.data.table.schema import DataSpec
from pipelines.errors import DataError
from pipelines.score.spark_model import PackedModel, load

# Workers return two kinds of rows: the counts of a partition, and per batch the predictions as raw array bytes.
OUT_COLUMNS = "counts string, rows binary, labels binary, probabilities binary, worst binary, worst_images binary"
_MAX_MISTAKES = 25
# Keras' bound on probabilities before it takes their logarithm.
_EPSILON = 1e-7


@dataclass(frozen=True)
class Contestant:
    """A model that is evaluated."""

    model: PackedModel
    order: Sequence[int]
    """Its class index of each class of the table."""
    leaves_out_own_rows: bool
    """Do not count the rows that it was trained with. It must record them."""


@dataclass
class PartitionCounts:
    """Sums over the rows of a partition. Rows that a model was trained with are part of `rows` and `own` only."""

    rows: int
    own: list[list[int]]
    """By model: the rows that it was trained with, and those that its record covers."""
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
    models: Sequence[Contestant],
    image: DataSpec,
    first_rows: Mapping[str, int],
    kept_rows: int,
) -> Iterator[pa.RecordBatch]:
    """Evaluate the rows of a partition. Runs in Spark's workers; yields `OUT_COLUMNS`.

    Args:
        batches: columns image, label, file, row.
        models: the models, all with the classes of the table.
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
        classifiers = [load(contestant.model) for contestant in models]
        if counts is None:
            counts = _nothing(len(models), classifiers[0].info.num_classes)
            own_rows = [
                classifier.info.training_rows() if contestant.leaves_out_own_rows else None
                for contestant, classifier in zip(models, classifiers, strict=True)
            ]
        files = batch.column(2).dictionary_encode()
        starts = np.asarray([first_rows[name] for name in files.dictionary.to_pylist()])
        rows = starts[files.indices.to_numpy()] + batch.column(3).to_numpy()
        if (arrow_images.byte_lengths(batch.column(0)) != image.num_bytes).any():
            raise DataError(f"{files.dictionary[0]}: an image does not have the {image.num_bytes} bytes that the manifest says")
        images = arrow_images.raw_images(batch.column(0), image.shape, image.dtype)
        labels = batch.column(1).to_numpy()
        are_own = _are_own(counts, images, own_rows)
        if are_own.any():
            rows, images, labels = rows[~are_own], images[~are_own], labels[~are_own]
        probabilities = [
            classifier.probabilities(images)[:, contestant.order]
            for contestant, classifier in zip(models, classifiers, strict=True)
        ]
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


def _nothing(num_models: int, num_classes: int) -> PartitionCounts:
    zeros = np.zeros((num_classes, num_classes), np.int64).tolist()
    return PartitionCounts(0, [[0, 0] for _ in range(num_models)], [0.0] * num_models, [zeros] * num_models)


def _are_own(counts: PartitionCounts, images: npt.NDArray[Any], own_rows: Sequence[TrainingRows | None]) -> npt.NDArray[np.bool_]:
    """Whether a model was trained with each image [n]. Adds what is found to the counts."""
    are_own = np.zeros(len(images), np.bool_)
    counts.rows += len(images)
    hashes = hash_images(images) if any(record is not None for record in own_rows) else None
    for own, record in zip(counts.own, own_rows, strict=True):
        if record is None or hashes is None:
            continue
        known = record.contain(hashes)
        own[0] += int(known.sum())
        own[1] += int((hashes <= np.uint64(record.limit)).sum())
        are_own |= known
    return are_own


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
