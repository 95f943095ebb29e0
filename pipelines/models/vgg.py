"""A small VGG: 3x3 convolutions only, in blocks that halve the resolution and double the channels.

    image          [batch, 28, 28, 1]
    block_1        [batch, 14, 14, 16]    2 times 16 kernels 3x3, padded, relu; 2x2 maximum
    block_2        [batch, 7, 7, 32]      2 times 32 kernels 3x3, padded, relu; 2x2 maximum
    block_3        [batch, 3, 3, 64]      2 times 64 kernels 3x3, padded, relu; 2x2 maximum
    hidden         [batch, 128]           relu
    dropout        [batch, 128]           rate 0.5
    probabilities  [batch, 10]            softmax

146,938 parameters for 28 x 28 x 1 and ten classes.

Simonyan and Zisserman 2014, "Very deep convolutional networks for large-scale image recognition", arXiv:1409.1556: two 3x3
convolutions have the receptive field of one 5x5 convolution, with 28 % fewer weights and one more nonlinearity. Their networks
have 64 to 512 channels, five blocks and two hidden layers of 4,096. Weights are initialized as in He et al. 2015
(arXiv:1502.01852).
"""

import keras
from keras import layers

from pipelines.data.table.schema import DataSpec
from pipelines.models.layers import output_layer, raw_input, require_size, scaled

_CHANNELS = (16, 32, 64)
_INITIALIZER = "he_normal"


def build(spec: DataSpec, outputs: int) -> keras.Model:
    """See the module's docstring and `registry.build`. For images from 8 x 8."""
    require_size(spec, 2 ** len(_CHANNELS))
    inputs = raw_input(spec)
    features = scaled(spec, inputs)
    for block, channels in enumerate(_CHANNELS, start=1):
        for number in (1, 2):
            features = layers.Conv2D(
                channels,
                (3, 3),
                padding="same",
                activation="relu",
                kernel_initializer=_INITIALIZER,
                name=f"block_{block}_convolution_{number}",
            )(features)
        features = layers.MaxPooling2D((2, 2), name=f"block_{block}")(features)
    features = layers.Flatten()(features)
    features = layers.Dense(128, activation="relu", kernel_initializer=_INITIALIZER, name="hidden")(features)
    features = layers.Dropout(0.5, name="dropout")(features)
    return keras.Model(inputs, output_layer(spec, features, outputs), name="vgg")
