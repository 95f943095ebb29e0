"""What happens around an epoch: summed metrics, validation, the spool, and the decision to stop.

Every decision is taken from numbers that were reduced over all ranks, so all ranks take the same one.
"""

import time
from typing import Any

import horovod.tensorflow as hvd
import keras
import tensorflow as tf

from pipelines.config import TrainingConfig
from pipelines.errors import LaunchError
from pipelines.spool import SpoolWriter
from pipelines.stream.batches import EvaluationData
from pipelines.train.distributed import averaged, summed
from pipelines.train.evaluate import EVALUATION_BATCH_SIZE, Evaluator

_PROGRESS_SECONDS = 0.5


class EpochCallback(keras.callbacks.Callback):
    """Reports each epoch and keeps the best weights.

    Args:
        training: the recipe.
        validation: this rank's validation rows, or None when none were set aside.
        spool: where this rank reports.
        steps: steps in an epoch.
        global_batch_size: examples that all ranks see in a step.
    """

    def __init__(
        self, training: TrainingConfig, validation: EvaluationData | None, spool: SpoolWriter, steps: int, global_batch_size: int
    ) -> None:
        super().__init__()
        self.epochs = 0
        self.best_epoch = 0
        self.rows_per_second = 0.0
        self.evaluation_seconds = 0.0
        self._training = training
        self._validation = validation
        self._spool = spool
        self._steps = steps
        self._global_batch_size = global_batch_size
        self._best_loss = float("inf")
        self._best_weights: list[Any] | None = None
        self._evaluator: Evaluator | None = None
        self._epoch_started = 0.0
        self._reported = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._epoch_started = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        now = time.monotonic()
        if self.epochs == 0 and self._reported == 0.0:
            self._spool.write("first_step")
        if now - self._reported < _PROGRESS_SECONDS:
            return
        self._reported = now
        step = batch + 1
        rows_per_second = step * self._global_batch_size / max(now - self._epoch_started, 1e-9)
        self._spool.write("progress", epoch=self.epochs + 1, step=step, rows_per_second=rows_per_second, **(logs or {}))

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        seconds = time.monotonic() - self._epoch_started
        means = _over_ranks(logs or {})
        metrics = {f"train/{name}": value for name, value in means.items()}
        _average_statistics(self.model)
        if self._validation is not None:
            started = time.monotonic()
            self._evaluator = self._evaluator or Evaluator(self.model)
            score = self._evaluator.score(self._validation.batches(EVALUATION_BATCH_SIZE))
            metrics |= {"validation/loss": score.loss, "validation/accuracy": score.accuracy}
            self.evaluation_seconds += time.monotonic() - started
        self.epochs = epoch + 1
        self.rows_per_second = self._steps * self._global_batch_size / seconds
        metrics |= {
            "epoch_seconds": seconds,
            "rows_per_second": self.rows_per_second,
            "learning_rate": float(self.model.optimizer.learning_rate),
        }
        self._spool.write("epoch", epoch=self.epochs, metrics=metrics)
        self._decide(metrics)

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        if self._best_weights is not None:
            self.model.set_weights(self._best_weights)

    def _decide(self, metrics: dict[str, float]) -> None:
        loss = metrics.get("validation/loss", metrics["train/loss"])
        if loss != loss:
            raise LaunchError(f"the loss of epoch {self.epochs} is not a number; lower training.base_learning_rate")
        if loss < self._best_loss:
            self._best_loss = loss
            self.best_epoch = self.epochs
            if self._training.early_stopping_patience:
                self._best_weights = self.model.get_weights()
        elif self._training.early_stopping_patience and self.epochs - self.best_epoch >= self._training.early_stopping_patience:
            self.model.stop_training = True


def _over_ranks(logs: dict[str, float]) -> dict[str, float]:
    # Every rank has trained on equally many examples, so the mean of means is the mean.
    return {name: total / hvd.size() for name, total in summed(logs).items()}


def _average_statistics(model: keras.Model) -> None:
    """Give every rank the same moving statistics of batch normalization, which each rank gathers from its own batches."""
    statistics = [weight for weight in model.non_trainable_weights if tf.as_dtype(weight.dtype).is_floating]
    if not statistics:
        return
    for variable, mean in zip(statistics, averaged([tf.convert_to_tensor(s.value) for s in statistics]), strict=True):
        variable.assign(mean)
