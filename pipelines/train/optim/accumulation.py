"""Gradient accumulation: a batch is computed in parts, one after another, followed by one update with their mean gradient.

A batch may thus need more memory than one pass has, and ranks communicate once per batch, however small its parts. Dropout and
batch normalization are applied to each part separately.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf


def with_gradient_capture(optimizer_class: type[keras.optimizers.Optimizer]) -> type[keras.optimizers.Optimizer]:
    """A subclass that can capture gradients instead of applying them."""

    # Not attributes of the optimizer, of which Keras would make copies.
    captures: list[list[tf.Tensor]] = []

    class CapturingOptimizer(optimizer_class):
        @contextmanager
        def capture_gradients(self) -> Iterator[list[tf.Tensor]]:
            """Within the block, `apply` appends its gradients to the list. Works while a graph is traced, not while it runs.

            Blocks can be nested: `apply` appends to the list of the innermost one.
            """
            captures.append([])
            try:
                yield captures[-1]
            finally:
                captures.pop()

        def apply(self, grads: Sequence[tf.Tensor], trainable_variables: Any = None) -> Any:
            if not captures:
                return super().apply(grads, trainable_variables)
            captures[-1].extend(grads)
            return None

    return CapturingOptimizer


def use_accumulation(model: keras.Model, parts: int) -> None:
    """Make a model's training step split its batch into `parts` parts, in place.

    Args:
        model: its optimizer must be one of `with_gradient_capture`.
        parts: must divide the batch size.
    """

    class AccumulatingModel(type(model)):  # type: ignore[misc]
        def train_step(self, data: tuple[tf.Tensor, ...]) -> dict[str, tf.Tensor]:
            by_part = [tf.reshape(array, (parts, -1, *array.shape[1:])) for array in data]
            step = super().train_step

            def add_part(part: tf.Tensor, sums: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
                with self.optimizer.capture_gradients() as gradients:
                    step(tuple(array[part] for array in by_part))
                return part + 1, [total + gradient for total, gradient in zip(sums, gradients, strict=True)]

            weights = self.trainable_weights
            zeros = [tf.zeros(weight.shape, weight.dtype) for weight in weights]
            # A loop rather than copies of the step, which TensorFlow could run concurrently, with the whole batch in memory.
            _, sums = tf.while_loop(lambda part, _: part < parts, add_part, (0, zeros), parallel_iterations=1)
            self.optimizer.apply([total / parts for total in sums], weights)
            metrics: dict[str, tf.Tensor] = self.get_metrics_result()
            return metrics

    # Not a new model: building a functional one again from its inputs and outputs would lose its inner layers.
    model.__class__ = AccumulatingModel
