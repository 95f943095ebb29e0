"""The process of one rank, started as a module or forked (`pipelines.launch.workers.spawn`).

python -m pipelines.launch.workers.rank PARENT_PID OUTCOME_FD DETAILS
"""

import contextlib
import ctypes
import dataclasses
import faulthandler
import json
import os
import signal
import socket
import sys
import threading
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from pipelines import progress
from pipelines.config import LogLevel
from pipelines.launch.health.heartbeat import HeartbeatWriter
from pipelines.launch.rendezvous import hostname
from pipelines.launch.workers import commands
from pipelines.system import writeback
from pipelines.system.secrets import mask
from pipelines.track.rundir import logs

RESULT, FAILURE = b"R", b"F"
"""First byte of a rank's outcome."""
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True, kw_only=True)
class RankDetails:
    """Parameters of a rank, which its supervisor passes as JSON."""

    rank: int
    host: str
    work_dir: str
    attempt_dir: str
    staging_dir: str
    """Local folder in which files of the run folder grow (`pipelines.system.writeback`); empty if that takes appends."""
    log_path: str
    log_level: LogLevel
    heartbeat_seconds: float

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "RankDetails":
        return cls(**json.loads(text))


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent exits, so that no rank outlives its task (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # The parent may have exited before the call above.
        if os.getppid() != parent:
            os._exit(1)


def _set_process_name(name: str) -> None:
    """Set the process name that `top` and `ps` show (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode())


def main(parent: int, outcome_fd: int, details: RankDetails) -> int:
    """Run the function, send its result or a failure report to the supervisor, and return the exit code.

    The function comes through standard input and the outcome goes into a pipe, so that a killed rank leaves no file behind.
    """
    address = os.environ["HOROVOD_HOSTNAME"]
    resolves = hostname.resolve_hostname_to(address)
    die_with_parent(parent)
    _set_process_name(f"convoy-rank-{details.rank}")
    logs.configure(sys.stderr, f"rank {details.rank}", details.log_level)
    payload = sys.stdin.buffer.read()
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), sys.stdin.fileno())
    os.set_inheritable(outcome_fd, False)
    _handle_stop_signals(details)
    # On `kill -USR1`, write the stack of each thread to the log.
    faulthandler.register(signal.SIGUSR1)
    import cloudpickle

    from pipelines.launch.health.failures import failure_from_exception, write_failure

    attempt_dir, rank, host = Path(details.attempt_dir), details.rank, details.host
    writeback.adopt(Path(details.work_dir), details.staging_dir)
    heartbeat = HeartbeatWriter(attempt_dir, rank, host, details.heartbeat_seconds)
    try:
        hostname.check(resolves, address)
        function, arguments = cloudpickle.loads(payload)
        outcome = RESULT + cloudpickle.dumps(function(*arguments))
        code = 0
    except progress.Stopped:
        # End by the signal itself, so that the supervisor sees what it would see without a handler.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
        raise
    except BaseException as error:
        text = traceback.format_exc()
        # The log may be on a disk that is full.
        with contextlib.suppress(OSError):
            sys.stderr.write(mask(text))
        failure = failure_from_exception(error, text, rank=rank, host=host, log_path=details.log_path)
        # Also in a file, because Spark may kill the supervisor when another rank fails; if the disk is full, the pipe remains.
        with contextlib.suppress(OSError):
            write_failure(attempt_dir, failure)
        outcome, code = FAILURE + failure.to_json().encode(), 1
    heartbeat.stop()
    with os.fdopen(outcome_fd, "wb") as pipe:
        pipe.write(outcome)
    return code


def _handle_stop_signals(details: RankDetails) -> None:
    """On a termination signal, stop the training after its current step, and exit within the grace period in any case.

    A signal that the driver has not sent is a notice that this node will be taken away. All ranks stop then, of which rank 0
    writes a checkpoint, and the driver starts them again where there are nodes.
    """
    # Python calls handlers in the main thread, which may be inside TensorFlow for minutes, and calls them inside each other. It
    # also writes to this socket, at once and for signals that have a handler; the thread that reads it may wait for locks.
    received, raised = socket.socketpair()
    raised.setblocking(False)
    signal.set_wakeup_fd(raised.fileno(), warn_on_full_buffer=False)
    for signum in _STOP_SIGNALS:
        signal.signal(signum, lambda *_: None)

    def listen() -> None:
        # Keeps the sockets open.
        while raised.fileno() >= 0:
            (signum,) = received.recv(1)
            if signum in _STOP_SIGNALS and not progress.stop_requested():
                progress.request_stop()
                timer = threading.Timer(commands.GRACE_SECONDS, os._exit, (128 + signum,))
                timer.daemon = True
                timer.start()
                _pass_on(signal.Signals(signum).name, details)

    threading.Thread(target=listen, name="signals", daemon=True).start()


def _pass_on(signal_name: str, details: RankDetails) -> None:
    """Report a signal that the driver has not sent, and have all other ranks stop."""
    from pipelines.launch.health import failures

    attempt_dir = Path(details.attempt_dir)
    if commands.read(attempt_dir):
        return
    notice = failures.preempted(
        signal_name, rank=details.rank, host=details.host, log_path=details.log_path, last_activity=progress.now().activity
    )
    with contextlib.suppress(OSError):
        failures.write_failure(attempt_dir, notice)
    commands.send(attempt_dir, commands.STOP)


def exit_immediately(code: int) -> NoReturn:
    """Exit without cleanup: after a failure, threads of Horovod and TensorFlow can block a normal exit."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    exit_immediately(main(int(sys.argv[1]), int(sys.argv[2]), RankDetails.from_json(sys.argv[3])))
