"""The Keras callback of every rank: metrics over all ranks, validation, events, checkpoints, and early stopping.

Every decision is based on numbers that were reduced over all ranks, so all ranks decide alike.
"""

import logging
import math
import time

import keras

from pipelines import progress
from pipelines.config.training import TrainingConfig
from pipelines.data.stream.canonical import WorkerData
from pipelines.errors import ConfigError, TrainingError
from pipelines.track.rundir.events import EpochEnd, FirstStep, SpoolWriter, StepProgress, TrainingStopped
from pipelines.track.rundir.logs import set_epoch
from pipelines.train.checkpoint.restore import CheckpointSaver
from pipelines.train.checkpoint.state import RandomGenerators, add_metric_totals
from pipelines.train.checkpoint.training_progress import TrainingProgress
from pipelines.train.collectives.horovod import allreduce_sum, check_equal_state
from pipelines.train.evaluate import Validation
from pipelines.train.metrics import allreduce_totals, task_metrics, value_of
from pipelines.train.optim.ema import allreduce_statistics, averaged_weights, validated_weights
from pipelines.train.optim.step_count import steps_done
from pipelines.train.weight_digests import WeightDigests
from pipelines.train.worker_setup import WorkerSetup

_log = logging.getLogger(__name__)
_PROGRESS_SECONDS = 0.5


class EpochCallback(keras.callbacks.Callback):
    """Reports each epoch, keeps the best weights, and triggers checkpoints.

    Args:
        training: settings of the training.
        setup: steps per epoch, and examples per step.
        training_progress: where the training starts; updated in place.
        data: the training data; set to each epoch when it begins.
        validation: this rank's validation rows; None for none.
        generators: the network's random generators, reseeded for each epoch.
        spool: the rank's event log.
        saver: writes the checkpoints.
    """

    def __init__(
        self,
        training: TrainingConfig,
        setup: WorkerSetup,
        training_progress: TrainingProgress,
        data: WorkerData,
        validation: Validation | None,
        generators: RandomGenerators,
        spool: SpoolWriter,
        saver: CheckpointSaver,
    ) -> None:
        super().__init__()
        self.training_progress = training_progress
        self.rows_per_second = 0.0
        self._training = training
        self._setup = setup
        self._data = data
        self._validation = validation
        self._generators = generators
        self._spool = spool
        self._saver = saver
        self._first_step = 0
        self._totals_added = 0
        self._epoch_started = 0.0
        self._reported = 0.0
        self._last_step: dict[str, float] = {}
        self._digests = WeightDigests()

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._data.begin(epoch)
        self._generators.begin(epoch, self.training_progress.dropout_calls)
        self._totals_added = add_metric_totals(self.model, self.training_progress.metric_totals)
        self._first_step = self.training_progress.step
        self._epoch_started = time.monotonic()
        progress.mark(f"epoch {epoch + 1}, step {self._first_step + 1}")
        self.model.optimizer.step_timer.begin()
        set_epoch(epoch + 1)

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self._last_step = logs or {}
        # Not `batch`: with several steps per execution, it is the first of them in Keras 3.2 and the last in later versions.
        steps = steps_done(self.model)
        self._digests.after_step(self.model, steps)
        step = steps - self.training_progress.epoch * self._setup.steps_per_epoch
        before, self.training_progress.step = self.training_progress.step, step
        if self.training_progress.metric_totals:
            add_metric_totals(self.model, self.training_progress.metric_totals, self._totals_added)
            self.training_progress.metric_totals = ()
        progress.mark(f"epoch {self.training_progress.epoch + 1}, step {step + 1}")
        now = time.monotonic()
        if self._reported == 0.0:
            self._spool.write(FirstStep())
        # After the last step, stop at the end of the epoch instead, so that no checkpoint lies between the two.
        if step < self._setup.steps_per_epoch:
            self._stop_if_requested()
            if self._saver.due_inside(before, step):
                self._save_inside_epoch()
        if now - self._reported < _PROGRESS_SECONDS:
            return
        self._reported = now
        rows = (step - self._first_step) * self._setup.global_batch_size
        rows_per_second = rows / max(now - self._epoch_started, 1e-9)
        logs = logs or {}
        shown = [*(each.name for each in task_metrics(self.model)[:1]), "loss"]
        so_far = {name: logs[name] for name in shown if name in logs}
        self._spool.write(StepProgress(self.training_progress.epoch + 1, step, rows_per_second, so_far))

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        seconds = time.monotonic() - self._epoch_started
        progress.mark(f"end of epoch {epoch + 1}")
        # Keras 3.2 has only the model's metrics here, and not what a train_step of the user's gives.
        logs = logs if logs and "loss" in logs else self._last_step
        if "loss" not in logs:
            raise ConfigError(f"model.name: train_step gives {', '.join(logs) or 'nothing'}; it must give a loss, too")
        metrics = {f"train/{name}": value for name, value in self._over_ranks(logs).items()}
        allreduce_statistics(self.model)
        self.training_progress.weights_sha256 = check_equal_state(self.model, self.model.optimizer, f"after epoch {epoch + 1}")
        validation_started = time.monotonic()
        if self._validation is not None:
            with averaged_weights(self.model):
                score = self._validation.score(self.model)
            metrics |= score.named("validation")
        self.rows_per_second = (self._setup.steps_per_epoch - self._first_step) * self._setup.global_batch_size / seconds
        metrics |= {
            "epoch_seconds": seconds,
            "rows_per_second": self.rows_per_second,
            "learning_rate": float(self.model.optimizer.learning_rate),
        }
        self.training_progress.epoch, self.training_progress.step, self.training_progress.dropout_calls = epoch + 1, 0, ()
        validation_seconds = time.monotonic() - validation_started
        self._spool.write(EpochEnd(self.training_progress.epoch, metrics, validation_seconds))
        _log.info("%s", " ".join(f"{name}={value:.6g}" for name, value in metrics.items()))
        self._decide(metrics)
        progress.mark(f"checkpoint of epoch {epoch + 1}")
        if self._saver.due_after(self.training_progress):
            self._saver.save(self.training_progress)
        self._stop_if_requested()

    def _over_ranks(self, logs: dict[str, float]) -> dict[str, float]:
        """Loss and metrics of the epoch over the rows of all ranks."""
        # Every rank has trained on the same number of examples, so the mean of means is the mean.
        values = {name: total / self._setup.workers for name, total in allreduce_sum(logs).items()}
        others = [each for each in task_metrics(self.model) if each.needs_totals and each.name in logs]
        sums = {name: value for each in others for name, value in each.totals().items()}
        totals = allreduce_sum(sums) if sums else {}
        return values | {each.name: value_of(each.metric, totals) for each in others}

    def _decide(self, metrics: dict[str, float]) -> None:
        training_progress, patience = self.training_progress, self._training.early_stopping_patience
        loss = metrics.get("validation/loss", metrics["train/loss"])
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss of epoch {training_progress.epoch} is not finite, at learning rate {metrics['learning_rate']:g}; "
                "lower training.base_learning_rate",
                "not finite",
            )
        training_progress.history.append(metrics)
        if loss < training_progress.best_loss:
            training_progress.best_loss, training_progress.best_epoch = loss, training_progress.epoch
            # Without patience, only a resumption with it may need them.
            keep = patience or self._setup.rank == 0
            training_progress.best_weights = validated_weights(self.model) if keep else None
        self.model.stop_training = training_progress.stops_early(patience)

    def _save_inside_epoch(self) -> None:
        """Save at a step that all ranks know. They agree before it, so that training continues from it as it would without."""
        allreduce_statistics(self.model)
        allreduce_totals(self.model)
        self.training_progress.dropout_calls = self._generators.calls()
        self._saver.save(self.training_progress)
        self.model.optimizer.step_timer.begin()

    def _stop_if_requested(self) -> None:
        if not progress.stop_requested() or self._setup.rank != 0:
            return
        self.training_progress.dropout_calls = self._generators.calls() if self.training_progress.step else ()
        self._saver.save_at_stop(self.training_progress)
        self._spool.write(TrainingStopped(self.training_progress.epoch, self.training_progress.step))
        raise progress.Stopped
