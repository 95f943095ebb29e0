"""Averages gradients over several machines with several ranks each, in two levels.

The ranks of a machine add up their gradients in shared memory. One of them, the leader, sums with the leaders of the other
machines through Horovod, and the others take the mean from shared memory. So a machine sends as much as one rank would, however
many it has; in Horovod's ring over all ranks, two machines with two each send half as much again. (Two levels: Horovod's
hierarchical allreduce, which is for GPUs and MPI; here as in `pipelines.train.collectives.shared_memory`.)

The buckets of `pipelines.train.collectives.buckets` are added up and sent while the backward pass goes on. What waits for another
rank holds a thread of TensorFlow's, which may have one only. So ranks that are not leaders wait for nobody until their backward
pass has ended, and leaders wait for them alone. All operations of a rank on the shared memory have an order, so a byte is enough
to tell that one is done.
"""

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
from pipelines.train.collectives.horovod import COMPRESSION, allgather
from pipelines.train.collectives.shared_memory import Gradient


def prepare(config: Config) -> None:
    """Let Horovod sum between some of the ranks only, if that may be wanted. Call before `hvd.init()`."""
    size, local_size = (int(os.environ.get(name, "1")) for name in ("HOROVOD_SIZE", "HOROVOD_LOCAL_SIZE"))
    if shared_memory.is_permitted(config) and local_size < size:
        os.environ["HOROVOD_DYNAMIC_PROCESS_SETS"] = "1"


class HostReducer:
    """Averages gradients with ranks on this machine and on others. All ranks create one at the same time, after `hvd.init()`.

    Args:
        compression: the number format in which machines send gradients to each other.
        bucket_bytes: as in `pipelines.train.collectives.buckets`.
    """

    def __init__(self, compression: Compression, bucket_bytes: int) -> None:
        hosts = allgather(os.environ["HOROVOD_HOSTNAME"])
        own = [rank for rank, host in enumerate(hosts) if host == hosts[hvd.rank()]]
        self._place, self._size, self._world = own.index(hvd.rank()), len(own), len(hosts)
        self._leaders = hvd.add_process_set([hosts.index(host) for host in dict.fromkeys(hosts)])
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
        before: list[tf.Tensor] = []
        means: list[tf.Tensor] = []
        waits: list[tf.Tensor] = []
        for number, bucket in enumerate(together):
            flat = tf.concat([tf.reshape(gradients[index], [-1]) for index in bucket], 0)
            with tf.control_dependencies(before):
                total, waited = tf.numpy_function(self._add, [flat, start, length], [flat.dtype, tf.float64])
            before = [total]
            waits.append(tf.ensure_shape(waited, ()))
            if self._leader is None:
                total = tf.ensure_shape(total, flat.shape)
                (total,) = hvd.grouped_allreduce(
                    [total], op=hvd.Sum, compression=self._compression, name=f"hosts.{number}", process_set=self._leaders
                )
                means.append(tf.ensure_shape(tf.numpy_function(self._publish, [total, start], flat.dtype), flat.shape))
            start += flat.shape[0]
        if self._leader is not None:
            with tf.control_dependencies(before):
                means = [tf.numpy_function(self._published, [len(together)], gradients[0].dtype)]
        order = [index for bucket in together for index in bucket]
        parts = tf.split(tf.ensure_shape(tf.concat(means, 0), [length]), [sizes[index] for index in order])
        by_index = dict(zip(order, parts, strict=True))
        # The last bucket ends the backward pass.
        held_up = tf.reduce_sum(tf.stack(waits)[:-1])
        return [tf.reshape(by_index[index], gradient.shape) for index, gradient in enumerate(gradients)], held_up

    def _add(self, values: Gradient, start: int, length: int) -> tuple[Gradient, float]:
        """Add a bucket of this rank's to those of the others of this machine.

        Returns:
            their sum on the leader, else nothing; and the seconds waited.
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
                return values[:0], 0.0
            began = time.monotonic()
            for follower in self._followers:
                shared_memory.receive(follower, 1)
            waited = time.monotonic() - began
        total: Gradient = np.add.reduce(part, axis=0)
        return total, waited

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

    def _published(self, count: int) -> Gradient:
        """The means of all buckets, once the leader has written them."""
        assert self._rows is not None
        assert self._leader is not None
        with progress.waiting("averaging gradients"), shared_memory.peer_errors():
            shared_memory.receive(self._leader, int(count))
        means: Gradient = self._rows[-1].copy()
        return means
