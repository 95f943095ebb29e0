"""Evaluation: loss and metrics over every row exactly once, for any number of workers."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import keras
import numpy.typing as npt
import tensorflow as tf

from pipelines import progress
from pipelines.data.stream.batches import EvaluationData, Shard, TrainingData
from pipelines.data.stream.reader import Block
from pipelines.models.memory import evaluation_rows
from pipelines.track.rundir.figure_data import PredictionWriter
from pipelines.train import figure_inputs
from pipelines.train.collectives.horovod import allreduce_sum
from pipelines.train.objective import DEFAULT, Objective
from pipelines.train.result import Score
from pipelines.train.worker_setup import WorkerSetup

BatchObserver = Callable[[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]], None]
"""Takes images, labels and probabilities of a batch."""

# Rows among which examples of different classes are looked for.
_EXAMPLE_ROWS = 1000
# Names of sums that no metric can have.
_LOSS, _ROWS = "/loss", "/rows"


class Evaluator:
    """Scores a network on this rank's batches and sums over ranks. Every rank must make the same number of calls."""

    def __init__(self, model: keras.Model, row_values: int, objective: Objective = DEFAULT) -> None:
        self.batch_size = evaluation_rows(model, row_values)
        """Rows per batch. No gradients are kept, so it may be larger than a training batch."""
        self._model = model
        self._objective = objective
        self._sums = tf.function(self._batch_sums, reduce_retracing=True)

    def score(self, batches: Iterable[Block], observe: BatchObserver | None = None) -> Score:
        """Loss and metrics of this rank's rows and those of all other ranks.

        Args:
            batches: this rank's rows; their number may differ between ranks.
            observe: called with each batch and its probabilities [n, classes] float32.
        """
        sums, rows = dict.fromkeys((_LOSS, *self._objective.metrics), 0.0), 0
        for images, labels in batches:
            progress.mark(f"evaluating, row {rows}")
            batch_sums, probabilities = self._sums(images, labels)
            for name, value in batch_sums.items():
                sums[name] += float(value)
            rows += len(labels)
            if observe is not None:
                observe(images, labels, probabilities.numpy())
        total = allreduce_sum(sums | {_ROWS: rows})
        count = max(total[_ROWS], 1.0)
        means = {name: total[name] / count for name in self._objective.metrics}
        return Score(loss=total[_LOSS] / count, metrics=means, rows=int(total[_ROWS]))

    def _batch_sums(self, images: tf.Tensor, labels: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        probabilities = self._model(images, training=False)
        losses = self._objective.row_loss(labels, probabilities)
        sums = {name: tf.reduce_sum(metric(labels, probabilities)) for name, metric in self._objective.metrics.items()}
        return {_LOSS: tf.reduce_sum(losses)} | sums, probabilities


class Validation:
    """The score of a network on this rank's validation rows and those of all other ranks.

    Args:
        shard: this rank's rows.
        objective: loss and metrics.
    """

    def __init__(self, shard: Shard, objective: Objective) -> None:
        self._rows = EvaluationData(shard)
        self._values = shard.table.manifest.spec.num_values
        self._objective = objective
        self._evaluator: Evaluator | None = None

    def score(self, model: keras.Model) -> Score:
        """The score of a model, the same one in every call."""
        self._evaluator = self._evaluator or Evaluator(model, self._values, self._objective)
        return self._evaluator.score(self._rows.batches(self._evaluator.batch_size))


def evaluate_test_rows(
    network: keras.Model,
    logged: keras.Model,
    shard: Shard,
    setup: WorkerSetup,
    training_data: TrainingData,
    objective: Objective,
    run_dir: Path | None,
) -> tuple[Score, float | None]:
    """Score the trained network on the test rows of all ranks.

    Args:
        network: the trained network, in float32.
        logged: the same network, or its mean over several views.
        shard: this rank's test rows.
        setup: this rank, and the number of workers.
        training_data: source of the examples for the figures.
        objective: loss and metrics.
        run_dir: receives the data of the figures (`pipelines.track.rundir.figure_data`); None for none.

    Returns:
        the score of `logged`; the accuracy of `network` if `logged` is another one, else None.
    """
    single_view = None
    predictions = PredictionWriter(shard.rows.start, setup.workers)
    rows, values = EvaluationData(shard), shard.table.manifest.spec.num_values
    evaluator = Evaluator(logged, values, objective)
    score = evaluator.score(rows.batches(evaluator.batch_size), predictions.add)
    if logged is not network:
        evaluator = Evaluator(network, values, objective)
        single_view = evaluator.score(rows.batches(evaluator.batch_size)).accuracy
    if run_dir is not None:
        predictions.save(run_dir, setup.rank)
        # On the last rank, because the first one saves the network next.
        if setup.rank == setup.workers - 1:
            progress.mark("keeping examples")
            figure_inputs.save_figure_inputs(run_dir, network, training_data.dataset(), next(rows.batches(_EXAMPLE_ROWS)))
    return score, single_view
