"""A stop between two steps of one execution.

With `training.steps_per_execution`, TensorFlow runs many steps per call, and Python only sees their end. Rank 0 must hear a
request to stop within the seconds that remain to it (`pipelines.launch.workers.commands`), so its steps ask for themselves.
"""

import threading

import keras
import tensorflow as tf

from pipelines import progress


def use_stop(model: keras.Model, obeys: bool) -> None:
    """Make a model's training step do nothing once a stop is requested, in place: no weight, metric or generator changes.

    Args:
        model: a compiled model.
        obeys: False on ranks that do not stop by themselves. Their step is built alike, because Horovod matches operations by
            their names.
    """
    runs = tf.Variable(True, trainable=False, name="runs")

    class StoppableModel(type(model)):  # type: ignore[misc]
        def train_step(self, data: tuple[tf.Tensor, ...]) -> dict[str, tf.Tensor]:
            step = super().train_step
            # In this order: the step builds the metrics.
            metrics: dict[str, tf.Tensor] = tf.cond(runs, lambda: step(data), self.get_metrics_result)
            return metrics

    model.__class__ = StoppableModel
    if obeys:

        def obey() -> None:
            progress.wait_for_stop()
            runs.assign(False)

        threading.Thread(target=obey, name="stop", daemon=True).start()
