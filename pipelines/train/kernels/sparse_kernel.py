"""Gradients of a convolution with relu and pooling whose outputs mostly have gradient zero, compiled by Numba for this CPU.

The usual algorithms multiply by every output's gradient. After pooling over 2 x 2 and dropout of three quarters, at most one in
sixteen is not zero, and multiplying by these alone takes at most half the time of the best dense product.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

from pipelines.system import kernel_cache

_WORD_BITS = 64
_OPTIONS = {"nogil": True, "fastmath": {"contract", "nsz"}, "error_model": "numpy"}


@dataclass(frozen=True)
class Convolution:
    """A convolution over images [batch, height, width, channels] with strides of 1, relu, and non-overlapping max pooling."""

    height: int
    width: int
    channels: int
    kernel_height: int
    kernel_width: int
    kernels: int
    pool: tuple[int, int]
    """Height and width of the pooling windows. Outputs that fill no whole window are dropped."""
    padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    """Zeros added above and below, left and right."""
    bfloat16: bool = False
    """Images, outputs and gradients are bfloat16, passed as uint16. Otherwise they are float32."""
    behind_relu: bool = False
    """The images are outputs of a relu, whose gradient is included in theirs."""

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width of an image with padding."""
        return self.height + sum(self.padding[0]), self.width + sum(self.padding[1])

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """Shape of one image's outputs, before pooling."""
        height, width = self.padded
        return height - self.kernel_height + 1, width - self.kernel_width + 1, self.kernels

    @property
    def pooled_shape(self) -> tuple[int, int, int]:
        """Shape of one image's outputs, after pooling."""
        height, width, kernels = self.output_shape
        return height // self.pool[0], width // self.pool[1], kernels

    @property
    def by_kernel(self) -> tuple[int, int, int]:
        """Shape of the weights in the kernel's layout, in which each row of weights multiplies contiguous values of an image."""
        return self.kernels, self.kernel_height, self.kernel_width * self.channels

    @property
    def values_per_word(self) -> int:
        """Number of values that are read at a time, in 64 bits."""
        return _WORD_BITS // (16 if self.bfloat16 else 32)


def compile_kernel(convolution: Convolution, arrays: Sequence[Any]) -> Callable[..., None]:
    """`add_gradients` for this convolution and arrays of these types, which `sparse_batch` allocates."""
    return _compiled(convolution, tuple((array.dtype.str, array.ndim, array.flags.writeable) for array in arrays))


@functools.cache
def _compiled(convolution: Convolution, types: tuple[tuple[str, int, bool], ...]) -> Callable[..., None]:
    arrays = [np.zeros((0,) * dimensions, dtype) for dtype, dimensions, _ in types]
    for array, (*_, writeable) in zip(arrays, types, strict=True):
        array.flags.writeable = writeable
    return kernel_cache.compiled(add_gradients, (__name__,), arrays, _OPTIONS, _constants(convolution))


def _constants(of: Convolution) -> dict[str, Any]:
    """The values of this module's capitals for a convolution."""
    row_stride = of.padded[1] * of.channels
    bits = _WORD_BITS // of.values_per_word
    all_but_sign = 2 ** (bits - 1) - 1
    sizes = {
        # Values in a row of an image, in one of the padded image, and before the image's first value in that.
        "HEIGHT": of.height,
        "ROW_SIZE": of.width * of.channels,
        "ROW_STRIDE": row_stride,
        "FIRST": of.padding[0][0] * row_stride + of.padding[1][0] * of.channels,
        "CHANNELS": of.channels,
        "KERNELS": of.kernels,
        "KERNEL_HEIGHT": of.kernel_height,
        "KERNEL_ROW_SIZE": of.kernel_width * of.channels,
        "OUTPUT_WIDTH": of.output_shape[1],
        "POOLED_HEIGHT": of.pooled_shape[0],
        "POOLED_WIDTH": of.pooled_shape[1],
        "POOL_HEIGHT": of.pool[0],
        "POOL_WIDTH": of.pool[1],
        "WORDS_OF_PIXEL": of.kernels // of.values_per_word,
        # Bits of a value in a word, and of all values.
        "VALUE_BITS": bits,
        "ALL_BITS": 2**bits - 1,
        "ALL_BUT_SIGN": all_but_sign,
        "ANY_VALUE": sum(all_but_sign << (bits * part) for part in range(of.values_per_word)),
    }
    # Unsigned, because Numba checks signed indices for wraparound.
    return {name: np.uint64(size) for name, size in sizes.items()} | {
        "POOL_SIZE": of.pool[0] * of.pool[1],
        "WORDS_OF_IMAGE": int(np.prod(of.pooled_shape)) // of.values_per_word,
        "VALUES_PER_WORD": of.values_per_word,
        "BFLOAT16": of.bfloat16,
        "BEHIND_RELU": of.behind_relu,
    }


# The loops below are compiled anew for each convolution, with its sizes as constants (`_constants`), which these stand for.
HEIGHT = ROW_SIZE = ROW_STRIDE = FIRST = CHANNELS = KERNELS = KERNEL_HEIGHT = KERNEL_ROW_SIZE = OUTPUT_WIDTH = np.uint64()
POOLED_HEIGHT = POOLED_WIDTH = POOL_HEIGHT = POOL_WIDTH = WORDS_OF_PIXEL = np.uint64()
VALUE_BITS = ALL_BITS = ALL_BUT_SIGN = ANY_VALUE = np.uint64()
POOL_SIZE = WORDS_OF_IMAGE = VALUES_PER_WORD = 0
BFLOAT16 = BEHIND_RELU = False
_u16, _u32, _u64 = np.uint16, np.uint32, np.uint64
_jit = numba.njit(**_OPTIONS)


def add_gradients(  # type: ignore[no-untyped-def]
    images,
    outputs,
    maxima,
    pooled,
    gradients,
    weights,
    image_grads,
    weight_grads,
    bias_grads,
    image,
    image_grad,
    argmax,
    words,
    values,
    kernels,
    offsets,
):
    """Compute a thread's share of a batch."""
    for number in range(len(images)):
        _read(images[number], image, image_grad)
        _search(outputs[number], maxima[number], argmax)
        count = _collect(gradients[number], pooled[number], argmax, words, values, kernels, offsets)
        # Two loops, so that the data of each fits the L1 cache.
        for i in range(count):
            value, kernel, offset = values[i], kernels[i], offsets[i]
            bias_grads[kernel] += value
            for row in range(KERNEL_HEIGHT):
                for j in range(KERNEL_ROW_SIZE):
                    weight_grads[kernel, row, j] += value * image[offset + row * ROW_STRIDE + j]
        for i in range(count):
            value, kernel, offset = values[i], kernels[i], offsets[i]
            for row in range(KERNEL_HEIGHT):
                for j in range(KERNEL_ROW_SIZE):
                    image_grad[offset + row * ROW_STRIDE + j] += value * weights[kernel, row, j]
        _write(images[number], image_grad, image_grads[number])


@_jit
def _read(image, padded, image_grad):  # type: ignore[no-untyped-def]
    """Copy an image into its padded float32 form and clear its gradient."""
    padded_bits = padded.view(np.uint32)
    for row in range(HEIGHT):
        for i in range(ROW_SIZE):
            if BFLOAT16:
                padded_bits[FIRST + row * ROW_STRIDE + i] = _u32(image[row * ROW_SIZE + i]) << _u32(16)
            else:
                padded[FIRST + row * ROW_STRIDE + i] = image[row * ROW_SIZE + i]
    for i in range(image_grad.size):
        image_grad[i] = 0


@_jit
def _search(outputs, maxima, argmax):  # type: ignore[no-untyped-def]
    """Find the index of the first maximum in each window. The loop over kernels is vectorized."""
    for y in range(POOLED_HEIGHT):
        for x in range(POOLED_WIDTH):
            start = (y * POOLED_WIDTH + x) * KERNELS
            for kernel in range(KERNELS):
                argmax[start + kernel] = 0
            for back in range(POOL_SIZE):
                index = _u64(POOL_SIZE - 1 - back)
                row, column = y * POOL_HEIGHT + index // POOL_WIDTH, x * POOL_WIDTH + index % POOL_WIDTH
                output = (row * OUTPUT_WIDTH + column) * KERNELS
                place = _u16(index) if BFLOAT16 else _u32(index)
                for kernel in range(KERNELS):
                    is_maximum = outputs[output + kernel] == maxima[start + kernel]
                    argmax[start + kernel] = place if is_maximum else argmax[start + kernel]


@_jit
def _collect(gradients, pooled, argmax, words, values, kernels, offsets):  # type: ignore[no-untyped-def]
    """List the nonzero gradients with their kernels and offsets. Returns their number."""
    # Without branches, which would be unpredictable: every value is written, and overwritten by the next if it is zero.
    nonzero_words, count = 0, 0
    for word in range(WORDS_OF_IMAGE):
        words[nonzero_words] = word
        nonzero_words += gradients[word] & ANY_VALUE != 0
    value_bits = values.view(np.uint32)
    for i in range(nonzero_words):
        word = words[i]
        pixel, kernel = word // WORDS_OF_PIXEL, (word % WORDS_OF_PIXEL) * _u64(VALUES_PER_WORD)
        offset = (pixel // POOLED_WIDTH) * POOL_HEIGHT * ROW_STRIDE + (pixel % POOLED_WIDTH) * POOL_WIDTH * CHANNELS
        for part in range(VALUES_PER_WORD):
            value = (gradients[word] >> (VALUE_BITS * _u64(part))) & ALL_BITS
            output = (pooled[word] >> (VALUE_BITS * _u64(part))) & ALL_BITS
            index = _u64(argmax[word * _u64(VALUES_PER_WORD) + _u64(part)])
            value_bits[count] = _u32(value << (_u64(32) - VALUE_BITS))
            kernels[count] = kernel + _u64(part)
            offsets[count] = offset + (index // POOL_WIDTH) * ROW_STRIDE + (index % POOL_WIDTH) * CHANNELS
            count += (value & ALL_BUT_SIGN != 0) & (output & ALL_BUT_SIGN != 0)
    return count


@_jit
def _write(image, padded_grad, image_grad):  # type: ignore[no-untyped-def]
    """Copy an image's gradient out of its padded form and apply the relu before it, if any."""
    padded_bits = padded_grad.view(np.uint32)
    for row in range(HEIGHT):
        for i in range(ROW_SIZE):
            source, target = FIRST + row * ROW_STRIDE + i, row * ROW_SIZE + i
            if BFLOAT16:
                # Round to nearest, ties to even.
                half = _u32(0x7FFF) + ((padded_bits[source] >> _u32(16)) & _u32(1))
                value = _u16((padded_bits[source] + half) >> _u32(16))
                image_grad[target] = value if image[target] & _u16(0x7FFF) != 0 or not BEHIND_RELU else _u16(0)
            else:
                image_grad[target] = padded_grad[source] if image[target] > 0 or not BEHIND_RELU else np.float32(0)
