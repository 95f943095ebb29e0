"""Allreduce of gradients through shared memory, for ranks that are all on one machine.

Horovod's Gloo sends everything through sockets, with threads of its own that take CPU time from computation: one of them spins
while another, which waits for the CPU, holds a lock. On two cores a step of `convnet` takes 7 ms without communication, 17 ms
with Horovod's allreduce and 10 ms with this one (benchmarks/README.md). Horovod does everything else, and gradients, too, if
ranks have GPUs or compress gradients. For several machines see `pipelines.train.collectives.hosts`.

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
from collections.abc import Iterable, Iterator, Sequence
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
    return is_permitted(config) and 1 < size == local_size and config.training.compression == "none"


def is_permitted(config: Config) -> bool:
    """Whether ranks of one machine may add up gradients in its memory. Works before `hvd.init()`."""
    has_gpu = any(Path("/dev").glob("nvidia[0-9]*"))
    return config.launch.shared_memory and sys.platform == "linux" and not has_gpu


class SharedMemoryReducer:
    """Averages gradients with the other ranks, all on this machine. All ranks create one at the same time, after `hvd.init()`."""

    def __init__(self) -> None:
        self._rank, self._size = hvd.rank(), hvd.size()
        self._peers = connect_peers(range(self._size))
        self._buffers: Gradient | None = None
        self._next = 0

    def allreduce_mean(self, gradients: Sequence[tf.Tensor]) -> tuple[list[tf.Tensor], tf.Tensor]:
        """As `pipelines.train.collectives.reducers.Reducer`; after the backward pass, which it does not hold up."""
        flat = tf.concat([tf.reshape(gradient, [-1]) for gradient in gradients], 0)
        mean = tf.ensure_shape(tf.numpy_function(self.mean, [flat], flat.dtype), flat.shape)
        parts = tf.split(mean, [gradient.shape.num_elements() for gradient in gradients])
        means = [tf.reshape(part, gradient.shape) for part, gradient in zip(parts, gradients, strict=True)]
        return means, tf.zeros((0, 2), tf.float64)

    def mean(self, values: Gradient) -> Gradient:
        """The mean over ranks of an array [n]; n and dtype must be the same in each call.

        Raises:
            ConnectionError: another rank has exited.
        """
        with progress.waiting("averaging gradients"), peer_errors():
            if self._buffers is None:
                self._buffers = self._map_buffers(len(values), values.dtype)
            buffers, self._next = self._buffers[self._next], (self._next + 1) % _NUM_BUFFERS
            np.copyto(buffers[self._rank], values)
            for peer in self._peers.values():
                peer.sendall(b"\0")
            for peer in self._peers.values():
                receive(peer, 1)
        total: Gradient = np.add.reduce(buffers, axis=0)
        total *= values.dtype.type(1 / self._size)
        return total

    def _map_buffers(self, length: int, dtype: np.dtype[Any]) -> Gradient:
        """Memory [_NUM_BUFFERS, ranks, length], shared by all ranks."""
        shape = (_NUM_BUFFERS, self._size, length)
        if self._rank == 0:
            return create_memory(self._peers.values(), shape, dtype)
        return map_memory(self._peers[0], shape, dtype)


def create_memory(peers: Iterable[socket.socket], shape: Sequence[int], dtype: np.dtype[Any]) -> Gradient:
    """An array of zeros that ranks of this machine share: they get it from `map_memory`."""
    # Not a file in /dev/shm, which is small in containers.
    fd = os.memfd_create("convoy-gradients")
    os.ftruncate(fd, dtype.itemsize * int(np.prod(shape)))
    for peer in peers:
        socket.send_fds(peer, [b"\0"], [fd])
    return _mapped(fd, shape, dtype)


def map_memory(owner: socket.socket, shape: Sequence[int], dtype: np.dtype[Any]) -> Gradient:
    """The array that the rank at the other end has created."""
    _, fds, *_ = socket.recv_fds(owner, 1, 1)
    if not fds:
        raise ConnectionError(PEER_EXITED)
    return _mapped(fds[0], shape, dtype)


def _mapped(fd: int, shape: Sequence[int], dtype: np.dtype[Any]) -> Gradient:
    memory = mmap.mmap(fd, 0)
    os.close(fd)
    return np.frombuffer(memory, dtype).reshape(shape)


def receive(peer: socket.socket, signals: int) -> None:
    """Wait until a rank has sent so many bytes. Raises ConnectionError if it exits before."""
    while signals:
        received = len(peer.recv(signals))
        if not received:
            raise ConnectionError(PEER_EXITED)
        signals -= received


def connect_peers(ranks: Sequence[int]) -> dict[int, socket.socket]:
    """Connect to the other ranks of this machine. All ranks of the training call it at the same time.

    Args:
        ranks: those of this machine, in ascending order, with this one.

    Returns:
        the sockets by rank.
    """
    own = hvd.rank()
    peers = {}
    waiting = progress.waiting("connecting to the other ranks on this machine")
    with waiting, peer_errors(), socket.socket(socket.AF_UNIX) as listener:
        name = local_socket.new_name()
        listener.bind(local_socket.address(name))
        listener.listen(len(ranks))
        listener.settimeout(_CONNECT_SECONDS)
        names = allgather(name)
        for other in ranks[: ranks.index(own)]:
            peers[other] = socket.socket(socket.AF_UNIX)
            local_socket.connect(peers[other], names[other])
            peers[other].sendall(_RANK_STRUCT.pack(own))
        while len(peers) < len(ranks) - 1:
            connection, _ = listener.accept()
            if local_socket.is_ours(connection):
                connection.settimeout(None)
                peers[_RANK_STRUCT.unpack(connection.recv(_RANK_STRUCT.size))[0]] = connection
            else:
                connection.close()
    return peers


@contextlib.contextmanager
def peer_errors() -> Iterator[None]:
    """Report a broken or missing connection by the message that the driver treats as an effect of another rank's failure."""
    try:
        yield
    except (ConnectionError, TimeoutError) as error:
        raise ConnectionError(PEER_EXITED) from error
