"""The ends that all networks share: raw values in, probabilities out."""

import keras
from keras import KerasTensor, layers

from pipelines.schema import ImageSpec


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
