"""What makes N Keras processes train one network: averaged gradients, equal weights, summed metrics.

Only Horovod's TensorFlow ops are used. Its Keras wrappers and callbacks do not work with Keras 3, and its broadcast callback runs
after the first batch, which with `steps_per_execution` is many steps too late.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import horovod.tensorflow as hvd
import keras
import numpy as np
import tensorflow as tf

from pipelines import progress
from pipelines.config.training import Compression
from pipelines.errors import TrainingError
from pipelines.train.collectives.shared_memory import Neighbours
from pipelines.train.optim.ema import averages, floating
from pipelines.train.optim.loss_scale import NOT_FINITE

_COMPRESSION = {"none": hvd.Compression.none, "float16": hvd.Compression.fp16}


def distributed(
    optimizer_class: type[keras.optimizers.Optimizer],
    compression: Compression = "none",
    neighbours: Neighbours | None = None,
) -> type[keras.optimizers.Optimizer]:
    """A subclass whose updates use the mean gradients of all ranks.

    It is for training only: a saved model must not hold it, because loading that model would need Horovod.

    Args:
        optimizer_class: what makes updates of gradients.
        compression: the type in which gradients are sent and added up.
        neighbours: the other ranks, where they share memory; None leaves it to Horovod.
    """

    class Distributed(optimizer_class):
        def apply(self, grads: Sequence[tf.Tensor], trainable_variables: Any = None) -> Any:
            # Gradients of embeddings are sparse, which Horovod gathers.
            dense = all(isinstance(gradient, tf.Tensor) for gradient in grads)
            means = neighbours.averaged(grads) if neighbours is not None and dense else averaged(grads, compression)
            return super().apply(means, trainable_variables)

    return Distributed


def guarded(optimizer_class: type[keras.optimizers.Optimizer], clip_norm: float = 0.0) -> type[keras.optimizers.Optimizer]:
    """A subclass that is safe from gradients that are not finite or too long.

    Args:
        optimizer_class: what makes updates of gradients.
        clip_norm: the gradient, all weights together, is shortened to this length where it is longer; 0 for no limit. It is that
            of all ranks, so they shorten it by the same factor.
    """

    class Guarded(optimizer_class):
        def apply(self, grads: Sequence[tf.Tensor], trainable_variables: Any = None) -> Any:
            with tf.control_dependencies([checked_finite(grads)]):
                if clip_norm:
                    grads, _ = tf.clip_by_global_norm(grads, clip_norm)
                return super().apply(grads, trainable_variables)

    return Guarded


def averaged(gradients: Sequence[tf.Tensor], compression: Compression = "none") -> list[tf.Tensor]:
    """The mean over ranks of each gradient, in one reduction."""
    if hvd.size() == 1:
        return list(gradients)
    reduced: list[tf.Tensor] = hvd.grouped_allreduce(list(gradients), op=hvd.Average, compression=_COMPRESSION[compression])
    return reduced


def checked_finite(gradients: Sequence[tf.Tensor]) -> tf.Tensor:
    """An operation that fails when a gradient holds a value that is not finite.

    After the reduction all ranks hold the same values, so all of them fail in the same step, without a word between them. A loss
    that is not finite has such gradients.
    """
    # The sum of a tensor is finite only if all its values are, and costs less than a look at each.
    total = tf.add_n([tf.reduce_sum(gradient) for gradient in gradients])
    return tf.debugging.assert_all_finite(total, NOT_FINITE)


def broadcast_state(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> None:
    """Give every rank the weights and optimizer state of rank 0."""
    optimizer.build(model.trainable_variables)
    if hvd.size() == 1:
        return
    for variable in _state(model, optimizer):
        with progress.waiting("giving all ranks the same weights"):
            variable.assign(hvd.broadcast(tf.convert_to_tensor(variable.value), root_rank=0))


def average_statistics(model: keras.Model) -> None:
    """Give every rank the mean over ranks of the moving statistics of batch normalization, to be called after an epoch.

    Each rank normalizes by the statistics of its own batch (as Goyal et al. 2017, arXiv:1706.02677, do: a larger batch would be
    another network). What evaluation uses are moving averages of them, which training itself never reads. They are linear in the
    statistics of the batches, so their mean now is what a mean in every step would have come to.
    """
    statistics = floating(model.non_trainable_weights)
    trained = {id(weight) for weight in model.trainable_weights}
    for weight, average in zip(floating(model.weights), averages(model), strict=False):
        if id(weight) not in trained:
            statistics.append(average)
    if not statistics:
        return
    for variable, mean in zip(statistics, averaged([tf.convert_to_tensor(s.value) for s in statistics]), strict=True):
        variable.assign(mean)


def check_equal_state(model: keras.Model, optimizer: keras.optimizers.Optimizer, when: str) -> str:
    """Compare weights and optimizer state over ranks.

    Returns:
        the SHA-256 of the weights, equal on all ranks.

    Raises:
        TrainingError: on every rank, naming the ranks that differ from rank 0.
    """
    digest = hashlib.sha256()
    for variable in _state(model, optimizer):
        digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).tobytes())
    mine = digest.hexdigest()
    everyones = gathered(mine)
    different = [rank for rank, other in enumerate(everyones) if other != everyones[0]]
    if different:
        raise TrainingError(
            f"{when}: weights or optimizer state of ranks {different} differ from rank 0; this is a defect, keep the logs"
        )
    return mine


def gathered(value: Any) -> list[Any]:
    """The values of all ranks, in rank order."""
    if hvd.size() == 1:
        return [value]
    with progress.waiting("comparing with the other ranks"):
        values: list[Any] = hvd.allgather_object(value)
    return values


def summed(counts: Mapping[str, float]) -> dict[str, float]:
    """The sum over ranks of each number, in float64. All ranks must pass the same names."""
    names = sorted(counts)
    values = tf.constant([counts[name] for name in names], dtype=tf.float64)
    if hvd.size() > 1:
        with progress.waiting("adding up with the other ranks"):
            values = hvd.allreduce(values, op=hvd.Sum)
    return dict(zip(names, values.numpy().tolist(), strict=True))


def _state(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    # Seeds of dropout layers are left out: they differ between ranks on purpose.
    return [*model.weights, *optimizer.variables]
