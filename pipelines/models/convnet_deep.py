"""The most accurate ConvNet here: five convolutions, all but the first with batch normalization, for many epochs on a CPU.

    image            [batch, 28, 28, 1]
    convolution_1    [batch, 24, 24, 32]    32 kernels 5x5, no padding, no bias
    pooling_1        [batch, 12, 12, 32]    2x2 maximum; relu
    convolution_2    [batch, 10, 10, 32]    32 kernels 3x3, no padding, no bias; batch normalization, relu
    convolution_3    [batch, 8, 8, 64]      64 kernels 3x3, no padding, no bias; batch normalization, relu
    convolution_4    [batch, 6, 6, 64]      64 kernels 3x3, no padding, no bias
    pooling_4        [batch, 3, 3, 64]      2x2 maximum; batch normalization, relu
    convolution_5    [batch, 1, 1, 128]     128 kernels 3x3, no padding, no bias; batch normalization, relu
    dropout          [batch, 1, 1, 128]     rate 0.3
    features         [batch, 128]
    probabilities    [batch, 10]            softmax

141,482 parameters for 28 x 28 x 1 and ten classes.

It is cheap for the same reasons as `convnet_batchnorm`: no normalization at full resolution, pooling before pixel-wise
operations, no padding of an empty border, channel counts in multiples of 16. Unpadded kernels reduce 28 pixels to one position
that sees the whole image, so the last layer has only 128 features with which to overfit.
"""

import keras
from keras import KerasTensor, layers

from pipelines.data.table.schema import DataSpec
from pipelines.models.layers import output_layer, raw_input, require_size, scaled

# Below this height or width unpadded convolutions would leave nothing.
_MIN_UNPADDED = 28
_MIN_SIZE = 4

# As in `convnet_batchnorm`: the moving statistics must converge within the few steps of a small table.
_MOMENTUM = 0.9


def build(spec: DataSpec, outputs: int) -> keras.Model:
    """See the module's docstring and `registry.build`. For images from 4 x 4; below 28 x 28 the convolutions are padded."""
    require_size(spec, _MIN_SIZE)
    padding = "valid" if min(spec.shape[:2]) >= _MIN_UNPADDED else "same"

    def convolved(features: KerasTensor, number: int, channels: int, size: int = 3) -> KerasTensor:
        return layers.Conv2D(channels, size, padding=padding, use_bias=False, name=f"convolution_{number}")(features)

    def normalized(features: KerasTensor, number: int) -> KerasTensor:
        return layers.ReLU()(layers.BatchNormalization(momentum=_MOMENTUM, name=f"normalization_{number}")(features))

    inputs = raw_input(spec)
    features = layers.MaxPooling2D((2, 2), name="pooling_1")(convolved(scaled(spec, inputs), 1, 32, size=5))
    features = layers.ReLU()(features)
    features = normalized(convolved(features, 2, 32), 2)
    features = normalized(convolved(features, 3, 64), 3)
    features = layers.MaxPooling2D((2, 2), name="pooling_4")(convolved(features, 4, 64))
    features = normalized(features, 4)
    features = normalized(convolved(features, 5, 128), 5)
    features = layers.Dropout(0.3, name="dropout")(features)
    features = layers.Flatten(name="features")(features)
    return keras.Model(inputs, output_layer(spec, features, outputs), name="convnet_deep")
