"""A small Inception network (GoogLeNet): modules that process several scales in parallel.

    image          [batch, 28, 28, 1]
    convolution    [batch, 28, 28, 16]     16 kernels 5x5, padded, relu
    pooling_1      [batch, 14, 14, 16]     2x2 maximum
    module_1       [batch, 14, 14, 80]     16 + 32 + 16 + 16 channels
    pooling_2      [batch, 7, 7, 80]       2x2 maximum
    module_2       [batch, 7, 7, 160]      32 + 64 + 32 + 32 channels
    mean           [batch, 160]            over all positions
    dropout        [batch, 160]            rate 0.4
    probabilities  [batch, 10]             softmax

44,058 parameters for 28 x 28 x 1 and ten classes.

A module concatenates four branches, each padded and with relu: 1x1; 1x1, then 3x3; 1x1, then 5x5; 3x3 maximum, then 1x1. The 1x1
convolutions before larger kernels reduce the input to 16 channels, so that these are cheap.

Szegedy et al. 2014, "Going deeper with convolutions", arXiv:1409.4842. Their network has nine modules of 256 to 1,024
channels and two auxiliary classifiers for training. Like this one, it uses global average pooling instead of hidden layers.
"""

import keras
from keras import KerasTensor, layers

from pipelines.data.table.schema import DataSpec
from pipelines.models.layers import output_layer, raw_input, require_size, scaled

_REDUCED = 16


def build(spec: DataSpec, outputs: int) -> keras.Model:
    """See the module's docstring and `registry.build`. For images from 4 x 4."""
    require_size(spec, 4)
    inputs = raw_input(spec)
    features = _convolution(scaled(spec, inputs), 16, 5, "convolution")
    features = layers.MaxPooling2D((2, 2), name="pooling_1")(features)
    features = _module(features, (16, 32, 16, 16), "module_1")
    features = layers.MaxPooling2D((2, 2), name="pooling_2")(features)
    features = _module(features, (32, 64, 32, 32), "module_2")
    features = layers.GlobalAveragePooling2D(name="mean")(features)
    features = layers.Dropout(0.4, name="dropout")(features)
    return keras.Model(inputs, output_layer(spec, features, outputs), name="inception")


def _module(features: KerasTensor, channels: tuple[int, int, int, int], name: str) -> KerasTensor:
    """`channels`: channels of the branches 1x1, 3x3, 5x5 and maximum."""
    point = _convolution(features, channels[0], 1, f"{name}_1x1")
    small = _convolution(_convolution(features, _REDUCED, 1, f"{name}_3x3_reduced"), channels[1], 3, f"{name}_3x3")
    large = _convolution(_convolution(features, _REDUCED, 1, f"{name}_5x5_reduced"), channels[2], 5, f"{name}_5x5")
    pooled = layers.MaxPooling2D((3, 3), strides=1, padding="same", name=f"{name}_maximum")(features)
    pooled = _convolution(pooled, channels[3], 1, f"{name}_maximum_1x1")
    return layers.Concatenate(name=name)([point, small, large, pooled])


def _convolution(features: KerasTensor, channels: int, size: int, name: str) -> KerasTensor:
    return layers.Conv2D(channels, size, padding="same", activation="relu", kernel_initializer="he_normal", name=name)(features)
