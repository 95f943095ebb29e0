"""Collective operations over Horovod, with which N Keras processes train one network.

Only Horovod's TensorFlow ops are used. Its Keras wrappers and callbacks do not work with Keras 3, and its broadcast callback runs
after the first batch, which with `steps_per_execution` is many steps too late.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import horovod.tensorflow as hvd
import keras
import numpy as np
import tensorflow as tf

from pipelines import progress
from pipelines.config.training import Compression
from pipelines.errors import TrainingError

COMPRESSION = {"none": hvd.Compression.none, "float16": hvd.Compression.fp16}


def allreduce_mean(gradients: Sequence[tf.Tensor], compression: Compression = "none") -> list[tf.Tensor]:
    """The mean over ranks of each gradient, by one grouped allreduce."""
    if hvd.size() == 1:
        return list(gradients)
    reduced: list[tf.Tensor] = hvd.grouped_allreduce(list(gradients), op=hvd.Average, compression=COMPRESSION[compression])
    return reduced


def broadcast_state(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> None:
    """Copy rank 0's weights and optimizer state to all ranks."""
    optimizer.build(model.trainable_variables)
    if hvd.size() == 1:
        return
    for variable in _state(model, optimizer):
        with progress.waiting("broadcasting weights and optimizer state"):
            variable.assign(hvd.broadcast(tf.convert_to_tensor(variable.value), root_rank=0))


def check_equal_state(model: keras.Model, optimizer: keras.optimizers.Optimizer, when: str) -> str:
    """Check that weights and optimizer state are equal on all ranks.

    Returns:
        the SHA-256 of weights and optimizer state.

    Raises:
        TrainingError: names the ranks that differ from rank 0; raised on all ranks.
    """
    digest = hashlib.sha256()
    for variable in _state(model, optimizer):
        digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).tobytes())
    digests = allgather(digest.hexdigest())
    different = [rank for rank, other in enumerate(digests) if other != digests[0]]
    if different:
        raise TrainingError(
            f"{when}: weights or optimizer state of ranks {different} differ from rank 0; this is a bug, please keep the logs",
            "drifted",
            different,
        )
    return digest.hexdigest()


def allgather(value: Any) -> list[Any]:
    """The values of all ranks, in rank order.

    They are sent as JSON. Horovod's `allgather_object` unpickles what it receives, and nothing authenticates the connections
    between ranks, so who can open one could run code here.

    Args:
        value: texts, numbers, booleans, None, and lists and dicts of them.
    """
    if hvd.size() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    with progress.waiting("gathering from all ranks"):
        sizes = hvd.allgather(tf.constant([len(text)]), name="gathered.sizes").numpy()
        texts = hvd.allgather(tf.constant(text), name="gathered.texts").numpy()
    return [json.loads(part.tobytes()) for part in np.split(texts, np.cumsum(sizes)[:-1])]


def allreduce_sum(counts: Mapping[str, float]) -> dict[str, float]:
    """The sum over ranks of each number, in float64. All ranks must pass the same names."""
    names = sorted(counts)
    values = tf.constant([counts[name] for name in names], dtype=tf.float64)
    if hvd.size() > 1:
        with progress.waiting("summing over ranks"):
            values = hvd.allreduce(values, op=hvd.Sum)
    return dict(zip(names, values.numpy().tolist(), strict=True))


def _state(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    # Without the seeds of dropout layers, which differ between ranks on purpose.
    return [*model.weights, *optimizer.variables]
