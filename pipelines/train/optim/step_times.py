"""How long a rank's own part of its steps takes, and how long it waits for the mean of all ranks' gradients.

A step takes equally long on all ranks, so only these parts tell which one the others wait for
(`pipelines.launch.health.symptoms`). They are measured within TensorFlow's graph, because Python sees only whole executions.
"""

import dataclasses
from collections.abc import Callable, Sequence

import tensorflow as tf

from pipelines.progress import StepTimes

Gradients = Sequence[tf.Tensor | tf.IndexedSlices]


class StepTimer:
    """Adds up the times of this rank's steps."""

    def __init__(self) -> None:
        with tf.device("CPU:0"):
            self._sums = tf.Variable(tf.zeros(len(dataclasses.fields(StepTimes)), tf.float64), trainable=False, name="step_times")
            self._since = tf.Variable(tf.timestamp(), trainable=False, name="step_began")
            self._later = tf.Variable(0.0, trainable=False, dtype=tf.float64, name="later_step")

    def begin(self) -> None:
        """Count the coming step from now on, as the first of an epoch: what was done since the last one is not part of a step."""
        self._since.assign(tf.timestamp())
        self._later.assign(0.0)

    def time(self, gradients: Gradients, average: Callable[[Gradients], tuple[list[tf.Tensor], tf.Tensor]]) -> list[tf.Tensor]:
        """Average gradients over ranks, and add up what this step took before and in it.

        Args:
            gradients: those of this rank.
            average: as `pipelines.train.collectives.reducers.Reducer.allreduce_mean`.
        """
        with tf.control_dependencies(tf.nest.flatten(list(gradients), expand_composites=True)):
            ready = tf.timestamp()
        means, waits = average(gradients)
        with tf.control_dependencies(means):
            averaged = tf.timestamp()
        held_up = tf.reduce_sum(tf.maximum(tf.minimum(waits[:, 1], ready) - tf.minimum(waits[:, 0], ready), 0.0))
        one, own, waited = tf.ones((), tf.float64), ready - held_up - self._since, averaged - ready + held_up
        later = self._later * tf.stack([one, own, own * own, waited, waited * waited])
        # In the order of the fields of `StepTimes`.
        self._sums.assign_add(tf.concat([tf.stack([one, own, waited]), later], 0))
        self._since.assign(averaged)
        self._later.assign(1.0)
        return means

    def times(self) -> StepTimes:
        """The sums so far. From any thread."""
        return StepTimes(
            **dict(zip((field.name for field in dataclasses.fields(StepTimes)), self._sums.numpy().tolist(), strict=True))
        )
