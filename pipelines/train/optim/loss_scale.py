"""Loss scaling for float16, in which small gradients would underflow (Micikevicius et al. 2018, arXiv:1710.03740).

Uses Keras' dynamic scale: it doubles after 2,000 steps without overflow, and halves with each step that overflows, which changes
no weight. Ranks average their gradients before the check for overflow, so all see the same one, and none waits for an allreduce
that another rank skipped.
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

NOT_FINITE = "Convoy: gradients are not finite"
"""Contained in the message of TensorFlow's InvalidArgumentError when a check fails."""

# Reached after 25 overflows in a row from Keras' initial scale of 2^15: the loss itself is not finite then.
_SMALLEST_SCALE = 2.0**-10


class BoundedLossScaleOptimizer(keras.optimizers.LossScaleOptimizer):
    """Unscales gradients, and skips steps whose gradients are not finite.

    Fails in the graph, as `pipelines.train.optim.distributed.assert_finite` does, after too many such steps in a row.
    """

    def build(self, variables: Sequence[keras.Variable]) -> None:
        # Keras' own would add its variables again, with the initial scale.
        if not self.built:
            super().build(variables)

    def apply(self, grads: Sequence[tf.Tensor], trainable_variables: Any = None) -> Any:
        with tf.control_dependencies([tf.debugging.assert_greater(self.dynamic_scale.value, _SMALLEST_SCALE, NOT_FINITE)]):
            return super().apply([tf.identity(gradient) for gradient in grads], trainable_variables)


def base_optimizer(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """The optimizer that updates the weights and counts the steps: the inner one with loss scaling, else the optimizer itself."""
    inner: keras.optimizers.Optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    return inner
