"""The ends that all networks share: raw values in, probabilities out. And how a network says that its loss is its own."""

from collections.abc import Callable
from dataclasses import dataclass

import keras
from keras import KerasTensor, layers

from pipelines.data.table.schema import ImageSpec


@dataclass(frozen=True)
class CustomLoss:
    """What a network is trained by, where that is not cross-entropy. A network's module names it `LOSS`."""

    layer: str
    """Name of the layer whose output [batch, classes] the loss is of."""
    function: Callable[[KerasTensor, KerasTensor], KerasTensor]
    """Of labels [batch] int and that output; a mean over the batch."""


def require_size(image: ImageSpec, smallest: int) -> None:
    """Raises ValueError, which `registry.build` explains, for an image lower or narrower than `smallest` pixels."""
    if min(image.shape[:2]) < smallest:
        raise ValueError(f"it needs images of at least {smallest} x {smallest}")


def raw_input(image: ImageSpec) -> KerasTensor:
    """Source values as the table stores them, [batch, height, width, channels]."""
    return keras.Input(shape=image.shape, dtype="float32", name="image")


def scaled(image: ImageSpec, values: KerasTensor) -> KerasTensor:
    """Values scaled from `image.value_range` to 0..1.

    The scaling is part of the network, so training, evaluation and serving cannot differ in it.
    """
    low, high = image.value_range
    return layers.Rescaling(1 / (high - low), offset=-low / (high - low), name="scale")(values)


def probabilities(features: KerasTensor, num_classes: int, *, kernel_initializer: str = "glorot_uniform") -> KerasTensor:
    """Class probabilities [batch, num_classes]. Always float32: a softmax in bfloat16 has three digits."""
    return layers.Dense(
        num_classes, activation="softmax", kernel_initializer=kernel_initializer, dtype="float32", name="probabilities"
    )(features)
