"""The steps of a training, counted apart from the updates that its optimizer has made.

An optimizer's `iterations` count its updates, by which Adam and LAMB correct the bias of their moments, and with which EMA warms
up. The steps are the position in the schedule and in the epoch. The two counts differ after a step whose gradients overflowed,
which updates nothing (`pipelines.train.optim.loss_scale`), and in a training that was resumed with other steps per epoch.
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from pipelines.train.optim.loss_scale import base_optimizer
from pipelines.train.optim.schedule import PlannedLearningRate


class StepLearningRate(keras.optimizers.schedules.LearningRateSchedule):
    """A planned learning rate by the count of steps instead of the optimizer's count of updates."""

    def __init__(self, rate: PlannedLearningRate, steps: tf.Variable) -> None:
        self._rate = rate
        self._steps = steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        return self._rate(self._steps)

    def get_config(self) -> dict[str, object]:
        return self._rate.get_config()


def new_step_count() -> tf.Variable:
    """A count of steps, int64, from 0."""
    return tf.Variable(0, trainable=False, dtype=tf.int64, name="steps")


def with_step_count(optimizer_class: type[keras.optimizers.Optimizer], count: tf.Variable) -> type[keras.optimizers.Optimizer]:
    """A subclass that counts each call of `apply`, as `steps`. A step that fails is not counted."""

    class CountingOptimizer(optimizer_class):
        steps = count

        def apply(self, grads: Sequence[tf.Tensor], trainable_variables: Any = None) -> Any:
            result = super().apply(grads, trainable_variables)
            # A constant made below would get the dependency in place of the assignment, and lose it when the graph is optimized.
            one = tf.constant(1, tf.int64)
            # The optimizer counts its update last, so the step is counted only after all checks have passed.
            with tf.control_dependencies([tf.identity(base_optimizer(self).iterations.value)]):
                count.assign_add(one)
            return result

    return CountingOptimizer


def steps_done(model: keras.Model) -> int:
    """Number of steps of the training so far, skipped ones included."""
    return int(model.optimizer.steps.numpy())


def set_steps_done(model: keras.Model, steps: int) -> None:
    """Continue the count, and with it the schedule, at a number of steps."""
    model.optimizer.steps.assign(steps)
