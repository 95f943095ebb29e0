"""Input and output layers shared by all networks, and how a network declares a custom loss."""

from collections.abc import Callable
from dataclasses import dataclass

import keras
from keras import KerasTensor, layers

from pipelines import tasks
from pipelines.data.table.schema import DataSpec


@dataclass(frozen=True)
class CustomLoss:
    """The loss of a network that is not trained with cross-entropy; `LOSS` in the network's module."""

    layer: str
    """Name of the layer whose output [batch, classes] the loss is computed on."""
    function: Callable[[KerasTensor, KerasTensor], KerasTensor]
    """Function of labels [batch] int and that output; returns the loss of each row [batch]."""


def require_size(spec: DataSpec, smallest: int) -> None:
    """Raises ValueError, which `registry.build` explains, for an image with a side shorter than `smallest` pixels."""
    if min(spec.shape[:2]) < smallest:
        raise ValueError(f"it needs images of at least {smallest} x {smallest}")


def raw_input(spec: DataSpec) -> KerasTensor:
    """Input of source values as stored in the table, [batch, height, width, channels] or [batch, features]."""
    return keras.Input(shape=spec.shape, dtype="float32", name="image" if spec.is_picture else "features")


def scaled(spec: DataSpec, values: KerasTensor) -> KerasTensor:
    """Values scaled as `spec.scaling` says: from `spec.value_range` to 0..1, standardized, or as they are.

    Scaling is part of the network, so that it is the same in training, evaluation and serving.
    """
    if spec.scaling == "none":
        return values
    # Features can be large where they hardly differ. The values of pictures are exact in bfloat16, too.
    dtype = None if spec.is_picture and spec.scaling == "range" else "float32"
    if spec.scaling == "standardize":
        scale = [1 / deviation for deviation in spec.deviations]
        offset = [-mean / deviation for mean, deviation in zip(spec.means, spec.deviations, strict=True)]
        return layers.Rescaling(scale, offset=offset, dtype=dtype, name="scale")(values)
    low, high = spec.value_range
    return layers.Rescaling(1 / (high - low), offset=-low / (high - low), dtype=dtype, name="scale")(values)


def output_layer(
    spec: DataSpec, features: KerasTensor, outputs: int, *, kernel_initializer: str = "glorot_uniform"
) -> KerasTensor:
    """Class probabilities or numbers [batch, outputs]. Always float32: bfloat16 has a precision of only three digits."""
    task = tasks.of(spec.task)
    return layers.Dense(
        outputs, activation=task.activation, kernel_initializer=kernel_initializer, dtype="float32", name=task.output_layer
    )(features)
