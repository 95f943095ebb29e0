"""Which convolutions of a network get their gradients from `sparsekernel`: those that pooling, or pooling and dropout, follow.

The values are those of the usual algorithms but for rounding: what they leave out are products with zero.
"""

import importlib.util
import logging
import math
import os
from typing import Any

import keras
import tensorflow as tf

from pipelines.train.precision import ResolvedPrecision

_log = logging.getLogger(__name__)

# Of the outputs, those that may pass a gradient on; relu stops about a fifth of them. On two cores with AVX512-BF16 the products
# then take this way 0.9 of the usual one's time in bfloat16 and 0.6 in float32; at half the share 0.5 and 0.4.
LARGEST_SHARE = 1 / 8


def use_sparse_gradients(model: keras.Model, resolved: ResolvedPrecision) -> list[str]:
    """Change those layers of a network that it pays for, in place. For training only: a saved model must not hold them.

    Args:
        model: a functional network, not yet traced.
        resolved: what its layers compute in.

    Returns:
        the names of these layers. None on GPUs, in float16, and where Numba is not installed.
    """
    layers = [layer for layer in model.layers if _suits(model, layer)]
    if not layers or resolved == "float16" or tf.config.get_visible_devices("GPU"):
        return []
    if importlib.util.find_spec("numba") is None:
        _log.info("%s would train faster with Numba, which is not installed", ", ".join(layer.name for layer in layers))
        return []
    for layer in layers:
        before = _only(model, layer.input, "output")
        behind_relu = type(before) is keras.layers.Conv2D and before.activation is keras.activations.relu
        if behind_relu and _only(model, layer.input, "input") is layer and not _is_output(model, layer.input):
            before.activation = _relu_whose_gradient_is_in_that_of_the_next
        else:
            behind_relu = False
        pooling = _only(model, layer.output, "input")
        layer.__class__, layer.behind_relu, layer.pool = SparselyTrained, behind_relu, pooling.pool_size
        pooling.__class__ = _PooledBefore
    return [layer.name for layer in layers]


class SparselyTrained(keras.layers.Conv2D):
    """A convolution with bias and relu, and the pooling behind it, whose gradients are sparse."""

    behind_relu = False
    pool = (2, 2)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        # Numba is imported by the networks that need it.
        from pipelines.train.kernels.sparse_batch import SparseGradients
        from pipelines.train.kernels.sparse_kernel import Convolution

        kind, padding = inputs.dtype, self.padding.upper()
        (height, width, channels), (kernel_height, kernel_width) = inputs.shape[1:], self.kernel_size
        convolution = Convolution(
            height=height,
            width=width,
            channels=channels,
            kernel_height=kernel_height,
            kernel_width=kernel_width,
            kernels=self.filters,
            pool=self.pool,
            # More below and right than above and left, as TensorFlow has it.
            padding=(_around(kernel_height), _around(kernel_width)) if padding == "SAME" else ((0, 0), (0, 0)),
            bfloat16=kind == tf.bfloat16,
            behind_relu=self.behind_relu,
        )

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def convolved(images: tf.Tensor, weights: tf.Tensor, biases: tf.Tensor) -> Any:
            outputs = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(images, weights, 1, padding), biases))
            pooled = tf.nn.max_pool2d(outputs, self.pool, self.pool, "VALID")

            def gradients(of_pooled: tf.Tensor) -> tuple[tf.Tensor, ...]:
                threads = tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count() or 1
                bits = tf.uint16 if kind == tf.bfloat16 else tf.float32
                of_images, of_weights, of_biases = tf.numpy_function(
                    SparseGradients(convolution, threads),
                    [*(tf.bitcast(array, bits) for array in (images, outputs, pooled, of_pooled)), tf.cast(weights, tf.float32)],
                    [bits, tf.float32, tf.float32],
                    stateful=False,
                )
                of_images.set_shape(images.shape)
                of_weights.set_shape(weights.shape)
                of_biases.set_shape(biases.shape)
                return tf.bitcast(of_images, kind), tf.cast(of_weights, kind), tf.cast(of_biases, kind)

            return pooled, gradients

        weights, biases = (tf.cast(tf.convert_to_tensor(weight.value), kind) for weight in (self.kernel, self.bias))
        return convolved(inputs, weights, biases)


class _PooledBefore(keras.layers.MaxPooling2D):
    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return inputs


def _around(size: int) -> tuple[int, int]:
    return (size - 1) // 2, size // 2


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _relu_whose_gradient_is_in_that_of_the_next(values: tf.Tensor) -> Any:
    return tf.nn.relu(values), lambda gradients: gradients


def _suits(model: keras.Model, layer: Any) -> bool:
    if type(layer) is not keras.layers.Conv2D or layer.activation is not keras.activations.relu or not layer.use_bias:
        return False
    plain = (layer.strides, layer.dilation_rate, layer.groups, layer.data_format) == ((1, 1), (1, 1), 1, "channels_last")
    # Four bfloat16 are looked at together.
    if not plain or layer.filters % 4 or _is_output(model, layer.output):
        return False
    pooling = _only(model, layer.output, "input")
    if type(pooling) is not keras.layers.MaxPooling2D or pooling.pool_size != pooling.strides or pooling.padding != "valid":
        return False
    share = 1 / math.prod(pooling.pool_size)
    dropout = _only(model, pooling.output, "input")
    if type(dropout) is keras.layers.Dropout and not _is_output(model, pooling.output):
        share *= 1 - dropout.rate
    return bool(share <= LARGEST_SHARE)


def _only(model: keras.Model, tensor: Any, end: str) -> Any:
    """The one layer or operation that has this tensor as its `end`, None where there is none or more than one."""
    found = [operation for operation in model.operations if any(each is tensor for each in _tensors(operation, end))]
    return found[0] if len(found) == 1 else None


def _tensors(operation: Any, end: str) -> list[Any]:
    try:
        tensors: list[Any] = tf.nest.flatten(getattr(operation, end))
    except (AttributeError, ValueError):
        # It is used several times, so nothing can be said of its gradient.
        return []
    return tensors


def _is_output(model: keras.Model, tensor: Any) -> bool:
    return any(each is tensor for each in tf.nest.flatten(model.outputs))
