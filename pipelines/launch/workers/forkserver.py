"""Fork server: forks rank processes from a process that has imported TensorFlow, so that the import is done once and early.

    python -m pipelines.launch.workers.forkserver PARENT_PID LISTENING_FD PURPOSE

Serves the supervisors on the driver's machine, and imports while Spark starts and the table is checked. Each supervisor connects,
sends a request for its rank, and receives the rank's process id and, when the rank has ended, its exit code. A rank dies with its
supervisor, as if the supervisor had started it, and with this server.

For a single training, the modules of training are imported first, and those for saving the model only while no rank is waiting,
as during an ingest. For anything else, such as functions of a user, everything is imported first.

Forking is safe only with a single thread; `serve` checks that the imports have started no others. A server that cannot serve
exits, and supervisors then start their ranks themselves.
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
# Imported by `pipelines.launch.train_function` on each rank.
_PRELOADED = ("horovod.tensorflow", "pipelines.train.worker", "pipelines.track.mlflow.logged_model")
# Imported by it to save the network. One module at a time, because a rank that is requested meanwhile waits for the import.
_LATE_IMPORTS = ("mlflow", "mlflow.models", "mlflow.tensorflow")
# Idle time before a late import, which would delay a request; if the table exists already, requests come sooner than this.
_IDLE_SECONDS = 3.0
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LARGEST_REQUEST = 2**18
# A request comes with three file descriptors: the rank's standard input, its log, and the pipe for its outcome.
_NUM_FDS = 3


@dataclass(frozen=True)
class ForkRequest:
    """A supervisor's request for a rank, with all of its environment variables."""

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
    """A connection to a supervisor and, after its request, the process of its rank."""

    connection: socket.socket
    pid: int = 0
    pidfd: int = -1


def serve(listener: socket.socket, idle_imports: Sequence[str] = ()) -> None:
    """Serve supervisors forever.

    Args:
        listener: accepts their connections.
        idle_imports: modules to import while idle, until the first rank is requested.

    Raises:
        RuntimeError: an import has started threads.
    """
    _prepare_to_fork()
    pending_imports = list(idle_imports)
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while True:
            events = selector.select(_IDLE_SECONDS if pending_imports else None)
            if events:
                pending_imports.clear()
            else:
                importlib.import_module(pending_imports.pop(0))
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
        raise RuntimeError("a module that ranks import has started threads, which a fork would lose")
    # Otherwise the first garbage collection in a rank would copy the pages of all imported modules.
    gc.freeze()


def _handle_request(selector: selectors.BaseSelector, child: _Child) -> None:
    """Handle a request, or the end of a supervisor's connection."""
    if child.connection.fileno() == -1:
        # Its rank has ended in the same round, and has been reaped.
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
    """Reap a rank that has ended, and send its exit code to the supervisor."""
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
        # The supervisor has exited; the selector reports it next.
        return


def _become_rank(selector: selectors.BaseSelector, server: int, request: ForkRequest, fds: list[int]) -> NoReturn:
    """In the forked process: set up everything as in a new process with the request's environment, and run the rank."""
    code = 1
    try:
        standard_input, log, outcome = fds
        for key in list(selector.get_map().values()):
            os.close(key.fd)
        selector.close()
        for source, target in ((standard_input, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        os.close(standard_input)
        os.close(log)
        os.environ.clear()
        os.environ.update(request.environment)
        tempfile.tempdir = None
        sys.path += [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path not in sys.path]
        for signum in _IGNORED:
            signal.signal(signum, signal.SIG_DFL)
        code = rank.main(server, outcome, request.details)
    except Exception:
        traceback.print_exc()
    finally:
        rank.exit_immediately(code)


def main(parent: int, listening_fd: int, purpose: Purpose) -> None:
    rank.die_with_parent(parent)
    # These signals reach all processes of a terminal or job. They ask ranks to stop, and ranks need this server until they have.
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
