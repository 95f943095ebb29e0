"""Optimizers that average gradients over ranks, check that they are finite, and clip them."""

import re
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from pipelines.config.training import Compression
from pipelines.train.collectives.buckets import allreduce_gradients
from pipelines.train.collectives.reducers import Reducer
from pipelines.train.optim.loss_scale import NOT_FINITE
from pipelines.train.optim.step_times import StepTimer

_OWN = "those of this rank are finite:"


def with_allreduce(
    optimizer_class: type[keras.optimizers.Optimizer],
    compression: Compression = "none",
    reducer: Reducer | None = None,
    exact: bool = False,
    bucket_bytes: int = 1_000_000,
) -> type[keras.optimizers.Optimizer]:
    """A subclass whose updates use the mean gradients over all ranks, and whose `step_timer` times them.

    For training only: a saved model must not contain it, because loading that model would need Horovod.

    Args:
        optimizer_class: the optimizer to extend.
        compression: the number format in which Horovod sends and sums gradients.
        reducer: averages dense gradients over ranks; None to use Horovod.
        exact: average in float64, so that the mean does not depend on the order of the ranks. Twice as many bytes.
        bucket_bytes: Horovod sends gradients of at least this size alone (`pipelines.train.collectives.buckets`).
    """

    timer = StepTimer()

    class AllreduceOptimizer(optimizer_class):
        step_timer = timer
        own_gradients: Sequence[tf.Tensor] | None = None

        def apply(self, grads: Sequence[tf.Tensor], trainable_variables: Any = None) -> Any:
            if exact:
                grads = [tf.cast(tf.convert_to_tensor(gradient), tf.float64) for gradient in grads]
            # Gradients of embeddings are IndexedSlices, which Horovod gathers.
            dense = all(isinstance(gradient, tf.Tensor) for gradient in grads)

            def average(own: Sequence[tf.Tensor]) -> tuple[list[tf.Tensor], tf.Tensor]:
                if reducer is not None and dense:
                    return reducer.allreduce_mean(own)
                return allreduce_gradients(own, compression, bucket_bytes), tf.zeros((0, 2), tf.float64)

            means = timer.time(grads, average)
            if exact:
                means = [tf.cast(mean, tf.float32) for mean in means]
            # For `with_gradient_checks`, which is below this class.
            self.own_gradients = grads
            try:
                return super().apply(means, trainable_variables)
            finally:
                # Tensors of a graph are of no use outside of it.
                self.own_gradients = None

    return AllreduceOptimizer


def with_gradient_checks(
    optimizer_class: type[keras.optimizers.Optimizer], clip_norm: float = 0.0
) -> type[keras.optimizers.Optimizer]:
    """A subclass that rejects gradients that are not finite, and clips gradients by their global norm.

    Args:
        optimizer_class: the optimizer to extend.
        clip_norm: largest norm of the gradient of all weights together; 0 for no limit. The gradient is already averaged over
            ranks, so all ranks scale it by the same factor.
    """

    class CheckedOptimizer(optimizer_class):
        def apply(self, grads: Sequence[tf.Tensor], trainable_variables: Any = None) -> Any:
            own = getattr(self, "own_gradients", None) or grads
            with tf.control_dependencies([assert_finite(grads, own)]):
                if clip_norm:
                    grads, _ = tf.clip_by_global_norm(grads, clip_norm)
                return super().apply(grads, trainable_variables)

    return CheckedOptimizer


def assert_finite(gradients: Sequence[tf.Tensor], own: Sequence[tf.Tensor]) -> tf.Operation:
    """An operation that fails if a gradient contains a value that is not finite, as it does if the loss is not finite.

    After the allreduce all ranks have the same values, so all of them fail in the same step without further communication. The
    error tells whether this rank's `own` gradients, before the allreduce, were finite (`was_finite`).
    """

    def fail() -> tf.Operation:
        return tf.debugging.Assert(False, [NOT_FINITE, _OWN, tf.cast(tf.math.is_finite(_sum(own)), tf.int32)])

    return tf.cond(tf.math.is_finite(_sum(gradients)), tf.no_op, fail)


def was_finite(error: tf.errors.InvalidArgumentError) -> bool | None:
    """Whether a rank's own gradients were finite in the step in which `assert_finite` failed; None if it was not that."""
    found = re.search(rf"\[{_OWN}\] \[([01])\]", str(error))
    return found[1] == "1" if found else None


def _sum(gradients: Sequence[tf.Tensor]) -> tf.Tensor:
    # It is finite only if all of its terms are, and is cheaper than checking each of them.
    return tf.add_n([tf.reduce_sum(gradient) for gradient in gradients])
