"""Test-time augmentation: predictions are averaged over several views of an image.

The views are part of the network that is tested and logged, so a logged model performs as its run reports, wherever it is used.
They are made of standard Keras layers, so the model loads anywhere. The cost of a prediction grows with the number of views.
"""

import itertools

import keras
from keras import layers

from pipelines.data.table.schema import DataSpec
from pipelines.models.layers import raw_input


def average_over_views(network: keras.Model, spec: DataSpec, views: int) -> keras.Model:
    """A network with the same weights whose output is the mean over views.

    Args:
        network: takes images [batch, height, width, channels] in source values.
        image: shape and values of its images.
        views: 1 for the network itself; 5 for the image and its shifts by one pixel along the axes; 9 for the diagonal shifts,
            too. Shifts are padded with 0.
    """
    if views == 1:
        return network
    shifts = sorted(itertools.product((-1, 0, 1), repeat=2), key=lambda shift: abs(shift[0]) + abs(shift[1]))[:views]
    inputs = raw_input(spec)
    padded = layers.ZeroPadding2D(1, name="border")(inputs)
    crops = [layers.Cropping2D(((1 + down, 1 - down), (1 + right, 1 - right)))(padded) for down, right in shifts]
    # One call on all views, because Keras 3.2 restores a network that is called several times incorrectly.
    outputs = network(layers.Concatenate(axis=0, name="views")(crops))
    by_view = keras.ops.reshape(outputs, (views, -1, outputs.shape[-1]))
    return keras.Model(inputs, keras.ops.mean(by_view, axis=0), name=f"{network.name}_{views}_views")
