"""The process of a rank as its supervisor sees it: forked by the driver's fork server where there is one, else started afresh."""

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
from pipelines.launch.workers.forkserver import ForkRequest, Purpose
from pipelines.launch.workers.rank import RankDetails
from pipelines.system import local_socket
from pipelines.system.secrets import without_secrets
from pipelines.system.tensorflow_env import tensorflow_environment

# The server may still be importing TensorFlow; a fresh process would have to do the same.
_ANSWER_SECONDS = 120
_LONGEST_REPLY = 32
_SERVER_ENVIRONMENT = {
    # OpenBLAS and pyarrow's allocator would start threads, which a fork loses. Ranks compute with those of TensorFlow.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "PYTHONUNBUFFERED": "1",
}


class RankProcess(Protocol):
    """What `subprocess.Popen` and `_Forked` have in common."""

    def wait(self, timeout: float | None = None) -> int:
        """The exit code; raises subprocess.TimeoutExpired."""

    def send_signal(self, sig: int) -> None: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


@contextmanager
def fork_server(purpose: Purpose) -> Iterator[str]:
    """Have a process of this machine import what ranks need, from now on (`pipelines.launch.workers.forkserver`).

    For where Spark's tasks run on the machine of the driver. Gives the address for supervisors, which is empty where the system
    has no such means.

    Args:
        purpose: what the ranks are for, a single training or anything.
    """
    if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
        yield ""
        return
    address = local_socket.new_name()
    # Such a socket keeps the borders of messages.
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(local_socket.address(address))
        listener.listen()
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.launch.workers.forkserver", str(os.getpid()), str(listener.fileno()), purpose],
            env=without_secrets(os.environ) | _SERVER_ENVIRONMENT | tensorflow_environment(os.environ),
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
    """One for the ranks of the session that is there, or of the one to come; an empty address where they run elsewhere."""
    return fork_server(purpose) if session.is_local() else nullcontext("")


class _PersistentForkServer:
    """A fork server that lives as long as this process, for sessions that start ranks again and again, as notebooks do.

    Holds the server in a thread of its own: the kernel ends a server with the thread that started it."""

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
        # Ranks are started afresh where there can be no server.
        with contextlib.suppress(OSError), fork_server("anything") as self.address:
            self._started.set()
            self._end.wait()
        self._started.set()
        self.address = ""


_lock = threading.Lock()
_kept: _PersistentForkServer | None = None


def persistent_fork_server() -> str:
    """That of this process's fork server, for supervisors on its machine; it is started with the first call. May be empty."""
    global _kept
    with _lock:
        if _kept is None:
            _kept = _PersistentForkServer()
        return _kept.address


def start(
    details: RankDetails, environment: Mapping[str, str], *, standard_input: int, log: BinaryIO, outcome: int, server: str
) -> RankProcess:
    """Start `pipelines.launch.workers.rank`.

    Args:
        details: what its `main` takes.
        environment: all its variables.
        standard_input: a file descriptor that its order can be read from.
        log: takes what it prints.
        outcome: a file descriptor that takes its outcome.
        server: the address of a fork server, or nothing. One that does not answer is done without.

    Raises:
        OSError: there is no room for another process.
    """
    if server:
        with contextlib.suppress(OSError, ValueError):
            return _Forked(server, ForkRequest(details, dict(environment)), [standard_input, log.fileno(), outcome])
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
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


class _Forked:
    """A rank that is a child of the fork server. The server kills it when the connection ends."""

    def __init__(self, server: str, request: ForkRequest, fds: list[int]) -> None:
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._connection.settimeout(_ANSWER_SECONDS)
            self._connection.connect(local_socket.address(server))
            if not local_socket.is_ours(self._connection):
                raise ConnectionError("the fork server is somebody else's")
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
            self._connection.sendmsg([request.to_json().encode()], [rights])
            self._pid = self._receive()
            self._pidfd = os.pidfd_open(self._pid)
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
                raise subprocess.TimeoutExpired(f"rank process {self._pid}", timeout or 0.0) from None
            except (OSError, ValueError):
                # The server is gone, and the kernel has killed its ranks.
                self._code = -signal.SIGKILL
            self._connection.close()
            os.close(self._pidfd)
        return self._code

    def send_signal(self, sig: int) -> None:
        # As Popen does, nothing to a process that has been waited for: its descriptor is closed, and may be another's.
        if self._code is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, sig)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _receive(self) -> int:
        """The process id at first, and then the exit code."""
        message = self._connection.recv(_LONGEST_REPLY)
        if not message:
            raise ConnectionError("the fork server is gone")
        return int(message)
