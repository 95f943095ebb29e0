"""Gradients of a convolution with relu and pooling whose outputs mostly have gradient zero, compiled by Numba for this CPU.

The usual algorithms multiply by every output's gradient. After pooling over 2 x 2 and dropout of three quarters, at most one in
sixteen is not zero, and multiplying by these alone takes at most half the time of the best dense product.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

_WORD_BITS = 64


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


# The functions below are compiled for each convolution, with its sizes as constants. These are unsigned, because Numba checks
# signed indices for wraparound.
_u16, _u32, _u64 = np.uint16, np.uint32, np.uint64
_jit = numba.njit(nogil=True, fastmath={"contract", "nsz"}, error_model="numpy")


@functools.cache
def compile_kernel(convolution: Convolution) -> Callable[..., None]:
    """The function that computes a thread's share of a batch, in arrays that `sparse_batch` allocates."""
    read, search, collect, write = _reader(convolution), _searcher(convolution), _collector(convolution), _writer(convolution)
    rows, span, row_stride = (
        _u64(convolution.kernel_height),
        _u64(convolution.kernel_width * convolution.channels),
        _u64(convolution.padded[1] * convolution.channels),
    )

    @_jit
    def gradients_of(  # type: ignore[no-untyped-def]
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
        for number in range(len(images)):
            read(images[number], image, image_grad)
            search(outputs[number], maxima[number], argmax)
            count = collect(gradients[number], pooled[number], argmax, words, values, kernels, offsets)
            # Two loops, so that the data of each fits the L1 cache.
            for i in range(count):
                value, kernel, offset = values[i], kernels[i], offsets[i]
                bias_grads[kernel] += value
                for row in range(rows):
                    for j in range(span):
                        weight_grads[kernel, row, j] += value * image[offset + row * row_stride + j]
            for i in range(count):
                value, kernel, offset = values[i], kernels[i], offsets[i]
                for row in range(rows):
                    for j in range(span):
                        image_grad[offset + row * row_stride + j] += value * weights[kernel, row, j]
            write(images[number], image_grad, image_grads[number])

    function: Callable[..., None] = gradients_of
    return function


def _layout(of: Convolution) -> tuple[Any, Any, Any, Any]:
    """Rows of an image, values in a row, values in a padded row, and the offset of the first value in the padded image."""
    row_stride = of.padded[1] * of.channels
    first = of.padding[0][0] * row_stride + of.padding[1][0] * of.channels
    return _u64(of.height), _u64(of.width * of.channels), _u64(row_stride), _u64(first)


def _reader(of: Convolution) -> Callable[..., None]:
    """Compiles `read`, which copies an image into its padded float32 form and clears its gradient."""
    bfloat16, (height, row_size, row_stride, first) = of.bfloat16, _layout(of)

    @_jit
    def read(image, padded, image_grad):  # type: ignore[no-untyped-def]
        padded_bits = padded.view(np.uint32)
        for row in range(height):
            for i in range(row_size):
                if bfloat16:
                    padded_bits[first + row * row_stride + i] = _u32(image[row * row_size + i]) << _u32(16)
                else:
                    padded[first + row * row_stride + i] = image[row * row_size + i]
        for i in range(image_grad.size):
            image_grad[i] = 0

    function: Callable[..., None] = read
    return function


def _searcher(of: Convolution) -> Callable[..., None]:
    """Compiles `search`, which finds the index of the first maximum in each window. The loop over kernels is vectorized."""
    (pool_height, pool_width), kernels = of.pool, _u64(of.kernels)
    height, width, output_width = _u64(of.pooled_shape[0]), _u64(of.pooled_shape[1]), _u64(of.output_shape[1])
    bits = _u16 if of.bfloat16 else _u32

    @_jit
    def search(outputs, maxima, argmax):  # type: ignore[no-untyped-def]
        for y in range(height):
            for x in range(width):
                start = (y * width + x) * kernels
                for kernel in range(kernels):
                    argmax[start + kernel] = 0
                for back in range(pool_height * pool_width):
                    index = pool_height * pool_width - 1 - back
                    row, column = (
                        y * _u64(pool_height) + _u64(index // pool_width),
                        x * _u64(pool_width) + _u64(index % pool_width),
                    )
                    output = (row * output_width + column) * kernels
                    for kernel in range(kernels):
                        is_maximum = outputs[output + kernel] == maxima[start + kernel]
                        argmax[start + kernel] = bits(index) if is_maximum else argmax[start + kernel]

    function: Callable[..., None] = search
    return function


def _collector(of: Convolution) -> Callable[..., int]:
    """Compiles `collect`, which lists the nonzero gradients with their kernels and offsets, and returns their number."""
    per_word = of.values_per_word
    bits = _WORD_BITS // per_word
    all_bits, all_but_sign = _u64(2**bits - 1), _u64(2 ** (bits - 1) - 1)
    any_value = _u64(sum(int(all_but_sign) << (bits * part) for part in range(per_word)))
    words_of_pixel, words_of_image = _u64(of.kernels // per_word), int(np.prod(of.pooled_shape)) // per_word
    channels, pooled_width, row_stride = _u64(of.channels), _u64(of.pooled_shape[1]), _layout(of)[2]
    pool_height, pool_width = _u64(of.pool[0]), _u64(of.pool[1])

    @_jit
    def collect(gradients, pooled, argmax, words, values, kernels, offsets):  # type: ignore[no-untyped-def]
        # Without branches, which would be unpredictable: every value is written, and overwritten by the next if it is zero.
        nonzero_words, count = 0, 0
        for word in range(words_of_image):
            words[nonzero_words] = word
            nonzero_words += gradients[word] & any_value != 0
        value_bits = values.view(np.uint32)
        for i in range(nonzero_words):
            word = words[i]
            pixel, kernel = word // words_of_pixel, (word % words_of_pixel) * _u64(per_word)
            offset = (pixel // pooled_width) * pool_height * row_stride + (pixel % pooled_width) * pool_width * channels
            for part in range(per_word):
                value = (gradients[word] >> _u64(bits * part)) & all_bits
                output = (pooled[word] >> _u64(bits * part)) & all_bits
                index = _u64(argmax[word * _u64(per_word) + _u64(part)])
                value_bits[count] = _u32(value << _u64(32 - bits))
                kernels[count] = kernel + _u64(part)
                offsets[count] = offset + (index // pool_width) * row_stride + (index % pool_width) * channels
                count += (value & all_but_sign != 0) & (output & all_but_sign != 0)
        return count

    function: Callable[..., int] = collect
    return function


def _writer(of: Convolution) -> Callable[..., None]:
    """Compiles `write`, which copies an image's gradient out of its padded form and applies the relu before it, if any."""
    bfloat16, behind_relu, (height, row_size, row_stride, first) = of.bfloat16, of.behind_relu, _layout(of)

    @_jit
    def write(image, padded_grad, image_grad):  # type: ignore[no-untyped-def]
        padded_bits = padded_grad.view(np.uint32)
        for row in range(height):
            for i in range(row_size):
                source, target = first + row * row_stride + i, row * row_size + i
                if bfloat16:
                    # Round to nearest, ties to even.
                    half = _u32(0x7FFF) + ((padded_bits[source] >> _u32(16)) & _u32(1))
                    value = _u16((padded_bits[source] + half) >> _u32(16))
                    image_grad[target] = value if image[target] & _u16(0x7FFF) != 0 or not behind_relu else _u16(0)
                else:
                    image_grad[target] = padded_grad[source] if image[target] > 0 or not behind_relu else np.float32(0)

    function: Callable[..., None] = write
    return function
