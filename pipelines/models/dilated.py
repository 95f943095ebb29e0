"""Dilated (atrous) convolutions: a large receptive field from few weights, without downsampling.

    image          [batch, 28, 28, 1]
    convolution    [batch, 28, 28, 16]    16 kernels 5x5, padded, relu
    pooling        [batch, 14, 14, 16]    2x2 maximum
    dilated_1      [batch, 14, 14, 32]    32 kernels 3x3, every pixel, padded, relu
    dilated_2      [batch, 14, 14, 32]    32 kernels 3x3, every 2nd pixel, padded, relu
    dilated_4      [batch, 14, 14, 32]    32 kernels 3x3, every 4th pixel, padded, relu
    mean           [batch, 7, 7, 32]      2x2 average
    features       [batch, 1568]
    dropout        [batch, 1568]          rate 0.5
    probabilities  [batch, 10]            softmax

39,242 parameters for 28 x 28 x 1 and ten classes.

With rates 1, 2 and 4 the receptive field on `pooling` grows to 3 x 3, 7 x 7 and 15 x 15 values, like that of one dense 15 x 15
kernel, which has 225 weights instead of 27. It grows linearly with the number of layers, but doubles with the rates.

Yu and Koltun 2015, "Multi-scale context aggregation by dilated convolutions", arXiv:1511.07122.
"""

import keras
from keras import layers

from pipelines.data.table.schema import DataSpec
from pipelines.models.layers import output_layer, raw_input, require_size, scaled

RATES = (1, 2, 4)


def build(spec: DataSpec, outputs: int) -> keras.Model:
    """See the module's docstring and `registry.build`. For images from 4 x 4."""
    require_size(spec, 4)
    inputs = raw_input(spec)
    features = layers.Conv2D(16, (5, 5), padding="same", activation="relu", kernel_initializer="he_normal", name="convolution")(
        scaled(spec, inputs)
    )
    features = layers.MaxPooling2D((2, 2), name="pooling")(features)
    for rate in RATES:
        features = layers.Conv2D(
            32,
            (3, 3),
            dilation_rate=rate,
            padding="same",
            activation="relu",
            kernel_initializer="he_normal",
            name=f"dilated_{rate}",
        )(features)
    features = layers.AveragePooling2D((2, 2), name="mean")(features)
    features = layers.Flatten(name="features")(features)
    features = layers.Dropout(0.5, name="dropout")(features)
    return keras.Model(inputs, output_layer(spec, features, outputs), name="dilated")
