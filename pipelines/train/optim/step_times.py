"""How long a rank's own part of its steps takes, and how long it waits for the mean of all ranks' gradients.

A step takes equally long on all ranks, so only these parts tell which one the others wait for
(`pipelines.launch.health.symptoms`). They are measured within TensorFlow's graph, because Python sees only whole executions.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

from pipelines.progress import StepTimes

Gradients = Sequence[tf.Tensor | tf.IndexedSlices]


class StepTimer:
    """Adds up the times of this rank's steps."""

    def __init__(self) -> None:
        with tf.device("CPU:0"):
            self._sums = tf.Variable(tf.zeros(4, tf.float64), trainable=False, name="step_times")
            self._since = tf.Variable(tf.timestamp(), trainable=False, name="step_began")

    def begin(self) -> None:
        """Count the coming step from now on: what was done since the last one is not part of a step."""
        self._since.assign(tf.timestamp())

    def time(self, gradients: Gradients, average: Callable[[Gradients], list[tf.Tensor]]) -> list[tf.Tensor]:
        """Average gradients over ranks, and add up what this step took before and in it."""
        with tf.control_dependencies(tf.nest.flatten(list(gradients), expand_composites=True)):
            ready = tf.timestamp()
        means = average(gradients)
        with tf.control_dependencies(means):
            averaged = tf.timestamp()
        own = ready - self._since
        self._sums.assign_add(tf.stack([tf.ones((), tf.float64), own, own * own, averaged - ready]))
        self._since.assign(averaged)
        return means

    def times(self) -> StepTimes:
        """The sums so far. From any thread."""
        steps, own, squares, waited = self._sums.numpy().tolist()
        return StepTimes(steps=int(steps), own_seconds=own, own_squares=squares, waited_seconds=waited)
