"""Training with a loss that the network defines on an inner layer's output (`pipelines.models.layers.CustomLoss`)."""

from typing import Any

import keras
import tensorflow as tf

from pipelines.models.layers import CustomLoss


def with_custom_loss(network: keras.Model, loss: CustomLoss) -> keras.Model:
    """A model with the same weights and outputs as `network`, whose compiled loss receives the output of `loss.layer`.

    For training only: a saved model must not contain it.
    """

    class CustomLossModel(keras.Model):
        def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> tf.Tensor:
            probabilities, self._loss_input = super().call(inputs, training=training, mask=mask)
            return probabilities

        def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, *arguments: Any, **named: Any) -> tf.Tensor:
            # Keras computes the loss right after the call, in the same trace.
            return super().compute_loss(x, y, self._loss_input, *arguments, **named)

    return CustomLossModel(network.input, [network.output, network.get_layer(loss.layer).output], name=network.name)
