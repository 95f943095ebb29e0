"""LeNet-5, the network that read the amounts on checks.

    image          [batch, 28, 28, 1]
    convolution_1  [batch, 28, 28, 6]     6 kernels 5x5, padded, tanh
    pooling_1      [batch, 14, 14, 6]     2x2 average
    convolution_2  [batch, 10, 10, 16]    16 kernels 5x5, no padding, tanh
    pooling_2      [batch, 5, 5, 16]      2x2 average
    hidden_1       [batch, 120]           tanh
    hidden_2       [batch, 84]            tanh
    probabilities  [batch, 10]            softmax

61,706 parameters for 28 x 28 x 1 and ten classes.

LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document recognition", Proceedings of the IEEE 86(11),
section II.B, where digits are padded to 32 x 32. Their third convolution covers its entire 5 x 5 input and so equals `hidden_1`.
Omitted, as is common today: the weights of the pooling layers, the table that connects each of the 16 kernels to only some of the
6 feature maps, and the Gaussian outputs.
"""

import keras
from keras import layers

from pipelines.data.table.schema import DataSpec
from pipelines.models.layers import output_layer, raw_input, require_size, scaled

# Below this height or width the second convolution would leave nothing to pool.
_MIN_UNPADDED = 12


def build(spec: DataSpec, outputs: int) -> keras.Model:
    """See the module's docstring and `registry.build`. For images from 4 x 4; below 12 x 12 all convolutions are padded."""
    require_size(spec, 4)
    padding = "valid" if min(spec.shape[:2]) >= _MIN_UNPADDED else "same"
    inputs = raw_input(spec)
    features = layers.Conv2D(6, (5, 5), padding="same", activation="tanh", name="convolution_1")(scaled(spec, inputs))
    features = layers.AveragePooling2D((2, 2), name="pooling_1")(features)
    features = layers.Conv2D(16, (5, 5), padding=padding, activation="tanh", name="convolution_2")(features)
    features = layers.AveragePooling2D((2, 2), name="pooling_2")(features)
    features = layers.Flatten()(features)
    features = layers.Dense(120, activation="tanh", name="hidden_1")(features)
    features = layers.Dense(84, activation="tanh", name="hidden_2")(features)
    return keras.Model(inputs, output_layer(spec, features, outputs), name="lenet5")
