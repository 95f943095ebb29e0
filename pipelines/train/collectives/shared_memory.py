"""Allreduce of gradients through shared memory, for ranks on one machine.

Horovod's Gloo sends everything through sockets, with threads of its own that take CPU time from computation: one of them spins
while another, which waits for the CPU, holds a lock. On two cores a step of `convnet` takes 7 ms without communication, 17 ms
with Horovod's allreduce and 10 ms with this one (benchmarks/README.md). Horovod does everything else, and gradients, too, if
ranks are on more than one machine, have GPUs, or compress gradients.

Each rank writes its gradient to its own buffer, sends a byte to every other rank, waits for a byte from each, and sums the
buffers in rank order, so that all ranks get the same bits. There are two sets of buffers, used in turn: a rank that writes to the
first set again has heard that all others have written to the second, so they have read the first. A rank that exits closes its
sockets, which the others notice at once.
"""

import contextlib
import mmap
import os
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import horovod.tensorflow as hvd
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipelines import progress
from pipelines.config import Config
from pipelines.system import local_socket
from pipelines.train.collectives.horovod import allgather

PEER_EXITED = "Connection closed by peer: another rank of this machine has ended"
# Horovod is then used only a few times an epoch, so it can poll for work less often.
CYCLE_MILLISECONDS = 10
_CONNECT_SECONDS = 60.0
_NUM_BUFFERS = 2
_RANK_STRUCT = struct.Struct("I")

Gradient = npt.NDArray[np.floating[Any]]


def is_usable(config: Config) -> bool:
    """Whether the ranks can and should average gradients without Horovod. Works before `hvd.init()`; equal on all ranks."""
    size, local_size = (int(os.environ.get(name, "1")) for name in ("HOROVOD_SIZE", "HOROVOD_LOCAL_SIZE"))
    has_gpu = any(Path("/dev").glob("nvidia[0-9]*"))
    possible = 1 < size == local_size and sys.platform == "linux" and not has_gpu
    return possible and config.launch.shared_memory and config.training.compression == "none"


class SharedMemoryReducer:
    """Averages gradients with the other ranks, all on this machine. All ranks create one at the same time, after `hvd.init()`."""

    def __init__(self) -> None:
        self._rank, self._size = hvd.rank(), hvd.size()
        with progress.waiting("connecting to the other ranks on this machine"), _peer_errors():
            self._peers = _connect_peers(self._rank, self._size)
        self._buffers: Gradient | None = None
        self._next = 0

    def allreduce_mean(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """The mean over ranks of each gradient, all float32 or all float64."""
        flat = tf.concat([tf.reshape(gradient, [-1]) for gradient in gradients], 0)
        mean = tf.ensure_shape(tf.numpy_function(self.mean, [flat], flat.dtype), flat.shape)
        parts = tf.split(mean, [gradient.shape.num_elements() for gradient in gradients])
        return [tf.reshape(part, gradient.shape) for part, gradient in zip(parts, gradients, strict=True)]

    def mean(self, values: Gradient) -> Gradient:
        """The mean over ranks of an array [n]; n and dtype must be the same in each call.

        Raises:
            ConnectionError: another rank has exited.
        """
        with progress.waiting("averaging gradients"), _peer_errors():
            if self._buffers is None:
                self._buffers = self._map_buffers(len(values), values.dtype)
            buffers, self._next = self._buffers[self._next], (self._next + 1) % _NUM_BUFFERS
            np.copyto(buffers[self._rank], values)
            for peer in self._peers.values():
                peer.sendall(b"\0")
            for peer in self._peers.values():
                if not peer.recv(1):
                    raise ConnectionError(PEER_EXITED)
        total: Gradient = np.add.reduce(buffers, axis=0)
        total *= values.dtype.type(1 / self._size)
        return total

    def _map_buffers(self, length: int, dtype: np.dtype[Any]) -> Gradient:
        """Memory [_NUM_BUFFERS, ranks, length], shared by all ranks."""
        shape = (_NUM_BUFFERS, self._size, length)
        if self._rank == 0:
            # Not a file in /dev/shm, which is small in containers.
            fd = os.memfd_create("convoy-gradients")
            os.ftruncate(fd, dtype.itemsize * int(np.prod(shape)))
            for peer in self._peers.values():
                socket.send_fds(peer, [b"\0"], [fd])
        else:
            _, fds, *_ = socket.recv_fds(self._peers[0], 1, 1)
            if not fds:
                raise ConnectionError(PEER_EXITED)
            fd = fds[0]
        memory = mmap.mmap(fd, 0)
        os.close(fd)
        return np.frombuffer(memory, dtype).reshape(shape)


def _connect_peers(rank: int, size: int) -> dict[int, socket.socket]:
    """Connect to all other ranks. Returns the sockets by rank."""
    peers = {}
    with socket.socket(socket.AF_UNIX) as listener:
        name = local_socket.new_name()
        listener.bind(local_socket.address(name))
        listener.listen(size)
        listener.settimeout(_CONNECT_SECONDS)
        names = allgather(name)
        for other in range(rank):
            peers[other] = socket.socket(socket.AF_UNIX)
            local_socket.connect(peers[other], names[other])
            peers[other].sendall(_RANK_STRUCT.pack(rank))
        while len(peers) < size - 1:
            connection, _ = listener.accept()
            if local_socket.is_ours(connection):
                connection.settimeout(None)
                peers[_RANK_STRUCT.unpack(connection.recv(_RANK_STRUCT.size))[0]] = connection
            else:
                connection.close()
    return peers


@contextlib.contextmanager
def _peer_errors() -> Iterator[None]:
    """Report a broken or missing connection by the message that the driver treats as an effect of another rank's failure."""
    try:
        yield
    except (ConnectionError, TimeoutError) as error:
        raise ConnectionError(PEER_EXITED) from error
