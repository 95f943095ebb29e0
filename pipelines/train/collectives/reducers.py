"""Which way gradients take between ranks: through Horovod, through the memory of one machine, or through both."""

from collections.abc import Sequence
from typing import Literal, Protocol

import tensorflow as tf

from pipelines.config import Config
from pipelines.config.training import TrainingConfig
from pipelines.train.collectives import hosts, shared_memory
from pipelines.train.collectives.horovod import allgather
from pipelines.train.collectives.hosts import HostReducer
from pipelines.train.collectives.shared_memory import SharedMemoryReducer

Reduction = Literal["horovod", "one machine", "several machines"]


class Reducer(Protocol):
    """Averages gradients otherwise than by Horovod alone."""

    def allreduce_mean(self, gradients: Sequence[tf.Tensor]) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Average gradients over ranks, given in the order of the forward pass, all of one floating-point dtype.

        Returns:
            the mean of each; and when waits for another rank that held up the backward pass of this one began and ended, as
            `tf.timestamp`, float64 [waits, 2].
        """
        ...


def choose(config: Config, has_gpu: bool) -> Reduction:
    """The way for these ranks. All ranks call it at the same time, after `hvd.init()`."""
    permitted = shared_memory.is_permitted(config) and not has_gpu
    if hosts.may_be_used(config):
        return "several machines" if all(allgather(permitted)) else "horovod"
    return "one machine" if permitted and shared_memory.is_usable(config) else "horovod"


def make(reduction: Reduction, training: TrainingConfig) -> Reducer | None:
    """The reducer of a way; None for Horovod. All ranks call it at the same time."""
    if reduction == "one machine":
        return SharedMemoryReducer()
    if reduction == "several machines":
        return HostReducer(training.compression, training.bucket_bytes)
    return None
