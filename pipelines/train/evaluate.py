"""Evaluation: loss and metrics over every row exactly once, for any number of workers."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import keras
import numpy.typing as npt
import tensorflow as tf

from pipelines import progress
from pipelines.data.stream.batches import EvaluationData, Shard
from pipelines.data.stream.canonical import WorkerData
from pipelines.data.stream.reader import Block
from pipelines.models.memory import evaluation_rows
from pipelines.tasks.metric import Totals
from pipelines.track.rundir.figure_data import PredictionWriter
from pipelines.train import figure_inputs
from pipelines.train.collectives.horovod import allreduce_sum
from pipelines.train.result import Score
from pipelines.train.targets import TargetRules
from pipelines.train.worker_setup import WorkerSetup

BatchObserver = Callable[[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]], None]
"""Takes inputs, targets and outputs of a batch."""

# Rows among which examples of different classes are looked for.
_EXAMPLE_ROWS = 1000
# Names of sums that no metric can have.
_LOSS, _ROWS = "/loss", "/rows"


class Evaluator:
    """Scores a network on this rank's batches and sums over ranks. Every rank must make the same number of calls.

    Args:
        model: the network, as it is trained.
        rules: what its targets are.
    """

    def __init__(self, model: keras.Model, rules: TargetRules) -> None:
        self.batch_size = evaluation_rows(model, rules.manifest.spec.num_values)
        """Rows per batch. No gradients are kept, so it may be larger than a training batch."""
        self._model = model
        self._rules = rules
        self._outputs = tf.function(self._batch_outputs, reduce_retracing=True, autograph=False)

    def score(self, batches: Iterable[Block], observe: BatchObserver | None = None) -> Score:
        """Loss and metrics of this rank's rows and those of all other ranks.

        Args:
            batches: this rank's rows; their number may differ between ranks.
            observe: called with inputs, targets and outputs of each batch, these in source units, float32.
        """
        totals, loss, rows = Totals(self._rules.metrics), 0.0, 0
        for block in batches:
            inputs, targets, *weighted = block
            weights = weighted[0] if weighted else None
            progress.mark(f"evaluating, row {rows}")
            batch_loss, batch_outputs = self._outputs(inputs, targets, weights)
            loss += float(batch_loss)
            rows += len(targets)
            outputs = self._rules.restored(batch_outputs.numpy())
            totals.add(targets, outputs, weights)
            if observe is not None:
                observe(inputs, targets, outputs)
        # Every rank must pass the same names, also one without rows.
        totals.add(*self._rules.no_rows)
        total = allreduce_sum(totals.by_name | {_LOSS: loss, _ROWS: rows})
        count, loss = total.pop(_ROWS), total.pop(_LOSS)
        of_all = Totals(self._rules.metrics)
        of_all.merge(total)
        return Score(loss=loss / max(count, 1.0), metrics=of_all.values(), rows=int(count))

    def _batch_outputs(self, inputs: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        outputs = self._model(inputs, training=False)
        losses = self._rules.row_losses(targets, outputs)
        return tf.reduce_sum(losses if weights is None else losses * weights), outputs


class Validation:
    """Scores the network that is being trained on this rank's validation rows and those of all other ranks.

    Args:
        data: this rank's validation rows.
        rules: what the targets are.
    """

    def __init__(self, data: EvaluationData, rules: TargetRules) -> None:
        self._data = data
        self._rules = rules
        self._evaluator: Evaluator | None = None

    def score(self, model: keras.Model) -> Score:
        self._evaluator = self._evaluator or Evaluator(model, self._rules)
        return self._evaluator.score(self._data.batches(self._evaluator.batch_size))


def evaluate_test_rows(
    network: keras.Model,
    logged: keras.Model,
    shard: Shard,
    rules: TargetRules,
    setup: WorkerSetup,
    training_data: WorkerData,
    run_dir: Path | None,
) -> tuple[Score, float | None]:
    """Score the trained network on the test rows of all ranks.

    Args:
        network: the trained network, in float32.
        logged: the same network, or its mean over several views.
        shard: this rank's test rows.
        rules: what the targets are.
        setup: this rank, and the number of workers.
        training_data: source of the examples for the figures.
        run_dir: receives the data of the figures (`pipelines.track.rundir.figure_data`); None for none.

    Returns:
        the score of `logged`; the task's first metric of `network` if `logged` is another one, else None.
    """
    single_view = None
    predictions = PredictionWriter(shard.rows.start, setup.workers, rules.task.confidence_of_mistakes)
    rows = EvaluationData(shard)
    evaluator = Evaluator(logged, rules)
    score = evaluator.score(rows.batches(evaluator.batch_size), predictions.add)
    if logged is not network:
        evaluator = Evaluator(network, rules)
        single_view = next(iter(evaluator.score(rows.batches(evaluator.batch_size)).metrics.values()))
    if run_dir is not None:
        predictions.save(run_dir, setup.rank)
        # On the last rank, because the first one saves the network next.
        if setup.rank == setup.workers - 1:
            progress.mark("keeping examples")
            figure_inputs.save_figure_inputs(run_dir, network, training_data.dataset(), next(rows.batches(_EXAMPLE_ROWS)))
    return score, single_view
