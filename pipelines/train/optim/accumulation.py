"""Gradient accumulation: a batch is computed in parts, one after another, and makes one update of their mean gradient.

So a batch may be larger than the memory that one pass takes, and ranks talk once a batch, however small its parts are. Dropout
and batch normalization see each part by itself.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf


def with_gradient_capture(optimizer_class: type[keras.optimizers.Optimizer]) -> type[keras.optimizers.Optimizer]:
    """A subclass that can be made to keep the gradients it is given instead of using them."""

    class CapturingOptimizer(optimizer_class):
        _captured: list[tf.Tensor] | None = None

        @contextmanager
        def capture_gradients(self) -> Iterator[list[tf.Tensor]]:
            """Within, `apply` adds its gradients to the list. While a graph is traced, not while it runs."""
            self._captured = []
            try:
                yield self._captured
            finally:
                self._captured = None

        def apply(self, grads: Sequence[tf.Tensor], trainable_variables: Any = None) -> Any:
            if self._captured is None:
                return super().apply(grads, trainable_variables)
            self._captured.extend(grads)
            return None

    return CapturingOptimizer


def use_accumulation(model: keras.Model, parts: int) -> None:
    """Make a network's training step take its batch in so many parts, which must divide it.

    Its optimizer must be one of `with_gradient_capture`.
    """

    class AccumulatingModel(type(model)):  # type: ignore[misc]
        def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
            images, labels = (tf.reshape(array, (parts, -1, *array.shape[1:])) for array in data)
            step = super().train_step

            def add_part(part: tf.Tensor, sums: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
                with self.optimizer.capture_gradients() as gradients:
                    step((images[part], labels[part]))
                return part + 1, [total + gradient for total, gradient in zip(sums, gradients, strict=True)]

            weights = self.trainable_weights
            zeros = [tf.zeros(weight.shape, weight.dtype) for weight in weights]
            # A loop and not copies of the step, which TensorFlow could run side by side, in the memory of the whole batch.
            _, sums = tf.while_loop(lambda part, _: part < parts, add_part, (0, zeros), parallel_iterations=1)
            self.optimizer.apply([total / parts for total in sums], weights)
            metrics: dict[str, tf.Tensor] = self.get_metrics_result()
            return metrics

    # Not a new network: a functional one cannot be told its inputs and outputs again without its inner layers' being lost.
    model.__class__ = AccumulatingModel
