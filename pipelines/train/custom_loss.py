"""Training by a loss of the network's own (`pipelines.models.layers.CustomLoss`), of an inner layer's output."""

from typing import Any

import keras
import tensorflow as tf

from pipelines.models.layers import CustomLoss


def with_custom_loss(network: keras.Model, loss: CustomLoss) -> keras.Model:
    """A network of the same weights that answers the same, and whose loss, once compiled, is given what `loss.layer` answers.

    It is for training only: a saved model must not hold it.
    """

    class CustomLossModel(keras.Model):
        def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> tf.Tensor:
            probabilities, self._judged = super().call(inputs, training=training, mask=mask)
            return probabilities

        def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, *arguments: Any, **named: Any) -> tf.Tensor:
            # A step computes its loss right after the answer, in the same trace.
            return super().compute_loss(x, y, self._judged, *arguments, **named)

    return CustomLossModel(network.input, [network.output, network.get_layer(loss.layer).output], name=network.name)
