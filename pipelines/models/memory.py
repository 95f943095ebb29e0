"""How many rows a network may evaluate at once, by the memory of its activations."""

import math
from collections.abc import Iterator
from typing import Any

EVALUATION_BYTES = 256 * 2**20
"""Memory for the activations of one batch of an evaluation or prediction, unless a single row needs more."""
# Larger batches are no faster.
_MAX_ROWS = 1000
_BYTES_PER_VALUE = 4
# Without gradients, a layer's output is freed when its last reader is done. A block of a residual network holds three.
_HELD_OUTPUTS = 3
# Of a model that does not show its layers: its activations in multiples of its input, as of a convolutional network.
_TIMES_INPUT = 32


def evaluation_rows(model: Any, image_values: int) -> int:
    """Rows of a batch, at least 1 and at most 1,000.

    Args:
        model: a Keras model of images, or any other model.
        image_values: values of one image.
    """
    return max(1, min(_MAX_ROWS, EVALUATION_BYTES // bytes_per_row(model, image_values)))


def bytes_per_row(model: Any, image_values: int) -> int:
    """Estimate of the bytes of activations that are held at once for one row. Arguments as of `evaluation_rows`."""
    outputs = sorted(_output_values(model, 1), reverse=True)[:_HELD_OUTPUTS]
    return _BYTES_PER_VALUE * (sum(outputs) or _TIMES_INPUT * image_values)


def _output_values(model: Any, copies: int) -> Iterator[int]:
    """Values per row of each layer's output.

    Args:
        model: a Keras model; another one has no layers.
        copies: images that the model computes for each row.
    """
    for layer in getattr(model, "layers", ()):
        yield from _output_values(layer, copies)
        # Views of an image (`pipelines.train.test_time_augmentation`) become images of one batch.
        if type(layer).__name__ == "Concatenate" and getattr(layer, "axis", None) == 0:
            copies *= len(layer.input)
        for tensor in _tensors(layer):
            yield copies * math.prod(size or 1 for size in tensor.shape[1:])


def _tensors(layer: Any) -> list[Any]:
    """The symbolic outputs of a layer; none if it has not been called on symbolic inputs."""
    try:
        output = layer.output
    except (AttributeError, ValueError):
        return []
    tensors = output.values() if isinstance(output, dict) else output if isinstance(output, list | tuple) else [output]
    return [tensor for tensor in tensors if getattr(tensor, "shape", None) is not None]
