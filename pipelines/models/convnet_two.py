"""The course's second ConvNet: a second convolution before the pooling.

    image          [batch, 28, 28, 1]
    convolution_1  [batch, 25, 25, 8]    8 kernels 4x4, no padding, relu
    convolution_2  [batch, 22, 22, 8]    8 kernels 4x4, no padding, relu
    pooling        [batch, 11, 11, 8]    2x2 maximum
    hidden         [batch, 128]          relu
    probabilities  [batch, 10]           softmax

126,490 parameters for 28 x 28 x 1 and ten classes.
"""

import keras
from keras import layers

from pipelines.data.table.schema import DataSpec
from pipelines.models.layers import output_layer, raw_input, require_size, scaled


def build(spec: DataSpec, outputs: int) -> keras.Model:
    """See the module's docstring and `registry.build`. For images from 8 x 8."""
    require_size(spec, 8)
    inputs = raw_input(spec)
    features = layers.Conv2D(8, (4, 4), activation="relu", name="convolution_1")(scaled(spec, inputs))
    features = layers.Conv2D(8, (4, 4), activation="relu", name="convolution_2")(features)
    features = layers.MaxPooling2D((2, 2), name="pooling")(features)
    features = layers.Flatten()(features)
    features = layers.Dense(128, activation="relu", name="hidden")(features)
    return keras.Model(inputs, output_layer(spec, features, outputs), name="convnet_two")
