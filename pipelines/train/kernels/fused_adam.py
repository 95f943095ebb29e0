"""Adam's update in few operations per weight (Kingma and Ba 2014, arXiv:1412.6980, in the form given just before section 2.1).

Keras composes it of some twenty operations, each of which reads and writes arrays as large as the weights: a tenth of a small
network's step on a CPU. The update is the same up to rounding.

TensorFlow's operation updates the weight and the first moment. It would also update the second one, but computes 1 - 0.999 in
float32, which is off by 1.3e-5 of it. That is more than rounding: 39 steps with clipped gradients made it 4e-2 of a weight.
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf


def with_fused_update(optimizer_class: type[keras.optimizers.Adam]) -> type[keras.optimizers.Adam]:
    """A subclass of Adam or AdamW that updates each weight by TensorFlow's `ResourceApplyAdam`."""

    class FusedAdam(optimizer_class):
        _decays: Sequence[tf.Tensor] = ()

        def apply(self, grads: Sequence[tf.Tensor], trainable_variables: Any = None) -> Any:
            step = tf.cast(self.iterations + 1, tf.float32)
            # Once per step, not per weight. Past Keras' __setattr__, which would keep the tensors of a graph.
            object.__setattr__(self, "_decays", (tf.pow(self.beta_1, step), tf.pow(self.beta_2, step)))
            return super().apply(grads, trainable_variables)

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            if self.amsgrad or variable.dtype != tf.float32 or not isinstance(gradient, tf.Tensor):
                # AMSGrad, or IndexedSlices, which are the gradients of embeddings.
                super().update_step(gradient, variable, learning_rate)
                return
            index = self._get_variable_index(variable)
            first, second = self._momentums[index], self._velocities[index]
            gradient = tf.cast(gradient, tf.float32)
            # second += (gradient^2 - second) * (1 - beta2)
            tf.raw_ops.ResourceApplyGradientDescent(
                var=_resource(second),
                alpha=tf.constant(1 - self.beta_2, tf.float32),
                delta=tf.convert_to_tensor(second.value) - tf.square(gradient),
            )
            tf.raw_ops.ResourceApplyAdam(
                var=_resource(variable),
                m=_resource(first),
                v=_resource(second),
                beta1_power=self._decays[0],
                beta2_power=self._decays[1],
                lr=tf.cast(learning_rate, tf.float32),
                beta1=tf.constant(self.beta_1, tf.float32),
                # Leaves the second moment as it is.
                beta2=tf.constant(1.0, tf.float32),
                epsilon=tf.constant(self.epsilon, tf.float32),
                grad=gradient,
            )

    return FusedAdam


def _resource(variable: Any) -> tf.Tensor:
    # Keras passes weights as TensorFlow variables, and keeps moments as its own variables.
    return (variable.value if isinstance(variable, keras.Variable) else variable).handle
