"""A batch's sparse gradients: what TensorFlow hands over, shared among threads, and what they add up."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from pipelines.train.kernels.sparse_kernel import Convolution, compile_kernel

_CACHE_LINE = 64


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
        by_kernel = aligned(of.by_kernel)
        by_kernel[:] = np.moveaxis(weights, 3, 0).reshape(by_kernel.shape)
        flat_images, into = images.reshape(batch, -1), aligned(images.shape, images.dtype).reshape(batch, -1)
        words, passed = (array.reshape(batch, -1).view(np.uint64) for array in (gradients, pooled))
        bits = np.uint16 if of.bfloat16 else np.uint32
        by_channel, largest = (array.view(bits).reshape(batch, -1) for array in (outputs, pooled))

        def part(number: int) -> None:
            rows, scratch = slice(batch * number // self._threads, batch * (number + 1) // self._threads), self._scratch[number]
            scratch.of_weights[:], scratch.of_biases[:] = 0, 0
            arrays = (array[rows] for array in (flat_images, by_channel, largest, passed, words))
            compile_kernel(of)(*arrays, by_kernel, into[rows], *scratch.arrays())

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
        self.of_weights = aligned(of.by_kernel)
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
