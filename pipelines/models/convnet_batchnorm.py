"""The default ConvNet: three small convolutions with batch normalization, designed for accuracy after few epochs on a CPU.

    image            [batch, 28, 28, 1]
    convolution_1    [batch, 24, 24, 16]    16 kernels 5x5, no padding, relu
    pooling_1        [batch, 12, 12, 16]    2x2 maximum
    convolution_2    [batch, 10, 10, 64]    64 kernels 3x3, no padding, no bias
    pooling_2        [batch, 5, 5, 64]      2x2 maximum
    normalization_2  [batch, 5, 5, 64]      batch normalization, relu
    convolution_3    [batch, 3, 3, 64]      64 kernels 3x3, no padding, no bias
    normalization_3  [batch, 3, 3, 64]      batch normalization, relu
    features         [batch, 576]
    probabilities    [batch, 10]            softmax

52,778 parameters for 28 x 28 x 1 and ten classes, of which 256 are non-trainable moving statistics.

Why this shape: batch normalization (Ioffe and Szegedy 2015, arXiv:1502.03167) allows the high learning rate of a one-cycle
schedule (Smith and Topin 2017, arXiv:1708.07120). Keras computes it in float32 as several passes over its input, so it comes
after pooling, where the input is a quarter as large, and never at full resolution. Digits have an empty border: omitting padding
saves about 30 % of the time per example. Channel counts are multiples of 16, the block size of oneDNN.
"""

import keras
from keras import KerasTensor, layers

from pipelines.data.table.schema import DataSpec
from pipelines.models.layers import output_layer, raw_input, require_size, scaled

# Below this height or width unpadded convolutions would leave nothing.
_MIN_UNPADDED = 20

# The default, 0.99, needs some 500 steps before the moving statistics approximate those of the data; training on a small table
# may have fewer.
_MOMENTUM = 0.9


def build(spec: DataSpec, outputs: int) -> keras.Model:
    """See the module's docstring and `registry.build`. For images from 8 x 8; below 20 x 20 the convolutions are padded."""
    require_size(spec, 8)
    height, width, _ = spec.shape
    padding = "valid" if min(height, width) >= _MIN_UNPADDED else "same"
    inputs = raw_input(spec)
    features = layers.Conv2D(16, (5, 5), padding=padding, activation="relu", name="convolution_1")(scaled(spec, inputs))
    features = layers.MaxPooling2D((2, 2), name="pooling_1")(features)
    features = layers.Conv2D(64, (3, 3), padding=padding, use_bias=False, name="convolution_2")(features)
    features = layers.MaxPooling2D((2, 2), name="pooling_2")(features)
    features = _normalized_relu(features, "normalization_2")
    features = layers.Conv2D(64, (3, 3), padding=padding, use_bias=False, name="convolution_3")(features)
    features = _normalized_relu(features, "normalization_3")
    features = layers.Flatten(name="features")(features)
    return keras.Model(inputs, output_layer(spec, features, outputs), name="convnet_batchnorm")


def _normalized_relu(features: KerasTensor, name: str) -> KerasTensor:
    return layers.ReLU()(layers.BatchNormalization(momentum=_MOMENTUM, name=name)(features))
