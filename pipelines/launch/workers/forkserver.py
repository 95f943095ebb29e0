"""Fork server: forks rank processes from a process that has imported TensorFlow, so that the import is done once and early.

    python -m pipelines.launch.workers.forkserver PARENT_PID LISTENING_FD PURPOSE

Serves the supervisors on the driver's machine, and imports while Spark starts and the table is checked. Each supervisor connects,
sends a request for its rank, and receives the rank's process id and, when the rank has ended, its exit code. A rank dies with its
supervisor, as if the supervisor had started it, and with this server. Otherwise it is as a new process would be: environment,
working directory, umask, limits, signals, module path and random numbers are not the server's. Where that is impossible, and
where forking fails, the server refuses the request with the reason.

For a single training, the modules of training are imported first, and those for saving the model only while no rank is waiting,
as during an ingest. For anything else, such as functions of a user, everything is imported first.

Forking is safe only with a single thread; `serve` checks that the imports have started no others. A server that cannot serve
exits. Supervisors whose request is not met start their ranks themselves.
"""

import array
import gc
import importlib
import importlib.metadata
import os
import selectors
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn, cast

from pipelines.launch.workers import rank
from pipelines.launch.workers.fork_request import LONGEST_REPLY, REFUSED, ForkRequest
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
# A request comes with file descriptors: the rank's working directory, its standard input, its log, and the pipe for its outcome.
_NUM_FDS = 4
# Without free file descriptors a connection cannot be accepted, and waits.
_ACCEPT_AGAIN_SECONDS = 0.1


@dataclass(frozen=True)
class _Start:
    """What this process was started with, and what a new process would not inherit from it."""

    environment: Mapping[str, str]
    """Before imports have changed it."""
    path: tuple[str, ...]
    """`sys.path` without what PYTHONPATH has added."""

    @classmethod
    def of_this_process(cls) -> "_Start":
        given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        return cls(dict(os.environ), tuple(path for path in sys.path if path not in given))


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
    start = _Start.of_this_process()
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
                    _accept(selector, listener)
                elif key.fileobj is key.data.connection:
                    _handle_request(selector, key.data, start)
                else:
                    _reap(selector, key.data)


def _prepare_to_fork() -> None:
    if len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("a module that ranks import has started threads, which a fork would lose")
    # Otherwise the first garbage collection in a rank would copy the pages of all imported modules.
    gc.freeze()


def _accept(selector: selectors.BaseSelector, listener: socket.socket) -> None:
    try:
        connection, _ = listener.accept()
    except OSError:
        time.sleep(_ACCEPT_AGAIN_SECONDS)
        return
    if local_socket.is_ours(connection):
        selector.register(connection, selectors.EVENT_READ, _Child(connection))
    else:
        connection.close()


def _handle_request(selector: selectors.BaseSelector, child: _Child, start: _Start) -> None:
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
    else:
        try:
            _fork(selector, child, request, fds, start)
            _reply(child, str(child.pid))
        except (OSError, ValueError) as error:
            _reply(child, f"{REFUSED}{error}"[:LONGEST_REPLY])
    for fd in fds:
        os.close(fd)


def _fork(selector: selectors.BaseSelector, child: _Child, request: bytes, fds: list[int], start: _Start) -> None:
    """Fork a rank as requested.

    Raises:
        OSError: it cannot be forked.
        ValueError: it would not be as a new process.
    """
    if len(fds) < _NUM_FDS:
        raise ValueError("the fork server has no file descriptors left")
    wanted = ForkRequest.from_json(request)
    obstacle = wanted.obstacle(start.environment)
    if obstacle:
        raise ValueError(obstacle)
    server = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become_rank(selector, server, wanted, fds, start)
    try:
        child.pidfd = os.pidfd_open(pid)
        selector.register(child.pidfd, selectors.EVENT_READ, child)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    child.pid = pid


def _reap(selector: selectors.BaseSelector, child: _Child) -> None:
    """Reap a rank that has ended, and send its exit code to the supervisor."""
    _, status = os.waitpid(child.pid, 0)
    selector.unregister(child.pidfd)
    os.close(child.pidfd)
    if child.connection.fileno() != -1:
        selector.unregister(child.connection)
        _reply(child, str(os.waitstatus_to_exitcode(status)))
        child.connection.close()


def _receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    data, ancillary, _, _ = connection.recvmsg(_LARGEST_REQUEST, socket.CMSG_SPACE(_NUM_FDS * array.array("i").itemsize))
    fds = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content)
    return data, list(fds)


def _reply(child: _Child, text: str) -> None:
    try:
        child.connection.send(text.encode())
    except OSError:
        # The supervisor has exited; the selector reports it next.
        return


def _become_rank(selector: selectors.BaseSelector, server: int, request: ForkRequest, fds: list[int], start: _Start) -> NoReturn:
    """In the forked process: set up everything as in a new process of the supervisor, and run the rank."""
    code = 1
    try:
        directory, standard_input, log, outcome = fds
        for key in list(selector.get_map().values()):
            os.close(key.fd)
        selector.close()
        for source, target in ((standard_input, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        os.fchdir(directory)
        for fd in (directory, standard_input, log):
            os.close(fd)
        _forget_server(request, start)
        request.state.take_over()
        sys.argv = [str(rank.__file__), str(server), str(outcome), request.details.to_json()]
        code = rank.main(server, outcome, request.details)
    except Exception:
        traceback.print_exc()
    finally:
        rank.exit_immediately(code)


def _forget_server(request: ForkRequest, start: _Start) -> None:
    """Replace what Python itself has taken from the server's environment, directory and past."""
    os.environ.clear()
    os.environ.update(request.environment)
    time.tzset()
    tempfile.tempdir = None
    added = [path for path in request.environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    # Not the working directory, a user's: neither does a new process look there (pipelines.launch.workers.spawn).
    sys.path[:] = dict.fromkeys([*added, *start.path])
    importlib.invalidate_caches()
    # Python seeds its own generator anew in each fork.
    numpy = sys.modules.get("numpy.random")
    if numpy is not None:
        numpy.seed()


def _import_local_file_systems() -> None:
    """Import pyarrow's file systems without S3, for which pyarrow 14 starts a thread at once. Tables lie at local paths."""
    if int(importlib.metadata.version("pyarrow").partition(".")[0]) >= 15:
        return
    # None in sys.modules makes an import raise ModuleNotFoundError.
    sys.modules["pyarrow._s3fs"] = None  # type: ignore[assignment]
    try:
        importlib.import_module("pyarrow.fs")
    finally:
        del sys.modules["pyarrow._s3fs"]


def main(parent: int, listening_fd: int, purpose: Purpose) -> None:
    rank.die_with_parent(parent)
    # These signals reach all processes of a terminal or job. They ask ranks to stop, and ranks need this server until they have.
    for signum in _IGNORED:
        signal.signal(signum, signal.SIG_IGN)
    listener = socket.socket(fileno=listening_fd)
    _import_local_file_systems()
    if purpose == "training":
        import_for_training()
    for name in (*_PRELOADED, *(_LATE_IMPORTS if purpose == "anything" else ())):
        importlib.import_module(name)
    serve(listener, _LATE_IMPORTS if purpose == "training" else ())


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), cast(Purpose, sys.argv[3]))
