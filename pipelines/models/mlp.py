"""The course's perceptron: two small hidden layers on the flattened image.

    image          [batch, 28, 28, 1]
    flatten        [batch, 784]
    hidden_1       [batch, 20]    relu
    hidden_2       [batch, 15]    relu
    probabilities  [batch, 10]    softmax

16,175 parameters for 28 x 28 x 1 and ten classes. Weights are initialized from a normal distribution with standard deviation
0.05, as Keras' `normal`. As in the course, this network takes the raw values of pictures, from 0 to 255, unlike the ConvNets;
those of features are scaled as `data.scaling` says.
"""

import keras
from keras import layers

from pipelines.data.table.schema import DataSpec
from pipelines.models.layers import output_layer, raw_input, scaled

_INITIALIZER = "random_normal"


def build(spec: DataSpec, outputs: int) -> keras.Model:
    """See the module's docstring and `registry.build`."""
    return perceptron(spec, outputs, (20, 15), "mlp")


def perceptron(spec: DataSpec, outputs: int, widths: tuple[int, ...], name: str) -> keras.Model:
    """A perceptron with hidden layers of these widths."""
    inputs = raw_input(spec)
    is_raw = spec.is_picture and spec.scaling == "range"
    features = layers.Flatten()(inputs if is_raw else scaled(spec, inputs))
    for number, width in enumerate(widths, start=1):
        features = layers.Dense(width, activation="relu", kernel_initializer=_INITIALIZER, name=f"hidden_{number}")(features)
    return keras.Model(inputs, output_layer(spec, features, outputs, kernel_initializer=_INITIALIZER), name=name)
