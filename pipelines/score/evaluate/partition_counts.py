"""Count the predictions for the rows of a partition. Runs in Spark's Python workers."""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.data.table.schema import ImageSpec
from pipelines.errors import DataError
from pipelines.score import arrow_images
from pipelines.score.spark_model import Shipment, load

# Workers return two kinds of rows: one tally per partition, and per batch the predictions as raw array bytes.
OUT_COLUMNS = "tally string, rows binary, labels binary, probabilities binary, worst binary, worst_images binary"
_MISTAKES = 25
# Keras' bound on probabilities before it takes their logarithm.
_EPSILON = 1e-7


@dataclass
class PartitionCounts:
    """Sums over the rows of a partition."""

    losses: list[float]
    confusions: list[list[list[int]]]
    pairs: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    """Number of rows that both, only the first, only the second, and neither of the first two models get right."""


def tally_batches(
    batches: Iterable[pa.RecordBatch],
    *,
    shipments: Sequence[Shipment],
    image: ImageSpec,
    first_rows: Mapping[str, int],
    kept_rows: int,
) -> Iterator[pa.RecordBatch]:
    """Evaluate the rows of a partition. Runs in Spark's workers; yields `OUT_COLUMNS`.

    Args:
        batches: columns image, label, file, row.
        shipments: the models.
        image: layout of the image bytes.
        first_rows: number of the first row of each file.
        kept_rows: predictions for rows from this number on are counted, but not returned.

    Raises:
        DataError: an image has the wrong number of bytes.
    """
    tally: PartitionCounts | None = None
    worst: list[tuple[float, int, bytes]] = []
    for batch in batches:
        if not len(batch):
            continue
        classifiers = [load(shipment) for shipment in shipments]
        num_classes = classifiers[0].info.num_classes
        if tally is None:
            nothing = np.zeros((num_classes, num_classes), np.int64).tolist()
            tally = PartitionCounts([0.0] * len(classifiers), [nothing] * len(classifiers))
        files = batch.column(2).dictionary_encode()
        starts = np.asarray([first_rows[name] for name in files.dictionary.to_pylist()])
        rows = starts[files.indices.to_numpy()] + batch.column(3).to_numpy()
        if (arrow_images.lengths(batch.column(0)) != image.num_bytes).any():
            raise DataError(f"{files.dictionary[0]}: an image does not have the {image.num_bytes} bytes that the manifest says")
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


def _count(tally: PartitionCounts, labels: npt.NDArray[Any], answers: Sequence[npt.NDArray[np.float32]]) -> None:
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
    """Cross-entropy of each row [n] in nats, computed as Keras does in training: probabilities are clipped, then renormalized."""
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
    return pa.RecordBatch.from_arrays(values, [column.split()[0] for column in OUT_COLUMNS.split(", ")])
