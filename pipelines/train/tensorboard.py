"""TensorBoard logs of rank 0: the metrics of each epoch, and a trace of TensorFlow's profiler.

Written to `tensorboard` in the run folder, from where the driver logs them to the run's artifacts.
"""

from collections.abc import Mapping
from pathlib import Path

import keras
import tensorflow as tf

from pipelines.config import TrackingConfig
from pipelines.train.checkpoint.training_progress import TrainingProgress

# What `tf.summary.scalar` writes, which needs TensorBoard to be installed.
_SCALAR = tf.compat.v1.SummaryMetadata(
    plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"), data_class="DATA_CLASS_SCALAR"
)


class TensorBoardLogs(keras.callbacks.Callback):
    """Writes the logs. Comes after `EpochCallback`.

    Args:
        folder: receives them, in files that grow.
        tracking: what to write.
        training_progress: its history has the metrics of each epoch, over all ranks.
        steps_before: steps of the training before this start, which a resumed one does not trace again.
    """

    def __init__(self, folder: Path, tracking: TrackingConfig, training_progress: TrainingProgress, steps_before: int) -> None:
        super().__init__()
        self._folder = folder
        self._first, self._last = tracking.profile or (0, 0)
        self._training_progress = training_progress
        self._steps = steps_before
        self._tracing = False
        self._writer = tf.summary.create_file_writer(str(folder)) if tracking.tensorboard else None

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        # With several steps per execution, the first execution that contains the step.
        if not self._tracing and self._first and self._steps + 1 >= self._first and self._steps < self._last:
            tf.profiler.experimental.start(str(self._folder))
            self._tracing = True

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        self._steps += int(self.model.steps_per_execution)
        if self._tracing and self._steps >= self._last:
            self._stop_trace()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        if self._writer is None:
            return
        with self._writer.as_default(step=epoch + 1):
            for name, value in self._training_progress.history[-1].items():
                tf.summary.write(name, tf.constant(value, tf.float32), metadata=_SCALAR)
        self._writer.flush()

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        if self._tracing:
            self._stop_trace()
        if self._writer is not None:
            self._writer.flush()

    def _stop_trace(self) -> None:
        tf.profiler.experimental.stop()
        self._tracing, self._first = False, 0
