"""An average of the weights over the steps, which generalizes better than the last of them.

The average is exponential, `average += (1 - decay) (weights - average)`, with a decay that grows from 0, t / (t + 10) after t
steps, up to the configured one: so the initial weights are soon forgotten, however few steps there are. The moving statistics of
batch normalization are averaged like weights, because those of the last weights would not fit the averaged ones.

Why not Keras' `use_ema`: it leaves the statistics alone, has no such beginning, and writes the average over the weights at the
end of each call of `fit`, of which a training that was stopped inside an epoch has two.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from pipelines.train.collectives.horovod import allreduce_mean
from pipelines.train.optim.loss_scale import base_optimizer

# After t steps the average reaches back over a tenth of them, until the configured decay is reached.
_BEGINNING = 10.0


def with_ema(optimizer_class: type[keras.optimizers.Optimizer], model: keras.Model, decay: float) -> Any:
    """A subclass that keeps the average of a network's weights among its own variables, as `averages`.

    So the average is broadcast, compared and kept in checkpoints like the optimizer's other state.
    """

    class EmaOptimizer(optimizer_class):
        def build(self, variables: Sequence[keras.Variable]) -> None:
            if self.built:
                return
            super().build(variables)
            self.averages = [self.add_variable_from_reference(weight, "average") for weight in floating_point(model.weights)]

        def apply(self, grads: Sequence[tf.Tensor], trainable_variables: Any = None) -> None:
            step = tf.cast(tf.convert_to_tensor(self.iterations.value), tf.float32)
            super().apply(grads, trainable_variables)
            share = 1.0 - tf.minimum(decay, step / (step + _BEGINNING))
            for average, weight in zip(self.averages, floating_point(model.weights), strict=True):
                average.assign(average + share * (tf.convert_to_tensor(weight.value) - average))

    return EmaOptimizer


def floating_point(weights: Sequence[keras.Variable]) -> list[keras.Variable]:
    """Those that can be averaged."""
    return [weight for weight in weights if tf.as_dtype(weight.dtype).is_floating]


def averages(model: keras.Model) -> list[keras.Variable]:
    """The averages of `floating_point(model.weights)`, in this order; empty where none are kept."""
    found: list[keras.Variable] = getattr(base_optimizer(model.optimizer), "averages", [])
    return found


def assign_averages(model: keras.Model) -> None:
    """Give a network its averaged weights for good, where they are kept."""
    for average, weight in zip(averages(model), floating_point(model.weights), strict=False):
        weight.assign(average)


@contextlib.contextmanager
def averaged_weights(model: keras.Model) -> Iterator[None]:
    """Within, a network has its averaged weights, where they are kept. Then it has its own again, bit for bit."""
    if not averages(model):
        yield
        return
    own = model.get_weights()
    assign_averages(model)
    try:
        yield
    finally:
        model.set_weights(own)


def allreduce_statistics(model: keras.Model) -> None:
    """Give every rank the mean over ranks of the moving statistics of batch normalization, to be called after an epoch.

    Each rank normalizes by the statistics of its own batch (as Goyal et al. 2017, arXiv:1706.02677, do: a larger batch would be
    another network). What evaluation uses are moving averages of them, which training itself never reads. They are linear in the
    statistics of the batches, so their mean now is what a mean in every step would have come to.
    """
    statistics = floating_point(model.non_trainable_weights)
    trained = {id(weight) for weight in model.trainable_weights}
    for weight, average in zip(floating_point(model.weights), averages(model), strict=False):
        if id(weight) not in trained:
            statistics.append(average)
    if not statistics:
        return
    for variable, mean in zip(statistics, allreduce_mean([tf.convert_to_tensor(s.value) for s in statistics]), strict=True):
        variable.assign(mean)
