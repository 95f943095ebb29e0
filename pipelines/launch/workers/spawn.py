"""Starts rank processes: forked by the driver's fork server if there is one, otherwise as new processes."""

import array
import atexit
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import BinaryIO, Protocol

from pipelines.launch import session
from pipelines.launch.workers.fork_request import LONGEST_REPLY, REFUSED, ForkRequest
from pipelines.launch.workers.forkserver import Purpose
from pipelines.launch.workers.process_state import ProcessState
from pipelines.launch.workers.rank import RankDetails
from pipelines.system import local_socket, surroundings
from pipelines.system.secrets import without_secrets
from pipelines.system.tensorflow_env import tensorflow_environment

# The server may still be importing TensorFlow, which a new process would have to do, too.
_REPLY_SECONDS = 120
_SERVER_ENVIRONMENT = {
    # OpenBLAS and pyarrow's allocator would start threads, which a fork loses. Ranks compute in TensorFlow's threads.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "PYTHONUNBUFFERED": "1",
}
# Runs a module as `-m` does, which would also look for modules in the working directory, a user's, and there first.
_MODULE = (
    sys.executable,
    "-c",
    "import sys; sys.path[:] = filter(None, sys.path); import runpy; del sys.argv[0]; "
    "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)",
)
# As Spark sets it for its Python workers, so that all ranks iterate over sets of texts in the same order.
DEFAULT_VARIABLES = {"PYTHONHASHSEED": "0"}
"""Environment variables of all ranks, unless they are set."""


class RankProcess(Protocol):
    """The interface that `subprocess.Popen` and `_ForkedProcess` share."""

    pid: int

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit code. Raises subprocess.TimeoutExpired."""

    def send_signal(self, sig: int) -> None: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


@contextmanager
def fork_server(purpose: Purpose) -> Iterator[str]:
    """Run a fork server on this machine (`pipelines.launch.workers.forkserver`), for ranks that run here.

    Yields its address for supervisors; empty if the operating system does not support it.

    Args:
        purpose: what the ranks will run: a single training, or anything.
    """
    if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
        yield ""
        return
    address = local_socket.new_name()
    # SOCK_SEQPACKET preserves message boundaries.
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(local_socket.address(address))
        listener.listen()
        variables, _ = surroundings.repaired(
            DEFAULT_VARIABLES | without_secrets(os.environ) | _SERVER_ENVIRONMENT | tensorflow_environment(os.environ)
        )
        process = subprocess.Popen(
            [*_MODULE, "pipelines.launch.workers.forkserver", str(os.getpid()), str(listener.fileno()), purpose],
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
        )
    try:
        yield address
    finally:
        process.kill()
        process.wait()


def fork_server_if_local(purpose: Purpose) -> AbstractContextManager[str]:
    """A fork server if the ranks of the current or coming Spark session run on this machine; otherwise an empty address."""
    return fork_server(purpose) if session.is_local() else nullcontext("")


class _PersistentForkServer:
    """A fork server that lives as long as this process, for sessions that start ranks repeatedly, as notebooks do.

    A dedicated thread owns the server, because the kernel kills the server when the thread that started it ends.
    """

    def __init__(self) -> None:
        self.address = ""
        self._started, self._end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._hold, name="fork-server", daemon=True)
        self._thread.start()
        self._started.wait()
        atexit.register(self.stop)

    def stop(self) -> None:
        self._end.set()
        self._thread.join()

    def _hold(self) -> None:
        # Without a server, ranks are started as new processes.
        with contextlib.suppress(OSError), fork_server("anything") as self.address:
            self._started.set()
            self._end.wait()
        self._started.set()
        self.address = ""


_lock = threading.Lock()
_persistent: _PersistentForkServer | None = None


def persistent_fork_server() -> str:
    """Address of this process's fork server, which the first call starts; empty if there is none."""
    global _persistent
    with _lock:
        if _persistent is None:
            _persistent = _PersistentForkServer()
        return _persistent.address


def start(
    details: RankDetails, environment: Mapping[str, str], *, standard_input: int, log: BinaryIO, outcome: int, server: str
) -> RankProcess:
    """Start a rank process (`pipelines.launch.workers.rank`).

    Args:
        details: parameters of the rank.
        environment: all environment variables of the process.
        standard_input: file descriptor to read the pickled function from.
        log: receives the process's output.
        outcome: file descriptor that receives the outcome.
        server: address of a fork server; empty for none. If it refuses or does not reply, the log says so, and a new process is
            started.

    Raises:
        OSError: the process cannot be started.
    """
    if server:
        try:
            request = ForkRequest(details, dict(environment), ProcessState.of_this_thread(), sys.prefix)
            return _ForkedProcess(server, request, [standard_input, log.fileno(), outcome])
        except (OSError, ValueError) as error:
            with contextlib.suppress(OSError):
                log.write(f"rank {details.rank} is started as a new process, not forked: {error}\n".encode())
                log.flush()
    return subprocess.Popen(
        [
            *_MODULE,
            "pipelines.launch.workers.rank",
            str(os.getpid()),
            str(outcome),
            details.to_json(),
        ],
        env=dict(environment),
        stdin=standard_input,
        stdout=log,
        stderr=log,
        pass_fds=[outcome],
    )


class _ForkedProcess:
    """A rank that is a child of the fork server, which kills it when the connection closes."""

    def __init__(self, server: str, request: ForkRequest, fds: list[int]) -> None:
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._connection.settimeout(_REPLY_SECONDS)
            local_socket.connect(self._connection, server)
            # By descriptor, because it may have been moved or removed.
            directory = os.open(".", os.O_PATH)
            try:
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [directory, *fds]))
                self._connection.sendmsg([request.to_json().encode()], [rights])
            finally:
                os.close(directory)
            self.pid = self._receive()
            self._pidfd = os.pidfd_open(self.pid)
        except BaseException:
            self._connection.close()
            raise
        self._code: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        if self._code is None:
            self._connection.settimeout(timeout)
            try:
                self._code = self._receive()
            except TimeoutError:
                raise subprocess.TimeoutExpired(f"rank process {self.pid}", timeout or 0.0) from None
            except (OSError, ValueError):
                # The server has exited, and the kernel has killed its ranks.
                self._code = -signal.SIGKILL
            self._connection.close()
            os.close(self._pidfd)
        return self._code

    def send_signal(self, sig: int) -> None:
        # Like Popen, do not signal a process that has been waited for: its descriptor is closed, and may have been reused.
        if self._code is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, sig)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _receive(self) -> int:
        """The next reply: first the process id, then the exit code."""
        message = self._connection.recv(LONGEST_REPLY)
        if not message:
            raise ConnectionError("the fork server has exited")
        text = message.decode()
        if text.startswith(REFUSED):
            raise ConnectionError(text.removeprefix(REFUSED))
        return int(text)
