"""Exponential moving average (EMA) of the weights over steps, which generalizes better than the last weights.

`average += (1 - decay) (weights - average)`, with a decay that grows as t / (t + 10) after t steps, up to the configured one, so
that the initial weights are soon forgotten even in a short training. The moving statistics of batch normalization are averaged
like weights, because the statistics of the last weights would not match the averaged ones.

Why not Keras' `use_ema`: it does not average the statistics, has no such warm-up, and overwrites the weights with the average at
the end of each call of `fit`, of which a training that is resumed inside an epoch has two.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipelines.train.collectives.horovod import allreduce_mean
from pipelines.train.optim.loss_scale import base_optimizer

# During warm-up, the average reaches back over about a tenth of the steps so far.
_WARMUP_STEPS = 10.0


def with_ema(optimizer_class: type[keras.optimizers.Optimizer], model: keras.Model, decay: float) -> Any:
    """A subclass that keeps the average of a network's weights in its own variables, as `averages`.

    The average is thus broadcast, compared and saved in checkpoints like the rest of the optimizer's state.
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
            share = 1.0 - tf.minimum(decay, step / (step + _WARMUP_STEPS))
            for average, weight in zip(self.averages, floating_point(model.weights), strict=True):
                average.assign(average + share * (tf.convert_to_tensor(weight.value) - average))

    return EmaOptimizer


def floating_point(weights: Sequence[keras.Variable]) -> list[keras.Variable]:
    """The weights that can be averaged: those of a floating-point dtype."""
    return [weight for weight in weights if tf.as_dtype(weight.dtype).is_floating]


def averages(model: keras.Model) -> list[keras.Variable]:
    """The averages of `floating_point(model.weights)`, in this order; empty without EMA."""
    variables: list[keras.Variable] = getattr(base_optimizer(model.optimizer), "averages", [])
    return variables


def assign_averages(model: keras.Model) -> None:
    """Replace a network's weights by their averages; does nothing without EMA."""
    for average, weight in zip(averages(model), floating_point(model.weights), strict=False):
        weight.assign(average)


def validated_weights(model: keras.Model) -> list[npt.NDArray[Any]]:
    """Copies of the weights that validation uses, in the order of `model.weights`: the averages if there are any."""
    average = {id(weight): average for weight, average in zip(floating_point(model.weights), averages(model), strict=False)}
    return [np.array(keras.ops.convert_to_numpy(average.get(id(weight), weight))) for weight in model.weights]


@contextlib.contextmanager
def averaged_weights(model: keras.Model) -> Iterator[None]:
    """Within the block, the network has its averaged weights; afterwards its own again, bit for bit. No-op without EMA."""
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
    """Average the moving statistics of batch normalization over ranks; called after each epoch.

    Each rank normalizes by the statistics of its own batch (as in Goyal et al. 2017, arXiv:1706.02677, because normalizing larger
    batches would change the network). Evaluation uses moving averages of them, which training never reads. They are linear in the
    statistics of the batches, so averaging them once per epoch gives the same result as averaging in every step.
    """
    statistics = floating_point(model.non_trainable_weights)
    trainable = {id(weight) for weight in model.trainable_weights}
    for weight, average in zip(floating_point(model.weights), averages(model), strict=False):
        if id(weight) not in trainable:
            statistics.append(average)
    if not statistics:
        return
    for variable, mean in zip(statistics, allreduce_mean([tf.convert_to_tensor(s.value) for s in statistics]), strict=True):
        variable.assign(mean)
