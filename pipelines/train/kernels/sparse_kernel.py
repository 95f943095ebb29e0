"""Gradients of a convolution with relu and pooling, few of whose outputs pass one on, compiled by Numba for this processor.

The usual algorithms multiply by every output's gradient. With pooling over 2 x 2 and dropout of three quarters behind it at most
one in sixteen is not zero, and multiplying by these alone takes half the time of the best dense product, or less.
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
    """A convolution over images [batch, height, width, channels] with strides of 1, relu, and pooling without overlaps."""

    height: int
    width: int
    channels: int
    kernel_height: int
    kernel_width: int
    kernels: int
    pool: tuple[int, int]
    """Height and width of the windows of which the largest output is taken. What fills no window is left out."""
    padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    """Zeros above and below, left and right."""
    bfloat16: bool = False
    """Images, outputs and gradients are the bits of bfloat16, as uint16. Else they are float32."""
    behind_relu: bool = False
    """Images are outputs of a relu whose gradient is to be part of theirs."""

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width with the zeros."""
        return self.height + sum(self.padding[0]), self.width + sum(self.padding[1])

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """Of one image, before pooling."""
        height, width = self.padded
        return height - self.kernel_height + 1, width - self.kernel_width + 1, self.kernels

    @property
    def pooled_shape(self) -> tuple[int, int, int]:
        """Of one image, behind pooling."""
        height, width, kernels = self.output_shape
        return height // self.pool[0], width // self.pool[1], kernels

    @property
    def by_kernel(self) -> tuple[int, int, int]:
        """Shape of the weights as they are used here: what a kernel's line multiplies lies together in an image, too."""
        return self.kernels, self.kernel_height, self.kernel_width * self.channels

    @property
    def values_per_word(self) -> int:
        """Values that are looked at together, in 64 bits."""
        return _WORD_BITS // (16 if self.bfloat16 else 32)


# What follows is compiled for each convolution, with its sizes as constants. They are unsigned, because Numba looks whether a
# signed index counts from the end.
_u16, _u32, _u64 = np.uint16, np.uint32, np.uint64
_jit = numba.njit(nogil=True, fastmath={"contract", "nsz"}, error_model="numpy")


@functools.cache
def compile_kernel(of: Convolution) -> Callable[..., None]:
    """The function that adds up a thread's share of a batch; `sparsebatch` makes its arrays."""
    read, search, collect, write = _reader(of), _searcher(of), _collector(of), _writer(of)
    lines, span, line_step = _u64(of.kernel_height), _u64(of.kernel_width * of.channels), _u64(of.padded[1] * of.channels)

    @_jit
    def gradients_of(  # type: ignore[no-untyped-def]
        images,
        outputs,
        largest,
        pooled,
        gradients,
        weights,
        into,
        of_weights,
        of_biases,
        image,
        of_image,
        windows,
        words,
        values,
        numbers,
        places,
    ):
        for number in range(len(images)):
            read(images[number], image, of_image)
            search(outputs[number], largest[number], windows)
            found = collect(gradients[number], pooled[number], windows, words, values, numbers, places)
            # Two loops: what each of them reads and writes stays in the first cache.
            for i in range(found):
                value, kernel, place = values[i], numbers[i], places[i]
                of_biases[kernel] += value
                for line in range(lines):
                    for j in range(span):
                        of_weights[kernel, line, j] += value * image[place + line * line_step + j]
            for i in range(found):
                value, kernel, place = values[i], numbers[i], places[i]
                for line in range(lines):
                    for j in range(span):
                        of_image[place + line * line_step + j] += value * weights[kernel, line, j]
            write(images[number], of_image, into[number])

    function: Callable[..., None] = gradients_of
    return function


def _lines(of: Convolution) -> tuple[Any, Any, Any, Any]:
    # Lines of an image, values in one, from one to the next with the zeros around them, and the first value after zeros.
    line_step = of.padded[1] * of.channels
    first = of.padding[0][0] * line_step + of.padding[1][0] * of.channels
    return _u64(of.height), _u64(of.width * of.channels), _u64(line_step), _u64(first)


def _reader(of: Convolution) -> Callable[..., None]:
    bfloat16, (height, row, line_step, first) = of.bfloat16, _lines(of)

    @_jit
    def read(image, into, of_image):  # type: ignore[no-untyped-def]
        into_bits = into.view(np.uint32)
        for line in range(height):
            for i in range(row):
                if bfloat16:
                    into_bits[first + line * line_step + i] = _u32(image[line * row + i]) << _u32(16)
                else:
                    into[first + line * line_step + i] = image[line * row + i]
        for i in range(of_image.size):
            of_image[i] = 0

    function: Callable[..., None] = read
    return function


def _searcher(of: Convolution) -> Callable[..., None]:
    # Of each window, the number of its first output that is the largest. The loop over kernels becomes vectors.
    (pool_height, pool_width), kernels = of.pool, _u64(of.kernels)
    height, width, output_width = _u64(of.pooled_shape[0]), _u64(of.pooled_shape[1]), _u64(of.output_shape[1])
    bits = _u16 if of.bfloat16 else _u32

    @_jit
    def search(outputs, largest, windows):  # type: ignore[no-untyped-def]
        for y in range(height):
            for x in range(width):
                start = (y * width + x) * kernels
                for kernel in range(kernels):
                    windows[start + kernel] = 0
                for back in range(pool_height * pool_width):
                    place = pool_height * pool_width - 1 - back
                    line, column = (
                        y * _u64(pool_height) + _u64(place // pool_width),
                        x * _u64(pool_width) + _u64(place % pool_width),
                    )
                    output = (line * output_width + column) * kernels
                    for kernel in range(kernels):
                        same = outputs[output + kernel] == largest[start + kernel]
                        windows[start + kernel] = bits(place) if same else windows[start + kernel]

    function: Callable[..., None] = search
    return function


def _collector(of: Convolution) -> Callable[..., int]:
    per_word = of.values_per_word
    bits = _WORD_BITS // per_word
    all_bits, all_but_sign = _u64(2**bits - 1), _u64(2 ** (bits - 1) - 1)
    any_value = _u64(sum(int(all_but_sign) << (bits * part) for part in range(per_word)))
    words_of_pixel, words_of_image = _u64(of.kernels // per_word), int(np.prod(of.pooled_shape)) // per_word
    channels, pooled_width, line_step = _u64(of.channels), _u64(of.pooled_shape[1]), _lines(of)[2]
    pool_height, pool_width = _u64(of.pool[0]), _u64(of.pool[1])

    @_jit
    def collect(gradients, pooled, windows, words, values, numbers, places):  # type: ignore[no-untyped-def]
        # Without branches, which no processor could predict: all is written down, the next over what was not wanted.
        some, found = 0, 0
        for word in range(words_of_image):
            words[some] = word
            some += gradients[word] & any_value != 0
        value_bits = values.view(np.uint32)
        for i in range(some):
            word = words[i]
            pixel, number = word // words_of_pixel, (word % words_of_pixel) * _u64(per_word)
            place = (pixel // pooled_width) * pool_height * line_step + (pixel % pooled_width) * pool_width * channels
            for part in range(per_word):
                value = (gradients[word] >> _u64(bits * part)) & all_bits
                output = (pooled[word] >> _u64(bits * part)) & all_bits
                window = _u64(windows[word * _u64(per_word) + _u64(part)])
                value_bits[found] = _u32(value << _u64(32 - bits))
                numbers[found] = number + _u64(part)
                places[found] = place + (window // pool_width) * line_step + (window % pool_width) * channels
                found += (value & all_but_sign != 0) & (output & all_but_sign != 0)
        return found

    function: Callable[..., int] = collect
    return function


def _writer(of: Convolution) -> Callable[..., None]:
    bfloat16, behind_relu, (height, row, line_step, first) = of.bfloat16, of.behind_relu, _lines(of)

    @_jit
    def write(image, of_image, into):  # type: ignore[no-untyped-def]
        of_image_bits = of_image.view(np.uint32)
        for line in range(height):
            for i in range(row):
                there, here = first + line * line_step + i, line * row + i
                if bfloat16:
                    # To the nearest, and of two as near to the even one.
                    half = _u32(0x7FFF) + ((of_image_bits[there] >> _u32(16)) & _u32(1))
                    value = _u16((of_image_bits[there] + half) >> _u32(16))
                    into[here] = value if image[here] & _u16(0x7FFF) != 0 or not behind_relu else _u16(0)
                else:
                    into[here] = of_image[there] if image[here] > 0 or not behind_relu else np.float32(0)

    function: Callable[..., None] = write
    return function
