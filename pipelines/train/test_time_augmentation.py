"""Test-time augmentation: a network that answers with its mean over several views of an image.

The views are part of the network that is tested and logged, so a logged model predicts what its run reports, wherever it is used.
They are made by layers that Keras has, so it loads anywhere. An answer costs as many times more as there are views.
"""

import itertools

import keras
from keras import layers

from pipelines.data.table.schema import ImageSpec
from pipelines.models.layers import raw_input


def average_over_views(network: keras.Model, image: ImageSpec, views: int) -> keras.Model:
    """A network with the same weights whose answer is the mean over views.

    Args:
        network: takes images [batch, height, width, channels] in source values.
        image: what it takes.
        views: 1 for the network itself; 5 for the image and its shifts by one pixel along the axes; 9 for those along the
            diagonals, too. What a shift brings in is 0.
    """
    if views == 1:
        return network
    shifts = sorted(itertools.product((-1, 0, 1), repeat=2), key=lambda shift: abs(shift[0]) + abs(shift[1]))[:views]
    inputs = raw_input(image)
    bordered = layers.ZeroPadding2D(1, name="border")(inputs)
    crops = [layers.Cropping2D(((1 + down, 1 - down), (1 + right, 1 - right)))(bordered) for down, right in shifts]
    # All views are one batch, because Keras 3.2 does not load a network that is called several times as it was saved.
    answers = network(layers.Concatenate(axis=0, name="views")(crops))
    by_view = keras.ops.reshape(answers, (views, -1, answers.shape[-1]))
    return keras.Model(inputs, keras.ops.mean(by_view, axis=0), name=f"{network.name}_{views}_views")
