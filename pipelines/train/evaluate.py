"""Loss and accuracy over every row exactly once, whatever the number of workers."""

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy.typing as npt
import tensorflow as tf

from pipelines import progress
from pipelines.data.stream.reader import Block
from pipelines.train.collectives.horovod import allreduce_sum
from pipelines.train.result import Score

# Images, labels and probabilities of a batch.
BatchObserver = Callable[[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]], None]

# Rows at once. Gradients are not kept, so this may be larger than a training batch.
EVALUATION_BATCH_SIZE = 1000


class Evaluator:
    """Scores a network on this rank's batches and sums over ranks. Every rank must call it the same number of times."""

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._sums = tf.function(self._batch_sums, reduce_retracing=True)

    def score(self, batches: Iterable[Block], witness: BatchObserver | None = None) -> Score:
        """Cross-entropy (nats, without label smoothing) and accuracy.

        Args:
            batches: this rank's rows; ranks may have different numbers of them.
            witness: is shown each batch with its probabilities [n, classes] float32.
        """
        loss, correct, rows = 0.0, 0, 0
        for images, labels in batches:
            progress.mark(f"evaluating, row {rows}")
            batch_loss, batch_correct, probabilities = self._sums(images, labels)
            loss += float(batch_loss)
            correct += int(batch_correct)
            rows += len(labels)
            if witness is not None:
                witness(images, labels, probabilities.numpy())
        total = allreduce_sum({"loss": loss, "correct": correct, "rows": rows})
        counted = max(total["rows"], 1.0)
        return Score(loss=total["loss"] / counted, accuracy=total["correct"] / counted, rows=int(total["rows"]))

    def _batch_sums(self, images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        probabilities = self._model(images, training=False)
        losses = keras.losses.sparse_categorical_crossentropy(labels, probabilities)
        predicted = tf.argmax(probabilities, axis=-1, output_type=tf.int32)
        correct = tf.reduce_sum(tf.cast(predicted == labels, tf.int32))
        return tf.reduce_sum(losses), correct, probabilities
