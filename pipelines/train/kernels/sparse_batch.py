"""The sparse gradients of a batch: divides the arrays from TensorFlow among threads, and sums what the threads compute."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from pipelines.train.kernels.sparse_kernel import Convolution, compile_kernel

_CACHE_LINE = 64


class SparseGradients:
    """The gradient function that TensorFlow calls in each step. Not reentrant: calls share scratch memory.

    Args:
        convolution: its `kernels` must be a multiple of its `values_per_word`.
        threads: number of threads that share a batch. The order of summation is the same in every call.
    """

    def __init__(self, convolution: Convolution, threads: int) -> None:
        self._convolution = convolution
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, "sparse-gradients") if threads > 1 else None
        self._scratch = [_Scratch(convolution) for _ in range(threads)]

    def __call__(self, images: Any, outputs: Any, pooled: Any, gradients: Any, weights: Any) -> tuple[Any, Any, Any]:
        """The gradients of the convolution's inputs, from those of the pooling's outputs.

        Args:
            images: [batch, height, width, channels].
            outputs: relu of the convolution, [batch, output height, output width, kernels].
            pooled: maximum of each window, [batch, pooled height, pooled width, kernels].
            gradients: those of `pooled`. If a window has several maxima, the first one receives the gradient.
            weights: [kernel height, kernel width, channels, kernels] float32.

        Returns:
            gradients of the images, in their dtype; of the weights, float32; of the biases, [kernels] float32.
        """
        convolution, batch = self._convolution, len(images)
        by_kernel = aligned(convolution.by_kernel)
        by_kernel[:] = np.moveaxis(weights, 3, 0).reshape(by_kernel.shape)
        flat_images, image_grads = images.reshape(batch, -1), aligned(images.shape, images.dtype).reshape(batch, -1)
        gradient_words, pooled_words = (array.reshape(batch, -1).view(np.uint64) for array in (gradients, pooled))
        bits = np.uint16 if convolution.bfloat16 else np.uint32
        output_bits, pooled_bits = (array.view(bits).reshape(batch, -1) for array in (outputs, pooled))

        def part(number: int) -> tuple[Any, ...]:
            rows, scratch = slice(batch * number // self._threads, batch * (number + 1) // self._threads), self._scratch[number]
            arrays = (array[rows] for array in (flat_images, output_bits, pooled_bits, pooled_words, gradient_words))
            return *arrays, by_kernel, image_grads[rows], *scratch.arrays()

        add_gradients = compile_kernel(convolution, part(0))

        def compute_part(number: int) -> None:
            scratch = self._scratch[number]
            scratch.weight_grads[:], scratch.bias_grads[:] = 0, 0
            add_gradients(*part(number))

        futures = [self._pool.submit(compute_part, number) for number in range(1, self._threads)] if self._pool else []
        compute_part(0)
        for future in futures:
            future.result()
        shape = (convolution.kernels, convolution.kernel_height, convolution.kernel_width, convolution.channels)
        weight_grads = np.moveaxis(sum(scratch.weight_grads for scratch in self._scratch).reshape(shape), 0, 3)
        bias_grads = sum(scratch.bias_grads for scratch in self._scratch)
        return image_grads.reshape(images.shape), np.ascontiguousarray(weight_grads), bias_grads


class _Scratch:
    """One thread's sums and intermediate arrays."""

    def __init__(self, convolution: Convolution) -> None:
        padded, pooled = int(np.prod(convolution.padded)) * convolution.channels, int(np.prod(convolution.pooled_shape))
        self.weight_grads = aligned(convolution.by_kernel)
        self.bias_grads = aligned((convolution.kernels,))
        self.image = aligned((padded,))
        # The padding, which is never written again.
        self.image[:] = 0
        self.image_grad = aligned((padded,))
        self.argmax = aligned((pooled,), np.uint16 if convolution.bfloat16 else np.uint32)
        # One more than needed: the element after the last one is written, too.
        self.words = aligned((pooled + 1,), np.uint64)
        self.values = aligned((pooled + 1,))
        self.kernels = aligned((pooled + 1,), np.uint64)
        self.offsets = aligned((pooled + 1,), np.uint64)

    def arrays(self) -> tuple[Any, ...]:
        sparse = self.argmax, self.words, self.values, self.kernels, self.offsets
        return self.weight_grads, self.bias_grads, self.image, self.image_grad, *sparse


def aligned(shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
    """An uninitialized array that is aligned to cache lines: vector accesses across two lines take twice as long."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.empty(size + _CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % _CACHE_LINE
    return memory[start : start + size].view(dtype).reshape(shape)
