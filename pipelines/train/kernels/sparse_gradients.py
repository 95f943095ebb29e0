"""Selects the convolutions whose gradients `sparse_kernel` computes: those followed by pooling, or by pooling and dropout.

The gradients equal those of the usual algorithms up to rounding: only products with zero are skipped.
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

# Largest fraction of outputs that may have a gradient; relu zeroes about a fifth of them. At this fraction, on two cores with
# AVX512-BF16, the products take 0.9 of the usual algorithm's time in bfloat16 and 0.6 in float32; at half of it, 0.5 and 0.4.
LARGEST_SHARE = 1 / 8


def use_sparse_gradients(model: keras.Model, resolved: ResolvedPrecision) -> list[str]:
    """Replace, in place, those layers of a network where it pays. For training only: a saved model must not contain them.

    Args:
        model: a functional network, not yet traced.
        resolved: the number format that its layers compute in.

    Returns:
        the names of these layers; empty on GPUs, in float16, and without Numba.
    """
    layers = [layer for layer in model.layers if _is_supported(model, layer)]
    if not layers or resolved == "float16" or tf.config.get_visible_devices("GPU"):
        return []
    if importlib.util.find_spec("numba") is None:
        _log.info("%s would train faster with Numba, which is not installed", ", ".join(layer.name for layer in layers))
        return []
    for layer in layers:
        before = _sole_operation(model, layer.input, "output")
        behind_relu = type(before) is keras.layers.Conv2D and before.activation is keras.activations.relu
        if behind_relu and _sole_operation(model, layer.input, "input") is layer and not _is_output(model, layer.input):
            before.activation = _relu_with_fused_gradient
        else:
            behind_relu = False
        pooling = _sole_operation(model, layer.output, "input")
        layer.__class__, layer.behind_relu, layer.pool = SparseGradientConv2D, behind_relu, pooling.pool_size
        pooling.__class__ = _PooledByConvolution
    return [layer.name for layer in layers]


class SparseGradientConv2D(keras.layers.Conv2D):
    """A convolution with bias and relu, fused with the pooling after it, whose gradients are computed from the nonzero ones."""

    behind_relu = False
    pool = (2, 2)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        # Imports Numba only for networks that need it.
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
            # TensorFlow pads more below and right than above and left.
            padding=(_same_padding(kernel_height), _same_padding(kernel_width)) if padding == "SAME" else ((0, 0), (0, 0)),
            bfloat16=kind == tf.bfloat16,
            behind_relu=self.behind_relu,
        )

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def convolve_and_pool(images: tf.Tensor, weights: tf.Tensor, biases: tf.Tensor) -> Any:
            outputs = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(images, weights, 1, padding), biases))
            pooled = tf.nn.max_pool2d(outputs, self.pool, self.pool, "VALID")

            def gradients(pooled_grads: tf.Tensor) -> tuple[tf.Tensor, ...]:
                threads = tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count() or 1
                bits = tf.uint16 if kind == tf.bfloat16 else tf.float32
                image_grads, weight_grads, bias_grads = tf.numpy_function(
                    SparseGradients(convolution, threads),
                    [
                        *(tf.bitcast(array, bits) for array in (images, outputs, pooled, pooled_grads)),
                        tf.cast(weights, tf.float32),
                    ],
                    [bits, tf.float32, tf.float32],
                    stateful=False,
                )
                image_grads.set_shape(images.shape)
                weight_grads.set_shape(weights.shape)
                bias_grads.set_shape(biases.shape)
                return tf.bitcast(image_grads, kind), tf.cast(weight_grads, kind), tf.cast(bias_grads, kind)

            return pooled, gradients

        weights, biases = (tf.cast(tf.convert_to_tensor(weight.value), kind) for weight in (self.kernel, self.bias))
        return convolve_and_pool(inputs, weights, biases)


class _PooledByConvolution(keras.layers.MaxPooling2D):
    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return inputs


def _same_padding(size: int) -> tuple[int, int]:
    return (size - 1) // 2, size // 2


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _relu_with_fused_gradient(values: tf.Tensor) -> Any:
    return tf.nn.relu(values), lambda gradients: gradients


def _is_supported(model: keras.Model, layer: Any) -> bool:
    if type(layer) is not keras.layers.Conv2D or layer.activation is not keras.activations.relu or not layer.use_bias:
        return False
    plain = (layer.strides, layer.dilation_rate, layer.groups, layer.data_format) == ((1, 1), (1, 1), 1, "channels_last")
    # The kernel reads four bfloat16 values at a time.
    if not plain or layer.filters % 4 or _is_output(model, layer.output):
        return False
    pooling = _sole_operation(model, layer.output, "input")
    if type(pooling) is not keras.layers.MaxPooling2D or pooling.pool_size != pooling.strides or pooling.padding != "valid":
        return False
    share = 1 / math.prod(pooling.pool_size)
    dropout = _sole_operation(model, pooling.output, "input")
    if type(dropout) is keras.layers.Dropout and not _is_output(model, pooling.output):
        share *= 1 - dropout.rate
    return bool(share <= LARGEST_SHARE)


def _sole_operation(model: keras.Model, tensor: Any, end: str) -> Any:
    """The only layer or operation that has this tensor as its `end` ("input" or "output"); None for none, or more than one."""
    operations = [operation for operation in model.operations if any(each is tensor for each in _tensors(operation, end))]
    return operations[0] if len(operations) == 1 else None


def _tensors(operation: Any, end: str) -> list[Any]:
    try:
        tensors: list[Any] = tf.nest.flatten(getattr(operation, end))
    except (AttributeError, ValueError):
        # The layer is called several times, so its gradient is a sum.
        return []
    return tensors


def _is_output(model: keras.Model, tensor: Any) -> bool:
    return any(each is tensor for each in tf.nest.flatten(model.outputs))
