"""A network with a layer and a loss of its own: each class is a learned point, and a picture belongs to the nearest one."""

import keras
from keras import ops


class Nearest(keras.layers.Layer):
    def __init__(self, points, **options):
        super().__init__(**options)
        self.points = points

    def build(self, shape):
        self.places = self.add_weight(shape=(self.points, shape[-1]), name="places")

    def call(self, inputs):
        return ops.softmax(-ops.sum(ops.square(inputs[:, None, :] - self.places), axis=-1))

    def get_config(self):
        return {**super().get_config(), "points": self.points}


def build(spec, outputs, width=32):
    inputs = keras.Input(spec.shape)
    values = keras.layers.Rescaling(1 / spec.value_range[1])(inputs)
    values = keras.layers.Conv2D(16, 3, activation="relu")(values)
    values = keras.layers.Dense(width)(keras.layers.Flatten()(values))
    return keras.Model(inputs, Nearest(outputs, dtype="float32")(values))


def LOSS(labels, probabilities):
    """Cross-entropy that counts easy pictures less (Lin et al. 2017, arXiv:1708.02002)."""
    right = ops.sum(probabilities * ops.one_hot(labels, probabilities.shape[-1]), axis=-1)
    return -ops.square(1 - right) * ops.log(ops.maximum(right, 1e-7))
