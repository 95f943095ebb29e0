"""Gradients of a convolution with relu and pooling, few of whose outputs pass one on, compiled by Numba for this processor.

The usual algorithms multiply by every output's gradient. With pooling over 2 x 2 and dropout of three quarters behind it at most
one in sixteen is not zero, and multiplying by these alone takes half the time of the best dense product, or less.
"""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

_CACHE_LINE = 64
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
    def values_per_word(self) -> int:
        """Values that are looked at together, in 64 bits."""
        return _WORD_BITS // (16 if self.bfloat16 else 32)


class SparseGradients:
    """What TensorFlow calls in a step. For one call at a time: calls share the memory in which sums are made.

    Args:
        convolution: what it computes. Its `kernels` must be a multiple of its `values_per_word`.
        threads: how many share a batch. Sums are made in the same order in every call.
    """

    def __init__(self, convolution: Convolution, threads: int) -> None:
        self._of = convolution
        self._threads = threads
        self._others = ThreadPoolExecutor(threads, "sparse-gradients") if threads > 1 else None
        self._scratch = [_Scratch(convolution) for _ in range(threads)]

    def __call__(self, images: Any, outputs: Any, pooled: Any, gradients: Any, weights: Any) -> tuple[Any, Any, Any]:
        """The gradients that follow from those behind pooling.

        Args:
            images: [batch, height, width, channels].
            outputs: relu of the convolution, [batch, output height, output width, kernels].
            pooled: the largest of each window, [batch, pooled height, pooled width, kernels].
            gradients: of `pooled`. Of several largest outputs the first has it.
            weights: [kernel height, kernel width, channels, kernels] float32.

        Returns:
            gradients of the images, in their type; of the weights, float32; of the biases, [kernels] float32.
        """
        of, batch = self._of, len(images)
        by_kernel = aligned(_by_kernel(of))
        by_kernel[:] = np.moveaxis(weights, 3, 0).reshape(by_kernel.shape)
        flat_images, into = images.reshape(batch, -1), aligned(images.shape, images.dtype).reshape(batch, -1)
        words, passed = (array.reshape(batch, -1).view(np.uint64) for array in (gradients, pooled))
        bits = np.uint16 if of.bfloat16 else np.uint32
        by_channel, largest = (array.view(bits).reshape(batch, -1) for array in (outputs, pooled))

        def part(number: int) -> None:
            rows, scratch = slice(batch * number // self._threads, batch * (number + 1) // self._threads), self._scratch[number]
            scratch.of_weights[:], scratch.of_biases[:] = 0, 0
            arrays = (array[rows] for array in (flat_images, by_channel, largest, passed, words))
            _compiled(of)(*arrays, by_kernel, into[rows], *scratch.arrays())

        running = [self._others.submit(part, number) for number in range(1, self._threads)] if self._others else []
        part(0)
        for other in running:
            other.result()
        shape = (of.kernels, of.kernel_height, of.kernel_width, of.channels)
        of_weights = np.moveaxis(sum(scratch.of_weights for scratch in self._scratch).reshape(shape), 0, 3)
        of_biases = sum(scratch.of_biases for scratch in self._scratch)
        return into.reshape(images.shape), np.ascontiguousarray(of_weights), of_biases


class _Scratch:
    """What one thread adds up, and what it finds."""

    def __init__(self, of: Convolution) -> None:
        padded, pooled = int(np.prod(of.padded)) * of.channels, int(np.prod(of.pooled_shape))
        self.of_weights = aligned(_by_kernel(of))
        self.of_biases = aligned((of.kernels,))
        self.image = aligned((padded,))
        # Around what is read into it.
        self.image[:] = 0
        self.of_image = aligned((padded,))
        self.windows = aligned((pooled,), np.uint16 if of.bfloat16 else np.uint32)
        # One place more: that after the last value found is written to.
        self.words = aligned((pooled + 1,), np.uint64)
        self.values = aligned((pooled + 1,))
        self.numbers = aligned((pooled + 1,), np.uint64)
        self.places = aligned((pooled + 1,), np.uint64)

    def arrays(self) -> tuple[Any, ...]:
        found = self.windows, self.words, self.values, self.numbers, self.places
        return self.of_weights, self.of_biases, self.image, self.of_image, *found


def aligned(shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
    """An array that begins with a cache line, not filled: vectors that lie across two lines take twice as long."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.empty(size + _CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % _CACHE_LINE
    return memory[start : start + size].view(dtype).reshape(shape)


def _by_kernel(of: Convolution) -> tuple[int, int, int]:
    # What a kernel's line multiplies lies together in an image, too.
    return of.kernels, of.kernel_height, of.kernel_width * of.channels


# What follows is compiled for each convolution, with its sizes as constants. They are unsigned, because Numba looks whether a
# signed index counts from the end.
_u16, _u32, _u64 = np.uint16, np.uint32, np.uint64
_jit = numba.njit(nogil=True, fastmath={"contract", "nsz"}, error_model="numpy")


@functools.cache
def _compiled(of: Convolution) -> Callable[..., None]:
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

    compiled: Callable[..., None] = gradients_of
    return compiled


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

    compiled: Callable[..., None] = read
    return compiled


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

    compiled: Callable[..., None] = search
    return compiled


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

    compiled: Callable[..., int] = collect
    return compiled


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

    compiled: Callable[..., None] = write
    return compiled
