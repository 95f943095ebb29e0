"""Adam's update as one operation per weight (Kingma and Ba 2014, arXiv:1412.6980, in the form given just before section 2.1).

Keras composes it of some twenty operations, each of which reads and writes arrays as large as the weights: a tenth of a small
network's step on a CPU. The update is the same up to rounding; 1 - 0.999, which TensorFlow computes in float32, differs from
0.001 by 1.3e-5 of it.
"""

from typing import Any

import keras
import tensorflow as tf


def with_fused_update(optimizer_class: type[keras.optimizers.Adam]) -> type[keras.optimizers.Adam]:
    """A subclass of Adam or AdamW that updates each weight by TensorFlow's `ResourceApplyAdam`."""

    class FusedAdam(optimizer_class):
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            if self.amsgrad or not isinstance(gradient, tf.Tensor):
                # AMSGrad, or IndexedSlices, which are the gradients of embeddings.
                super().update_step(gradient, variable, learning_rate)
                return
            kind, index = variable.dtype, self._get_variable_index(variable)
            step = tf.cast(self.iterations + 1, kind)
            tf.raw_ops.ResourceApplyAdam(
                var=_resource(variable),
                m=_resource(self._momentums[index]),
                v=_resource(self._velocities[index]),
                beta1_power=tf.cast(self.beta_1, kind) ** step,
                beta2_power=tf.cast(self.beta_2, kind) ** step,
                lr=tf.cast(learning_rate, kind),
                beta1=tf.cast(self.beta_1, kind),
                beta2=tf.cast(self.beta_2, kind),
                epsilon=tf.cast(self.epsilon, kind),
                grad=tf.cast(gradient, kind),
            )

    return FusedAdam


def _resource(variable: Any) -> tf.Tensor:
    # Keras passes weights as TensorFlow variables, and keeps moments as its own variables.
    return (variable.value if isinstance(variable, keras.Variable) else variable).handle
