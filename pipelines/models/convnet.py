"""The course's first ConvNet: one convolution, one pooling, one hidden layer.

    image          [batch, 28, 28, 1]
    convolution    [batch, 25, 25, 8]    8 kernels 4x4, no padding, relu
    pooling        [batch, 12, 12, 8]    2x2 maximum
    hidden         [batch, 128]          relu
    probabilities  [batch, 10]           softmax

149,010 parameters for 28 x 28 x 1 and ten classes.
"""

import keras
from keras import layers

from pipelines.data.table.schema import DataSpec
from pipelines.models.layers import output_layer, raw_input, require_size, scaled


def build(spec: DataSpec, outputs: int) -> keras.Model:
    """See the module's docstring and `registry.build`. For images from 5 x 5."""
    require_size(spec, 5)
    inputs = raw_input(spec)
    features = layers.Conv2D(8, (4, 4), activation="relu", name="convolution")(scaled(spec, inputs))
    features = layers.MaxPooling2D((2, 2), name="pooling")(features)
    features = layers.Flatten()(features)
    features = layers.Dense(128, activation="relu", name="hidden")(features)
    return keras.Model(inputs, output_layer(spec, features, outputs), name="convnet")
