"""The mean gradient of ranks that share a machine, through its memory.

Horovod's Gloo sends all through sockets, with threads of its own that take the processor from those that compute: one of them
turns in a circle as long as another, which waits for the processor, holds a lock. On two cores a step of `convnet` takes 7 ms
where ranks do not talk, 17 with Horovod's reduction and 10 with this one (benchmarks/README.md). Horovod does all else, and this,
too, where ranks are on more than one machine, have GPUs or send compressed gradients.

Each rank writes its gradient to a place of its own, sends a byte to every other rank, waits for one from each, and adds up in the
order of the ranks, so that all come to the same bits. Of every place there are two, used in turn: who writes to the first again
has heard from all others that they have written to the second, so they have read the first. A rank that ends closes its sockets,
which the others notice at once.
"""

import contextlib
import mmap
import os
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import horovod.tensorflow as hvd
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipelines import progress
from pipelines.config import Config
from pipelines.system import local_socket

GONE = "Connection closed by peer: another rank of this machine has ended"
# Horovod then only compares and adds up, some times an epoch, and asks more seldom whether there is something to do.
CYCLE_MILLISECONDS = 10
_MEETING_SECONDS = 60.0
_TURNS = 2
_NUMBER = struct.Struct("I")

Gradient = npt.NDArray[np.float32]


def is_usable(config: Config) -> bool:
    """These ranks can and are to do without Horovod for gradients. Can be asked before `hvd.init()`; all ranks say the same."""
    size, local = (int(os.environ.get(name, "1")) for name in ("HOROVOD_SIZE", "HOROVOD_LOCAL_SIZE"))
    has_gpu = any(Path("/dev").glob("nvidia[0-9]*"))
    together = 1 < size == local and sys.platform == "linux" and not has_gpu
    return together and config.launch.shared_memory and config.training.compression == "none"


class SharedMemoryReducer:
    """The other ranks, all on this machine. Every rank makes one at the same time, after `hvd.init()`."""

    def __init__(self) -> None:
        self._rank, self._size = hvd.rank(), hvd.size()
        with progress.waiting("meeting the ranks of this machine"), _naming_the_end():
            self._peers = _meet(self._rank, self._size)
        self._places: npt.NDArray[np.float32] | None = None
        self._turn = 0

    def allreduce_mean(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """The mean over ranks of each gradient, float32."""
        flat = tf.concat([tf.reshape(gradient, [-1]) for gradient in gradients], 0)
        mean = tf.ensure_shape(tf.numpy_function(self.mean, [flat], tf.float32), flat.shape)
        parts = tf.split(mean, [gradient.shape.num_elements() for gradient in gradients])
        return [tf.reshape(part, gradient.shape) for part, gradient in zip(parts, gradients, strict=True)]

    def mean(self, values: Gradient) -> Gradient:
        """The mean over ranks, [n]; n is the same at each call.

        Raises:
            ConnectionError: another rank has ended.
        """
        with progress.waiting("averaging gradients"), _naming_the_end():
            if self._places is None:
                self._places = self._share(len(values))
            places, self._turn = self._places[self._turn], (self._turn + 1) % _TURNS
            np.copyto(places[self._rank], values)
            for peer in self._peers.values():
                peer.sendall(b"\0")
            for peer in self._peers.values():
                if not peer.recv(1):
                    raise ConnectionError(GONE)
        total: Gradient = np.add.reduce(places, axis=0)
        total *= np.float32(1 / self._size)
        return total

    def _share(self, length: int) -> npt.NDArray[np.float32]:
        """Memory [turns, ranks, length] that all have."""
        shape = (_TURNS, self._size, length)
        if self._rank == 0:
            # Not a file in /dev/shm, which containers keep small.
            fd = os.memfd_create("convoy-gradients")
            os.ftruncate(fd, np.dtype(np.float32).itemsize * int(np.prod(shape)))
            for peer in self._peers.values():
                socket.send_fds(peer, [b"\0"], [fd])
        else:
            _, fds, *_ = socket.recv_fds(self._peers[0], 1, 1)
            if not fds:
                raise ConnectionError(GONE)
            fd = fds[0]
        memory = mmap.mmap(fd, 0)
        os.close(fd)
        return np.frombuffer(memory, np.float32).reshape(shape)


def _meet(rank: int, size: int) -> dict[int, socket.socket]:
    """Connections to all other ranks, by rank."""
    peers = {}
    with socket.socket(socket.AF_UNIX) as listener:
        name = local_socket.new_name()
        listener.bind(local_socket.address(name))
        listener.listen(size)
        listener.settimeout(_MEETING_SECONDS)
        names = hvd.allgather_object(name)
        for other in range(rank):
            peers[other] = socket.socket(socket.AF_UNIX)
            peers[other].connect(local_socket.address(names[other]))
            peers[other].sendall(_NUMBER.pack(rank))
        while len(peers) < size - 1:
            connection, _ = listener.accept()
            if local_socket.is_ours(connection):
                connection.settimeout(None)
                peers[_NUMBER.unpack(connection.recv(_NUMBER.size))[0]] = connection
            else:
                connection.close()
    return peers


@contextlib.contextmanager
def _naming_the_end() -> Iterator[None]:
    """Say of a connection that broke, or was not made in time, what the driver takes for an effect."""
    try:
        yield
    except (ConnectionError, TimeoutError) as error:
        raise ConnectionError(GONE) from error
