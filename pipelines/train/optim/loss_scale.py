"""float16: gradients that would vanish in it are kept by a larger loss (Micikevicius et al. 2018, arXiv:1710.03740).

Keras' dynamic scale is used: it doubles after 2,000 steps that went well and halves with each that overflowed, which changes no
weight. Ranks average their gradients before the scale looks at them: so all see the same overflow, and none waits for a reduction
that another left out.
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

NOT_FINITE = "Convoy: gradients are not finite"
"""What TensorFlow's InvalidArgumentError then says."""

# 25 overflows in a row from where Keras begins, which is 2^15. No larger scale helps a loss that is not finite.
_SMALLEST_SCALE = 2.0**-10


class BoundedLossScaleOptimizer(keras.optimizers.LossScaleOptimizer):
    """Unscales gradients, and leaves steps out whose gradients are not finite.

    Fails in the graph, as `pipelines.train.optim.distributed.assert_finite` does, when nothing but such steps follow each
    other.
    """

    def apply(self, grads: Sequence[tf.Tensor], trainable_variables: Any = None) -> Any:
        with tf.control_dependencies([tf.debugging.assert_greater(self.dynamic_scale.value, _SMALLEST_SCALE, NOT_FINITE)]):
            return super().apply([tf.identity(gradient) for gradient in grads], trainable_variables)


def base_optimizer(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """The optimizer that changes the weights and counts the steps: the same, or the one that is given unscaled gradients."""
    inner: keras.optimizers.Optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    return inner
