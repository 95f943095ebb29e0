"""A training step over the canonical shards of a worker (`training.canonical_shards`).

The parts of a batch are computed one after another, each as the worker of that shard would compute it if there were as many
workers as shards: with the random generators of the shard, and batch normalization by its rows alone. One update with the mean
gradient follows. The sum over shards is in float64, where it does not depend on the order up to float32's rounding, so neither
does it on which worker computes which shard.
"""

from collections.abc import Sequence

import keras
import tensorflow as tf

from pipelines.train.checkpoint.state import generator_states
from pipelines.train.optim.ema import floating_point


def use_canonical_shards(model: keras.Model, shards: int) -> None:
    """Make a model's training step compute a batch of several shards, in place.

    Args:
        model: a built network; its optimizer must be one of `with_gradient_capture`.
        shards: shards of this rank, whose rows follow one another in a batch.
    """
    generators = generator_states(model)
    # Batch normalization's moving statistics are linear in those of the batches: their mean over shards is moved by the mean.
    frozen = {
        id(weight) for layer in model._flatten_layers(include_self=False) if not layer.trainable for weight in layer.weights
    }
    statistics = [weight for weight in floating_point(model.non_trainable_weights) if id(weight) not in frozen]
    starts = tf.Variable(tf.zeros((len(generators), shards), tf.int64), trainable=False, name="generator_starts")

    class ShardedModel(type(model)):  # type: ignore[misc]
        # Assigned at the beginning of each epoch (`RandomGenerators`).
        generator_starts = starts

        def train_step(self, data: tuple[tf.Tensor, ...]) -> dict[str, tf.Tensor]:
            by_shard = [tf.reshape(array, (shards, -1, *array.shape[1:])) for array in data]
            step = super().train_step
            calls, before = [state[1] for state in _values(generators)], _values(statistics)

            def add_shard(
                shard: tf.Tensor, sums: list[tf.Tensor], moved: list[tf.Tensor]
            ) -> tuple[tf.Tensor, list[tf.Tensor], list[tf.Tensor]]:
                for number, state in enumerate(generators):
                    state.assign(tf.cast(tf.stack([starts[number, shard], tf.cast(calls[number], tf.int64)]), state.dtype))
                _assign(statistics, before)
                with self.optimizer.capture_gradients() as gradients:
                    step(tuple(array[shard] for array in by_shard))
                sums = [total + tf.cast(gradient, total.dtype) for total, gradient in zip(sums, gradients, strict=True)]
                moves = zip(moved, _values(statistics), before, strict=True)
                return shard + 1, sums, [total + (value - old) for total, value, old in moves]

            weights = self.trainable_weights
            zeros = [tf.zeros(weight.shape, tf.float64) for weight in weights]
            # A loop rather than copies of the step, which TensorFlow could run concurrently, with the whole batch in memory.
            _, sums, moved = tf.while_loop(
                lambda shard, *_: shard < shards,
                add_shard,
                (0, zeros, [tf.zeros_like(value) for value in before]),
                parallel_iterations=1,
            )
            _assign(statistics, [old + total / shards for old, total in zip(before, moved, strict=True)])
            self.optimizer.apply([total / shards for total in sums], weights)
            metrics: dict[str, tf.Tensor] = self.get_metrics_result()
            return metrics

    model.__class__ = ShardedModel


def _values(variables: Sequence[keras.Variable]) -> list[tf.Tensor]:
    return [tf.identity(tf.convert_to_tensor(variable.value)) for variable in variables]


def _assign(variables: Sequence[keras.Variable], values: Sequence[tf.Tensor]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
