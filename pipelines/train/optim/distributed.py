"""Optimizers that average gradients over ranks, and that refuse or clip them."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from pipelines.config.training import Compression
from pipelines.train.collectives.horovod import allreduce_mean
from pipelines.train.collectives.shared_memory import SharedMemoryReducer
from pipelines.train.optim.loss_scale import NOT_FINITE


def with_allreduce(
    optimizer_class: type[keras.optimizers.Optimizer],
    compression: Compression = "none",
    reducer: SharedMemoryReducer | None = None,
) -> type[keras.optimizers.Optimizer]:
    """A subclass whose updates use the mean gradients of all ranks.

    It is for training only: a saved model must not hold it, because loading that model would need Horovod.

    Args:
        optimizer_class: what makes updates of gradients.
        compression: the type in which gradients are sent and added up.
        neighbours: the other ranks, where they share memory; None leaves it to Horovod.
    """

    class AllreduceOptimizer(optimizer_class):
        def apply(self, grads: Sequence[tf.Tensor], trainable_variables: Any = None) -> Any:
            # Gradients of embeddings are sparse, which Horovod gathers.
            dense = all(isinstance(gradient, tf.Tensor) for gradient in grads)
            means = reducer.allreduce_mean(grads) if reducer is not None and dense else allreduce_mean(grads, compression)
            return super().apply(means, trainable_variables)

    return AllreduceOptimizer


def with_gradient_checks(
    optimizer_class: type[keras.optimizers.Optimizer], clip_norm: float = 0.0
) -> type[keras.optimizers.Optimizer]:
    """A subclass that is safe from gradients that are not finite or too long.

    Args:
        optimizer_class: what makes updates of gradients.
        clip_norm: the gradient, all weights together, is shortened to this length where it is longer; 0 for no limit. It is that
            of all ranks, so they shorten it by the same factor.
    """

    class CheckedOptimizer(optimizer_class):
        def apply(self, grads: Sequence[tf.Tensor], trainable_variables: Any = None) -> Any:
            with tf.control_dependencies([assert_finite(grads)]):
                if clip_norm:
                    grads, _ = tf.clip_by_global_norm(grads, clip_norm)
                return super().apply(grads, trainable_variables)

    return CheckedOptimizer


def assert_finite(gradients: Sequence[tf.Tensor]) -> tf.Tensor:
    """An operation that fails when a gradient holds a value that is not finite.

    After the reduction all ranks hold the same values, so all of them fail in the same step, without a word between them. A loss
    that is not finite has such gradients.
    """
    # The sum of a tensor is finite only if all its values are, and costs less than a look at each.
    total = tf.add_n([tf.reduce_sum(gradient) for gradient in gradients])
    return tf.debugging.assert_all_finite(total, NOT_FINITE)
