"""Forks the processes of ranks from one that has imported TensorFlow, so that the import is done once and early.

    python -m pipelines.launch.workers.forkserver PARENT_PID LISTENING_FD PURPOSE

Serves the supervisors of its own machine, where the driver is, too: it imports while Spark starts and the table is checked. Each
supervisor connects, sends what its rank needs, and is told the rank's process id and, at its end, the exit code. A rank dies with
its supervisor, as one that the supervisor started itself, and with this server.

A single training is given what it needs at once, and what it needs at its end only while nobody waits for a rank, as during an
ingest. For more than that, and for functions of a user, everything is imported first.

Forking is safe only while there is a single thread, which the imports leave there and `serve` checks. A server that cannot serve
ends; supervisors then start their ranks themselves.
"""

import array
import dataclasses
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn, cast

from pipelines.launch.workers import rank
from pipelines.launch.workers.rank import RankDetails
from pipelines.system import local_socket
from pipelines.system.tensorflow_env import import_for_training

Purpose = Literal["training", "anything"]
# What `pipelines.launch.train_function` imports on each rank.
_PRELOADED = ("horovod.tensorflow", "pipelines.train.worker", "pipelines.track.mlflow.logged_model")
# The same, when the network is saved; in parts, because a rank that is asked for meanwhile waits for the end of one.
_LATE_IMPORTS = ("mlflow", "mlflow.models", "mlflow.tensorflow")
# A rank that is asked for meanwhile would wait for the end of an import. Where the table is there, one is asked for sooner.
_IDLE_SECONDS = 3.0
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LARGEST_REQUEST = 2**18
# A request comes with three file descriptors: the rank's standard input, its log, and the pipe for its outcome.
_NUM_FDS = 3


@dataclass(frozen=True)
class ForkRequest:
    """What a supervisor asks for: a rank, and all its environment variables."""

    details: RankDetails
    environment: dict[str, str]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> "ForkRequest":
        raw = json.loads(text)
        return cls(RankDetails(**raw["details"]), raw["environment"])


@dataclass
class _Child:
    """A connection to a supervisor and, from its request on, the process of its rank."""

    connection: socket.socket
    pid: int = 0
    pidfd: int = -1


def serve(listener: socket.socket, idle_imports: Sequence[str] = ()) -> None:
    """Serve supervisors for ever.

    Args:
        listener: for their connections.
        idle_imports: modules to be imported until the first rank is asked for.

    Raises:
        RuntimeError: the imports have started threads.
    """
    _prepare_to_fork()
    later = list(idle_imports)
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while True:
            events = selector.select(_IDLE_SECONDS if later else None)
            if events:
                later.clear()
            else:
                importlib.import_module(later.pop(0))
                _prepare_to_fork()
            for key, _ in events:
                if key.fileobj is listener:
                    connection, _ = listener.accept()
                    if local_socket.is_ours(connection):
                        selector.register(connection, selectors.EVENT_READ, _Child(connection))
                    else:
                        connection.close()
                elif key.fileobj is key.data.connection:
                    _handle_request(selector, key.data)
                else:
                    _reap(selector, key.data)


def _prepare_to_fork() -> None:
    if len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("modules that ranks import start threads, which a fork would lose")
    # Otherwise the first collection in a rank would copy the pages of all that was imported.
    gc.freeze()


def _handle_request(selector: selectors.BaseSelector, child: _Child) -> None:
    """Take a request, or the end of a supervisor."""
    if child.connection.fileno() == -1:
        # Its rank ended in the same moment and is buried.
        return
    try:
        request, fds = _receive(child.connection)
    except OSError:
        request, fds = b"", []
    if child.pid or not request:
        selector.unregister(child.connection)
        child.connection.close()
        if child.pid:
            signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
        return
    server = os.getpid()
    child.pid = os.fork()
    if child.pid == 0:
        _become_rank(selector, server, ForkRequest.from_json(request), fds)
    child.pidfd = os.pidfd_open(child.pid)
    selector.register(child.pidfd, selectors.EVENT_READ, child)
    for fd in fds:
        os.close(fd)
    _reply(child, child.pid)


def _reap(selector: selectors.BaseSelector, child: _Child) -> None:
    """Pass on the exit code of a rank that has ended."""
    _, status = os.waitpid(child.pid, 0)
    selector.unregister(child.pidfd)
    os.close(child.pidfd)
    if child.connection.fileno() != -1:
        selector.unregister(child.connection)
        _reply(child, os.waitstatus_to_exitcode(status))
        child.connection.close()


def _receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    data, ancillary, _, _ = connection.recvmsg(_LARGEST_REQUEST, socket.CMSG_SPACE(_NUM_FDS * array.array("i").itemsize))
    fds = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content)
    return data, list(fds)


def _reply(child: _Child, number: int) -> None:
    try:
        child.connection.send(str(number).encode())
    except OSError:
        # The supervisor is gone, which the selector reports next.
        return


def _become_rank(selector: selectors.BaseSelector, server: int, request: ForkRequest, fds: list[int]) -> NoReturn:
    """In the forked process: be as a fresh one that was started with the request's environment and details."""
    code = 1
    try:
        standard_input, log, outcome = fds
        for key in list(selector.get_map().values()):
            os.close(key.fd)
        selector.close()
        for given, wanted in ((standard_input, 0), (log, 1), (log, 2)):
            os.dup2(given, wanted)
        os.close(standard_input)
        os.close(log)
        os.environ.clear()
        os.environ.update(request.environment)
        tempfile.tempdir = None
        sys.path += [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place and place not in sys.path]
        for signum in _IGNORED:
            signal.signal(signum, signal.SIG_DFL)
        code = rank.main(server, outcome, request.details)
    except Exception:
        traceback.print_exc()
    finally:
        rank.exit_immediately(code)


def main(parent: int, listening_fd: int, purpose: Purpose) -> None:
    rank.die_with_parent(parent)
    # What reaches all processes of a terminal or a job is a wish to stop for ranks, which need this server until they have.
    for signum in _IGNORED:
        signal.signal(signum, signal.SIG_IGN)
    listener = socket.socket(fileno=listening_fd)
    if purpose == "training":
        import_for_training()
    for name in (*_PRELOADED, *(_LATE_IMPORTS if purpose == "anything" else ())):
        importlib.import_module(name)
    serve(listener, _LATE_IMPORTS if purpose == "training" else ())


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), cast(Purpose, sys.argv[3]))
