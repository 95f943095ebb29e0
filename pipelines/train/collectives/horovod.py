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

_COMPRESSION = {"none": hvd.Compression.none, "float16": hvd.Compression.fp16}


def allreduce_mean(gradients: Sequence[tf.Tensor], compression: Compression = "none") -> list[tf.Tensor]:
    """The mean over ranks of each gradient, in one reduction."""
    if hvd.size() == 1:
        return list(gradients)
    reduced: list[tf.Tensor] = hvd.grouped_allreduce(list(gradients), op=hvd.Average, compression=_COMPRESSION[compression])
    return reduced


def broadcast_state(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> None:
    """Give every rank the weights and optimizer state of rank 0."""
    optimizer.build(model.trainable_variables)
    if hvd.size() == 1:
        return
    for variable in _state(model, optimizer):
        with progress.waiting("giving all ranks the same weights"):
            variable.assign(hvd.broadcast(tf.convert_to_tensor(variable.value), root_rank=0))


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
    everyones = allgather(mine)
    different = [rank for rank, other in enumerate(everyones) if other != everyones[0]]
    if different:
        raise TrainingError(
            f"{when}: weights or optimizer state of ranks {different} differ from rank 0; this is a defect, keep the logs"
        )
    return mine


def allgather(value: Any) -> list[Any]:
    """The values of all ranks, in rank order."""
    if hvd.size() == 1:
        return [value]
    with progress.waiting("comparing with the other ranks"):
        values: list[Any] = hvd.allgather_object(value)
    return values


def allreduce_sum(counts: Mapping[str, float]) -> dict[str, float]:
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
