"""Averages gradients over several machines with several ranks each, in two levels.

The ranks of a machine add up their gradients in shared memory. One of them, the leader, sums with the leaders of the other
machines through Horovod, and the others take the mean from shared memory. So a machine sends as much as one rank would, however
many it has; in Horovod's ring over all ranks, two machines with two each send half as much again. (Two levels: Horovod's
hierarchical allreduce, which is for GPUs and MPI; here as in `pipelines.train.collectives.shared_memory`.)

The buckets of `pipelines.train.collectives.buckets` are added up and sent while the backward pass goes on. What waits for another
rank holds a thread of TensorFlow's, which may have one only. So ranks that are not leaders wait for nobody until their backward
pass has ended, and leaders wait for them alone. A rank adds its buckets in one order, so a byte is enough to tell that one is
there; the means may come in any order, because the others wait for all of them.
"""

import functools
import os
import time
from collections.abc import Sequence

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf

from pipelines import progress
from pipelines.config import Config
from pipelines.config.training import Compression
from pipelines.train.collectives import shared_memory
from pipelines.train.collectives.buckets import buckets
from pipelines.train.collectives.horovod import COMPRESSION
from pipelines.train.collectives.shared_memory import Gradient


def may_be_used(config: Config) -> bool:
    """Whether there are several machines, one of which has several ranks. Works before `hvd.init()`; equal on all ranks."""
    count = len(set(machines()))
    return config.launch.shared_memory and 1 < count < len(machines())


def process_sets(config: Config) -> list[hvd.ProcessSet]:
    """What `hvd.init()` needs to know for `HostReducer`. Equal on all ranks, or Horovod does not start.

    Horovod can be told later, too, but then all ranks would ask each other in each of its cycles whether there is a new set.
    """
    return [leaders()] if may_be_used(config) else []


@functools.cache
def leaders() -> hvd.ProcessSet:
    """The first rank of each machine."""
    return hvd.ProcessSet(sorted({machines().index(machine) for machine in machines()}))


def machines() -> list[str]:
    """A name for the machine of each rank."""
    return os.environ.get("CONVOY_MACHINES", "0").split(",")


class HostReducer:
    """Averages gradients with ranks on this machine and on others. All ranks create one at the same time.

    Needs `process_sets` in `hvd.init()`.

    Args:
        compression: the number format in which machines send gradients to each other.
        bucket_bytes: as in `pipelines.train.collectives.buckets`.
    """

    def __init__(self, compression: Compression, bucket_bytes: int) -> None:
        layout = machines()
        own = [rank for rank, machine in enumerate(layout) if machine == layout[hvd.rank()]]
        self._place, self._size, self._world = own.index(hvd.rank()), len(own), len(layout)
        peers = shared_memory.connect_peers(own)
        self._leader = peers.get(own[0])
        self._followers = list(peers.values()) if self._leader is None else []
        self._compression, self._bucket_bytes = COMPRESSION[compression], bucket_bytes
        # A row for the gradients of each rank of this machine, and one for the mean.
        self._rows: Gradient | None = None

    def allreduce_mean(self, gradients: Sequence[tf.Tensor]) -> tuple[list[tf.Tensor], tf.Tensor]:
        """As `pipelines.train.collectives.reducers.Reducer`."""
        sizes = [gradient.shape.num_elements() for gradient in gradients]
        together = buckets([size * gradients[0].dtype.size for size in sizes], self._bucket_bytes)
        start, length = 0, sum(sizes)
        # Not stateful: TensorFlow would run each after all stateful operations before it, so after the whole backward pass. Hence
        # their order follows from what they are given: it drops what nothing depends on but by control.
        means: list[tf.Tensor] = []
        waits = [tf.zeros(2, tf.float64)]
        for number, bucket in enumerate(together):
            flat = tf.concat([tf.reshape(gradients[index], [-1]) for index in bucket], 0)
            arguments = [flat, start, length, waits[-1]]
            total, wait = tf.numpy_function(self._add, arguments, [flat.dtype, tf.float64], stateful=False)
            waits.append(tf.ensure_shape(wait, (2,)))
            if self._leader is None:
                total = tf.ensure_shape(total, flat.shape)
                (total,) = hvd.grouped_allreduce(
                    [total], op=hvd.Sum, compression=self._compression, name=f"hosts.{number}", process_set=leaders()
                )
                mean = tf.numpy_function(self._publish, [total, start], flat.dtype, stateful=False)
                means.append(tf.ensure_shape(mean, flat.shape))
            start += flat.shape[0]
        if self._leader is not None:
            means = [tf.numpy_function(self._await_means, [len(together), waits[-1]], gradients[0].dtype, stateful=False)]
        order = [index for bucket in together for index in bucket]
        parts = tf.split(tf.ensure_shape(tf.concat(means, 0), [length]), [sizes[index] for index in order])
        by_index = dict(zip(order, parts, strict=True))
        # With more threads, the backward pass goes on while one waits.
        alone = tf.config.threading.get_inter_op_parallelism_threads() == 1
        held_up = tf.stack(waits) if alone else tf.zeros((0, 2), tf.float64)
        return [tf.reshape(by_index[index], gradient.shape) for index, gradient in enumerate(gradients)], held_up

    def _add(self, values: Gradient, start: int, length: int, _after: Gradient) -> tuple[Gradient, Gradient]:
        """Add a bucket of this rank's to those of the others of this machine.

        Returns:
            their sum on the leader, else nothing; and when waiting for the others began and ended.
        """
        with progress.waiting("adding up gradients on this machine"), shared_memory.peer_errors():
            if self._rows is None:
                shape = (self._size + 1, length)
                self._rows = (
                    shared_memory.create_memory(self._followers, shape, values.dtype)
                    if self._leader is None
                    else shared_memory.map_memory(self._leader, shape, values.dtype)
                )
            part = self._rows[:-1, start : start + len(values)]
            np.copyto(part[self._place], values)
            if self._leader is not None:
                self._leader.sendall(b"\0")
                return values[:0], np.zeros(2)
            began = time.time()
            for follower in self._followers:
                shared_memory.receive(follower, 1)
            ended = time.time()
        total: Gradient = np.add.reduce(part, axis=0)
        return total, np.array([began, ended])

    def _publish(self, total: Gradient, start: int) -> Gradient:
        """The mean of a bucket over all ranks, which the others on this machine get as well."""
        assert self._rows is not None
        mean = self._rows[-1, start : start + len(total)]
        np.multiply(total, total.dtype.type(1 / self._world), out=mean)
        with shared_memory.peer_errors():
            for follower in self._followers:
                follower.sendall(b"\0")
        # A copy: TensorFlow keeps the memory of what it is given, and the next step writes here.
        return mean.copy()

    def _await_means(self, count: int, _after: Gradient) -> Gradient:
        """The means of all buckets, once the leader has written them."""
        assert self._rows is not None
        assert self._leader is not None
        with progress.waiting("averaging gradients"), shared_memory.peer_errors():
            shared_memory.receive(self._leader, int(count))
        means: Gradient = self._rows[-1].copy()
        return means
