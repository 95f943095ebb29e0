"""A ResNet with 14 layers: blocks that learn a residual to add to their input.

    image          [batch, 28, 28, 1]
    convolution    [batch, 28, 28, 16]    16 kernels 3x3, padded, relu
    pooling        [batch, 14, 14, 16]    2x2 maximum
    stage_1        [batch, 14, 14, 16]    2 blocks
    stage_2        [batch, 7, 7, 32]      2 blocks, the first with stride 2
    stage_3        [batch, 4, 4, 64]      2 blocks, the first with stride 2
    mean           [batch, 64]            over all positions
    probabilities  [batch, 10]            softmax

176,042 parameters for 28 x 28 x 1 and ten classes, of which 1,088 are non-trainable moving statistics.

A block is 3x3 convolution, batch normalization, relu, 3x3 convolution, batch normalization, addition of its input, relu. Where
the stride or the number of channels changes, the input first passes through a 1x1 convolution.

He, Zhang, Ren and Sun 2015, "Deep residual learning for image recognition", arXiv:1512.03385, section 4.2 with n = 2. The pooling
is an addition: at full resolution, normalization alone would take longer than everything else (see `convnet_batchnorm`).
"""

import keras
from keras import KerasTensor, layers

from pipelines.data.table.schema import DataSpec
from pipelines.models.layers import output_layer, raw_input, require_size, scaled

_STAGES = (16, 32, 64)
_BLOCKS = 2
# As in `convnet_batchnorm`.
_MOMENTUM = 0.9


def build(spec: DataSpec, outputs: int) -> keras.Model:
    """See the module's docstring and `registry.build`. For images from 4 x 4."""
    require_size(spec, 4)
    inputs = raw_input(spec)
    features = layers.Conv2D(16, (3, 3), padding="same", activation="relu", kernel_initializer="he_normal", name="convolution")(
        scaled(spec, inputs)
    )
    features = layers.MaxPooling2D((2, 2), name="pooling")(features)
    for stage, channels in enumerate(_STAGES, start=1):
        for block in range(1, _BLOCKS + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            features = _block(features, channels, stride, f"stage_{stage}_block_{block}")
    features = layers.GlobalAveragePooling2D(name="mean")(features)
    return keras.Model(inputs, output_layer(spec, features, outputs), name="resnet")


def _block(features: KerasTensor, channels: int, stride: int, name: str) -> KerasTensor:
    shortcut = features
    if stride > 1 or features.shape[-1] != channels:
        shortcut = _normalized(features, channels, 1, stride, f"{name}_shortcut")
    features = layers.ReLU()(_normalized(features, channels, 3, stride, f"{name}_1"))
    features = _normalized(features, channels, 3, 1, f"{name}_2")
    return layers.ReLU(name=name)(layers.Add()([features, shortcut]))


def _normalized(features: KerasTensor, channels: int, size: int, stride: int, name: str) -> KerasTensor:
    """A convolution without bias, because the subsequent normalization has one."""
    convolution = layers.Conv2D(
        channels, size, strides=stride, padding="same", use_bias=False, kernel_initializer="he_normal", name=name
    )
    return layers.BatchNormalization(momentum=_MOMENTUM, name=f"{name}_normalization")(convolution(features))
