"""Restores a training from a checkpoint, and collects what a checkpoint holds."""

import math
from pathlib import Path

import keras

from pipelines.config import Config
from pipelines.track.rundir.events import EpochEnd, SpoolWriter
from pipelines.train.checkpoint import state, store
from pipelines.train.checkpoint.store import State
from pipelines.train.checkpoint.training_progress import TrainingProgress
from pipelines.train.checkpoint.writer import CheckpointWriter
from pipelines.train.optim.ema import validated_weights
from pipelines.train.optim.step_count import set_steps_done
from pipelines.train.worker_setup import WorkerSetup


def restore_training(model: keras.Model, path: Path | None, setup: WorkerSetup) -> TrainingProgress:
    """Restore the state of a checkpoint into a model.

    Args:
        model: a compiled model whose optimizer is built.
        path: description file of the checkpoint; None leaves the model as it is.
        setup: the current shards, batch size and steps per epoch.

    Returns:
        the progress to resume from.

    Raises:
        CheckpointError: the checkpoint is damaged, or of another network or optimizer.
    """
    if path is None:
        return TrainingProgress()
    checkpoint = store.verify(path)
    stored = checkpoint.state
    arrays = store.read_arrays(checkpoint)
    best = state.restore(model, model.optimizer, arrays)
    steps = setup.steps_per_epoch
    before = stored.shards, stored.batch_size_per_worker, stored.steps_per_epoch
    same = before == (setup.shards, setup.batch_size_per_worker, steps)
    step = stored.step if same else stored.step * steps // stored.steps_per_epoch
    # With other steps per epoch, this keeps the completed share of the training.
    set_steps_done(model, stored.epoch * steps + step)
    training_progress = TrainingProgress(
        epoch=stored.epoch,
        step=step,
        best_epoch=stored.best_epoch,
        best_loss=math.inf if stored.best_loss is None else stored.best_loss,
        best_weights=best,
        history=list(stored.history),
        dropout_calls=stored.dropout_calls if same else (),
        # Of as many ranks that had the mean of all ranks' totals.
        metric_totals=state.metric_totals(arrays, stored.workers / setup.workers),
    )
    if best is None and stored.best_epoch:
        _find_best(training_progress, stored, model)
    return training_progress


def _find_best(training_progress: TrainingProgress, stored: State, model: keras.Model) -> None:
    """Complete the best epoch of a checkpoint that does not hold its weights."""
    if _holds_best(stored):
        training_progress.best_weights = validated_weights(model)
    else:
        # Of an earlier version, which kept them only with early stopping: patience counts from here.
        training_progress.best_epoch, training_progress.best_loss = stored.epoch, math.inf


def _holds_best(current: State) -> bool:
    """Whether the weights of the best epoch follow from the checkpoint's own."""
    return current.step == 0 and current.best_epoch == current.epoch


def report_history(spool: SpoolWriter, training_progress: TrainingProgress) -> None:
    """Report the metrics of a checkpoint's epochs that the spool lacks.

    The spool's last second can be lost with a node or a supervisor, where the run folder takes no appends
    (`pipelines.system.writeback`).
    """
    reported = {event.values.epoch for event in spool.written() if isinstance(event.values, EpochEnd)}
    for epoch, metrics in enumerate(training_progress.history, 1):
        if epoch not in reported:
            spool.write(EpochEnd(epoch, metrics))


class CheckpointSaver:
    """Decides when a checkpoint is written, and what it holds.

    Args:
        writer: of rank 0; None on other ranks, which take the same decisions and write nothing.
        config: settings of the run.
        table_key: the `key` of the table's manifest.
        model: the network in training.
        setup: shards, batch size and steps per epoch.
    """

    def __init__(
        self, writer: CheckpointWriter | None, config: Config, table_key: str, model: keras.Model, setup: WorkerSetup
    ) -> None:
        self._writer = writer
        self._config = config
        self._table_key = table_key
        self._model = model
        self._setup = setup
        # Without the tracking settings, which may hold a password.
        flat = {key: value for key, value in config.flat().items() if not key.startswith("tracking.")}
        self._settings = {key: list(value) if isinstance(value, tuple) else value for key, value in flat.items()}

    def due_inside(self, before: int, step: int) -> bool:
        """Whether to save after this step of an epoch, counted from 1; `before` is the last one before it that Python saw."""
        every = self._config.checkpoint.every_steps
        return every > 0 and before // every < step // every

    def due_after(self, training_progress: TrainingProgress) -> bool:
        """Whether to save at the end of an epoch."""
        every, epochs = self._config.checkpoint.every_epochs, self._config.training.epochs
        last = training_progress.is_complete(epochs, self._config.training.early_stopping_patience)
        return every > 0 and (last or training_progress.epoch % every == 0)

    def save(self, training_progress: TrainingProgress) -> None:
        """Copy the state and write it while training continues."""
        if self._writer is None:
            return
        current = State(
            epoch=training_progress.epoch,
            step=training_progress.step,
            steps_per_epoch=self._setup.steps_per_epoch,
            workers=self._setup.workers,
            batch_size_per_worker=self._setup.batch_size_per_worker,
            learning_rate=float(self._model.optimizer.learning_rate),
            network=self._config.model.name,
            optimizer=self._config.training.optimizer,
            shapes=tuple(tuple(weight.shape) for weight in self._model.weights),
            table_key=self._table_key,
            settings=self._settings,
            history=tuple(training_progress.history),
            best_epoch=training_progress.best_epoch,
            best_loss=training_progress.best_loss if math.isfinite(training_progress.best_loss) else None,
            dropout_calls=training_progress.dropout_calls,
            weights_sha256=training_progress.weights_sha256 if training_progress.step == 0 else "",
        )
        best = None if _holds_best(current) else training_progress.best_weights
        arrays = state.collect(self._model, self._model.optimizer, best, training_progress.step > 0)
        self._writer.save(current, arrays)

    def save_at_stop(self, training_progress: TrainingProgress) -> None:
        """Save, if checkpoints are written at all, and wait until the last one is on disk.

        Inside an epoch rank 0 has only its own statistics and metrics. Where there are checkpoints before which all ranks agreed
        on these (`due_inside`), the last of them stands, from which training continues exactly.
        """
        settings = self._config.checkpoint
        if self._writer is None or not (settings.every_epochs or settings.every_steps):
            return
        if training_progress.step == 0 or not settings.every_steps:
            self.save(training_progress)
        self._writer.finish()
